// Selection: which window slots and compressed entries a token attends to.
#pragma once

#include <dsv4/attention/visibility.hpp>
#include <dsv4/core/coop.hpp>
#include <dsv4/core/topk.hpp>

#include <cstdint>

namespace dsv4::attention {

/// Window of position t, oldest first: idx[i] = slot of position window_begin(t) + i; -1 pads to `window`.
///   idx   [window] i32
///   slot  position -> i32   where the position's entry lies in the window pool
/// Called by all threads of `coop`; does not synchronise.
template <Coop C, class Slot>
DSV4_HD void select_window(C coop, std::int32_t* idx, std::int64_t t, int window, const Slot& slot) {
  const std::int64_t begin = window_begin(t, window);
  for (int i = coop.rank(); i < window; i += coop.size()) idx[i] = begin + i <= t ? slot(begin + i) : -1;
}

/// Entries of an HCA layer: every complete one, 0 .. visible_entries(t) - 1; -1 pads to `count`.
///   idx  [count] i32
template <Coop C>
DSV4_HD void select_all(C coop, std::int32_t* idx, std::int64_t t, int ratio, int count) {
  const std::int64_t visible = visible_entries(t, ratio);
  for (int i = coop.rank(); i < count; i += coop.size()) idx[i] = i < visible ? i : -1;
}

/// Entries of a CSA layer: the k best of the complete ones by indexer score, by score descending, lower index
/// first among equals; a NaN score is never chosen; -1 pads to k (spec section 5.2).
///   idx      [k] i32
///   scores   [>= visible_entries(t)] f32; what lies beyond the visible entries is not read
///   scratch  [k] i32, shared by the group
/// Exact, deterministic. Called by all threads of `coop`; synchronises.
template <Coop C>
DSV4_HD void select_top_k(C coop, std::int32_t* idx, const float* scores, std::int64_t t, int ratio, int k,
                          std::int32_t* scratch) {
  topk::select(coop, idx, scores, static_cast<int>(visible_entries(t, ratio)), k, scratch);
}

}  // namespace dsv4::attention
