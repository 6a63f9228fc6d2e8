// Launching a kernel: one function, one Status. CUDA Programming Guide, "Extensible launch":
// https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__EXECUTION.html
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/launch.hpp>
#else
#include <cuda_runtime_api.h>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// Shape of a launch.
struct LaunchConfig {
  Index3 grid = {};
  Index3 block = {};
  std::size_t shared_bytes = 0;   // dynamic, of a block
  Index3 cluster = {};            // blocks of a cluster, along x
  bool cooperative = false;       // all blocks resident at once
  bool overlap_previous = false;  // programmatic dependent launch: the kernel calls wait_for_previous_grid()
};

/// Dynamic shared memory that a block can have on the current device, bytes.
inline Status max_shared_bytes(std::int64_t& bytes) noexcept {
#if defined(DSV4_SIMT_EMULATION)
  bytes = std::int64_t{227} << 10;
  return {};
#else
  int device = 0, value = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  bytes = value;
  if (e == cudaSuccess) return {};
  static_cast<void>(cudaGetLastError());
  return {Code::kCuda, static_cast<std::int32_t>(e), "max_shared_bytes"};
#endif
}

/// Launches kernel(arguments...) on `stream`. noexcept, no synchronisation, capturable into a graph.
/// `name` is what errors call the kernel.
template <class... P, class... A>
Status launch(const char* name, void (*kernel)(P...), const LaunchConfig& config, Stream stream,
              A&&... arguments) noexcept {
#if defined(DSV4_SIMT_EMULATION)
  static_cast<void>(stream);
  return simt::launch_status([&] {
    simt::launch(name, kernel,
                 {config.grid, config.block, config.cluster, config.shared_bytes, config.cooperative},
                 std::forward<A>(arguments)...);
  });
#else
  static_assert(sizeof...(P) == sizeof...(A), "launch: the number of the kernel's parameters");
  const auto checked = [name](cudaError_t e) -> Status {
    if (e == cudaSuccess) return {};
    static_cast<void>(cudaGetLastError());  // not sticky: do not let the caller's next call report it again
    return {Code::kCuda, static_cast<std::int32_t>(e), name};
  };
  if (config.shared_bytes > (48u << 10)) {  // beyond this a kernel must opt in
    const Status s = checked(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  static_cast<int>(config.shared_bytes)));
    if (!s.ok()) return s;
  }
  const auto dim = [](const Index3& i) { return dim3(i.x, i.y, i.z); };
  cudaLaunchAttribute attribute[3];
  unsigned attributes = 0;
  if (config.cluster.x > 1) {
    attribute[attributes].id = cudaLaunchAttributeClusterDimension;
    attribute[attributes].val.clusterDim.x = config.cluster.x;
    attribute[attributes].val.clusterDim.y = 1;
    attribute[attributes++].val.clusterDim.z = 1;
  }
  if (config.cooperative) {
    attribute[attributes].id = cudaLaunchAttributeCooperative;
    attribute[attributes++].val.cooperative = 1;
  }
  // Only code compiled for sm_90 or later holds the wait that makes an early start safe (pdl.cuh).
  cudaFuncAttributes compiled = {};
  if (config.overlap_previous) {
    const Status s = checked(cudaFuncGetAttributes(&compiled, reinterpret_cast<const void*>(kernel)));
    if (!s.ok()) return s;
  }
  if (config.overlap_previous && compiled.ptxVersion >= 90) {
    attribute[attributes].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[attributes++].val.programmaticStreamSerializationAllowed = 1;
  }
  cudaLaunchConfig_t c = {};
  c.gridDim = dim(config.grid);
  c.blockDim = dim(config.block);
  c.dynamicSmemBytes = config.shared_bytes;
  c.stream = stream;
  c.attrs = attribute;
  c.numAttrs = attributes;
  return checked(cudaLaunchKernelEx(&c, kernel, std::forward<A>(arguments)...));
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
