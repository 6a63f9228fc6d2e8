// What differs between a GPU and the SIMT machine: memory and a stream. The rest of every example is one
// source for both: compiled with DSV4_SIMT_EMULATION (the CMake target dsv4::kernels_simt and the pkg-config
// module dsv4-kernels-simt set it) it runs on the CPU, without it on the device. An engine has these already.
#pragma once

#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

#if !defined(DSV4_SIMT_EMULATION)
#include <cuda_runtime_api.h>
#endif

namespace examples {

/// Ends the program unless an op succeeded; says what was wrong, the value met and the limit.
inline void must(const dsv4::Status& s) {
  if (s.ok()) return;
  std::fprintf(stderr, "%s (value %lld, limit %lld, cuda error %d)\n", s.what,
               static_cast<long long>(s.value), static_cast<long long>(s.limit), static_cast<int>(s.cuda));
  std::exit(1);
}

#if defined(DSV4_SIMT_EMULATION)

inline dsv4::Stream make_stream() { return nullptr; }
inline void synchronise(dsv4::Stream) {}  // the machine's launches have ended when they return
inline void* allocate(std::size_t bytes) { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
inline void release(void* p) { std::free(p); }

#else

inline void must(cudaError_t e) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(e));
  std::exit(e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver ? 77 : 1);  // 77: skipped, to CTest
}
inline dsv4::Stream make_stream() {
  cudaStream_t stream = nullptr;
  must(cudaStreamCreate(&stream));
  return stream;
}
inline void synchronise(dsv4::Stream stream) { must(cudaStreamSynchronize(stream)); }
/// Managed: the host fills and reads it in place, which keeps the examples short. Ops take any device memory.
inline void* allocate(std::size_t bytes) {
  void* p = nullptr;
  must(cudaMallocManaged(&p, bytes));
  return p;
}
inline void release(void* p) { cudaFree(p); }

#endif

template <class T>
struct DeviceAllocator {
  using value_type = T;
  DeviceAllocator() = default;
  template <class U>
  DeviceAllocator(const DeviceAllocator<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(examples::allocate(n * sizeof(T))); }
  void deallocate(T* p, std::size_t) { release(p); }
  friend bool operator==(const DeviceAllocator&, const DeviceAllocator&) { return true; }
};

/// Memory that host and kernels can address, 256-byte aligned as ops want their workspaces.
template <class T>
using Buffer = std::vector<T, DeviceAllocator<T>>;

}  // namespace examples
