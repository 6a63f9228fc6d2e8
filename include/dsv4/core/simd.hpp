// Eight fp32 lanes for SerialCoop's inner loops on the host (see DSV4_HOST_SIMD). Not public API.
// Plain vector extensions of g++ and clang; fused multiply-add is the one operation they cannot spell.
#pragma once

#include <dsv4/core/config.hpp>
#include <dsv4/core/types.hpp>

#if DSV4_HOST_SIMD

#if defined(__FMA__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include <cstring>

namespace dsv4::simd {

typedef float f32x4 __attribute__((vector_size(16)));
typedef float f32x8 __attribute__((vector_size(32)));
inline constexpr int kWidth = 8;

// always_inline: without AVX a 32-byte vector has no register to be returned in, and the ABI would differ
// between translation units built with and without it.
#define DSV4_SIMD_INLINE __attribute__((always_inline)) inline

DSV4_SIMD_INLINE f32x8 load(const float* p) {
  f32x8 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

DSV4_SIMD_INLINE void store(float* p, f32x8 v) { std::memcpy(p, &v, sizeof v); }

DSV4_SIMD_INLINE f32x8 broadcast(float x) { return f32x8{x, x, x, x, x, x, x, x}; }

/// a*b+c with one rounding per lane, whatever the target.
DSV4_SIMD_INLINE f32x8 fma(f32x8 a, f32x8 b, f32x8 c) {
#if defined(__FMA__) && defined(__AVX__)
  return (f32x8)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  f32x8 r;
  for (int i = 0; i < kWidth; ++i) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return r;
#endif
}

/// 16 e4m3 codes, exact, in two vectors.
DSV4_SIMD_INLINE void from_e4m3(f32x8 (&out)[2], const e4m3* p) {
#if defined(__F16C__) && defined(__AVX2__)
  // Moved to the exponent of fp16, a code is 2^-8 times its value, subnormals included. The NaN needs help.
  const __m256i code = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i half =
      _mm256_and_si256(_mm256_slli_epi16(code, 7), _mm256_set1_epi16(static_cast<short>(0xbf80)));
  const __m256i nan =
      _mm256_cmpeq_epi16(_mm256_and_si256(half, _mm256_set1_epi16(0x7fff)), _mm256_set1_epi16(0x3f80));
  const __m256i fixed = _mm256_or_si256(half, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
  out[0] = (f32x8)_mm256_cvtph_ps(_mm256_castsi256_si128(fixed)) * 256.0f;
  out[1] = (f32x8)_mm256_cvtph_ps(_mm256_extracti128_si256(fixed, 1)) * 256.0f;
#else
  for (int i = 0; i < 2 * kWidth; ++i) out[i / kWidth][i % kWidth] = to_float(p[i]);
#endif
}

/// 32 e2m1 nibbles of 16 bytes, exact, in four vectors.
DSV4_SIMD_INLINE void from_e2m1(f32x8 (&out)[4], const e2m1x2* p) {
#if defined(__F16C__)
  // The upper byte of a nibble's value in fp16; the lower one is 0.
  const __m128i table = _mm_setr_epi8(
      0x00, 0x38, 0x3c, 0x3e, 0x40, 0x42, 0x44, 0x46, static_cast<char>(0x80), static_cast<char>(0xb8),
      static_cast<char>(0xbc), static_cast<char>(0xbe), static_cast<char>(0xc0), static_cast<char>(0xc2),
      static_cast<char>(0xc4), static_cast<char>(0xc6));
  const __m128i mask = _mm_set1_epi8(15), zero = _mm_setzero_si128();
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i low = _mm_shuffle_epi8(table, _mm_and_si128(bytes, mask));
  const __m128i high = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
  const __m128i first = _mm_unpacklo_epi8(low, high), second = _mm_unpackhi_epi8(low, high);
  out[0] = (f32x8)_mm256_cvtph_ps(_mm_unpacklo_epi8(zero, first));
  out[1] = (f32x8)_mm256_cvtph_ps(_mm_unpackhi_epi8(zero, first));
  out[2] = (f32x8)_mm256_cvtph_ps(_mm_unpacklo_epi8(zero, second));
  out[3] = (f32x8)_mm256_cvtph_ps(_mm_unpackhi_epi8(zero, second));
#else
  for (int i = 0; i < 4 * kWidth; ++i)
    out[i / kWidth][i % kWidth] = e2m1_to_float(i % 2 == 0 ? p[i / 2].bits & 15u : p[i / 2].bits >> 4);
#endif
}

/// Last three steps of the canonical tree (reduce.hpp) for four vectors at once: out[i] is the sum of v[i]
/// as ((v0+v4)+(v2+v6))+((v1+v5)+(v3+v7)).
DSV4_SIMD_INLINE f32x4 tree_sum(f32x8 v0, f32x8 v1, f32x8 v2, f32x8 v3) {
  const f32x4 a = __builtin_shufflevector(v0, v0, 0, 1, 2, 3) + __builtin_shufflevector(v0, v0, 4, 5, 6, 7);
  const f32x4 b = __builtin_shufflevector(v1, v1, 0, 1, 2, 3) + __builtin_shufflevector(v1, v1, 4, 5, 6, 7);
  const f32x4 c = __builtin_shufflevector(v2, v2, 0, 1, 2, 3) + __builtin_shufflevector(v2, v2, 4, 5, 6, 7);
  const f32x4 d = __builtin_shufflevector(v3, v3, 0, 1, 2, 3) + __builtin_shufflevector(v3, v3, 4, 5, 6, 7);
  const f32x4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const f32x4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

}  // namespace dsv4::simd

#endif  // DSV4_HOST_SIMD
