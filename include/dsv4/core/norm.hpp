// RMSNorm.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

namespace dsv4 {

/// 1 / sqrt(mean of squares + eps) of one row.
///   x  [n] T
/// fp32, canonical order of summation. Returned to every thread of `coop`; does not synchronise.
template <Coop C, class T>
DSV4_HD float inverse_rms(C coop, const T* x, int n, float eps) {
  const float squares = coop.reduce_sum(n, [x](float acc, int i) {
    const float v = to_float(x[i]);
    return math::fma(v, v, acc);
  });
  return math::rsqrt(squares / static_cast<float>(n) + eps);
}

/// RMSNorm of one row: out[i] = round_T( w[i] * (x[i] * inverse_rms(x)) )     (spec section 3, published
/// RMSNorm)
///   out     [n] T     may be x itself
///   x       [n] T     float or bf16
///   weight  [n] f32   null = no weight
/// fp32 inside, one rounding. Deterministic. Called by all threads of `coop`; does not synchronise.
template <Coop C, class T>
DSV4_HD void rms_norm(C coop, T* out, const T* x, const float* weight_or_null, int n, float eps) {
  const float rho = inverse_rms(coop, x, n, eps);
  for (int i = coop.rank(); i < n; i += coop.size()) {
    const float v = to_float(x[i]) * rho;
    out[i] = from_float<T>(weight_or_null ? weight_or_null[i] * v : v);
  }
}

}  // namespace dsv4
