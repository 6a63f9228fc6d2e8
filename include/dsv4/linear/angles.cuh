// Where kernels get the angles of a rotation: computed from frequencies, or read from an engine's tables.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/core/rope.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/linear/integers.cuh>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// Either frequencies, or a table with a row for each position.
///   freq_or_null  [pairs] f32 radians a position; null = the table
///   cos, sin      [max_position, pairs] f32, `stride` elements between rows
struct Angles {
  const float* freq_or_null;
  const float* cos;
  const float* sin;
  std::int64_t max_position;
  std::int64_t stride;

  /// Cosine and sine of one pair: bit for bit rope::angles, any sign of the position; NaNs where the table
  /// has no row. One thread's.
  DSV4_DEVICE math::SinCos operator()(std::int64_t position, int pair) const {
    math::SinCos angle;
    if (freq_or_null) {
      rope::angles(SerialCoop{}, &angle, freq_or_null + pair, position, 1);
    } else if (position >= 0 && position < max_position) {
      const std::int64_t i = position * stride + pair;
      angle = {sin[i], cos[i]};
    } else {
      const float nan = bits_as<float>(0x7fc00000u);
      angle = {nan, nan};
    }
    return angle;
  }
};

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
