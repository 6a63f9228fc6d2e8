// The plan of a routed batch by a counting sort in which every expert counts and places its own pairs: no
// atomics, no workspace, and the same plan however many warps share the experts.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/block.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>

#include <cstdint>

namespace dsv4::moe::inline DSV4_FLAVOUR {

/// Where a plan goes; the fields are those of ops::MoePlan.
struct PlanView {
  std::int32_t* counts;        // [experts]
  std::int32_t* offsets;       // [experts + 1]
  std::int32_t* pair_of;       // [pairs]
  std::int32_t* row_of;        // [pairs]
  std::int32_t* tile_offsets;  // [experts + 1]
  std::int32_t* tile_expert;   // [max_tiles]
};

/// The routed pairs that a plan is made of.
struct RoutedPairs {
  const std::int32_t* idx;  // [pairs] expert of each pair
  std::int32_t pairs;
  std::int32_t first_expert;
  std::int32_t experts;

  /// Local expert of pair p; -1 for a pair beyond the end, a dropped slot or another rank's expert.
  DSV4_DEVICE std::int32_t local(std::int64_t p) const {
    if (p >= pairs) return -1;
    const std::int64_t e = std::int64_t{idx[p]} - first_expert;
    return e >= 0 && e < experts ? static_cast<std::int32_t>(e) : -1;
  }
};

/// Expert e's share of a plan: its count and offset, its pairs in ascending order, and for expert 0 the -1 of
/// the pairs that belong to none. Reads every pair twice. Called by all lanes of a warp.
DSV4_DEVICE void place_expert(const PlanView& plan, const RoutedPairs& routed, std::int32_t e) {
  constexpr int kUnroll = 4;  // loads in flight
  constexpr int kStep = kUnroll * arch::kWarpThreads;
  const int lane = arch::lane_id();

  int before = 0, mine = 0;
  for (std::int64_t base = 0; base < routed.pairs; base += kStep) {
    DSV4_UNROLL
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t p = base + u * arch::kWarpThreads + lane;
      const std::int32_t local = routed.local(p);
      before += local >= 0 && local < e ? 1 : 0;
      mine += local == e ? 1 : 0;
      if (e == 0 && local < 0 && p < routed.pairs) plan.row_of[p] = -1;
    }
  }
  before = arch::reduce_add(before);
  mine = arch::reduce_add(mine);
  if (lane == 0) {
    plan.counts[e] = mine;
    plan.offsets[e] = before;
    if (e == routed.experts - 1) plan.offsets[routed.experts] = before + mine;
  }

  const int end = before + mine;
  int row = before;
  for (std::int64_t base = 0; row < end; base += kStep) {  // ends with the last of the expert's pairs
    std::int32_t local[kUnroll];
    DSV4_UNROLL
    for (int u = 0; u < kUnroll; ++u) local[u] = routed.local(base + u * arch::kWarpThreads + lane);
    DSV4_UNROLL
    for (int u = 0; u < kUnroll; ++u) {
      const unsigned lanes = arch::ballot(local[u] == e);
      if (local[u] == e) {
        const auto p = static_cast<std::int32_t>(base + u * arch::kWarpThreads + lane);
        const int place = row + arch::count_lanes(lanes & arch::lanes_before());
        plan.pair_of[place] = p;
        plan.row_of[p] = place;
      }
      row += arch::count_lanes(lanes);
    }
  }
}

/// Cuts each expert's rows into tiles of `tile_rows`, from its counts: tile_offsets, and the expert of each
/// tile, -1 for the tiles of tile_expert that this batch does not need.
///   storage  of arch::BlockScan<kThreads>, shared
/// Called by all kThreads threads of a block; synchronises. What others of the block wrote to counts must be
/// behind a barrier.
template <int kThreads>
DSV4_DEVICE void tile_map(const PlanView& plan, std::int32_t experts, std::int32_t tile_rows,
                          std::int32_t max_tiles, typename arch::BlockScan<kThreads>::Storage& storage) {
  const int me = static_cast<int>(arch::thread_idx().x);
  int first = 0;  // tiles of the experts of earlier rounds
  for (std::int32_t e0 = 0; e0 < experts; e0 += kThreads) {
    const std::int32_t e = e0 + me;
    const int tiles = e < experts ? (plan.counts[e] + tile_rows - 1) / tile_rows : 0;
    int total;
    const int offset = first + arch::BlockScan<kThreads>::exclusive_sum(storage, tiles, total);
    if (e < experts) plan.tile_offsets[e] = offset;
    first += total;
  }
  if (me == 0) plan.tile_offsets[experts] = first;
  arch::sync_threads();
  for (std::int32_t tile = me; tile < max_tiles; tile += kThreads) {
    std::int32_t low = 0, high = experts;  // the last expert whose first tile is at or before this one
    while (high - low > 1) {
      const std::int32_t middle = (low + high) / 2;
      (plan.tile_offsets[middle] <= tile ? low : high) = middle;
    }
    plan.tile_expert[tile] = tile < first ? low : -1;
  }
}

}  // namespace dsv4::moe::inline DSV4_FLAVOUR
