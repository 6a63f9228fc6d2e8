// mHC, last step: a sublayer's output added to the mixed streams.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::mhc {

/// Streams of ONE token after a sublayer (spec section 3; published Block.hc_post):
///     out[k,d] = round_T( post[k] * y[d] + sum_j comb[j,k] * streams[j,d] )
/// comb is applied TRANSPOSED: row j is the source stream, column k the destination.
///   out      [kMult, hidden] T   may be `streams`: column d is read in full before it is written
///   y        [hidden] T          the sublayer's output
///   streams  [kMult, hidden] T
///   post     [kMult] f32
///   comb     [kMult, kMult] f32 row-major
/// fp32 in stream order, one rounding. Called by all threads of `coop`; does not synchronise.
template <int kMult, Coop C, class T>
DSV4_HD void post(C coop, T* out, const T* y, const T* streams, const float* post, const float* comb,
                  int hidden) {
  static_assert(kMult >= 1 && kMult <= 8, "mhc::post keeps a column of streams in registers: 1..8");
  for (int d = coop.rank(); d < hidden; d += coop.size()) {
    const float add = to_float(y[d]);
    float column[kMult];
    DSV4_UNROLL
    for (int j = 0; j < kMult; ++j) column[j] = to_float(streams[std::int64_t{j} * hidden + d]);
    DSV4_UNROLL
    for (int k = 0; k < kMult; ++k) {
      float acc = post[k] * add;
      DSV4_UNROLL
      for (int j = 0; j < kMult; ++j) acc = math::fma(comb[j * kMult + k], column[j], acc);
      out[std::int64_t{k} * hidden + d] = from_float<T>(acc);
    }
  }
}

}  // namespace dsv4::mhc
