// Exchange between the lanes of a warp. Every lane of `mask` must call, with the same mask; none of these
// orders memory. PTX ISA, "shfl.sync", "vote.sync", "redux.sync", "match.sync", "elect.sync":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-shfl-sync
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>

#include <cstdint>
#include <cstring>

#if defined(DSV4_SIMT_EMULATION)
#include <bit>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

#if defined(DSV4_SIMT_EMULATION)
namespace detail {
template <class T>
T shuffle(T value, int source, bool in_range, unsigned mask, const char* name, simt::Loc loc) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = simt::shuffle(mask, bits, in_range ? source & 31 : -1, name, loc);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
}  // namespace detail
#endif

/// Value of lane `source` of the segment of `width` lanes (a power of two) that the caller is in.
template <class T>
DSV4_DEVICE T shfl(T value, int source, int width = 32, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  const int base = simt::lane_id() & ~(width - 1);
  return detail::shuffle(value, base + (source & (width - 1)), true, mask, "shfl.idx", loc);
#else
  return __shfl_sync(mask, value, source, width);
#endif
}

/// Value of lane (own ^ distance); the own value where that is outside the segment.
template <class T>
DSV4_DEVICE T shfl_xor(T value, int distance, int width = 32, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  const int lane = simt::lane_id(), source = lane ^ distance;
  return detail::shuffle(value, source, source < (lane & ~(width - 1)) + width, mask, "shfl.bfly", loc);
#else
  return __shfl_xor_sync(mask, value, distance, width);
#endif
}

/// Value of lane (own - distance); the own value where that is outside the segment.
template <class T>
DSV4_DEVICE T shfl_up(T value, int distance, int width = 32, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  const int lane = simt::lane_id(), source = lane - distance;
  return detail::shuffle(value, source, source >= (lane & ~(width - 1)), mask, "shfl.up", loc);
#else
  return __shfl_up_sync(mask, value, static_cast<unsigned>(distance), width);
#endif
}

/// Value of lane (own + distance); the own value where that is outside the segment.
template <class T>
DSV4_DEVICE T shfl_down(T value, int distance, int width = 32, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  const int lane = simt::lane_id(), source = lane + distance;
  return detail::shuffle(value, source, source < (lane & ~(width - 1)) + width, mask, "shfl.down", loc);
#else
  return __shfl_down_sync(mask, value, static_cast<unsigned>(distance), width);
#endif
}

/// Bit i = predicate of lane i, for the lanes of mask.
DSV4_DEVICE unsigned ballot(bool predicate, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::ballot(mask, predicate, "vote.ballot", loc);
#else
  return __ballot_sync(mask, predicate);
#endif
}
DSV4_DEVICE bool any(bool predicate, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::ballot(mask, predicate, "vote.any", loc) != 0;
#else
  return __any_sync(mask, predicate) != 0;
#endif
}
DSV4_DEVICE bool all(bool predicate, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::ballot(mask, predicate, "vote.all", loc) == mask;
#else
  return __all_sync(mask, predicate) != 0;
#endif
}

/// How many lanes a mask names.
DSV4_DEVICE int count_lanes(unsigned mask) {
#if defined(DSV4_SIMT_EMULATION)
  return std::popcount(mask);
#else
  return __popc(mask);
#endif
}

/// The lanes before the caller's: count_lanes(ballot(p) & lanes_before()) is its rank among those that p
/// holds for.
DSV4_DEVICE unsigned lanes_before() { return (1u << lane_id()) - 1; }

// Reductions over the lanes of mask, sm_80 (redux.sync): integers alone, so the order of lanes does not
// matter.
#if defined(DSV4_SIMT_EMULATION)
#define DSV4_ARCH_REDUX(name, type, op, intrinsic)                                                          \
  DSV4_DEVICE type name(type value, unsigned mask = kFullMask DSV4_LOC) {                                   \
    return static_cast<type>(simt::reduce(mask, static_cast<std::uint32_t>(value), simt::Reduce::op, loc)); \
  }
#else
#define DSV4_ARCH_REDUX(name, type, op, intrinsic) \
  DSV4_DEVICE type name(type value, unsigned mask = kFullMask) { return intrinsic(mask, value); }
#endif
DSV4_ARCH_REDUX(reduce_add, unsigned, kAdd, __reduce_add_sync)
DSV4_ARCH_REDUX(reduce_min, unsigned, kMinU, __reduce_min_sync)
DSV4_ARCH_REDUX(reduce_max, unsigned, kMaxU, __reduce_max_sync)
DSV4_ARCH_REDUX(reduce_add, int, kAdd, __reduce_add_sync)
DSV4_ARCH_REDUX(reduce_min, int, kMinS, __reduce_min_sync)
DSV4_ARCH_REDUX(reduce_max, int, kMaxS, __reduce_max_sync)
DSV4_ARCH_REDUX(reduce_and, unsigned, kAnd, __reduce_and_sync)
DSV4_ARCH_REDUX(reduce_or, unsigned, kOr, __reduce_or_sync)
DSV4_ARCH_REDUX(reduce_xor, unsigned, kXor, __reduce_xor_sync)
#undef DSV4_ARCH_REDUX

/// Lanes of mask whose value (4 or 8 bytes) is the caller's.
template <class T>
DSV4_DEVICE unsigned match_any(T value, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::match_any(mask, static_cast<std::uint64_t>(value), loc);
#else
  return __match_any_sync(mask, value);
#endif
}

/// mask where every lane's value is the same, else 0.
template <class T>
DSV4_DEVICE unsigned match_all(T value, unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::match_all(mask, static_cast<std::uint64_t>(value), loc);
#else
  int equal = 0;
  return __match_all_sync(mask, value, &equal);
#endif
}

/// True in exactly one lane of the full warp. sm_90's elect.sync picks it; the machine and older chips pick
/// lane 0. Do not rely on which.
DSV4_DEVICE bool elect_one(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::elect(kFullMask, loc);
#elif __CUDA_ARCH__ >= 900
  unsigned chosen;
  asm volatile("{\n\t.reg .pred p;\n\telect.sync _|p, 0xffffffff;\n\tselp.u32 %0, 1, 0, p;\n\t}"
               : "=r"(chosen));
  return chosen != 0;
#else
  return lane_id() == 0;
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
