// Stand-ins for weights and activations.
#pragma once

#include <dsv4/core/types.hpp>
#include <dsv4/ops/linear.hpp>

#include "examples/common/device.hpp"

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace examples {

/// n values of T (float, bf16 or e4m3), even between centre - radius and centre + radius.
template <class T>
Buffer<T> random(std::int64_t n, std::uint64_t seed, float radius = 1.0f, float centre = 0.0f) {
  Buffer<T> out(static_cast<std::size_t>(n));
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (T& v : out) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const float unit = static_cast<float>(static_cast<std::int64_t>(state) >> 40) * 0x1p-23f;  // -1 .. 1
    if constexpr (std::is_same_v<T, dsv4::e4m3>)
      v = dsv4::to_e4m3(centre + radius * unit);
    else
      v = dsv4::from_float<T>(centre + radius * unit);
  }
  return out;
}

/// A weight matrix [n, k] as published checkpoints store it: e4m3 with a UE8M0 scale for every 128 x 128.
struct Fp8Matrix {
  std::int64_t n, k;
  Buffer<dsv4::e4m3> codes;
  Buffer<dsv4::e8m0> scales;

  Fp8Matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed)
      : n(rows),
        k(cols),
        codes(random<dsv4::e4m3>(n * k, seed, 1.7f)),
        scales(static_cast<std::size_t>((n + 127) / 128 * ((k + 127) / 128)),
               // The power of two nearest to k^-0.5, so that activations stay near 1.
               dsv4::e8m0{static_cast<std::uint8_t>(127 - std::lround(std::log2(std::sqrt(k))))}) {}

  dsv4::ops::LinearWeight weight() const {
    return {.data = codes.data(), .scales = scales.data(), .format = dsv4::ops::WeightFormat::kFp8};
  }
};

/// One of those that published checkpoints keep in bf16.
struct Bf16Matrix {
  std::int64_t n, k;
  Buffer<dsv4::bf16> values;

  Bf16Matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed)
      : n(rows), k(cols), values(random<dsv4::bf16>(n * k, seed, 1.7f / std::sqrt(static_cast<float>(k)))) {}

  dsv4::ops::LinearWeight weight() const { return {.data = values.data()}; }
};

}  // namespace examples
