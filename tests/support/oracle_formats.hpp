// The storage number formats a second time, in double, from the definitions of the OCP Microscaling Formats
// specification v1.0: decoding by the formula, encoding by search among all code values for the nearest.
// Shares nothing with dsv4/.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace dsv4::test::oracle {

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// E4M3: S.EEEE.MMM, bias 7; exponent 0 is subnormal; S.1111.111 is NaN; there is no infinity.
inline double e4m3_value(unsigned code) {
  const int sign = code >> 7 & 1, exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return kNan;
  const double magnitude =
      exponent == 0 ? mantissa / 8.0 * std::pow(2.0, -6) : (1 + mantissa / 8.0) * std::pow(2.0, exponent - 7);
  return sign ? -magnitude : magnitude;
}

/// E2M1: S.EE.M, bias 1; exponent 0 is subnormal; neither NaN nor infinity.
inline double e2m1_value(unsigned nibble) {
  const int sign = nibble >> 3 & 1, exponent = nibble >> 1 & 3, mantissa = nibble & 1;
  const double magnitude =
      exponent == 0 ? mantissa / 2.0 : (1 + mantissa / 2.0) * std::pow(2.0, exponent - 1);
  return sign ? -magnitude : magnitude;
}

/// E8M0: 2^(byte - 127), 255 is NaN.
inline double e8m0_value(unsigned byte) { return byte == 255 ? kNan : std::pow(2.0, int(byte) - 127); }

/// bfloat16: S.EEEEEEEE.MMMMMMM, bias 127, IEEE infinities and NaNs.
inline double bf16_value(unsigned code) {
  const int sign = code >> 15 & 1, exponent = code >> 7 & 255, mantissa = code & 127;
  double magnitude = exponent == 0 ? mantissa / 128.0 * std::pow(2.0, -126)
                                   : (1 + mantissa / 128.0) * std::pow(2.0, exponent - 127);
  if (exponent == 255) magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity() : kNan;
  return sign ? -magnitude : magnitude;
}

namespace detail {
// The magnitude code in [0, count) whose value(code) is nearest to x >= 0; of two equally near, the even
// code.
template <class Value>
unsigned nearest_even(double x, unsigned count, Value value) {
  unsigned best = 0;
  for (unsigned code = 1; code < count; ++code) {
    const double here = std::abs(value(code) - x), there = std::abs(value(best) - x);
    if (here < there || (here == there && code % 2 == 0)) best = code;
  }
  return best;
}
}  // namespace detail

/// The e4m3 code nearest to x, saturating at +-448; NaN gives a NaN code with the sign of x.
inline unsigned e4m3_nearest(double x) {
  const unsigned sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return 0x7f | sign;
  return detail::nearest_even(std::fmin(std::abs(x), 448.0), 0x7f, e4m3_value) | sign;
}

/// The e2m1 nibble nearest to x, saturating at +-6. x may not be NaN.
inline unsigned e2m1_nearest(double x) {
  return detail::nearest_even(std::fmin(std::abs(x), 6.0), 8, e2m1_value) | (std::signbit(x) ? 8 : 0);
}

/// The bf16 code nearest to x. What reaches half an ulp beyond the largest finite number is infinite.
inline unsigned bf16_nearest(double x) {
  const unsigned sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return 0x7fc0 | sign;
  static const std::vector<double> values = [] {
    std::vector<double> v(0x7f81);
    for (unsigned code = 0; code < 0x7f80; ++code) v[code] = bf16_value(code);
    v[0x7f80] = std::pow(2.0, 128);  // where the next number would be
    return v;
  }();
  const double a = std::abs(x);
  if (a >= values[0x7f80]) return 0x7f80 | sign;
  unsigned low = 0, high = 0x7f80;  // bisect: values[low] <= a < values[high]
  while (high - low > 1) (values[(low + high) / 2] <= a ? low : high) = (low + high) / 2;
  const double below = a - values[low], above = values[high] - a;
  return (below < above || (below == above && low % 2 == 0) ? low : high) | sign;
}

/// Value of x rounded to bf16.
inline double bf16_round(double x) { return bf16_value(bf16_nearest(x)); }

/// The byte of the smallest power of two that is at least a * reciprocal, the product rounded to fp32 as the
/// model does it; `a` is first raised to `floor`. 255 for a NaN or inf.
inline unsigned scale_byte(double a, float floor, float reciprocal) {
  if (!std::isfinite(a)) return 255;
  const float raised = a < floor ? floor : static_cast<float>(a);
  const double product = static_cast<float>(double(raised) * double(reciprocal));
  unsigned byte = 0;
  while (e8m0_value(byte) < product) ++byte;
  return byte;
}
/// Scale byte of an FP8 block with largest magnitude a: 448 codes up, floor 1e-4.
inline unsigned fp8_scale_byte(double a) { return scale_byte(a, 1e-4f, float(1.0 / 448.0)); }
/// Scale byte of an FP4 block: 6 codes up, floor 6 * 2^-126.
inline unsigned fp4_scale_byte(double a) {
  return scale_byte(a, static_cast<float>(6 * std::pow(2.0, -126)), float(1.0 / 6.0));
}

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
