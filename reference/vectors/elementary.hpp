// exp, log, sin and cos in double from additions, multiplications and divisions alone: a libm's last bits
// differ between machines, and the vectors must not.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace dsv4::reference::vectors {

namespace detail {
inline constexpr double kLn2High = 6.93147180369123816490e-01;  // 32 bits: k * kLn2High is exact
inline constexpr double kLn2Low = 1.90821492927058770002e-10;
inline constexpr auto kInverse = [] {
  std::array<double, 19> inverse{};
  for (std::size_t n = 1; n < inverse.size(); ++n) inverse[n] = 1 / static_cast<double>(n);
  return inverse;
}();
}  // namespace detail

/// 2^k, -1022 <= k <= 1023.
inline double power_of_two(int k) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(k + 1023) << 52);
}

/// e^x to a few units of 2^-53; 0 below e^-700.
inline double exp_of(double x) {
  if (std::isnan(x)) return x;
  if (x > 700.0) return std::numeric_limits<double>::infinity();
  if (x < -700.0) return 0;
  const double k = std::rint(x * 1.4426950408889634);
  const double r = (x - k * detail::kLn2High) - k * detail::kLn2Low;
  double sum = 1;  // |r| <= 0.35: the 18th term is below 2^-70
  for (std::size_t n = 18; n >= 1; --n) sum = 1 + r * detail::kInverse[n] * sum;
  return sum * power_of_two(static_cast<int>(k));
}

/// Natural logarithm of a positive finite x.
inline double log_of(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // [0.5, 1)
  if (m < 0.70710678118654752) m *= 2, --exponent;
  const double s = (m - 1) / (m + 1), s2 = s * s;
  double sum = 0;  // 2 atanh(s), |s| < 0.172
  for (int n = 29; n >= 1; n -= 2) sum = sum * s2 + 1.0 / n;
  return exponent * detail::kLn2High + (exponent * detail::kLn2Low + 2 * s * sum);
}

struct Turn {
  double cos, sin;
};

/// cos and sin of an angle of at most 2^22 radians.
inline Turn turn_of(double angle) {
  constexpr double kHigh = 1.57079632673412561417e+00, kMiddle = 6.07710050630396597660e-11,
                   kLow = 2.02226624879595063154e-21;  // pi/2 in parts of 33 bits
  if (!(std::abs(angle) <= 0x1p30)) {
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    return {kNan, kNan};
  }
  const double n = std::rint(angle * 0.63661977236758134);
  const double r = ((angle - n * kHigh) - n * kMiddle) - n * kLow, r2 = r * r;
  double sine = 1, cosine = 1;
  for (int k = 21; k >= 3; k -= 2) sine = 1 - r2 / (k * (k - 1)) * sine;
  for (int k = 22; k >= 2; k -= 2) cosine = 1 - r2 / (k * (k - 1)) * cosine;
  sine *= r;
  switch (static_cast<long long>(n) & 3) {
    case 0:
      return {cosine, sine};
    case 1:
      return {-sine, cosine};
    case 2:
      return {-cosine, -sine};
    default:
      return {sine, -cosine};
  }
}

}  // namespace dsv4::reference::vectors
