// Asynchronous copies of a box of a tensor (tensor_map.cuh) of one to five dimensions, sm_90; code for older
// chips traps. One thread issues; the first coordinate is that of the contiguous dimension, and coordinates
// may lie outside the tensor. The box in shared memory is 128-byte aligned, its rows dense in the order of
// the dimensions, chunks permuted by the map's Swizzle; a swizzled box begins where the pattern does (see
// swizzle.hpp). PTX ISA, "cp.async.bulk.tensor":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async-bulk-tensor
#pragma once

#include <dsv4/arch/bulk.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/mbarrier.cuh>
#include <dsv4/arch/shared.cuh>
#include <dsv4/arch/tensor_map.cuh>

#include <cstdint>

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// Fetches the map itself; one thread, at the start of a kernel. PTX ISA, "prefetch.tensormap":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-prefetch-prefetchu
DSV4_DEVICE void tma_prefetch(const TensorMap& map DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::tma_prefetch(map, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#else
  __trap();
#endif
}

#if !defined(DSV4_SIMT_EMULATION)
// One instruction for each rank. Operands 0 to 4 are fixed, whether `variant` uses them or not, so that the
// coordinates have the same numbers everywhere.
#define DSV4_ARCH_TMA_LOAD_RANK(rank, variant, coordinates, more, ...)              \
  asm volatile("cp.async.bulk.tensor." rank                                         \
               "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" variant \
               " [%0], [%1, " coordinates "], [%2]" more ";" ::"r"(to),             \
               "l"(&map), "r"(at), "h"(blocks), "l"(policy), __VA_ARGS__            \
               : "memory")
#define DSV4_ARCH_TMA_LOAD(variant, more)                                                                \
  if constexpr (kRank == 1)                                                                              \
    DSV4_ARCH_TMA_LOAD_RANK("1", variant, "{%5}", more, "r"(c[0]));                                      \
  else if constexpr (kRank == 2)                                                                         \
    DSV4_ARCH_TMA_LOAD_RANK("2", variant, "{%5, %6}", more, "r"(c[0]), "r"(c[1]));                       \
  else if constexpr (kRank == 3)                                                                         \
    DSV4_ARCH_TMA_LOAD_RANK("3", variant, "{%5, %6, %7}", more, "r"(c[0]), "r"(c[1]), "r"(c[2]));        \
  else if constexpr (kRank == 4)                                                                         \
    DSV4_ARCH_TMA_LOAD_RANK("4", variant, "{%5, %6, %7, %8}", more, "r"(c[0]), "r"(c[1]), "r"(c[2]),     \
                            "r"(c[3]));                                                                  \
  else                                                                                                   \
    DSV4_ARCH_TMA_LOAD_RANK("5", variant, "{%5, %6, %7, %8, %9}", more, "r"(c[0]), "r"(c[1]), "r"(c[2]), \
                            "r"(c[3]), "r"(c[4]))
#define DSV4_ARCH_TMA_STORE_RANK(operation, rank, kind, coordinates, ...)                                 \
  asm volatile(operation ".tensor." rank "d.global.shared::cta" kind ".tile.bulk_group [%0, " coordinates \
                         "], [%1];" ::"l"(&map),                                                          \
               "r"(from), __VA_ARGS__                                                                     \
               : "memory")
#define DSV4_ARCH_TMA_STORE(operation, kind)                                                                \
  if constexpr (kRank == 1)                                                                                 \
    DSV4_ARCH_TMA_STORE_RANK(operation, "1", kind, "{%2}", "r"(c[0]));                                      \
  else if constexpr (kRank == 2)                                                                            \
    DSV4_ARCH_TMA_STORE_RANK(operation, "2", kind, "{%2, %3}", "r"(c[0]), "r"(c[1]));                       \
  else if constexpr (kRank == 3)                                                                            \
    DSV4_ARCH_TMA_STORE_RANK(operation, "3", kind, "{%2, %3, %4}", "r"(c[0]), "r"(c[1]), "r"(c[2]));        \
  else if constexpr (kRank == 4)                                                                            \
    DSV4_ARCH_TMA_STORE_RANK(operation, "4", kind, "{%2, %3, %4, %5}", "r"(c[0]), "r"(c[1]), "r"(c[2]),     \
                             "r"(c[3]));                                                                    \
  else                                                                                                      \
    DSV4_ARCH_TMA_STORE_RANK(operation, "5", kind, "{%2, %3, %4, %5, %6}", "r"(c[0]), "r"(c[1]), "r"(c[2]), \
                             "r"(c[3]), "r"(c[4]))
#endif

/// The box at coordinates c into `shared`; its bytes, those outside the tensor included, complete at
/// `barrier`.
template <int kRank>
DSV4_DEVICE void tma_load(void* shared, const TensorMap& map, Mbarrier& barrier,
                          const std::int32_t (&c)[kRank], L2Hint hint = L2Hint::kNone DSV4_LOC) {
  static_assert(kRank <= 5, "tma_load: 1 to 5 coordinates");
#if defined(DSV4_SIMT_EMULATION)
  static_cast<void>(hint);
  simt::tma_load(shared, map, &barrier, c, kRank, 0, loc);
#elif __CUDA_ARCH__ >= 900
  const std::uint32_t to = shared_address(shared), at = shared_address(&barrier);
  const std::uint16_t blocks = 0;
  const auto policy = static_cast<std::uint64_t>(hint);
  if (hint == L2Hint::kNone) {
    DSV4_ARCH_TMA_LOAD("", "");
  } else {
    DSV4_ARCH_TMA_LOAD(".L2::cache_hint", ", %4");
  }
#else
  __trap();
#endif
}

/// The same into every block of the cluster whose bit in `blocks` is set: at the place that `shared` has, and
/// completing at the mbarrier that has the place of `barrier` there, each of which expects the whole box.
/// Every one of these mbarriers must be initialised: cluster_sync() lies between. Code for architectures
/// without fast multicast (all but sm_90a, sm_100a, sm_103a, sm_110a) traps.
template <int kRank>
DSV4_DEVICE void tma_load_multicast(void* shared, const TensorMap& map, Mbarrier& barrier,
                                    const std::int32_t (&c)[kRank], std::uint16_t blocks,
                                    L2Hint hint = L2Hint::kNone DSV4_LOC) {
  static_assert(kRank <= 5, "tma_load_multicast: 1 to 5 coordinates");
#if defined(DSV4_SIMT_EMULATION)
  static_cast<void>(hint);
  if (!blocks) simt::trap("tma_load_multicast: an empty mask", loc);
  simt::tma_load(shared, map, &barrier, c, kRank, blocks, loc);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(__CUDA_ARCH_FEAT_SM100_ALL) || \
    defined(__CUDA_ARCH_FEAT_SM103_ALL) || defined(__CUDA_ARCH_FEAT_SM110_ALL)
  const std::uint32_t to = shared_address(shared), at = shared_address(&barrier);
  const auto policy = static_cast<std::uint64_t>(hint);
  if (hint == L2Hint::kNone) {
    DSV4_ARCH_TMA_LOAD(".multicast::cluster", ", %3");
  } else {
    DSV4_ARCH_TMA_LOAD(".multicast::cluster.L2::cache_hint", ", %3, %4");
  }
#else
  __trap();
#endif
}

/// The box from `shared` to coordinates c, as far as they lie in the tensor; in the thread's current group
/// (bulk_commit, bulk_wait).
template <int kRank>
DSV4_DEVICE void tma_store(const TensorMap& map, const std::int32_t (&c)[kRank],
                           const void* shared DSV4_LOC) {
  static_assert(kRank <= 5, "tma_store: 1 to 5 coordinates");
#if defined(DSV4_SIMT_EMULATION)
  simt::tma_store(map, c, kRank, shared, false, loc);
#elif __CUDA_ARCH__ >= 900
  const std::uint32_t from = shared_address(shared);
  DSV4_ARCH_TMA_STORE("cp.async.bulk", "");
#else
  __trap();
#endif
}

/// The same, added to what is there: the map's type is kF32, kBf16 or kU32. Each element atomically; several
/// blocks' additions come in any order, so that sums of floats vary. PTX ISA, "cp.reduce.async.bulk.tensor":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-reduce-async-bulk-tensor
template <int kRank>
DSV4_DEVICE void tma_reduce_add(const TensorMap& map, const std::int32_t (&c)[kRank],
                                const void* shared DSV4_LOC) {
  static_assert(kRank <= 5, "tma_reduce_add: 1 to 5 coordinates");
#if defined(DSV4_SIMT_EMULATION)
  simt::tma_store(map, c, kRank, shared, true, loc);
#elif __CUDA_ARCH__ >= 900
  const std::uint32_t from = shared_address(shared);
  DSV4_ARCH_TMA_STORE("cp.reduce.async.bulk", ".add");
#else
  __trap();
#endif
}

#if !defined(DSV4_SIMT_EMULATION)
#undef DSV4_ARCH_TMA_LOAD_RANK
#undef DSV4_ARCH_TMA_LOAD
#undef DSV4_ARCH_TMA_STORE_RANK
#undef DSV4_ARCH_TMA_STORE
#endif

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
