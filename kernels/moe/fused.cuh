// The kernel of moe_fused: what a persistent block knows of a batch, and how it does each kind of item.
#pragma once

#include <dsv4/arch/block.cuh>
#include <dsv4/moe/combine.cuh>
#include <dsv4/moe/dispatch.cuh>
#include <dsv4/moe/fused.cuh>

#include "kernels/moe/experts.cuh"
#include "kernels/moe/experts_exact.cuh"

#include <cstdint>
#include <type_traits>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr int kFusedTileRows = linear::kMmaTokens;
inline constexpr int kFusedRanks = 1;

using FusedScan = arch::BlockScan<kExpertsThreads>;
using FusedState = moe::FusedState<kFusedRanks>;
using moe::FusedQueue;

/// Channels of a combine item.
template <class T>
constexpr std::int64_t fused_span() {
  return kExpertsThreads * linear::kVectorOf<T>;
}

/// Linears of an expert's tile with weights of one format, by tensor cores on bf16 activations.
template <class Weights>
struct FusedLinears {
  using Experts = ExpertsProblem;
  using Value = bf16;
  static constexpr std::int64_t kGroupRows = linear::kMmaRows;  // of weights, that a block is given at least

  DSV4_DEVICE static void up(const Experts& p, const moe::TileRows& rows, const RowGroups& groups,
                             unsigned char* memory) {
    experts_up_stream<Weights>(p, rows, groups, memory);
  }
  DSV4_DEVICE static void down(const Experts& p, const moe::TileRows& rows, const RowGroups& groups,
                               unsigned char* memory) {
    experts_down_stream<Weights>(p, rows, groups, memory);
  }
};

/// The place of a format where activations are f32: weights of any, told apart for each matrix.
struct ExactWeights {};

template <>
struct FusedLinears<ExactWeights> {
  using Experts = ExpertsExact;
  using Value = float;
  static constexpr std::int64_t kGroupRows = kExpertsWarps * kExactExpertRows;

  DSV4_DEVICE static void up(const Experts& p, const moe::TileRows& rows, const RowGroups& groups,
                             unsigned char*) {
    run<true>(p, rows, groups);
  }
  DSV4_DEVICE static void down(const Experts& p, const moe::TileRows& rows, const RowGroups& groups,
                               unsigned char*) {
    run<false>(p, rows, groups);
  }

 private:
  template <bool kUp>
  DSV4_DEVICE static void run(const Experts& p, const moe::TileRows& rows, const RowGroups& groups) {
    for (std::int64_t group = groups.first; group < groups.first + groups.count; ++group)
      experts_exact<kUp>(p, rows, group * kGroupRows + arch::warp_id() * kExactExpertRows);
  }
};

template <class Experts>
struct FusedProblem {
  Experts routed, shared;  // plans, row_blocks and block_groups unused but for routed.plan's rows
  moe::PlanView plan;      // no tiles: each block finds them itself
  moe::RoutedPairs pairs;
  FusedState state;
  FusedQueue queue;                     // but for `tiles`, which is that of the shared expert here
  std::int32_t dispatch;                // items, kExpertsWarps experts each
  std::int64_t up_groups, down_groups;  // row groups of an item
  void* out;
  std::int64_t tokens, out_stride;
  std::int32_t combine_parts;  // items of a token
  bool out_f32;                // else the type of activations
  bool out_vectors;            // 16-byte aligned rows of out
};

/// Memory of a block in front of the stream bodies', bytes.
DSV4_HD constexpr std::int64_t tile_offsets_bytes(std::int64_t experts) { return (experts + 1 + 3) / 4 * 16; }

/// The persistent block: what it knows of the batch, and how it does each kind of item. The formats are the
/// kernel's, not the item's: bodies for all of them in one loop would share its registers, and spill.
template <class Routed, class Shared>
class FusedBlock {
 public:
  using Experts = typename FusedLinears<Routed>::Experts;
  using Problem = FusedProblem<Experts>;
  using Value = typename FusedLinears<Routed>::Value;

