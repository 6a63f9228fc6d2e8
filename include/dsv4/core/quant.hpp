// Block quantisation of activations: FP8 e4m3 over 64 or 128 channels, FP4 e2m1 over 32, UE8M0 scales.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/simd.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::quant {

inline constexpr int kFp8LinearBlock = 128;  // in front of an FP8 or FP4 linear
inline constexpr int kFp8KvBlock = 64;       // channels 0..447 of a key-value entry
inline constexpr int kFp4Block = 32;         // indexer queries and keys

/// ceil(log2(v)) + 127 for a normal positive v, taken exactly on the bits: no log2, no rounding.
DSV4_HD inline std::uint32_t ceil_log2_biased(float v) {
  const std::uint32_t u = bits_as<std::uint32_t>(v);
  return (u >> 23) + ((u & 0x7fffffu) != 0 ? 1u : 0u);
}

/// Scale of an FP8 block: 2^ceil(log2(max(amax, 1e-4) * (1/448))); 255 (NaN) if the block holds a NaN or inf.
///   amax_bits  bits of the largest |x| of the block, compared as unsigned integers, so that NaN > inf > all
/// Source: spec section 2; published kernel.py act_quant.
DSV4_HD inline e8m0 fp8_scale(std::uint32_t amax_bits) {
  const float amax = bits_as<float>(amax_bits);
  const float floored = amax < 1e-4f ? 1e-4f : amax;
  const std::uint32_t biased = ceil_log2_biased(floored * (1.0f / 448.0f));
  return {static_cast<std::uint8_t>(amax_bits >= 0x7f800000u ? kE8m0Nan : biased)};
}

/// Scale of an FP4 block: 2^ceil(log2(max(amax, 6 * 2^-126) * (1/6))); 255 (NaN) if it holds a NaN or inf.
DSV4_HD inline e8m0 fp4_scale(std::uint32_t amax_bits) {
  const float amax = bits_as<float>(amax_bits);
  const float floored = amax < 0x1.8p-124f ? 0x1.8p-124f : amax;  // 6 * 2^-126
  const std::uint32_t biased = ceil_log2_biased(floored * (1.0f / 6.0f));
  return {static_cast<std::uint8_t>(amax_bits >= 0x7f800000u ? kE8m0Nan : biased)};
}

/// 1 / scale, exact; 0 for the NaN scale, whose codes are 0 (and dequantise to NaN all the same).
DSV4_HD inline float inverse_scale(e8m0 s) {
  DSV4_ASSERT(s.bits >= 1 && (s.bits <= 253 || s.bits == kE8m0Nan));  // what the two functions above can give
  return s.bits == kE8m0Nan ? 0.0f : bits_as<float>((254u - s.bits) << 23);
}

/// x / s before rounding; 0 where the block's scale is NaN (inverse is 0 and x may be inf or NaN).
DSV4_HD inline float scaled(float x, float inverse) { return inverse == 0.0f ? 0.0f : x * inverse; }

namespace detail {
// Bits of the largest |x[i]|, i < n, for the scale functions.
template <Coop C, class T>
DSV4_HD std::uint32_t amax_bits(C coop, const T* x, int n) {
  return coop.reduce_max(n, [x](int i) { return bits_as<std::uint32_t>(to_float(x[i])) & 0x7fffffffu; });
}
}  // namespace detail

/// Quantises ONE block to FP8: code[i] = e4m3(clamp(x[i] / s, +-448)), s = fp8_scale(max |x|).
///   code  [n] e4m3    n = block length (64 or 128; a shorter last block is legal)
///   x     [n] T       float or bf16
/// Returns s to every thread. Exact, deterministic; called by all threads of `coop`; does not synchronise.
template <Coop C, class T>
DSV4_HD e8m0 fp8_block(C coop, e4m3* code, const T* x, int n) {
  const e8m0 s = fp8_scale(detail::amax_bits(coop, x, n));
  const float inverse = inverse_scale(s);
  for (int i = coop.rank(); i < n; i += coop.size()) code[i] = to_e4m3(scaled(to_float(x[i]), inverse));
  return s;
}

