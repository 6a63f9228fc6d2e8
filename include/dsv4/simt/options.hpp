// How the machine executes: when asynchronous work happens, who runs next, how tensor cores round.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsv4::simt {

/// When cp.async, TMA, bulk copies and wgmma really happen: at issue, at the latest legal moment, or either.
enum class Async : std::uint8_t { kEager, kLazy, kRandom };

/// Which of the threads that can run goes next.
enum class Schedule : std::uint8_t { kFifo, kLifo, kRandom };

/// How a tensor core adds: an fp32 chain in ascending k, or a device's aligned and truncated sums.
enum class Rounding : std::uint8_t { kChain, kAmpere, kHopper };

struct Options {
  Async async = Async::kLazy;
  Schedule schedule = Schedule::kFifo;
  Rounding rounding = Rounding::kChain;
  std::uint64_t seed = 1;        // of both kRandom settings and of spurious failures
  double spurious_try_wait = 0;  // probability that a try_wait fails although it could succeed
  int workers = 0;               // OS threads; 0 = one a core
  int resident_blocks = 1;       // blocks that run side by side; a cooperative launch ignores this
  std::size_t stack_bytes = 0;   // of one CUDA thread; 0 = 64 KiB, 256 KiB under ASan
  bool poison = true;            // NaNs in fresh shared memory and in destinations in flight
  bool execute = true;  // false: launches are checked and counted alone, so that a composition of ops can be
                        // counted at any size

  /// Defaults, overridden by DSV4_SIMT_ASYNC (eager, lazy, random), DSV4_SIMT_SCHEDULE (fifo, lifo, random),
  /// DSV4_SIMT_ROUNDING (chain, ampere, hopper), DSV4_SIMT_SEED, DSV4_SIMT_SPURIOUS, DSV4_SIMT_WORKERS and
  /// DSV4_SIMT_RESIDENT. Throws std::invalid_argument naming a variable it cannot read.
  static Options from_environment();
};

/// Options of the launches of this process; at first those of the environment. Change them between launches
/// only.
Options& options();

/// Other options until the end of a scope.
class ScopedOptions {
 public:
  explicit ScopedOptions(const Options& o) : saved_(options()) { options() = o; }
  ~ScopedOptions() { options() = saved_; }
  ScopedOptions(const ScopedOptions&) = delete;
  ScopedOptions& operator=(const ScopedOptions&) = delete;

 private:
  Options saved_;
};

}  // namespace dsv4::simt