  DSV4_DEVICE FusedBlock(const Problem& problem, unsigned char* memory)
      : p_(problem),
        tile_offsets_(reinterpret_cast<std::int32_t*>(memory)),
        memory_(memory + tile_offsets_bytes(problem.pairs.experts)),
        queue_(problem.queue) {}

  DSV4_DEVICE std::int32_t tiles() const { return queue_.tiles; }
  /// Whether an item can be told before the plan is known: linear 1 of the shared expert, in the first wave.
  DSV4_DEVICE bool early(std::int32_t q) const {
    const std::int32_t shared = p_.queue.tiles;
    return q < (shared < queue_.wave ? shared : queue_.wave) * queue_.up;
  }

  DSV4_DEVICE void dispatch(std::int32_t item) const {
    const std::int32_t e = item * kExpertsWarps + arch::warp_id();
    if (e < p_.pairs.experts) moe::place_expert(p_.plan, p_.pairs, e);
    FusedState::signal(p_.state.placed(p_.state.rank, p_.state.rank));
  }

  /// Waits for the plan and cuts it into tiles.
  DSV4_DEVICE void plan(FusedScan::Storage& storage) {
    for (int source = 0; source < kFusedRanks; ++source)
      FusedState::wait(p_.state.placed(p_.state.rank, source), static_cast<std::uint32_t>(p_.dispatch));
    const std::int32_t experts = p_.pairs.experts;
    std::int32_t first = p_.queue.tiles;
    for (std::int32_t e0 = 0; e0 < experts; e0 += kExpertsThreads) {
      const std::int32_t e = e0 + static_cast<std::int32_t>(arch::thread_idx().x);
      const int tiles = e < experts ? (p_.plan.counts[e] + kFusedTileRows - 1) / kFusedTileRows : 0;
      int total;
      const int offset = first + FusedScan::exclusive_sum(storage, tiles, total);
      if (e < experts) tile_offsets_[e] = offset;
      first += total;
    }
    if (arch::thread_idx().x == 0) tile_offsets_[experts] = first;
    queue_.tiles = first;
    arch::sync_threads();
  }

  /// False: there is no such item.
  DSV4_DEVICE bool run(std::int32_t q) const {
    if (q >= queue_.size()) return false;
    const FusedQueue::Item item = queue_.item(q);
    if (item.kind == FusedQueue::Kind::kCombine) {
      combine(item.part);
      return true;
    }
    const bool shared = item.tile < p_.queue.tiles;
    const moe::TileRows rows = rows_of(item.tile);
    if constexpr (std::is_same_v<Routed, Shared>) {
      expert<Routed>(shared ? p_.shared : p_.routed, rows, item);
    } else {
      if (shared)
        expert<Shared>(p_.shared, rows, item);
      else
        expert<Routed>(p_.routed, rows, item);
    }
    return true;
  }

 private:
  DSV4_DEVICE moe::TileRows rows_of(std::int32_t tile) const {
    std::int64_t expert = 0, first = std::int64_t{tile} * kFusedTileRows, end = p_.tokens;
    if (tile >= p_.queue.tiles) {
      std::int32_t low = 0, high = p_.pairs.experts;  // the last expert whose first tile is at or before it
      while (high - low > 1) {
        const std::int32_t middle = (low + high) / 2;
        (tile_offsets_[middle] <= tile ? low : high) = middle;
      }
      expert = low;
      first = p_.plan.offsets[low];
      end = first + p_.plan.counts[low];
      first += std::int64_t{tile - tile_offsets_[low]} * kFusedTileRows;
    }
    return {expert, first, static_cast<int>(end - first < kFusedTileRows ? end - first : kFusedTileRows)};
  }

