// The streams that enter the MTP block.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::mtp {

/// Streams of ONE token entering the MTP block (spec section 8): out[s,d] = round_T( e[d] + h[s,d] )
///   out  [kMult, hidden] T   may be `h`
///   e    [hidden] T          W_e RMSNorm_e(embedding of the NEXT token)
///   h    [kMult, hidden] T   W_h RMSNorm_h(stream s of the last layer)
/// Both linears already rounded to T; one more rounding here. Called by all threads of `coop`; does not
/// synchronise.
template <int kMult, Coop C, class T>
DSV4_HD void input(C coop, T* out, const T* e, const T* h, int hidden) {
  for (int d = coop.rank(); d < hidden; d += coop.size()) {
    const float add = to_float(e[d]);
    DSV4_UNROLL
    for (int s = 0; s < kMult; ++s) {
      const std::int64_t i = std::int64_t{s} * hidden + d;
      out[i] = from_float<T>(add + to_float(h[i]));
    }
  }
}

}  // namespace dsv4::mtp
