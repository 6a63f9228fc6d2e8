// Rows in the element type that a primitive takes, and back, without dsv4's conversions.
#pragma once

#include <dsv4/core/types.hpp>

#include "tests/support/ulp.hpp"

#include <cstdint>
#include <vector>

namespace dsv4::test {

/// Value of an element.
inline float value(float x) { return x; }
inline float value(bf16 x) { return float_of(std::uint32_t{x.bits} << 16); }

/// x as T; for bf16 the lower half is cut off, so the values should be exact in it (normal_bf16).
template <class T>
T cast_to(float x);
template <>
inline float cast_to<float>(float x) {
  return x;
}
template <>
inline bf16 cast_to<bf16>(float x) {
  return {static_cast<std::uint16_t>(bits_of(x) >> 16)};
}

template <class T>
std::vector<T> row_of(const std::vector<float>& x) {
  std::vector<T> v;
  for (const float f : x) v.push_back(cast_to<T>(f));
  return v;
}

/// Largest relative error of one rounding to T.
template <class T>
inline constexpr double kUnitOf = kUnit;
template <>
inline constexpr double kUnitOf<bf16> = kUnitBf16;

}  // namespace dsv4::test
