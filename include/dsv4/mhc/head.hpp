// mHC of the head: the streams collapsed once more before the final norm.
#pragma once

#include <dsv4/core/math.hpp>

namespace dsv4::mhc {

/// Collapse coefficients of ONE token at the head: pre[i] = sigmoid(z[i] * scale[0] + base[i]) + eps (spec
/// section 3). No factor 2 and no comb; mhc::pre then applies them.
///   pre    [kMult] f32
///   mixes  [kMult] f32, of mhc::project with the head's fn
///   scale  [1] f32
///   base   [kMult] f32
/// fp32. Pure; for one thread.
template <int kMult>
DSV4_HD void head(float* pre, const float* mixes, const float* scale, const float* base, float eps) {
  for (int i = 0; i < kMult; ++i) pre[i] = math::sigmoid(math::fma(mixes[i], scale[0], base[i])) + eps;
}

}  // namespace dsv4::mhc
