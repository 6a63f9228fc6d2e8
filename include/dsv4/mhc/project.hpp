// mHC, first step: the mixes of a token, a narrow matrix product of all its streams.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/linear/dot.hpp>

#include <cstdint>

namespace dsv4::mhc {

/// Mixes of `tokens` tokens: z[t,m] = (sum_k fn[m,k] * f[t,k]) * rsqrt(mean_k f[t,k]^2 + eps)   (spec section
/// 3)
///   mixes  [tokens, rows] f32
///   f      [tokens, n] f32      the streams of a token, flattened: n = 4 * hidden
///   fn     [rows, n] f32        rows = 24 (pre 0-3, post 4-7, comb 8 + 4*j + k) or 4 (head)
/// fp32, canonical order of summation: a token's mixes depend on that token alone, at any batch size. The
/// norm is applied after the product. Called by all threads of `coop`; does not synchronise.
template <Coop C>
DSV4_HD void project(C coop, float* mixes, const linear::RowsF32& f, int tokens, const float* fn, int rows,
                     int n, float eps) {
  linear::dot_tile(coop, f, tokens, linear::RowsF32{fn, n}, rows, n, [&](int t, int m, float sum) {
    if (coop.rank() == 0) mixes[std::int64_t{t} * rows + m] = sum;
  });
  coop.sync();
  for (int t = 0; t < tokens; ++t) {
    const float rho = inverse_rms(coop, f(t), n, eps);
    for (int m = coop.rank(); m < rows; m += coop.size()) mixes[std::int64_t{t} * rows + m] *= rho;
  }
}

}  // namespace dsv4::mhc
