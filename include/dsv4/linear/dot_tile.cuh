// A tile of canonical dot products by one warp, each weight read once for a few rows of activations.
#pragma once

#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/math.hpp>
#include <dsv4/core/reduce.hpp>
#include <dsv4/core/types.hpp>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// sum[r][c] = sum_k x[r][k] * w[c][k], bit for bit linear::dot_tile on the values in fp32.
///   x  kX rows [n]     w  kW rows [n]     row[k] a float or bf16: pointers, or what decodes; rows may repeat
/// Every lane gets every sum. Called by all lanes of a warp; does not synchronise. n <= 2^30.
template <int kX, int kW, class XRow, class WRow>
DSV4_DEVICE void warp_dot_tile(float (&sum)[kX][kW], const XRow (&x)[kX], const WRow (&w)[kW], int n) {
  DSV4_UNROLL
  for (int i = 0; i < kX * kW; ++i) sum[i / kW][i % kW] = 0.0f;
  for (int k = arch::lane_id(); k < n; k += kReduceLanes) {
    float weight[kW];
    DSV4_UNROLL
    for (int c = 0; c < kW; ++c) weight[c] = to_float(w[c][k]);
    DSV4_UNROLL
    for (int r = 0; r < kX; ++r) {
      const float value = to_float(x[r][k]);
      DSV4_UNROLL
      for (int c = 0; c < kW; ++c) sum[r][c] = math::fma(value, weight[c], sum[r][c]);
    }
  }
  DSV4_UNROLL
  for (int r = 0; r < kX; ++r) {
    DSV4_UNROLL
    for (int c = 0; c < kW; ++c) {
      DSV4_UNROLL
      for (int distance = kReduceLanes / 2; distance > 0; distance /= 2)
        sum[r][c] += arch::shfl_xor(sum[r][c], distance);
    }
  }
}

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
