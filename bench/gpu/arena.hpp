// Device memory of one benchmark, filled on the device.
#pragma once

#include <dsv4/core/types.hpp>
#include <dsv4/ops/cache.hpp>
#include <dsv4/ops/linear.hpp>

#include "bench/gpu/device_work.hpp"
#include "tests/gpu/cuda_check.hpp"

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace dsv4::gpu {

inline void require(const Status& s) {
  if (!s.ok())
    throw std::runtime_error(std::string(s.what) + " (value " + std::to_string(s.value) + ", limit " +
                             std::to_string(s.limit) + ", cuda " + std::to_string(s.cuda) + ")");
}

/// Owns what it hands out. Every piece is 256-byte aligned.
class Arena {
 public:
  /// Zeros.
  template <class T = void>
  T* bytes(std::int64_t n) {
    memory_.push_back(std::make_unique<DeviceMemory>(static_cast<std::size_t>(n)));
    check(cudaMemset(memory_.back()->get(), 0, static_cast<std::size_t>(n)), "cudaMemset");
    return static_cast<T*>(memory_.back()->get());
  }
  template <class T>
  T* copy(const std::vector<T>& v) {
    T* p = bytes<T>(static_cast<std::int64_t>(v.size() * sizeof(T)));
    check(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    return p;
  }
  /// n bytes of a pattern, rounded up to whole words.
  template <class T = void>
  T* filled(std::int64_t n, Pattern pattern, std::int32_t page_rows = 0, std::int64_t page_stride = 0) {
    T* p = bytes<T>((n + 3) / 4 * 4);
    require(fill(p, (n + 3) / 4 * 4, pattern, ++seed_, page_rows, page_stride, nullptr));
    return p;
  }
  void* bf16s(std::int64_t n) { return filled(2 * n, Pattern::kBf16); }
  float* floats(std::int64_t n) { return filled<float>(4 * n, Pattern::kF32); }
  float* floats(std::int64_t n, float value) {
    return copy(std::vector<float>(static_cast<std::size_t>(n), value));
  }

  /// Frequencies of 64 rotary channels.
  ops::RopeTable rope() { return {.freq = floats(32, 0.01f)}; }

  /// A weight matrix [n, k].
  ops::LinearWeight weight(std::int64_t n, std::int64_t k, ops::WeightFormat format) {
    if (format == ops::WeightFormat::kBf16) return {.data = bf16s(n * k), .format = format};
    return {.data = filled(n * k, Pattern::kE4m3),
            .scales = filled((n + 127) / 128 * ((k + 127) / 128), Pattern::kE8m0),
            .format = format};
  }

  /// A pool of rows or keys, every slot of it filled.
  ops::CachePool pool(ops::CacheFormat format, std::int64_t slots, std::int32_t page_rows,
                      std::int64_t channels) {
    ops::CachePool p = {.format = format, .slots = slots, .page_rows = page_rows};
    if (format == ops::CacheFormat::kRows) {
      p.data = bf16s(slots * channels);
      return p;
    }
    const bool kv = format == ops::CacheFormat::kKv584, fp4 = format == ops::CacheFormat::kIndexFp4;
    p.stride = (page_rows * std::int64_t{kv ? 584 : fp4 ? 68 : 132} + 15) / 16 * 16;
    p.data = filled((slots + page_rows - 1) / page_rows * p.stride,
                    kv    ? Pattern::kKv584
                    : fp4 ? Pattern::kIndexFp4
                          : Pattern::kIndexFp8,
                    page_rows, p.stride);
    return p;
  }

  /// Gives p the workspace it asks for.
  template <class P>
  void workspace(P& p, std::size_t n) {
    p.workspace = bytes(static_cast<std::int64_t>(n));
    p.workspace_bytes = n;
  }

 private:
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
  std::uint64_t seed_ = 0;
};

/// n values from device memory.
template <class T>
std::vector<T> download(const void* p, std::int64_t n) {
  std::vector<T> v(static_cast<std::size_t>(n));
  check(cudaMemcpy(static_cast<void*>(v.data()), p, v.size() * sizeof(T), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  return v;
}

/// Runs an op once more for one row of a batch alone, launch(scratch, where), and compares the row_bytes that
/// it wrote with those at `row`: "" where they are the same, as every op promises. There is room for `more`
/// bytes behind them.
template <class Launch>
std::string same_alone(const void* row, std::int64_t row_bytes, Launch&& launch, std::int64_t more = 0) {
  Arena scratch;
  void* alone = scratch.bytes(row_bytes + more);
  require(launch(scratch, alone));
  check(cudaDeviceSynchronize(), "a row alone");
  return download<unsigned char>(row, row_bytes) == download<unsigned char>(alone, row_bytes)
             ? ""
             : "a row alone gives other bits than in the batch";
}

/// Element i of an array of T.
template <class T>
const T* at(const void* p, std::int64_t i) {
  return static_cast<const T*>(p) + i;
}

}  // namespace dsv4::gpu
