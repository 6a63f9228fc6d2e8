// A small pool of threads for loops whose items do not depend on each other.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace dsv4::reference {

/// f32 scratch of one thread; grows, never shrinks, contents not kept.
class Scratch {
 public:
  float* floats(std::int64_t count);

 private:
  std::unique_ptr<float[]> data_;
  std::int64_t capacity_ = 0;
};

/// Runs loops on `threads` threads, the caller among them. Which thread runs an item is not defined, so an
/// item must write only its own results and compute them from its index alone: then results do not depend on
/// the number of threads. Not reentrant; one loop at a time. An exception in an item is rethrown by `run`
/// (one of them, if several).
class ThreadPool {
 public:
  /// threads >= 1; 0 = one for each hardware thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(scratch_.size()); }

  /// Calls f(begin, end, scratch) over [0, count) in chunks of `grain` items (the last may be shorter).
  /// A loop of one chunk runs on the caller, so grain also says what is too small to share.
  template <class F>
  void run(std::int64_t count, std::int64_t grain, const F& f) {
    if (count <= 0) return;
    grain = grain < 1 ? 1 : grain;
    if (count <= grain || workers_.empty()) {
      f(std::int64_t{0}, count, scratch_[0]);
      return;
    }
    run_chunks(
        count, grain,
        [](const void* body, std::int64_t b, std::int64_t e, Scratch& s) {
          (*static_cast<const F*>(body))(b, e, s);
        },
        &f);
  }

 private:
  using Body = void (*)(const void*, std::int64_t, std::int64_t, Scratch&);
  struct Loop;

  void run_chunks(std::int64_t count, std::int64_t grain, Body body, const void* context);
  void work(int thread);

  std::vector<Scratch> scratch_;  // [threads]; 0 is the caller's
  std::vector<std::thread> workers_;
  std::unique_ptr<Loop> loop_;
};

}  // namespace dsv4::reference
