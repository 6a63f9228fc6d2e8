// Rotary position embedding: frequencies of both kinds, and the rotation of interleaved pairs.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace dsv4::rope {

/// What fixes the frequencies of one layer kind.
struct Params {
  double theta;
  double factor;                 // YaRN; 1 = none
  std::int64_t original_length;  // YaRN: context length before extension
  double beta_fast, beta_slow;   // YaRN: rotations at the ends of the ramp
};

/// Frequencies of the kRopeDim/2 pairs, radians a position:
///     freq[i] = 1.0f / float(pow(theta, 2i/kRopeDim)); with YaRN (factor != 1)
///     freq[i] = freq[i]/factor * ramp[i] + freq[i] * (1 - ramp[i])            (spec section 4)
/// ramp rises from 0 at pair `low` to 1 at pair `high`, the pairs that turn beta_fast and beta_slow times in
/// original_length positions. No attention-scale factor anywhere. Host; fp32 as published.
template <int kRopeDim>
std::array<float, kRopeDim / 2> frequencies(const Params& p) {
  std::array<float, kRopeDim / 2> freq{};
  for (int i = 0; i < kRopeDim / 2; ++i)
    freq[static_cast<std::size_t>(i)] = 1.0f / static_cast<float>(std::pow(p.theta, 2.0 * i / kRopeDim));
  if (p.factor == 1.0) return freq;
  constexpr double kPi = 3.14159265358979323846;
  const auto pair_turning = [&](double turns) {
    return kRopeDim * std::log(static_cast<double>(p.original_length) / (turns * 2 * kPi)) /
           (2 * std::log(p.theta));
  };
  const double low = std::max(std::floor(pair_turning(p.beta_fast)), 0.0);
  double high = std::min(std::ceil(pair_turning(p.beta_slow)), kRopeDim - 1.0);
  if (low == high) high += 0.001;
  for (int i = 0; i < kRopeDim / 2; ++i) {
    float& f = freq[static_cast<std::size_t>(i)];
    const float position = (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float ramp = std::min(std::max(position, 0.0f), 1.0f);
    f = f / static_cast<float>(p.factor) * ramp + f * (1.0f - ramp);
  }
  return freq;
}

/// cos and sin of every pair at one position; the angle is the fp32 product float(position) * freq[i], as
/// published, so that keys written by other engines agree.
///   table  [pairs] SinCos
///   freq   [pairs] f32
/// position < 2^22 (promised). Called by all threads of `coop`; does not synchronise.
template <Coop C>
DSV4_HD void angles(C coop, math::SinCos* table, const float* freq, std::int64_t position, int pairs) {
  for (int i = coop.rank(); i < pairs; i += coop.size())
    table[i] = math::sincos(static_cast<float>(position) * freq[i]);
}

/// Direction of a rotation: keys and queries turn forward, the attention output turns back.
enum class Direction { kForward, kInverse };

/// Rotates `pairs` INTERLEAVED pairs (x[2i], x[2i+1]) in place by +-angle i:
///     x'[2i]   = round_T( x[2i] cos - x[2i+1] sin ),  x'[2i+1] = round_T( x[2i] sin + x[2i+1] cos )
///   x      [2*pairs] T   the rope channels alone (the LAST ones of a head)
///   table  [pairs]       of `angles`
/// fp32, each value rounded once. Called by all threads of `coop`; does not synchronise.
template <Coop C, class T>
DSV4_HD void rotate(C coop, T* x, const math::SinCos* table, int pairs, Direction direction) {
  for (int i = coop.rank(); i < pairs; i += coop.size()) {
    const float a = to_float(x[2 * i]), b = to_float(x[2 * i + 1]);
    const float c = table[i].cos, s = direction == Direction::kForward ? table[i].sin : -table[i].sin;
    x[2 * i] = from_float<T>(math::fma(a, c, -(b * s)));
    x[2 * i + 1] = from_float<T>(math::fma(a, s, b * c));
  }
}

}  // namespace dsv4::rope
