// Conformance cases on the first GPU.
#include "tests/arch/conformance/harness.hpp"

#include <cuda_runtime_api.h>

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

Status checked(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return {};
  return {Code::kCuda, static_cast<std::int32_t>(e), what};
}

/// Words of device memory, freed at the end of the scope.
class DeviceWords {
 public:
  explicit DeviceWords(const Words& initial) {
    const std::size_t bytes = initial.size() * sizeof(std::uint32_t);
    status_ = checked(cudaMalloc(reinterpret_cast<void**>(&p_), bytes > 0 ? bytes : 1), "cudaMalloc");
    if (status_.ok())
      status_ = checked(cudaMemcpy(p_, initial.data(), bytes, cudaMemcpyHostToDevice), "copy in");
  }
  ~DeviceWords() { static_cast<void>(cudaFree(p_)); }
  DeviceWords(const DeviceWords&) = delete;
  DeviceWords& operator=(const DeviceWords&) = delete;

  std::uint32_t* get() const { return p_; }
  const Status& status() const { return status_; }

 private:
  std::uint32_t* p_ = nullptr;
  Status status_;
};

}  // namespace

Executor executor() {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess || count == 0)
    return {.sm = 0, .name = "", .missing = e != cudaSuccess ? cudaGetErrorString(e) : "no device"};
  cudaDeviceProp properties = {};
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess)
    return {.sm = 0, .name = "", .missing = "the properties of device 0 cannot be read"};
  return {.sm = properties.major * 10 + properties.minor, .name = properties.name, .missing = ""};
}

Status run_case(const Case& c, Words& out) {
  out.assign(static_cast<std::size_t>(c.out_words), 0);
  Words initial(static_cast<std::size_t>(c.scratch_words));
  for (std::size_t i = 0; i < initial.size(); ++i) initial[i] = scratch_word(static_cast<std::uint32_t>(i));
  const DeviceWords output(out), scratch(initial);
  if (!output.status().ok()) return output.status();
  if (!scratch.status().ok()) return scratch.status();
  const Status status = c.run({output.get(), scratch.get()}, nullptr);
  if (!status.ok()) return status;
  const Status finished = checked(cudaDeviceSynchronize(), "the kernel failed");
  if (!finished.ok()) return finished;
  return checked(
      cudaMemcpy(out.data(), output.get(), out.size() * sizeof(std::uint32_t), cudaMemcpyDeviceToHost),
      "copy out");
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
