// mHC, fourth step: the streams collapsed to the input of a sublayer.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::mhc {

/// Collapse of ONE token: x[d] = round_T( sum_i pre[i] * streams[i,d] )     (spec section 3)
///   x        [hidden] T
///   streams  [kMult, hidden] T
///   pre      [kMult] f32
/// fp32 in stream order, one rounding. Called by all threads of `coop`; does not synchronise.
template <int kMult, Coop C, class T>
DSV4_HD void pre(C coop, T* x, const T* streams, const float* pre, int hidden) {
  for (int d = coop.rank(); d < hidden; d += coop.size()) {
    float acc = pre[0] * to_float(streams[d]);
    DSV4_UNROLL
    for (int i = 1; i < kMult; ++i)
      acc = math::fma(pre[i], to_float(streams[std::int64_t{i} * hidden + d]), acc);
    x[d] = from_float<T>(acc);
  }
}

}  // namespace dsv4::mhc
