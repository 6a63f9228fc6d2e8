// The plan of a batch of routed tokens: which rows each expert computes, and where they came from.
#pragma once

#include <dsv4/core/coop.hpp>

#include <cstdint>

namespace dsv4::moe {

/// Sorts the (token, slot) pairs of a batch by expert, stably: a counting sort.
///   counts    [experts] i32       pairs of expert first_expert + e
///   offsets   [experts + 1] i32   first plan row of each expert; the last is the number of plan rows
///   pair_of   [pairs] i32         pair (t * k + j) of each plan row
///   row_of    [pairs] i32         plan row of each pair; -1 where its expert is not one of these
///   idx       [pairs] i32         expert of each pair; a pair outside [first_expert, first_expert +
///   experts), as a
///                                 dropped slot (-1) or another rank's expert, is left out
///   pairs     = tokens * k, may be 0
/// Deterministic: within an expert the rows ascend by pair. Called by all threads of `coop`; synchronises.
template <Coop C>
DSV4_HD void dispatch(C coop, std::int32_t* counts, std::int32_t* offsets, std::int32_t* pair_of,
                      std::int32_t* row_of, const std::int32_t* idx, int pairs, int first_expert,
                      int experts) {
  for (int p = coop.rank(); p < pairs; p += coop.size()) row_of[p] = -1;
  for (int e = coop.rank(); e < experts; e += coop.size()) counts[e] = 0;
  coop.sync();
  const auto local = [=](int p) { return idx[p] - first_expert; };
  const auto is_local = [=](int e) { return e >= 0 && e < experts; };
  if (coop.rank() == 0) {
    for (int p = 0; p < pairs; ++p)
      if (is_local(local(p))) ++counts[local(p)];
    offsets[0] = 0;
    for (int e = 0; e < experts; ++e) offsets[e + 1] = offsets[e] + counts[e];
    for (int e = 0; e < experts; ++e) counts[e] = 0;  // now the rows already placed
    for (int p = 0; p < pairs; ++p) {
      if (!is_local(local(p))) continue;
      const int row = offsets[local(p)] + counts[local(p)]++;
      pair_of[row] = p;
      row_of[p] = row;
    }
  }
  coop.sync();
}

}  // namespace dsv4::moe
