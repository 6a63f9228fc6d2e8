// How many blocks of a kernel a device runs side by side. CUDA runtime API, "Occupancy":
// https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__OCCUPANCY.html
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/core/status.hpp>

#include <cstddef>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/options.hpp>
#else
#include <cuda_runtime_api.h>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// Blocks of `threads` threads and `shared_bytes` of dynamic shared memory that the current device holds at
/// once if nothing else runs; at least 1. For the grid of a persistent kernel. May be called during capture.
template <class... P>
Status resident_blocks(int& blocks, void (*kernel)(P...), int threads, std::size_t shared_bytes) noexcept {
#if defined(DSV4_SIMT_EMULATION)
  static_cast<void>(kernel), static_cast<void>(threads), static_cast<void>(shared_bytes);
  blocks = simt::options().resident_blocks;
  return {};
#else
  const auto* function = reinterpret_cast<const void*>(kernel);
  int device = 0, processors = 0, each = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (e == cudaSuccess && shared_bytes > (48u << 10))  // beyond this a kernel must opt in, or none fits
    e = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
  if (e == cudaSuccess)
    e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, function, threads, shared_bytes);
  blocks = each > 0 ? each * processors : 1;
  if (e == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());
  return {Code::kCuda, static_cast<std::int32_t>(e), "resident_blocks"};
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