  template <class Weights>
  DSV4_DEVICE void expert(const Experts& problem, const moe::TileRows& rows,
                          const FusedQueue::Item& item) const {
    if (item.kind == FusedQueue::Kind::kUp) {
      FusedLinears<Weights>::up(problem, rows, {item.part * p_.up_groups, p_.up_groups}, memory_);
      FusedState::signal(p_.state.activated(item.tile));
      return;
    }
    FusedState::wait(p_.state.activated(item.tile), static_cast<std::uint32_t>(queue_.up));
    FusedLinears<Weights>::down(problem, rows, {item.part * p_.down_groups, p_.down_groups}, memory_);
    for (int source = 0; source < kFusedRanks; ++source)
      FusedState::signal(p_.state.finished(source, p_.state.rank));
  }

  DSV4_DEVICE void combine(std::int32_t item) const {
    for (int destination = 0; destination < kFusedRanks; ++destination)
      FusedState::wait(p_.state.finished(p_.state.rank, destination),
                       static_cast<std::uint32_t>(queue_.tiles * queue_.down));
    const std::int64_t t = item / p_.combine_parts;
    constexpr int kVector = linear::kVectorOf<Value>;
    const std::int64_t d = (item % p_.combine_parts * kExpertsThreads + arch::thread_idx().x) * kVector;
    const std::int64_t count = p_.routed.hidden - d;
    if (count > 0) {
      float sum[kVector];
      const Value* shared = p_.queue.tiles > 0 ? p_.shared.y + t * p_.shared.y_stride : nullptr;
      moe::combine_span<true>(sum, p_.routed.y, p_.routed.y_stride, p_.pairs.pairs,
                              p_.plan.row_of + t * p_.routed.plan.k, p_.routed.plan.k, shared, d, count);
      const auto store = [&](auto* out) {
        if (p_.out_vectors)
          moe::store_combined<true>(out + t * p_.out_stride + d, sum, count);
        else
          moe::store_combined<false>(out + t * p_.out_stride + d, sum, count);
      };
      if (std::is_same_v<Value, float> || p_.out_f32)
        store(static_cast<float*>(p_.out));
      else
        store(static_cast<Value*>(p_.out));
    }
    arch::sync_threads();  // as signal does: the block is done with this item
  }

  const Problem& p_;
  std::int32_t* tile_offsets_;  // [experts + 1], shared
  unsigned char* memory_;       // of the stream bodies, shared
  FusedQueue queue_;
};

// One block a multiprocessor: what the loop keeps between items leaves no room for two without spills.
// Grid: any number of blocks.
template <class Routed, class Shared>
DSV4_KERNEL_RESIDENT(kExpertsThreads, 1)
moe_fused_kernel(const DSV4_GRID_CONSTANT typename FusedBlock<Routed, Shared>::Problem p) {
  DSV4_DYN_SMEM(unsigned char, memory);
  DSV4_SHARED(FusedScan::Storage, storage);
  DSV4_SHARED(std::uint32_t, word);
  arch::wait_for_previous_grid();
  FusedBlock<Routed, Shared> block(p, memory);
  const bool first_thread = arch::thread_idx().x == 0;
  std::uint32_t next = first_thread ? arch::atomic_add(p.state.ticket(), 1u) : 0;
  bool planned = false;
  while (true) {
    if (first_thread) word = next;
    arch::sync_threads();
    const auto ticket = static_cast<std::int32_t>(word);
    // The ticket after this one, ahead of its turn: the answer takes as long as a short item. It cannot stop
    // others, for the block is busy with an earlier item as long as this one has to wait.
    if (first_thread) next = arch::atomic_add(p.state.ticket(), 1u);
    if (ticket < p.dispatch) {
      block.dispatch(ticket);
      continue;
    }
    const std::int32_t q = ticket - p.dispatch;
    if (!planned && !block.early(q)) {
      block.plan(storage);
      planned = true;
    }
    if (!block.run(q)) break;
  }
  arch::allow_next_grid();
  arch::sync_threads();  // everyone has read the ticket
  p.state.leave(block.tiles(), word);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
