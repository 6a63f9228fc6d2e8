// Eight fp32 lanes for SerialCoop's inner loops on the host (see DSV4_HOST_SIMD). Not public API.
// Plain vector extensions of g++ and clang; fused multiply-add is the one operation they cannot spell.
#pragma once

#include <dsv4/core/config.hpp>

#if DSV4_HOST_SIMD

#if defined(__FMA__)
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
