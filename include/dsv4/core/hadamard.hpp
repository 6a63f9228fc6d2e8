// The normalised Walsh-Hadamard transform of the lightning indexer.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/types.hpp>

#include <cmath>

namespace dsv4 {

/// Transforms one row in place, Sylvester order, orthonormal:
///     x'[i] = round_T( n^-1/2 * sum_j (-1)^popcount(i & j) x[j] )       (spec section 5.2)
///   x        [kN] T     float or bf16; kN a power of two
///   scratch  [kN] f32   shared by the group; may not overlap x
/// fp32 butterflies, distances 1, 2, 4, ... , one rounding to T at the end. Deterministic. Called by all
/// threads of `coop`, synchronises between stages.
template <int kN, Coop C, class T>
DSV4_HD void hadamard(C coop, T* x, float* scratch) {
  static_assert(kN >= 2 && (kN & (kN - 1)) == 0, "hadamard: the length must be a power of two");
  for (int i = coop.rank(); i < kN; i += coop.size()) scratch[i] = to_float(x[i]);
  coop.sync();
  for (int distance = 1; distance < kN; distance *= 2) {
    for (int p = coop.rank(); p < kN / 2; p += coop.size()) {
      const int i = p / distance * 2 * distance + p % distance;
      const float a = scratch[i], b = scratch[i + distance];
      scratch[i] = a + b;
      scratch[i + distance] = a - b;
    }
    coop.sync();
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(kN));
  for (int i = coop.rank(); i < kN; i += coop.size()) x[i] = from_float<T>(scratch[i] * norm);
  coop.sync();
}

}  // namespace dsv4
