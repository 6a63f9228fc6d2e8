// Token ids to residual streams.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::embed {

/// Streams of ONE token: every stream starts as the token's embedding row (spec section 3).
///     out[s,d] = round_T(row[d])
///   out  [kMult, hidden] T
///   row  [hidden] TIn      row `token` of the embedding table
/// Exact where TIn is T. Called by all threads of `coop`; does not synchronise.
template <int kMult, Coop C, class T, class TIn>
DSV4_HD void replicate(C coop, T* out, const TIn* row, int hidden) {
  for (int d = coop.rank(); d < hidden; d += coop.size()) {
    const T value = from_float<T>(to_float(row[d]));
    DSV4_UNROLL
    for (int s = 0; s < kMult; ++s) out[std::int64_t{s} * hidden + d] = value;
  }
}

}  // namespace dsv4::embed
