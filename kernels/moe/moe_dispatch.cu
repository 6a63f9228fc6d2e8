// Op moe_dispatch: one block for few pairs; for many a warp an expert, then one block for the tiles.
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/moe/dispatch.cuh>
#include <dsv4/ops/moe_route.hpp>

#include "kernels/common/checks.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 1024;  // of the block that makes the tiles
constexpr int kWarps = kThreads / arch::kWarpThreads;
constexpr int kPlaceThreads = 256;
constexpr int kPlaceWarps = kPlaceThreads / arch::kWarpThreads;
// Up to here one block is quicker than a second launch: each of its warps walks over the pairs of 8 experts.
constexpr std::int64_t kOneBlockPairs = 1024;

using Scan = arch::BlockScan<kThreads>;

struct Sizes {
  std::int32_t tile_rows, max_tiles;
};

DSV4_KERNEL(kThreads)
moe_dispatch_kernel(moe::PlanView plan, moe::RoutedPairs routed, Sizes sizes) {
  DSV4_SHARED(Scan::Storage, storage);
  arch::wait_for_previous_grid();
  for (std::int32_t e = arch::warp_id(); e < routed.experts; e += kWarps) moe::place_expert(plan, routed, e);
  arch::sync_threads();
  moe::tile_map<kThreads>(plan, routed.experts, sizes.tile_rows, sizes.max_tiles, storage);
}

DSV4_KERNEL(kPlaceThreads)
moe_place_kernel(moe::PlanView plan, moe::RoutedPairs routed) {
  arch::wait_for_previous_grid();
  const auto e = static_cast<std::int32_t>(arch::block_idx().x * kPlaceWarps) + arch::warp_id();
  if (e < routed.experts) moe::place_expert(plan, routed, e);
}

DSV4_KERNEL(kThreads)
moe_tiles_kernel(moe::PlanView plan, std::int32_t experts, Sizes sizes) {
  DSV4_SHARED(Scan::Storage, storage);
  arch::wait_for_previous_grid();
  moe::tile_map<kThreads>(plan, experts, sizes.tile_rows, sizes.max_tiles, storage);
}

}  // namespace

Status moe_dispatch(const MoeDispatchParams& p, Stream stream) noexcept {
  constexpr std::int64_t kMaxTokens = 1 << 24;
  kernels::Checks<"moe_dispatch"> checks;
  checks.require<"tokens", "must be 0 .. 2^24">(p.tokens >= 0 && p.tokens <= kMaxTokens, p.tokens,
                                                kMaxTokens);
  checks.require<"k", "must be 1 .. 16">(p.k >= 1 && p.k <= 16, p.k, 16);
  checks.require<"experts", "must be 1 .. 1024">(p.experts >= 1 && p.experts <= 1024, p.experts, 1024);
  checks.require<"first_expert", "must not be negative">(p.first_expert >= 0, p.first_expert);
  checks.require<"tile_rows", "must be 1 .. 1024">(p.tile_rows >= 1 && p.tile_rows <= 1024, p.tile_rows,
                                                   1024);
  checks.pointer<"plan.counts">(p.plan.counts, sizeof(std::int32_t));
  checks.pointer<"plan.offsets">(p.plan.offsets, sizeof(std::int32_t));
  checks.pointer<"plan.tile_offsets">(p.plan.tile_offsets, sizeof(std::int32_t));
  if (p.tokens > 0) {  // an empty batch has a plan too: no rows, no tiles
    checks.pointer<"plan.pair_of">(p.plan.pair_of, sizeof(std::int32_t));
    checks.pointer<"plan.row_of">(p.plan.row_of, sizeof(std::int32_t));
    checks.pointer<"plan.tile_expert">(p.plan.tile_expert, sizeof(std::int32_t));
    checks.pointer<"idx">(p.idx, sizeof(std::int32_t));
  }
  if (!checks.ok()) return checks.status();

  const moe::PlanView plan = {p.plan.counts, p.plan.offsets,      p.plan.pair_of,
                              p.plan.row_of, p.plan.tile_offsets, p.plan.tile_expert};
  const moe::RoutedPairs routed = {p.idx, static_cast<std::int32_t>(p.tokens * p.k), p.first_expert,
                                   p.experts};
  const Sizes sizes = {p.tile_rows,
                       static_cast<std::int32_t>(moe_max_tiles(p.tokens, p.k, p.experts, p.tile_rows))};
  const arch::LaunchConfig one_block = {
      .grid = {1, 1, 1}, .block = {kThreads, 1, 1}, .overlap_previous = true};
  if (routed.pairs <= kOneBlockPairs)
    return arch::launch("moe_dispatch", moe_dispatch_kernel, one_block, stream, plan, routed, sizes);
  const Status s =
      arch::launch("moe_dispatch", moe_place_kernel,
                   {.grid = {static_cast<unsigned>((p.experts + kPlaceWarps - 1) / kPlaceWarps), 1, 1},
                    .block = {kPlaceThreads, 1, 1},
                    .overlap_previous = true},
                   stream, plan, routed);
  return s.ok() ? arch::launch("moe_dispatch", moe_tiles_kernel, one_block, stream, plan, p.experts, sizes)
                : s;
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
