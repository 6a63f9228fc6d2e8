// CUDA runtime calls of tests and benchmarks: a failure is an exception.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <stdexcept>
#include <string>

namespace dsv4::gpu {

inline constexpr int kSkipped = 77;  // exit code that ctest takes for "skipped"

inline void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(e));
}

/// Why no kernel can run here, or "".
inline std::string why_no_device() {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess) return cudaGetErrorString(e);
  return count == 0 ? "no device" : "";
}

/// Bytes of device memory, freed at the end of the scope.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) { check(cudaMalloc(&p_, bytes > 0 ? bytes : 1), "cudaMalloc"); }
  ~DeviceMemory() { static_cast<void>(cudaFree(p_)); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* get() const { return p_; }

 private:
  void* p_ = nullptr;
};

}  // namespace dsv4::gpu
