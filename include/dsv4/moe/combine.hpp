// The outputs of a token's experts added up.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::moe {

/// Output of ONE token: out[d] = round_T( sum_j y[row_of[j], d] + shared[d] )   (spec section 7)
///   out     [hidden] T
///   y       [rows, hidden] T   expert outputs in plan order (moe::dispatch), routing weight already in
///   row_of  [k] i32            plan rows of this token's slots; -1 adds nothing
///   shared  [hidden] T         the shared expert's output
/// fp32 in slot order, then the shared expert, one rounding. Called by all threads of `coop`; does not
/// synchronise.
template <Coop C, class T>
DSV4_HD void combine(C coop, T* out, const T* y, const std::int32_t* row_of, int k, const T* shared,
                     int hidden) {
  for (int d = coop.rank(); d < hidden; d += coop.size()) {
    float acc = 0;
    for (int j = 0; j < k; ++j)
      if (row_of[j] >= 0) acc += to_float(y[std::int64_t{row_of[j]} * hidden + d]);
    out[d] = from_float<T>(acc + to_float(shared[d]));
  }
}

}  // namespace dsv4::moe
