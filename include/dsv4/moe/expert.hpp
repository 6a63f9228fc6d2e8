// The activation between an expert's two linears.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

namespace dsv4::moe {

/// SwiGLU of ONE row with clamp and routing weight (spec section 7; published Expert.forward):
///     g = min(gate[i], limit),  u = clamp(up[i], -limit, limit),  h[i] = round_T( silu(g) * u * weight )
/// Clamped before the activation; the routing weight multiplies BEFORE the down projection.
///   h         [n] T   may be `gate` or `up`
///   gate, up  [n] T   results of W1 and W3, already rounded to T
///   limit     f32     0 = no clamp
///   weight    f32     1 for the shared expert
/// fp32 inside, one rounding. NaN stays NaN. Called by all threads of `coop`; does not synchronise.
template <Coop C, class T>
DSV4_HD void swiglu(C coop, T* h, const T* gate, const T* up, int n, float limit, float weight) {
  const float bound = limit == 0.0f ? math::kInfinity : limit;
  for (int i = coop.rank(); i < n; i += coop.size()) {
    float g = to_float(gate[i]), u = to_float(up[i]);
    g = g > bound ? bound : g;
    u = u > bound ? bound : u;
    u = u < -bound ? -bound : u;
    h[i] = from_float<T>(math::silu(g) * u * weight);
  }
}

}  // namespace dsv4::moe
