// Device memory of a GPU. Copies and kernels share the default stream, so that they follow one another.
#include "reference/op_backend/memory.hpp"

#include "reference/error.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <stdexcept>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {

void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess) throw std::runtime_error(fmt::format("{}: {}", what, cudaGetErrorString(e)));
}

}  // namespace

void require_device() {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess) throw InputError(fmt::format("--backend cuda: {}", cudaGetErrorString(e)));
  if (count == 0) throw InputError("--backend cuda: no GPU here");
}

DeviceMemory::DeviceMemory(std::size_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes > 0 ? bytes : 1), "cudaMalloc");
  data_ = static_cast<std::byte*>(data);
  check(cudaMemset(data_, 0xff, bytes), "cudaMemset");
}

// An error of a kernel is reported by the copy that waits for it; freeing can say nothing new.
DeviceMemory::~DeviceMemory() { static_cast<void>(cudaFree(data_)); }

void DeviceMemory::write(const void* host, std::size_t bytes) {
  if (bytes > 0) check(cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy to the device");
}

void DeviceMemory::read(void* host, std::size_t bytes) const {
  if (bytes > 0) check(cudaMemcpy(host, data_, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy from the device");
}

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
