#include "reference/parallel.hpp"

#include <algorithm>
#include <exception>
#include <mutex>

namespace dsv4::reference {

float* Scratch::floats(std::int64_t count) {
  if (count > capacity_) {
    data_.reset();
    data_ = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(count));
    capacity_ = count;
  }
  return data_.get();
}

// One loop at a time is published by bumping `generation`. A worker leaves a loop when no chunk is left, and
// the caller leaves when every worker has; a worker that wakes late finds no chunk and leaves at once.
struct ThreadPool::Loop {
  Body body = nullptr;
  const void* context = nullptr;
  std::int64_t count = 0, grain = 1;
  std::atomic<std::int64_t> next{0};
  std::atomic<std::uint32_t> generation{0};
  std::atomic<int> busy{0};
  std::atomic<bool> stop{false};
  std::mutex error_mutex;
  std::exception_ptr error;

  void drain(Scratch& scratch) {
    for (;;) {
      const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      try {
        body(context, begin, std::min(begin + grain, count), scratch);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(error_mutex);
        error = std::current_exception();
      }
    }
  }
};

namespace {
// Loops follow each other within microseconds, so a thread first spins for about as long as a wake-up costs.
constexpr int kSpins = 4000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}
}  // namespace

ThreadPool::ThreadPool(int threads) : loop_(std::make_unique<Loop>()) {
  const int hardware = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int count = threads <= 0 ? hardware : threads;
  scratch_.resize(static_cast<std::size_t>(count));
  for (int i = 1; i < count; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  loop_->stop = true;
  ++loop_->generation;
  loop_->generation.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_chunks(std::int64_t count, std::int64_t grain, Body body, const void* context) {
  Loop& loop = *loop_;
  loop.body = body;
  loop.context = context;
  loop.count = count;
  loop.grain = grain;
  loop.error = nullptr;
  loop.next.store(0, std::memory_order_relaxed);
  loop.busy.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  loop.generation.fetch_add(1, std::memory_order_release);
  loop.generation.notify_all();
  loop.drain(scratch_[0]);
  for (int spin = 0; loop.busy.load(std::memory_order_acquire) != 0;) {
    if (++spin < kSpins)
      pause();
    else if (const int busy = loop.busy.load(std::memory_order_acquire); busy != 0)
      loop.busy.wait(busy, std::memory_order_acquire);
  }
  if (loop.error) std::rethrow_exception(loop.error);
}

void ThreadPool::work(int thread) {
  Loop& loop = *loop_;
  std::uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; loop.generation.load(std::memory_order_acquire) == seen;) {
      if (++spin < kSpins)
        pause();
      else
        loop.generation.wait(seen, std::memory_order_acquire);
    }
    ++seen;
    if (loop.stop) return;
    loop.drain(scratch_[static_cast<std::size_t>(thread)]);
    if (loop.busy.fetch_sub(1, std::memory_order_acq_rel) == 1) loop.busy.notify_one();
  }
}

}  // namespace dsv4::reference
