// Happens-before order between CUDA threads, kept in builds with DSV4_SIMT_RACE (see race.cpp); elsewhere
// every call below sits behind `if constexpr (race::kEnabled)` and costs nothing.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstddef>
#include <cstdint>
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

/// A vector clock: one count a thread of the own gang, and what is known of other gangs.
struct Clock {
  std::vector<std::uint32_t> own;
  std::vector<std::pair<std::uint32_t, std::vector<std::uint32_t>>> foreign;  // by gang number, ascending

  void clear() {
    own.clear();
    foreign.clear();
  }
};

void begin_launch();
void begin_gang(Gang& gang);

/// into |= what `t` knows; t's own count advances.
void release(Thread& t, Clock& into);
/// t learns `from`.
void acquire(Thread& t, const Clock& from);
/// Every lane of mask learns what every other knows.
void warp_sync(Thread* const* lanes, std::uint32_t mask);

/// An access that the machine makes on behalf of `t` (ldmatrix, cp.async, ...), as if t's code had made it at
/// `loc`. Shared memory of t's gang; global memory.
void shared_access(Thread& t, const void* p, std::size_t bytes, bool write, Loc loc);
void global_access(Thread& t, const void* p, std::size_t bytes, bool write, Loc loc);

/// What `t` knows now; t's own count advances. For work that t issues and the machine does later.
Clock snapshot(Thread& t);
/// into |= from.
void join(Clock& into, const Clock& from);
/// fence.proxy.async: t's writes so far may be read by the async proxy (TMA, bulk copies, wgmma).
void proxy_fence(Thread& t);
/// Accesses of the async proxy in work that `t` issued when it knew `issued`. Shared memory last written by
/// a plain store (shared_access included) whose thread has not called proxy_fence since is an error.
void async_shared_access(Thread& t, const Clock& issued, const void* p, std::size_t bytes, bool write,
                         Loc loc);
void async_global_access(Thread& t, const Clock& issued, const void* p, std::size_t bytes, bool write,
                         Loc loc);

/// A moment of a thread, and whether `t` has synchronised with it or a later one.
struct Moment {
  std::uint32_t gang = 0, thread = 0, count = 0;
};
Moment now(const Thread& t);
bool knows(const Thread& t, const Moment& m);

}  // namespace race
}  // namespace dsv4::simt
