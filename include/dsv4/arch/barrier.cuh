// Barriers of a block and of a warp. PTX ISA, "bar, barrier" and "bar.warp.sync":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-bar
#pragma once

#include <dsv4/arch/config.cuh>

#include <cstdint>

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// Barrier of all threads of the block; orders their memory accesses.
DSV4_DEVICE void sync_threads(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::sync_block(loc);
#else
  __syncthreads();
#endif
}

/// The same, and the number of threads whose predicate holds.
DSV4_DEVICE int sync_threads_count(bool predicate DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::barrier(0, 0, true, simt::BarrierReduce::kCount, predicate, "__syncthreads_count", loc);
#else
  return __syncthreads_count(predicate);
#endif
}

/// The same, and whether any predicate holds.
DSV4_DEVICE bool sync_threads_or(bool predicate DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::barrier(0, 0, true, simt::BarrierReduce::kOr, predicate, "__syncthreads_or", loc) != 0;
#else
  return __syncthreads_or(predicate) != 0;
#endif
}

/// The same, and whether all predicates hold.
DSV4_DEVICE bool sync_threads_and(bool predicate DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::barrier(0, 0, true, simt::BarrierReduce::kAnd, predicate, "__syncthreads_and", loc) != 0;
#else
  return __syncthreads_and(predicate) != 0;
#endif
}

/// Named barrier `id` (1..15; 0 is that of sync_threads) of `threads` threads, a multiple of 32, those that
/// only arrive included. Whole warps call it.
DSV4_DEVICE void named_barrier_sync(std::uint32_t id, std::uint32_t threads DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::barrier(id, threads, true, simt::BarrierReduce::kNone, false, "bar.sync", loc);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

/// Arrives at a named barrier without waiting.
DSV4_DEVICE void named_barrier_arrive(std::uint32_t id, std::uint32_t threads DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::barrier(id, threads, false, simt::BarrierReduce::kNone, false, "bar.arrive", loc);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

/// Barrier of the lanes of `mask`; orders their memory accesses. Shuffles and votes do not.
DSV4_DEVICE void sync_warp(unsigned mask = kFullMask DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::sync_warp(mask, loc);
#else
  __syncwarp(mask);
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
