// Loads, stores and atomics of arch/: alignment and bounds, counts, order, and then the host's own access.
#include <dsv4/simt/memory.hpp>

#include "simt/machine.hpp"
#include "simt/race.hpp"
#include "simt/watch.hpp"

#include <bit>
#include <cmath>
#include <cstring>

#if defined(DSV4_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace dsv4::simt {
namespace {

void check(const void* p, std::size_t bytes, const char* name, Loc loc) {
  if (reinterpret_cast<std::uintptr_t>(p) & (bytes - 1)) [[unlikely]]
    fail("%s: address %p is not aligned to %zu bytes (%s:%u)", name, p, bytes, loc.file, loc.line);
#if defined(DSV4_SIMT_ASAN)
  if (const void* bad = __asan_region_is_poisoned(const_cast<void*>(p), bytes)) [[unlikely]]
    fail("%s: memory out of bounds: %zu bytes at %p, of which %p is not the kernel's (%s:%u)", name, bytes, p,
         bad, loc.file, loc.line);
#else
  if (!p) [[unlikely]]
    fail("%s: null address (%s:%u)", name, loc.file, loc.line);
#endif
}

bool in_shared_memory(const Block& b, const void* p) {
  return static_cast<std::size_t>(static_cast<const std::byte*>(p) - b.shared) < b.shared_bytes;
}

// The largest access is copied in one piece where the host can: other OS threads may look.
void copy(void* to, const void* from, std::size_t bytes) {
  switch (bytes) {
    case 1:
      std::memcpy(to, from, 1);
      break;
    case 2:
      std::memcpy(to, from, 2);
      break;
    case 4:
      std::memcpy(to, from, 4);
      break;
    case 8:
      std::memcpy(to, from, 8);
      break;
    default:
      std::memcpy(to, from, 16);
  }
}

// For the race detector.
[[maybe_unused]] constexpr bool acquires(Order o) { return o == Order::kAcquire || o == Order::kAcqRel; }
[[maybe_unused]] constexpr bool releases(Order o) { return o == Order::kRelease || o == Order::kAcqRel; }
[[maybe_unused]] constexpr bool wide(Scope s) { return s == Scope::kDevice || s == Scope::kSystem; }

// The arithmetic of atom.add.f32: in global memory subnormals are zeros.
float add_f32(float a, float b, bool flush) {
  const auto flushed = [flush](float x) {
    return flush && std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
  };
  return flushed(flushed(a) + flushed(b));
}

template <class U>
U combine(Rmw op, U old, U v, U expected, bool flush) {
  using S = std::make_signed_t<U>;
  switch (op) {
    case Rmw::kAdd:
      return old + v;
    case Rmw::kAddF32:
      if constexpr (sizeof(U) == 4)
        return std::bit_cast<U>(add_f32(std::bit_cast<float>(old), std::bit_cast<float>(v), flush));
      else
        return old;
    case Rmw::kMinU:
      return v < old ? v : old;
    case Rmw::kMaxU:
      return v > old ? v : old;
    case Rmw::kMinS:
      return static_cast<S>(v) < static_cast<S>(old) ? v : old;
    case Rmw::kMaxS:
      return static_cast<S>(v) > static_cast<S>(old) ? v : old;
    case Rmw::kAnd:
      return old & v;
    case Rmw::kOr:
      return old | v;
    case Rmw::kXor:
      return old ^ v;
    case Rmw::kExchange:
      return v;
    case Rmw::kCas:
      return old == expected ? v : old;
  }
  return old;
}

template <class U>
U rmw(Rmw op, void* p, U v, U expected, bool flush) {
  auto* word = static_cast<U*>(p);
  U old = __atomic_load_n(word, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(word, &old, combine(op, old, v, expected, flush), true,
                                      __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
  }
  return old;
}

std::uint64_t read_atomic(const void* p, std::size_t bytes) {
  return bytes == 4 ? __atomic_load_n(static_cast<const std::uint32_t*>(p), __ATOMIC_SEQ_CST)
                    : __atomic_load_n(static_cast<const std::uint64_t*>(p), __ATOMIC_SEQ_CST);
}

}  // namespace

void note_global(const void* p, std::size_t bytes, bool write, [[maybe_unused]] const char* name,
                 [[maybe_unused]] Loc loc) {
#if defined(DSV4_SIMT_ASAN)
  if (bytes)
    if (const void* bad = __asan_region_is_poisoned(const_cast<void*>(p), bytes)) [[unlikely]]
      fail("%s: global memory out of bounds: %zu bytes at %p, of which %p is not the kernel's (%s:%u)", name,
           bytes, p, bad, loc.file, loc.line);
#endif
  count_access(p, bytes, write);
}

void load(void* value, const void* p, std::size_t bytes, bool read_only, Loc loc) {
  check(p, bytes, read_only ? "ld.global.nc" : "ld.global", loc);
  if (in_shared_memory(*current->block, p)) [[unlikely]]
    fail("ld.global: %p is shared memory (%s:%u)", p, loc.file, loc.line);
  count_access(p, bytes, false);
  if constexpr (race::kEnabled) {
    if (read_only)
      race::read_only_access(*current, p, bytes, loc);
    else
      race::global_access(*current, p, bytes, false, loc);
  }
  copy(value, p, bytes);
}

void store(void* p, const void* value, std::size_t bytes, Loc loc) {
  check(p, bytes, "st.global", loc);
  if (in_shared_memory(*current->block, p)) [[unlikely]]
    fail("st.global: %p is shared memory (%s:%u)", p, loc.file, loc.line);
  count_access(p, bytes, true);
  if constexpr (race::kEnabled) race::global_access(*current, p, bytes, true, loc);
  copy(p, value, bytes);
}

std::uint64_t atomic_load(const void* p, std::size_t bytes, Order order, Scope scope, Loc loc) {
  const char* name = order == Order::kAcquire ? "ld.acquire" : "ld.relaxed";
  check(p, bytes, name, loc);
  Thread& t = *current;
  if (!in_shared_memory(*t.block, p)) count_access(p, bytes, false);
  ++t.block->gang->counters.atomics;
  std::uint64_t value = read_atomic(p, bytes);
  // The same thread finds the same value in the same place: it spins, and what it waits for has to run.
  if (t.polled == p && t.polled_value == value) {
    yield_poll(name, loc);
    value = read_atomic(p, bytes);
  }
  t.polled = p;
  t.polled_value = value;
  if constexpr (race::kEnabled)
    race::atomic_access(
        t, p, bytes,
        {.reads = true, .writes = false, .acquires = acquires(order), .releases = false, .wide = wide(scope)},
        loc);
  return value;
}

void atomic_store(void* p, std::uint64_t value, std::size_t bytes, Order order, Scope scope, Loc loc) {
  check(p, bytes, order == Order::kRelease ? "st.release" : "st.relaxed", loc);
  Thread& t = *current;
  Gang& gang = *t.block->gang;
  if (!in_shared_memory(*t.block, p)) count_access(p, bytes, true);
  ++gang.counters.atomics;
  if constexpr (race::kEnabled)
    race::atomic_access(
        t, p, bytes,
        {.reads = false, .writes = true, .acquires = false, .releases = releases(order), .wide = wide(scope)},
        loc);
  if (bytes == 4)
    __atomic_store_n(static_cast<std::uint32_t*>(p), static_cast<std::uint32_t>(value), __ATOMIC_SEQ_CST);
  else
    __atomic_store_n(static_cast<std::uint64_t*>(p), value, __ATOMIC_SEQ_CST);
  progress(gang);
}

std::uint64_t atomic_rmw(Rmw op, void* p, std::uint64_t operand, std::uint64_t expected, std::size_t bytes,
                         Order order, Scope scope, Loc loc) {
  check(p, bytes, op == Rmw::kCas ? "atom.cas" : "atom", loc);
  Thread& t = *current;
  Gang& gang = *t.block->gang;
  const bool shared = in_shared_memory(*t.block, p);
  if (!shared) {
    count_access(p, bytes, false);
    count_access(p, bytes, true);
  }
  ++gang.counters.atomics;
  if constexpr (race::kEnabled)
    race::atomic_access(t, p, bytes,
                        {.reads = true,
                         .writes = true,
                         .acquires = acquires(order),
                         .releases = releases(order),
                         .wide = wide(scope)},
                        loc);
  const std::uint64_t old = bytes == 4 ? rmw<std::uint32_t>(op, p, static_cast<std::uint32_t>(operand),
                                                            static_cast<std::uint32_t>(expected), !shared)
                                       : rmw<std::uint64_t>(op, p, operand, expected, !shared);
  // A lock that stays taken is a spin like any other.
  if (op == Rmw::kCas && old != expected && t.polled == p && t.polled_value == old)
    yield_poll("atom.cas", loc);
  else if (op != Rmw::kCas || old == expected)
    progress(gang);
  t.polled = p;
  t.polled_value = old;
  return old;
}

void fence([[maybe_unused]] Scope scope) {
  if constexpr (race::kEnabled) race::fence(*current, wide(scope));
}

void prefetch(const void* p, Loc loc) {
  if (in_shared_memory(*current->block, p))
    fail("prefetch.global: %p is shared memory (%s:%u)", p, loc.file, loc.line);
}

void nanosleep(Loc loc) { yield_poll("nanosleep", loc); }

}  // namespace dsv4::simt
