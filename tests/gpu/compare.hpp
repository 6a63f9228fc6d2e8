// One call of an op on both flavours: the same operands in host memory for the SIMT machine and in device
// memory for the GPU, and a comparison of everything that it wrote.
#pragma once

#include <dsv4/core/status.hpp>
#include <dsv4/core/types.hpp>

#include "tests/gpu/cuda_check.hpp"
#include "tests/gpu/op_table.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace dsv4::gpu {

/// How far two results may lie apart: |a - b| <= absolute + relative * max(|a|, |b|) for every element, and
/// at most share of them with other bits at all. The default is "the same bits".
struct Agreement {
  double absolute = 0, relative = 0, share = 0;
};
inline constexpr Agreement kSameBits = {};

inline double number(float x) { return x; }
inline double number(bf16 x) { return to_float(x); }
inline double number(std::uint8_t x) { return x; }

/// What differs between n elements T, or "".
template <class T>
std::string difference(const void* host, const void* device, std::size_t bytes, const Agreement& agreement) {
  const std::size_t n = bytes / sizeof(T);
  std::size_t differing = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto* a = static_cast<const unsigned char*>(host) + i * sizeof(T);
    const auto* b = static_cast<const unsigned char*>(device) + i * sizeof(T);
    if (std::memcmp(a, b, sizeof(T)) == 0) continue;
    ++differing;
    T x, y;
    std::memcpy(static_cast<void*>(&x), a, sizeof(T));
    std::memcpy(static_cast<void*>(&y), b, sizeof(T));
    const double u = number(x), v = number(y);
    const double limit = agreement.absolute + agreement.relative * std::fmax(std::fabs(u), std::fabs(v));
    if (!(std::fabs(u - v) <= limit)) {
      char text[160];
      std::snprintf(text, sizeof text, "element %zu of %zu: SIMT machine %.9g, GPU %.9g, limit %.3g", i, n, u,
                    v, limit);
      return text;
    }
  }
  if (static_cast<double>(differing) <= agreement.share * static_cast<double>(n)) return "";
  return std::to_string(differing) + " of " + std::to_string(n) + " elements differ, share " +
         std::to_string(agreement.share) + " is allowed";
}

/// The operands of one call, in host or in device memory.
class Operands {
 public:
  explicit Operands(bool on_device) : on_device_(on_device) {}

  template <class T>
  T* in(const std::vector<T>& values) {
    return static_cast<T*>(place(values.data(), values.size() * sizeof(T)));
  }
  /// n elements of 0xff bytes, compared afterwards.
  template <class T>
  T* out(const char* name, std::int64_t n, const Agreement& agreement = kSameBits) {
    T* p = scratch<T>(n);
    outputs_.push_back({name, p, static_cast<std::size_t>(n) * sizeof(T), agreement, &difference<T>});
    return p;
  }
  /// n elements of 0xff bytes, 256-byte aligned.
  template <class T>
  T* scratch(std::int64_t n) {
    const std::vector<unsigned char> bytes(static_cast<std::size_t>(n) * sizeof(T), 0xff);
    return static_cast<T*>(place(bytes.data(), bytes.size()));
  }

  /// What was written here (on the device) and in `host` differs in this way, or "".
  std::string difference_from(const Operands& host) const {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      const Output& o = outputs_[i];
      std::vector<unsigned char> bytes(o.bytes);
      check(cudaMemcpy(bytes.data(), o.p, o.bytes, cudaMemcpyDeviceToHost), o.name);
      const std::string d = o.difference(host.outputs_[i].p, bytes.data(), o.bytes, o.agreement);
      if (!d.empty()) return std::string(o.name) + ": " + d;
    }
    return "";
  }

 private:
  static constexpr std::size_t kAlign = 256;
  struct Output {
    const char* name;
    const void* p;
    std::size_t bytes;
    Agreement agreement;
    std::string (*difference)(const void*, const void*, std::size_t, const Agreement&);
  };

  void* place(const void* from, std::size_t bytes) {
    if (on_device_) {
      device_.push_back(std::make_unique<DeviceMemory>(bytes));
      check(cudaMemcpy(device_.back()->get(), from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
      return device_.back()->get();
    }
    host_.push_back(std::make_unique<unsigned char[]>(bytes + kAlign));
    const auto start = reinterpret_cast<std::uintptr_t>(host_.back().get());
    void* p = host_.back().get() + ((start + kAlign - 1) / kAlign * kAlign - start);
    if (bytes > 0) std::memcpy(p, from, bytes);
    return p;
  }

  bool on_device_;
  std::vector<std::unique_ptr<unsigned char[]>> host_;
  std::vector<std::unique_ptr<DeviceMemory>> device_;
  std::vector<Output> outputs_;
};

/// Counts and prints.
class Tally {
 public:
  /// call(table, operands) -> Status, once for each flavour.
  template <class Call>
  void compare(const std::string& title, Call&& call) {
    Operands host(false), device(true);
    std::string problem;
    const Status simt = call(simt_v0::op_table(), host);
    const Status cuda = call(cuda_v0::op_table(), device);
    const cudaError_t finished = cudaDeviceSynchronize();
    if (!simt.ok())
      problem = std::string("SIMT machine: ") + simt.what;
    else if (!cuda.ok())
      problem = std::string("GPU: ") + cuda.what + " (cuda " + std::to_string(cuda.cuda) + ")";
    else
      check(finished, title.c_str());  // nothing works after a failed kernel
    if (problem.empty()) problem = device.difference_from(host);
    if (problem.empty()) {
      ++passed_;
    } else {
      std::printf("FAILED  %s: %s\n", title.c_str(), problem.c_str());
      ++failed_;
    }
  }
  int passed() const { return passed_; }
  int failed() const { return failed_; }

 private:
  int passed_ = 0, failed_ = 0;
};

}  // namespace dsv4::gpu