/// Quantises ONE block to FP4: nibble[i] = e2m1(clamp(x[i] / s, +-6)), s = fp4_scale(max |x|), two a byte.
///   code  [n/2] e2m1x2   even element in the low nibble
///   x     [n] T          n even (32; a shorter last block is legal)
/// Returns s to every thread. Exact, deterministic; called by all threads of `coop`; does not synchronise.
template <Coop C, class T>
DSV4_HD e8m0 fp4_block(C coop, e2m1x2* code, const T* x, int n) {
  DSV4_ASSERT(n % 2 == 0);
  const e8m0 s = fp4_scale(detail::amax_bits(coop, x, n));
  const float inverse = inverse_scale(s);
  for (int i = coop.rank(); i < n / 2; i += coop.size()) {
    const std::uint32_t low = to_e2m1(scaled(to_float(x[2 * i]), inverse));
    const std::uint32_t high = to_e2m1(scaled(to_float(x[2 * i + 1]), inverse));
    code[i] = {static_cast<std::uint8_t>(low | (high << 4))};
  }
  return s;
}

/// out[i] = code[i] * scale for the n codes of one block. Exact (one multiplication); for one thread.
DSV4_HD inline void fp8_decode(float* out, const e4m3* code, int n, float scale) {
  int i = 0;
#if DSV4_HOST_SIMD
  for (; i + 2 * simd::kWidth <= n; i += 2 * simd::kWidth) {
    simd::f32x8 value[2];
    simd::from_e4m3(value, code + i);
    simd::store(out + i, value[0] * scale);
    simd::store(out + i + simd::kWidth, value[1] * scale);
  }
#endif
  for (; i < n; ++i) out[i] = to_float(code[i]) * scale;
}

/// out[i] = nibble i * scale for the n nibbles of one block, n even. Exact (one multiplication); for one
/// thread.
DSV4_HD inline void fp4_decode(float* out, const e2m1x2* code, int n, float scale) {
  DSV4_ASSERT(n % 2 == 0);
  int i = 0;
#if DSV4_HOST_SIMD
  for (; i + 4 * simd::kWidth <= n; i += 4 * simd::kWidth) {
    simd::f32x8 value[4];
    simd::from_e2m1(value, code + i / 2);
    for (int v = 0; v < 4; ++v) simd::store(out + i + v * simd::kWidth, value[v] * scale);
  }
#endif
  for (; i < n; i += 2) {
    out[i] = e2m1_to_float(code[i / 2].bits & 15u) * scale;
    out[i + 1] = e2m1_to_float(std::uint32_t{code[i / 2].bits} >> 4) * scale;
  }
}

/// Quantises and dequantises a row in blocks of `block` channels: out[i] = e4m3(x[i] / s) * s.
///   out  [n] TOut   float or bf16 (exact in either); may be x itself
///   x    [n] T
/// Deterministic; called by all threads of `coop`; does not synchronise.
template <Coop C, class TOut, class T>
DSV4_HD void fp8_round_trip(C coop, TOut* out, const T* x, int n, int block) {
  for (int begin = 0; begin < n; begin += block) {
    const int count = n - begin < block ? n - begin : block;
    const e8m0 s = fp8_scale(detail::amax_bits(coop, x + begin, count));
    const float inverse = inverse_scale(s), scale = to_float(s);
    for (int i = begin + coop.rank(); i < begin + count; i += coop.size())
      out[i] = from_float<TOut>(to_float(to_e4m3(scaled(to_float(x[i]), inverse))) * scale);
  }
}

/// The same in FP4: out[i] = e2m1(x[i] / s) * s.
template <Coop C, class TOut, class T>
DSV4_HD void fp4_round_trip(C coop, TOut* out, const T* x, int n, int block = kFp4Block) {
  for (int begin = 0; begin < n; begin += block) {
    const int count = n - begin < block ? n - begin : block;
    const e8m0 s = fp4_scale(detail::amax_bits(coop, x + begin, count));
    const float inverse = inverse_scale(s), scale = to_float(s);
    for (int i = begin + coop.rank(); i < begin + count; i += coop.size())
      out[i] = from_float<TOut>(e2m1_to_float(to_e2m1(scaled(to_float(x[i]), inverse))) * scale);
  }
}

}  // namespace dsv4::quant
