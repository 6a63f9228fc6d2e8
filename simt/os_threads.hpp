// The machine's OS threads: they wait between launches, because starting one costs more than a small launch.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace dsv4::simt {

class OsThreads {
 public:
  OsThreads() = default;
  OsThreads(const OsThreads&) = delete;
  OsThreads& operator=(const OsThreads&) = delete;
  ~OsThreads() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

  /// Calls task(i) for i < n, task(0) on the calling thread, and returns when all are done. A task may not
  /// throw.
  void run(int n, const std::function<void(int)>& task) {
    while (static_cast<int>(threads_.size()) < n - 1)
      threads_.emplace_back([this, i = static_cast<int>(threads_.size()) + 1] { serve(i); });
    {
      std::lock_guard lock(mutex_);
      task_ = &task;
      wanted_ = n;
      running_ = n - 1;
      ++generation_;
    }
    if (n > 1) wake_.notify_all();
    task(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void serve(int i) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
      if (i >= wanted_) continue;
      const auto* task = task_;
      lock.unlock();
      (*task)(i);
      lock.lock();
      if (--running_ == 0) done_.notify_all();
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* task_ = nullptr;
  int wanted_ = 0, running_ = 0;
  std::uint64_t generation_ = 0;
  bool stop_ = false;
};

}  // namespace dsv4::simt
