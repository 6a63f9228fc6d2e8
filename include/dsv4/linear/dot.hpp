// The matrix product every stage uses: a tile of canonical dot products.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/simd.hpp>

#include <cstdint>

namespace dsv4::linear {

/// A matrix of f32 rows in memory, row r at data + r * stride (elements).
struct RowsF32 {
  const float* data;
  std::int64_t stride;

  DSV4_HD const float* operator()(int r) const { return data + r * stride; }
};

namespace detail {

#if DSV4_HOST_SIMD
inline constexpr int kTileX = 3,
                     kTileW = 4;  // 12 accumulators of 8 lanes beside 4 + 1 operands: 16 registers

// One R x W tile of canonical dots: the 32 partial sums of a dot are four groups of eight lanes. As many
// groups of every dot are accumulated at a time as it takes to hide the latency of an fma (8 chains or more).
// Same bits as SerialCoop::reduce_sum.
template <int R, int W>
DSV4_SIMD_INLINE void dot_block(float (&out)[R][kTileW], const float* const (&x)[R],
                                const float* const (&w)[kTileW], int n) {
  constexpr int kGroups = kReduceLanes / simd::kWidth;
  const int whole = n / kReduceLanes * kReduceLanes, tail = n - whole;
  // A tail shorter than 32 is padded with -0 * +0: adding -0 leaves every partial sum's bits, -0 included.
  alignas(32) float x_tail[R][kReduceLanes], w_tail[W][kReduceLanes];
  if (tail != 0) {
    for (int i = 0; i < kReduceLanes; ++i) {
      for (int r = 0; r < R; ++r) x_tail[r][i] = i < tail ? x[r][whole + i] : -0.0f;
      for (int c = 0; c < W; ++c) w_tail[c][i] = i < tail ? w[c][whole + i] : 0.0f;
    }
  }
  const float *x_tails[R], *w_tails[W];
  for (int r = 0; r < R; ++r) x_tails[r] = x_tail[r];
  for (int c = 0; c < W; ++c) w_tails[c] = w_tail[c];
  constexpr int kAtOnce = R * W >= 8 ? 1 : R * W >= 4 ? 2 : 4;
  simd::f32x8 part[kGroups][R][W];
  for (int g0 = 0; g0 < kGroups; g0 += kAtOnce) {
    simd::f32x8 acc[kAtOnce][R][W] = {};
    const auto add = [&](const float* const* xs, const float* const* ws, int k) {
      for (int g = 0; g < kAtOnce; ++g) {
        simd::f32x8 b[W];
        for (int c = 0; c < W; ++c) b[c] = simd::load(ws[c] + k + g * simd::kWidth);
        for (int r = 0; r < R; ++r) {
          const simd::f32x8 a = simd::load(xs[r] + k + g * simd::kWidth);
          for (int c = 0; c < W; ++c) acc[g][r][c] = simd::fma(a, b[c], acc[g][r][c]);
        }
      }
    };
    for (int k = g0 * simd::kWidth; k < whole; k += kReduceLanes) add(x, w, k);
    if (tail != 0) add(x_tails, w_tails, g0 * simd::kWidth);
    for (int g = 0; g < kAtOnce; ++g)
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < W; ++c) part[g0 + g][r][c] = acc[g][r][c];
  }
  for (int r = 0; r < R; ++r) {
    simd::f32x8 sum[kTileW] = {};
    for (int c = 0; c < W; ++c) sum[c] = (part[0][r][c] + part[2][r][c]) + (part[1][r][c] + part[3][r][c]);
    const simd::f32x4 total = simd::tree_sum(sum[0], sum[1], sum[2], sum[3]);
    for (int c = 0; c < W; ++c) out[r][c] = total[c];
  }
}

template <int R, class X, class W, class Store>
inline void dot_rows(const X& x, int r0, const W& w, int w_count, int n, Store store) {
  const float* xs[R];
  for (int r = 0; r < R; ++r) xs[r] = x(r0 + r);
  float out[R][kTileW];
  int c = 0;
  const float* ws[kTileW];
  for (; c + kTileW <= w_count; c += kTileW) {
    for (int i = 0; i < kTileW; ++i) ws[i] = w(c + i);
    dot_block<R, kTileW>(out, xs, ws, n);
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < kTileW; ++i) store(r0 + r, c + i, out[r][i]);
  }
  for (; c < w_count; ++c) {
    ws[0] = w(c);
    dot_block<R, 1>(out, xs, ws, n);
    for (int r = 0; r < R; ++r) store(r0 + r, c, out[r][0]);
  }
}
#endif  // DSV4_HOST_SIMD

}  // namespace detail

/// Every dot product of x_count rows with w_count rows: store(r, c, sum_k x[r,k] * w[c,k]).
///   x, w   int -> const float* [n] f32: row r of the activations, row c of the weights (RowsF32, or a
///   lambda) store  (int r, int c, float) -> void; called once a pair, in no promised order
/// Each dot is the canonical sum (core/reduce.hpp) of fused multiply-adds, so it depends on its two rows
/// alone: not on the tile, the batch or the threads. `store` runs on every thread of `coop` (all hold the
/// value).
template <Coop C, class X, class W, class Store>
DSV4_HD void dot_tile(C coop, const X& x, int x_count, const W& w, int w_count, int n, Store store) {
#if DSV4_HOST_SIMD
  if constexpr (C::kSerial) {
    int r = 0;
    for (; r + detail::kTileX <= x_count; r += detail::kTileX)
      detail::dot_rows<detail::kTileX>(x, r, w, w_count, n, store);
    if (x_count - r == 2) return detail::dot_rows<2>(x, r, w, w_count, n, store);
    if (x_count - r == 1) return detail::dot_rows<1>(x, r, w, w_count, n, store);
    return;
  }
#endif
  for (int r = 0; r < x_count; ++r) {
    const float* xr = x(r);
    for (int c = 0; c < w_count; ++c) {
      const float* wc = w(c);
      store(r, c, coop.reduce_sum(n, [xr, wc](float acc, int k) { return math::fma(xr[k], wc[k], acc); }));
    }
  }
}

/// One canonical dot product of two f32 rows of n.
template <Coop C>
DSV4_HD float dot(C coop, const float* x, const float* w, int n) {
  return coop.reduce_sum(n, [x, w](float acc, int k) { return math::fma(x[k], w[k], acc); });
}

}  // namespace dsv4::linear
