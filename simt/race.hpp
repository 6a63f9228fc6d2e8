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

}  // namespace race
}  // namespace dsv4::simt
