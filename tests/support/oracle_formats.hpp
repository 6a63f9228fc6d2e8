// The storage number formats a second time, in double, from the definitions of the OCP Microscaling Formats
// specification v1.0: decoding by the formula, encoding by search among the values of all codes for the
// nearest. Shares nothing with dsv4/.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace dsv4::test::oracle {

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

namespace detail {
constexpr double power_of_two(int exponent) {
  double p = 1;
  for (; exponent > 0; --exponent) p *= 2;
  for (; exponent < 0; ++exponent) p /= 2;
  return p;
}
/// Values of all codes: tests ask for millions.
template <std::size_t N>
constexpr std::array<double, N> values_of(double (*value)(unsigned)) {
  std::array<double, N> v = {};
  for (unsigned code = 0; code < N; ++code) v[code] = value(code);
  return v;
}

constexpr double e4m3_formula(unsigned code) {
  const int sign = code >> 7 & 1, exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return kNan;
  const double magnitude =
      exponent == 0 ? mantissa / 8.0 * power_of_two(-6) : (1 + mantissa / 8.0) * power_of_two(exponent - 7);
  return sign ? -magnitude : magnitude;
}
constexpr double e2m1_formula(unsigned nibble) {
  const int sign = nibble >> 3 & 1, exponent = nibble >> 1 & 3, mantissa = nibble & 1;
  const double magnitude = exponent == 0 ? mantissa / 2.0 : (1 + mantissa / 2.0) * power_of_two(exponent - 1);
  return sign ? -magnitude : magnitude;
}
constexpr double e8m0_formula(unsigned byte) { return byte == 255 ? kNan : power_of_two(int(byte) - 127); }

inline constexpr auto kE4m3 = values_of<256>(e4m3_formula);
inline constexpr auto kE2m1 = values_of<16>(e2m1_formula);
inline constexpr auto kE8m0 = values_of<256>(e8m0_formula);
}  // namespace detail

/// E4M3: S.EEEE.MMM, bias 7; exponent 0 is subnormal; S.1111.111 is NaN; there is no infinity.
inline double e4m3_value(unsigned code) { return detail::kE4m3[code & 0xff]; }

/// E2M1: S.EE.M, bias 1; exponent 0 is subnormal; neither NaN nor infinity.
inline double e2m1_value(unsigned nibble) { return detail::kE2m1[nibble & 15]; }

/// E8M0: 2^(byte - 127), 255 is NaN.
inline double e8m0_value(unsigned byte) { return detail::kE8m0[byte]; }

/// bfloat16: S.EEEEEEEE.MMMMMMM, bias 127, IEEE infinities and NaNs.
inline double bf16_value(unsigned code) {
  const int sign = code >> 15 & 1, exponent = code >> 7 & 255, mantissa = code & 127;
  double magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity() : kNan;
  if (exponent == 0) magnitude = mantissa * 0x1p-133;
  if (exponent > 0 && exponent < 255)
    magnitude = (1 + mantissa / 128.0) * e8m0_value(static_cast<unsigned>(exponent));
  return sign ? -magnitude : magnitude;
}

namespace detail {
// The magnitude code whose value is nearest to x >= 0, values[0] being 0 and values ascending; of two equally
// near, the even code.
inline unsigned nearest_even(double x, const double* values, unsigned count) {
  unsigned low = 0, high = count;  // bisect: values[low] <= x < values[high]
  while (high - low > 1) (values[(low + high) / 2] <= x ? low : high) = (low + high) / 2;
  if (high == count) return low;
  const double below = x - values[low], above = values[high] - x;
  return below < above || (below == above && low % 2 == 0) ? low : high;
}
}  // namespace detail

/// The e4m3 code nearest to x, saturating at +-448; NaN gives a NaN code with the sign of x.
inline unsigned e4m3_nearest(double x) {
  const unsigned sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return 0x7f | sign;
  return detail::nearest_even(std::abs(x), detail::kE4m3.data(), 0x7f) | sign;
}

/// The e2m1 nibble nearest to x, saturating at +-6. x may not be NaN.
inline unsigned e2m1_nearest(double x) {
  return detail::nearest_even(std::abs(x), detail::kE2m1.data(), 8) | (std::signbit(x) ? 8 : 0);
}

/// The bf16 code nearest to x. What reaches half an ulp beyond the largest finite number is infinite.
inline unsigned bf16_nearest(double x) {
  const unsigned sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return 0x7fc0 | sign;
  static const std::vector<double> values = [] {
    std::vector<double> v(0x7f81);
    for (unsigned code = 0; code < 0x7f80; ++code) v[code] = bf16_value(code);
    v[0x7f80] = 0x1p128;  // where the next number would be
    return v;
  }();
  return detail::nearest_even(std::abs(x), values.data(), 0x7f81) | sign;
}

/// Value of x rounded to bf16.
inline double bf16_round(double x) { return bf16_value(bf16_nearest(x)); }

/// The byte of the smallest power of two that is at least a * reciprocal, the product rounded to fp32 as the
/// model does it; `a` is first raised to `floor`. 255 for a NaN or inf.
inline unsigned scale_byte(double a, float floor, float reciprocal) {
  if (!std::isfinite(a)) return 255;
  const float raised = a < floor ? floor : static_cast<float>(a);
  const double product = static_cast<float>(double(raised) * double(reciprocal));
  return static_cast<unsigned>(std::lower_bound(detail::kE8m0.begin(), detail::kE8m0.end() - 1, product) -
                               detail::kE8m0.begin());
}
/// Scale byte of an FP8 block with largest magnitude a: 448 codes up, floor 1e-4.
inline unsigned fp8_scale_byte(double a) { return scale_byte(a, 1e-4f, float(1.0 / 448.0)); }
/// Scale byte of an FP4 block: 6 codes up, floor 6 * 2^-126.
inline unsigned fp4_scale_byte(double a) { return scale_byte(a, 6 * 0x1p-126f, float(1.0 / 6.0)); }

/// One block through a block format and back.
struct Block {
  unsigned scale;               // UE8M0 byte
  std::vector<unsigned> codes;  // one an element; meaningless where scale is 255
  std::vector<double> values;   // code * 2^(scale - 127)
};

namespace detail {
inline Block quantise(const std::vector<double>& x, unsigned (*scale_of)(double), unsigned (*encode)(double),
                      double (*value)(unsigned)) {
  double largest = 0;
  bool finite = true;
  for (const double v : x) {
    finite = finite && std::isfinite(v);
    largest = std::fmax(largest, std::abs(v));
  }
  Block block{finite ? scale_of(largest) : 255, {}, {}};
  const double scale = e8m0_value(block.scale);
  for (const double v : x) {
    block.codes.push_back(finite ? encode(v / scale) : 0);
    block.values.push_back(value(block.codes.back()) * scale);
  }
  return block;
}
}  // namespace detail

inline Block fp8_block(const std::vector<double>& x) {
  return detail::quantise(x, fp8_scale_byte, e4m3_nearest, e4m3_value);
}
inline Block fp4_block(const std::vector<double>& x) {
  return detail::quantise(x, fp4_scale_byte, e2m1_nearest, e2m1_value);
}

}  // namespace dsv4::test::oracle
