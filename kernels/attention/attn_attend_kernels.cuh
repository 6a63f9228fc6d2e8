// The kernels behind attn_attend, and how a problem is spread over them.
//
// bf16, one of two ways that give the same bits (attention/attend_tile.cuh):
//   whole   a block = a tile of a token's heads, all groups of rows
//   split   a block = a tile, one group; then a warp a head merges the groups. For few tokens, where blocks
//           would be fewer than a device holds; each block scores the first group as well, whose maximum its
//           weights refer to.
// Bytes a token from memory: its rows once (584 or 1024 each), q, o. From L2: the rows once more for each
// further tile of heads (128 heads: twice), with `split` the first group for every other one, and 4 KiB a
// head and group written and read.
//
// f32: a warp a token and 8 heads, the primitive.
#pragma once

#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/attention/attend.hpp>
#include <dsv4/attention/attend_merge.cuh>
#include <dsv4/attention/attend_tile.cuh>
#include <dsv4/core/workspace.hpp>

#include "kernels/attention/attn_attend_list.cuh"
#include "kernels/common/dispatch.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// attn_attend's parameters as kernels read them; strides are resolved.
struct AttendArguments {
  attention::AttendQueries queries;
  const float* q_f32;  // of the f32 instance, instead of queries.q
  attention::AttendOutput out;
  AttendSource window, entries;
  linear::Angles angles;
  linear::Positions positions;
  std::int64_t tokens;
  std::int32_t max_rows;  // of both selections
};

/// How the bf16 instance is run; changes no bit.
struct AttendPlan {
  int tile = 64;                       // heads of a block: 16, 32 or 64
  bool packed = true;                  // no pool holds plain rows
  int halves = 1;                      // 2: half a group in shared memory (tile 16, not packed)
  bool split = false;                  // a block a group
  int ring = attention::kAttendGroup;  // rows in shared memory
};

inline constexpr int kAttendChannels = attention::AttendOutput::kChannels;
/// Parts of up to 64 heads that a split may leave, and the most tokens (tiles of them) that are split: more
/// fill a device without.
inline constexpr std::int64_t kAttendParts = 512;
inline constexpr std::int64_t kAttendSplitTiles = 64;

/// Groups of a token with as many rows as it may have.
constexpr std::int64_t attend_groups(std::int64_t max_window, std::int64_t max_entries) {
  const std::int64_t first =
      (max_window + attention::kAttendStep - 1) / attention::kAttendStep * attention::kAttendStep;
  return (first + max_entries + attention::kAttendGroup - 1) / attention::kAttendGroup;
}

/// Calls f(Tile{}) for the tile that `plan` names.
template <class F>
Status with_attend_tile(const AttendPlan& plan, const F& f) {
  using attention::AttendTile;
  const auto of_heads = [&](auto packed) -> Status {
    constexpr bool kPacked = decltype(packed)::value;
    if (plan.tile == 64) return f(Type<AttendTile<64, kPacked>>{});
    if (plan.tile == 32) return f(Type<AttendTile<32, kPacked>>{});
    return f(Type<AttendTile<16, kPacked>>{});
  };
  if (plan.packed) return of_heads(std::true_type{});
  if (plan.halves == 2) return f(Type<AttendTile<16, false, 2>>{});
  return of_heads(std::false_type{});
}

/// The plan for a device whose blocks can have `limit` bytes of shared memory.
inline AttendPlan attend_plan(std::int64_t tokens, int heads, bool packed, std::int64_t groups,
                              std::int64_t limit) {
  const std::int64_t tiles = tokens * ((heads + 63) / 64);
  AttendPlan plan = {.tile = heads <= 16   ? 16
                             : heads <= 32 ? 32
                                           : 64,
                     .packed = packed,
                     .split = groups > 1 && tiles <= kAttendSplitTiles && tiles * groups <= kAttendParts};
  const auto fits = [&] {
    bool ok = false;
    static_cast<void>(with_attend_tile(plan, [&](auto type) -> Status {
      using Tile = typename decltype(type)::type;
      plan.ring = Tile::ring_rows(limit);
      ok = Tile::shared_bytes(plan.ring) <= limit;
      return {};
    }));
    return ok;
  };
  while (!fits() && plan.tile > 16) plan.tile /= 2;
  if (!packed && plan.tile == 16 && !fits()) plan.halves = 2, static_cast<void>(fits());
  return plan;
}

/// Parts of a split. The size is that of the largest split of no more tokens, groups and heads, so that it
/// never falls.
inline attention::AttendParts take_attend_parts(Workspace& workspace, std::int64_t tokens, std::int64_t heads,
                                                std::int64_t groups) {
  const std::int64_t rows = groups > 1 ? std::min(tokens * groups * heads, kAttendParts * 64) : 0;
  float* values = workspace.take<float>(rows * kAttendChannels);
  return {values, workspace.take<softmax::State>(rows), static_cast<int>(groups)};
}

