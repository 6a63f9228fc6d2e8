// Happens-before order between CUDA threads, kept in builds with DSV4_SIMT_RACE (race.cpp, shadow.cpp);
// elsewhere every call below sits behind `if constexpr (race::kEnabled)` and costs nothing.
//
// Ordered are: accesses of one thread; barriers of a block, warp or cluster; mbarriers; release and acquire
// through one address; fences around relaxed atomics; launches. Shuffles and mma order nothing.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace dsv4::simt {

struct Thread;
struct Gang;

namespace race {

#if defined(DSV4_SIMT_RACE)
inline constexpr bool kEnabled = true;
#else
inline constexpr bool kEnabled = false;
#endif

using Counts = std::vector<std::uint32_t>;

/// A vector clock: the counts of all threads of one block, and of other blocks what is known of them, which
/// clocks share.
struct Clock {
  static constexpr std::uint32_t kNobody = 0xffffffffu;
  using Others = std::vector<std::pair<std::uint32_t, std::shared_ptr<const Counts>>>;  // by block, ascending

  std::uint32_t block = kNobody;  // whose counts `own` are: its number in the launch
  Counts own;
  std::shared_ptr<const Others> others;

  void clear() {
    block = kNobody;
    own.clear();
    others.reset();
  }
};

void begin_launch();
void begin_gang(Gang& gang);
void end_gang(Gang& gang);

// ---- order -----------------------------------------------------------------------------------------------
/// into |= what `t` knows; t's own count advances.
void release(Thread& t, Clock& into);
/// t learns `from`.
void acquire(Thread& t, const Clock& from);
/// Every lane of mask learns what every other knows.
void warp_sync(Thread* const* lanes, std::uint32_t mask);
/// `t` has passed a barrier of its whole warp: what its lanes do next, they do together.
void converged(Thread& t);
/// What `t` knows now; t's own count advances. For work that t issues and the machine does later.
Clock snapshot(Thread& t);
/// into |= from.
void join(Clock& into, const Clock& from);
/// fence.proxy.async: what t has seen written may be read by the async proxy (TMA, bulk copies, wgmma).
void proxy_fence(Thread& t);
/// fence.acq_rel; `wide` as of AtomicAccess.
void fence(Thread& t, bool wide);

/// A moment of a thread, and whether `t` has synchronised with it or a later one.
struct Moment {
  std::uint32_t block = Clock::kNobody, thread = 0, count = 0;
};
Moment now(const Thread& t);
bool knows(const Thread& t, const Moment& m);

// ---- accesses: fail() with RACE where one is unordered with an earlier one, and either writes -------------
/// An access that the machine makes on behalf of `t` (ldmatrix, cp.async, ...), as if t's code had made it at
/// `loc`. Shared memory of t's gang; global memory.
void shared_access(Thread& t, const void* p, std::size_t bytes, bool write, Loc loc);
void global_access(Thread& t, const void* p, std::size_t bytes, bool write, Loc loc);
/// An access of instrumented code; `pc` is where it returns to.
void plain_access(Thread& t, const void* p, std::size_t bytes, bool write, const void* pc);
/// Accesses of the async proxy in work that `t` issued when it knew `issued`. Memory last written by a plain
/// store (shared_access included) that no proxy_fence has followed is an error.
void async_shared_access(Thread& t, const Clock& issued, const void* p, std::size_t bytes, bool write,
                         Loc loc);
void async_global_access(Thread& t, const Clock& issued, const void* p, std::size_t bytes, bool write,
                         Loc loc);
/// A load through the read-only path: nothing may write there in this launch.
void read_only_access(Thread& t, const void* p, std::size_t bytes, Loc loc);

/// An atomic operation at p: races with plain accesses alone, and gives and takes order.
struct AtomicAccess {
  bool reads, writes, acquires, releases;
  bool wide;  // its scope is larger than a cluster; narrow ones order threads of one gang
};
void atomic_access(Thread& t, const void* p, std::size_t bytes, AtomicAccess kind, Loc loc);

/// While one lives on an OS thread, instrumented code is not seen: the detector itself, which may run copies
/// of the standard library's templates that kernel code instantiated, instrumented. Never across a switch.
class Quiet {
#if defined(DSV4_SIMT_RACE)
 public:
  Quiet() { ++depth; }
  ~Quiet() { --depth; }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
  static thread_local constinit int depth;
#else
 public:
  Quiet() {}
#endif
};

}  // namespace race
}  // namespace dsv4::simt
