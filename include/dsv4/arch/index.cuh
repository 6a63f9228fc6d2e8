// Who a thread is. PTX ISA, "Special Registers":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#special-registers
#pragma once

#include <dsv4/arch/config.cuh>

namespace dsv4::arch::inline DSV4_FLAVOUR {

#if defined(DSV4_SIMT_EMULATION)
using Index3 = simt::Index3;
DSV4_DEVICE Index3 thread_idx() { return simt::thread_idx(); }
DSV4_DEVICE Index3 block_idx() { return simt::block_idx(); }
DSV4_DEVICE Index3 block_dim() { return simt::block_dim(); }
DSV4_DEVICE Index3 grid_dim() { return simt::grid_dim(); }
DSV4_DEVICE int lane_id() { return simt::lane_id(); }
#else
/// A point or an extent of a grid.
struct Index3 {
  unsigned x = 1, y = 1, z = 1;
};
DSV4_DEVICE Index3 thread_idx() { return {threadIdx.x, threadIdx.y, threadIdx.z}; }
DSV4_DEVICE Index3 block_idx() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
DSV4_DEVICE Index3 block_dim() { return {blockDim.x, blockDim.y, blockDim.z}; }
DSV4_DEVICE Index3 grid_dim() { return {gridDim.x, gridDim.y, gridDim.z}; }
DSV4_DEVICE int lane_id() { return static_cast<int>(threadIdx.x & 31u); }  // blocks are 1-D or 32 wide
#endif

/// Warp of the calling thread in its block; uniform over the warp, and known to be so. 1-D blocks.
DSV4_DEVICE int warp_id() {
#if defined(DSV4_SIMT_EMULATION)
  return static_cast<int>(simt::thread_idx().x / kWarpThreads);
#else
  return __shfl_sync(kFullMask, static_cast<int>(threadIdx.x / kWarpThreads), 0);
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
