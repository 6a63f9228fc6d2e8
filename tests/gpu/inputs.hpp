// Operands of the cases of tests/gpu.
#pragma once

#include <dsv4/core/types.hpp>
#include <dsv4/ops/common.hpp>

#include "tests/support/random.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace dsv4::gpu {

template <class T>
inline constexpr ops::DType kDType = std::is_same_v<T, float> ? ops::DType::kF32 : ops::DType::kBf16;
template <class T>
inline constexpr bool kF32 = std::is_same_v<T, float>;

template <class T>
std::vector<T> normal(std::int64_t n, std::uint64_t seed, double sigma = 1.0) {
  std::vector<T> v(static_cast<std::size_t>(n));
  test::Random random(seed);
  for (T& x : v) x = from_float<T>(static_cast<float>(random.normal() * sigma));
  return v;
}

/// Multiples of `unit` between -most and +most units. Sums of products of such values that stay below 2^24
/// units are exact: in whatever order a tensor core adds, it must give the same bits.
template <class T>
std::vector<T> whole(std::int64_t n, std::uint64_t seed, int most, float unit = 1.0f) {
  std::vector<T> v(static_cast<std::size_t>(n));
  test::Random random(seed);
  for (T& x : v) x = from_float<T>(static_cast<float>(random.integer(-most, most)) * unit);
  return v;
}

/// Bound of what a sum of k products may differ by between two tensor cores, for products of size `size`: k
/// additions, in an order (and with truncation) of the tensor core's own, each off by 2^-23 of a partial sum
/// of at most 6 sqrt(k) products, or of 6 sqrt(128) where there are fewer.
inline double sum_bound(std::int64_t k, double size) {
  const auto terms = static_cast<double>(k);
  return terms * 6 * std::sqrt(std::fmax(128.0, terms)) * size * 0x1p-23;
}

/// Frequencies of 64 rotary channels.
inline std::vector<float> frequencies() {
  std::vector<float> freq;
  for (int i = 0; i < 32; ++i) freq.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / 64.0)));
  return freq;
}

template <class T>
std::string title(const char* op, std::int64_t tokens, std::int64_t hidden) {
  return std::string(op) + (kF32<T> ? " f32" : " bf16") + " T=" + std::to_string(tokens) +
         " D=" + std::to_string(hidden);
}

struct Shape {
  std::int64_t tokens, hidden;
};

inline std::vector<Shape> row_shapes(bool small) {
  if (small) return {{1, 128}, {65, 256}};
  return {{1, 128}, {2, 256}, {63, 128}, {64, 128}, {65, 4096}, {257, 256}, {3, 7168}};
}

}  // namespace dsv4::gpu
