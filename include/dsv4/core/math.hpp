// Elementary functions in fp32 as fixed sequences of correctly rounded operations: the same bits on every
// host, on the SIMT machine and on a device, and no dependence on a libm version or a fast-math flag.
// Accuracy is measured over the whole range in tests/core/math_test.cpp.
#pragma once

#include <dsv4/core/config.hpp>
#include <dsv4/core/types.hpp>

#include <cmath>
#include <cstdint>

namespace dsv4::math {

inline constexpr float kInfinity = __builtin_huge_valf();

DSV4_HD inline float fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return fmaf(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

DSV4_HD inline float abs(float x) { return bits_as<float>(bits_as<std::uint32_t>(x) & 0x7fffffffu); }
DSV4_HD inline float max(float a, float b) { return a < b ? b : a; }
DSV4_HD inline float min(float a, float b) { return b < a ? b : a; }
DSV4_HD inline bool is_nan(float x) { return (bits_as<std::uint32_t>(x) & 0x7fffffffu) > 0x7f800000u; }

/// 1/sqrt(x) from the two correctly rounded operations.
DSV4_HD inline float rsqrt(float x) { return 1.0f / sqrtf(x); }

/// 2^n as a float for n in [-126, 127].
DSV4_HD inline float exp2i(std::int32_t n) {
  return bits_as<float>(static_cast<std::uint32_t>(n + 127) << 23);
}

/// e^x within 1.3 ulp. exp(-inf) = 0, exp(inf) = inf, NaN stays NaN.
DSV4_HD inline float exp(float x) {
  // Beyond these bounds the result is 0 or inf anyway; NaN passes both comparisons unchanged.
  float c = x < -104.0f ? -104.0f : x;
  c = c > 89.0f ? 89.0f : c;
  // n = round(c / ln 2): adding 1.5 * 2^23 leaves the integer in the low mantissa bits.
  const float shifted = fma(c, 0x1.715476p+0f, 0x1.8p23f);
  const float n = shifted - 0x1.8p23f;
  float r = fma(n, -0x1.62e4p-1f, c);  // ln 2, upper 16 bits: the product is exact
  r = fma(n, -0x1.7f7d1cp-20f, r);     // ln 2, the rest
  float p = 0x1.6a5b98p-10f;           // minimax of (e^r - 1 - r) / r^2 on |r| <= ln(2)/2
  p = fma(p, r, 0x1.124b0ep-7f);
  p = fma(p, r, 0x1.555542p-5f);
  p = fma(p, r, 0x1.555478p-3f);
  p = fma(p, r, 0.5f);
  p = fma(p * r, r, r) + 1.0f;
  const std::int32_t e = static_cast<std::int32_t>(bits_as<std::uint32_t>(shifted) & 0x3ffu);
  const std::int32_t exponent = e >= 512 ? e - 1024 : e;  // sign-extend the integer of `shifted`
  const std::int32_t half = exponent >> 1;                // two steps: 2^n itself may be out of range
  return p * exp2i(half) * exp2i(exponent - half);
}

/// ln(m) for m in [sqrt(1/2), sqrt(2)] written as 1+f: 2 atanh(f / (2+f)), whose series is short there.
DSV4_HD inline float log1p_reduced(float f) {
  const float s = f / (2.0f + f);
  const float z = s * s;  // <= 0.0295
  float p = 2.0f / 11.0f;
  p = fma(p, z, 2.0f / 9.0f);
  p = fma(p, z, 2.0f / 7.0f);
  p = fma(p, z, 2.0f / 5.0f);
  p = fma(p, z, 2.0f / 3.0f);
  // ln(1+f) = 2s + s*z*p, and 2s = f - s*f: f enters exactly.
  return f - s * (f - z * p);
}

/// Natural logarithm, within 1 ulp. log(0) = -inf, log(x < 0) = NaN, log(inf) = inf.
DSV4_HD inline float log(float x) {
  const bool subnormal = x < 0x1p-126f;
  const float scaled = subnormal ? x * 0x1p24f : x;
  const std::uint32_t u = bits_as<std::uint32_t>(scaled);
  // Mantissa into [sqrt(1/2), sqrt(2)): 0x3f3504f3 is sqrt(1/2).
  const std::int32_t k = static_cast<std::int32_t>(u - 0x3f3504f3u) >> 23;
  const float f = bits_as<float>(u - (static_cast<std::uint32_t>(k) << 23)) - 1.0f;
  const float n = static_cast<float>(k - (subnormal ? 24 : 0));
  const float result = fma(n, 0x1.62e4p-1f, fma(n, 0x1.7f7d1cp-20f, log1p_reduced(f)));
  if (x == 0.0f) return -kInfinity;
  if (x < 0.0f) return bits_as<float>(0x7fc00000u);
  return x < kInfinity ? result : x;  // inf and NaN pass
}

/// ln(1+x) for x in [0, 1], within 1.6 ulp however small x is.
DSV4_HD inline float log1p_unit(float x) {
  // Above sqrt(2)-1 halve the argument of the logarithm: ln(1+x) = ln 2 + ln((1+x)/2), (1+x)/2 - 1 = (x-1)/2.
  const bool big = x > 0.41421356f;
  const float f = big ? 0.5f * (x - 1.0f) : x;
  const float l = log1p_reduced(f);
  return big ? 0x1.62e4p-1f + (0x1.7f7d1cp-20f + l) : l;
}

/// 1 / (1 + e^-x), within 2.5 ulp; 0 below -88.7, where the true value is below 2^-127, and 1 above 17.
DSV4_HD inline float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

/// x * sigmoid(x), within 2.9 ulp down to -87 and -0 below -88.7. silu(-inf) is NaN, as by the formula.
DSV4_HD inline float silu(float x) { return x * sigmoid(x); }

/// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|): never overflows, is x itself far above 0 and e^x far below.
/// Within 1.9 ulp.
DSV4_HD inline float softplus(float x) {
  const float tail = log1p_unit(exp(-abs(x)));
  return (x > 0.0f ? x : 0.0f) + (is_nan(x) ? x : tail);
}

struct SinCos {
  float sin, cos;
};

/// sin and cos of an angle in radians, absolute error below 1e-7 for |x| <= 2^22 (promised): the angles of
/// one million positions. Cody-Waite reduction by pi/2 in three parts; the first product is exact in fma.
DSV4_HD inline SinCos sincos(float x) {
  DSV4_ASSERT(!(abs(x) > 0x1p22f));
  const float shifted = fma(x, 0x1.45f306p-1f, 0x1.8p23f);  // round(x * 2/pi)
  const float n = shifted - 0x1.8p23f;
  float r = fma(n, -0x1.921fb6p+0f, x);
  r = fma(n, 0x1.777a5cp-25f, r);
  r = fma(n, 0x1.ee59dap-50f, r);
  const float z = r * r;
  float s = 0x1.6cd878p-19f;  // minimax of sin on |r| <= pi/4
  s = fma(s, z, -0x1.a00f9ep-13f);
  s = fma(s, z, 0x1.11110ep-7f);
  s = fma(s, z, -0x1.555556p-3f);
  s = fma(s * z, r, r);
  float c = 0x1.98e616p-16f;  // minimax of cos
  c = fma(c, z, -0x1.6c06dcp-10f);
  c = fma(c, z, 0x1.55553cp-5f);
  c = fma(c, z, -0.5f);
  c = fma(c, z, 1.0f);
  const std::uint32_t quadrant = bits_as<std::uint32_t>(shifted) & 3u;
  const float sin_value = (quadrant & 1u) ? c : s;
  const float cos_value = (quadrant & 1u) ? s : c;
  return {(quadrant & 2u) ? -sin_value : sin_value, ((quadrant + 1u) & 2u) ? -cos_value : cos_value};
}

}  // namespace dsv4::math