/// Angles of a token's pairs.
struct AttendAngles {
  const linear::Angles& angles;
  const linear::Positions& positions;
  std::int64_t token;

  DSV4_DEVICE math::SinCos operator()(int pair) const { return angles(positions[token], pair); }
};

/// The list of the block's token, in `shared`. Called by all threads; synchronises.
template <class Tile>
DSV4_DEVICE const AttendList& shared_list(const AttendArguments& a, std::int64_t token,
                                          std::uint8_t* shared) {
  static_assert(sizeof(AttendList) <= Tile::kListBytes);
  auto* list = reinterpret_cast<AttendList*>(Tile::list_memory(shared));
  if (arch::thread_idx().x == 0)
    *list = {a.window, a.entries, AttendSections::of(a.window, a.entries, token)};
  arch::sync_threads();
  return *list;
}

template <class Tile>
DSV4_KERNEL_RESIDENT(Tile::kThreads, 1)
attn_attend_kernel(const DSV4_GRID_CONSTANT AttendArguments a, int tiles, int ring) {
  arch::wait_for_previous_grid();
  DSV4_DYN_SMEM(std::uint8_t, shared);
  const std::int64_t token = arch::block_idx().x / static_cast<unsigned>(tiles);
  const int tile = static_cast<int>(arch::block_idx().x % static_cast<unsigned>(tiles));
  Tile::run(a.queries, a.out, token, tile * Tile::kHeads, shared_list<Tile>(a, token, shared),
            AttendAngles{a.angles, a.positions, token}, ring, shared);
}

template <class Tile>
DSV4_KERNEL_RESIDENT(Tile::kThreads, 1)
attn_attend_part_kernel(const DSV4_GRID_CONSTANT AttendArguments a,
                        const DSV4_GRID_CONSTANT attention::AttendParts parts, int tiles, int ring) {
  arch::wait_for_previous_grid();
  DSV4_DYN_SMEM(std::uint8_t, shared);
  const int tile = static_cast<int>(arch::block_idx().x % static_cast<unsigned>(tiles));
  const std::int64_t at = arch::block_idx().x / static_cast<unsigned>(tiles), token = at / parts.groups;
  Tile::run_part(a.queries, parts, token, tile * Tile::kHeads, shared_list<Tile>(a, token, shared),
                 static_cast<int>(at % parts.groups), ring, shared);
}

inline constexpr int kMergeWarps = 8;

// Block (token, kMergeWarps heads).
template <class T>
DSV4_KERNEL(kMergeWarps* arch::kWarpThreads)
attn_attend_merge_kernel(const DSV4_GRID_CONSTANT AttendArguments a,
                         const DSV4_GRID_CONSTANT attention::AttendParts parts, int slices) {
  arch::wait_for_previous_grid();
  DSV4_SHARED(math::SinCos[attention::AttendOutput::kRopePairs], angles);
  const std::int64_t token = arch::block_idx().x / static_cast<unsigned>(slices);
  const int slice = static_cast<int>(arch::block_idx().x % static_cast<unsigned>(slices));
  if (a.out.rotate_back && arch::warp_id() == 0)
    angles[arch::lane_id()] = AttendAngles{a.angles, a.positions, token}(arch::lane_id());
  arch::sync_threads();
  const int head = slice * kMergeWarps + arch::warp_id();
  if (head >= a.queries.heads) return;
  attention::attend_merge<T>(parts, a.out, token, a.queries.heads, head,
                             AttendSections::of(a.window, a.entries, token).groups(), angles);
}

inline Status launch_attend(const AttendArguments& a, const AttendPlan& plan,
                            const attention::AttendParts& parts, Stream stream) noexcept {
  return with_attend_tile(plan, [&](auto type) -> Status {
    using Tile = typename decltype(type)::type;
    const int tiles = (a.queries.heads + Tile::kHeads - 1) / Tile::kHeads;
    const std::int64_t blocks = a.tokens * tiles * (plan.split ? parts.groups : 1);
    const arch::LaunchConfig config = {
        .grid = {static_cast<unsigned>(blocks), 1, 1},
        .block = {Tile::kThreads, 1, 1},
        .shared_bytes = static_cast<std::size_t>(Tile::shared_bytes(plan.ring)),
        .overlap_previous = true};
    if (!plan.split)
      return arch::launch("attn_attend", attn_attend_kernel<Tile>, config, stream, a, tiles, plan.ring);
    const Status s = arch::launch("attn_attend", attn_attend_part_kernel<Tile>, config, stream, a, parts,
                                  tiles, plan.ring);
    if (!s.ok()) return s;
    const int slices = (a.queries.heads + kMergeWarps - 1) / kMergeWarps;
    return arch::launch("attn_attend merge", attn_attend_merge_kernel<bf16>,
                        {.grid = {static_cast<unsigned>(a.tokens * slices), 1, 1},
                         .block = {kMergeWarps * arch::kWarpThreads, 1, 1},
                         .overlap_previous = true},
                        stream, a, parts, slices);
  });
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
