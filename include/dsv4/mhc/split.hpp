// mHC, second step: the mixes of a token split into its pre, post and comb coefficients.
#pragma once

#include <dsv4/core/math.hpp>
#include <dsv4/mhc/sinkhorn.hpp>

namespace dsv4::mhc {

/// Coefficients of ONE token (spec section 3; published hc_split_sinkhorn), i, j, k < kMult:
///     pre[i]    = sigmoid(z[i] * scale[0] + base[i]) + eps
///     post[i]   = 2 * sigmoid(z[kMult+i] * scale[1] + base[kMult+i])                 no eps
///     comb[j,k] = sinkhorn(z[2*kMult + kMult*j + k] * scale[2] + base[the same])
///   pre, post  [kMult] f32
///   comb       [kMult, kMult] f32 row-major, row j = source stream
///   mixes      [(2+kMult)*kMult] f32, of mhc::project
///   scale      [3] f32
///   base       [(2+kMult)*kMult] f32
/// fp32. Pure; for one thread.
template <int kMult>
DSV4_HD void split(float* pre, float* post, float* comb, const float* mixes, const float* scale,
                   const float* base, int sinkhorn_iterations, float eps) {
  for (int i = 0; i < kMult; ++i) {
    pre[i] = math::sigmoid(math::fma(mixes[i], scale[0], base[i])) + eps;
    post[i] = 2.0f * math::sigmoid(math::fma(mixes[kMult + i], scale[1], base[kMult + i]));
  }
  for (int i = 0; i < kMult * kMult; ++i)
    comb[i] = math::fma(mixes[2 * kMult + i], scale[2], base[2 * kMult + i]);
  sinkhorn<kMult>(comb, sinkhorn_iterations, eps);
}

}  // namespace dsv4::mhc
