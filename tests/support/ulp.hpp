// Comparing floats: by bits, and in units in the last place.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace dsv4::test {

/// Relative error of one fp32 operation rounded to nearest: the unit of every derived bound.
inline constexpr double kUnit = 0x1p-24;
/// The same of one rounding to bf16.
inline constexpr double kUnitBf16 = 0x1p-8;

inline std::uint32_t bits_of(float x) {
  std::uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}

inline float float_of(std::uint32_t u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}

/// The same bits, or both NaN (whose payload no operation promises).
inline bool identical(float a, float b) {
  return std::isnan(a) || std::isnan(b) ? std::isnan(a) && std::isnan(b) : bits_of(a) == bits_of(b);
}

/// Distance between neighbouring fp32 numbers at |x|.
inline double ulp_f32(double x) {
  int exponent;
  std::frexp(x, &exponent);
  return std::ldexp(1.0, exponent - 24 < -149 ? -149 : exponent - 24);
}

/// |got - want| in ulps of want; infinite unless NaN and +-inf stand where they should.
/// A want beyond the fp32 range asks for the inf that it rounds to.
inline double ulp_error(float got, double want) {
  const float rounded = static_cast<float>(want);
  if (std::isnan(rounded) || std::isinf(rounded) || !std::isfinite(got))
    return identical(got, rounded) ? 0.0 : std::numeric_limits<double>::infinity();
  return std::abs(got - want) / ulp_f32(want);
}

/// Whether got lies within `bound` of want; NaN and +-inf must stand where they should.
inline bool within(double got, double want, double bound) {
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want;
  return std::abs(got - want) <= bound;  // false for a NaN
}

}  // namespace dsv4::test
