// Op moe_fused: dispatch, both linears of routed and shared experts, and combine as one queue of items.
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/occupancy.cuh>
#include <dsv4/core/workspace.hpp>
#include <dsv4/ops/moe_fused.hpp>

#include "kernels/common/nan_guard.hpp"
#include "kernels/moe/experts_host.hpp"
#include "kernels/moe/fused.cuh"

#include <algorithm>
#include <type_traits>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using namespace kernels;

constexpr std::int32_t kMaxBlocks = 65535;
constexpr std::int64_t kStreamBlocks = 1024;  // items of a linear; more would only quantise more often
constexpr std::int64_t kMaxGroups = 8;        // row groups of an item
constexpr std::int64_t kMaxChannels = 1 << 20;

// The largest batch, of the widest rows, on the most blocks: FusedQueue counts in 32 bits.
constexpr std::int64_t kMostTiles = ceil_div(kMoeFusedMaxTokens, kFusedTileRows) +
                                    moe_max_tiles(kMoeFusedMaxTokens, 16, 1024, kFusedTileRows);
constexpr std::int64_t kMostParts = kMaxChannels / linear::kMmaRows / kMaxGroups;  // of a linear of a tile
static_assert(kMostTiles * 2 * kMostParts + kMoeFusedMaxTokens * ceil_div(kMaxChannels, fused_span<float>()) +
                      1024 + 2 * kMaxBlocks <=
                  INT32_MAX,
              "tickets: dispatch, both linears, combine, and those of blocks that find nothing left");
static_assert((kMaxBlocks + kMostParts) + kMaxBlocks * kMostParts <= INT32_MAX,
              "items of a wave, which has linear 1 for every block");

struct Parts {
  moe::PlanView plan;
  void *h, *y;                // [tokens * k, ...] dtype
  void *shared_h, *shared_y;  // [tokens, ...]
  std::size_t bytes;
};

MoeFusedParams clamped(MoeFusedParams p) {
  p.tokens = std::clamp<std::int64_t>(p.tokens, 0, kMoeFusedMaxTokens);
  p.hidden = std::clamp<std::int64_t>(p.hidden, 0, kMaxChannels);
  p.inner = std::clamp<std::int64_t>(p.inner, 0, kMaxChannels);
  p.k = std::clamp(p.k, 0, 16);
  p.experts = std::clamp(p.experts, 0, 1024);
  return p;
}

bool is_f32(const MoeFusedParams& p) { return p.dtype == DType::kF32; }
bool has_shared(const MoeFusedParams& p) { return p.shared.w1.data || p.shared.w3.data || p.shared.w2.data; }

/// The walk over the workspace. Sizes out of range count as the nearest in range.
Parts parts(const MoeFusedParams& given, void* base_or_null) {
  const MoeFusedParams p = clamped(given);
  Parts w = {};
  Workspace walk(base_or_null);
  const std::int64_t pairs = p.tokens * p.k;
  const auto values = [&](std::int64_t count) -> void* {
    if (is_f32(p)) return walk.take<float>(count);
    return walk.take<bf16>(count);
  };
  w.plan.counts = walk.take<std::int32_t>(p.experts);
  w.plan.offsets = walk.take<std::int32_t>(p.experts + 1);
  w.plan.pair_of = walk.take<std::int32_t>(pairs);
  w.plan.row_of = walk.take<std::int32_t>(pairs);
  w.h = values(pairs * p.inner);
  w.y = values(pairs * p.hidden);
  w.shared_h = values(p.tokens * p.inner);
  w.shared_y = values(p.tokens * p.hidden);
  w.bytes = walk.bytes();
  return w;
}

/// Weights of the routed and of the shared experts, as kernels are told them.
template <class RoutedWeights, class SharedWeights = RoutedWeights>
struct Formats {
  using Routed = RoutedWeights;
  using Shared = SharedWeights;
  using Linears = FusedLinears<Routed>;
};

/// f(Formats<...>{}) for those of the experts.
template <class F>
Status with_formats(const MoeFusedParams& p, F f) {
  using linear::Bf16Weights, linear::Fp4Weights, linear::Fp8Weights;
  if (is_f32(p)) {
    if constexpr (kHasF32) return f(Formats<ExactWeights>{});
  }
  const WeightFormat routed = p.weights.w1.format, shared = has_shared(p) ? p.shared.w1.format : routed;
  if (routed == WeightFormat::kFp8) return f(Formats<Fp8Weights>{});
  if (routed == WeightFormat::kBf16) return f(Formats<Bf16Weights>{});
  if (shared == WeightFormat::kFp8) return f(Formats<Fp4Weights, Fp8Weights>{});
  return f(Formats<Fp4Weights>{});
}

std::int64_t max_tiles(const MoeFusedParams& p) {
  return ceil_div(p.tokens, kFusedTileRows) + moe_max_tiles(p.tokens, p.k, p.experts, kFusedTileRows);
}

// Shared memory of a block.
std::int64_t shared_bytes(const MoeFusedParams& p) {
  const std::int64_t rows = std::min<std::int64_t>(kFusedTileRows, p.tokens * p.k);
  const auto sums = [](auto matrices) {
    return static_cast<std::int64_t>(
        sizeof(typename moe::ExpertStream<linear::Fp4Weights, decltype(matrices)::value>::Shared));
  };
  const std::int64_t up =
      sums(std::integral_constant<int, 2>{}) + moe::StagedCodes::bytes(rows, chunks_of(p.hidden));
  const std::int64_t down =
      sums(std::integral_constant<int, 1>{}) + moe::StagedCodes::bytes(rows, chunks_of(p.inner));
  return tile_offsets_bytes(p.experts) + (is_f32(p) ? 0 : std::max(up, down));
}

// One of the two sets of experts, but for its plan and what only routed ones have.
void set(ExpertsProblem& problem, const MoeFusedParams& p, const ExpertWeights& weights, void* h, void* y) {
  problem.up[0] = matrix_of(weights.w1, p.inner, p.hidden);
  problem.up[1] = matrix_of(weights.w3, p.inner, p.hidden);
  problem.down = matrix_of(weights.w2, p.hidden, p.inner);
  problem.input = input_of(p.input, p.tokens, p.hidden);
  problem.x = {.x = problem.input.x,
               .scales = nullptr,
               .cols = p.hidden,
               .stride = problem.input.x_stride,
               .scales_stride = 0,
               .by_token = true};
  problem.h_values = static_cast<bf16*>(h);
  problem.h = {.x = problem.h_values,
               .scales = nullptr,
               .cols = p.inner,
               .stride = p.inner,
               .scales_stride = 0,
               .by_token = false};
  problem.y = static_cast<bf16*>(y);
  problem.hidden = p.hidden, problem.inner = p.inner;
  problem.y_stride = p.hidden;
  problem.y_pairs = true;
}
void set(ExpertsExact& problem, const MoeFusedParams& p, const ExpertWeights& weights, void* h, void* y) {
  problem = {.up = {matrix_of(weights.w1, p.inner, p.hidden), matrix_of(weights.w3, p.inner, p.hidden)},
             .down = matrix_of(weights.w2, p.hidden, p.inner),
             .plan = {},
             .x = static_cast<const float*>(p.input.x),
             .routing = nullptr,
             .h = static_cast<float*>(h),
             .y = static_cast<float*>(y),
             .limit = 0.0f,
             .hidden = p.hidden,
             .inner = p.inner,
             .x_stride = stride_or(p.input.x_stride, p.hidden),
             .y_stride = p.hidden,
             .row_blocks = 0};
}

void check_sizes(Checks<"moe_fused">& c, const MoeFusedParams& p) {
  c.require<"tokens", "must not be negative">(p.tokens >= 0, p.tokens);
  c.require<"tokens", "must be at most kMoeFusedMaxTokens">(p.tokens <= kMoeFusedMaxTokens, p.tokens,
                                                            kMoeFusedMaxTokens, Code::kUnsupported);
  c.require<"k", "must be 1 .. 16">(p.k >= 1 && p.k <= 16, p.k, 16);
  c.require<"experts", "must be 1 .. 1024">(p.experts >= 1 && p.experts <= 1024, p.experts, 1024);
  c.require<"first_expert", "must not be negative">(p.first_expert >= 0, p.first_expert);
  c.require<"blocks", "must be 0 .. 65535">(p.blocks >= 0 && p.blocks <= kMaxBlocks, p.blocks, kMaxBlocks);
  c.require<"peers.ranks", "has no instance">(p.peers.ranks == kFusedRanks && p.peers.rank == 0,
                                              p.peers.ranks, kFusedRanks, Code::kUnsupported);
  c.require<"dtype", "has no instance in this build">(p.dtype == DType::kBf16 || (kHasF32 && is_f32(p)),
                                                      static_cast<std::int64_t>(p.dtype), 0,
                                                      Code::kUnsupported);
  c.require<"limit", "must not be negative">(p.limit >= 0.0f);
  c.require<"shared_limit", "must not be negative">(p.shared_limit >= 0.0f);
  c.require<"hidden", "must be 1 .. 2^20">(p.hidden >= 1 && p.hidden <= kMaxChannels, p.hidden, kMaxChannels);
  c.require<"inner", "must be 1 .. 2^20">(p.inner >= 1 && p.inner <= kMaxChannels, p.inner, kMaxChannels);
  c.require<"hidden", "must be a multiple of 8">(p.hidden % 8 == 0, p.hidden, 8, Code::kUnsupported);
  c.require<"inner", "must be a multiple of 8">(p.inner % 8 == 0, p.inner, 8, Code::kUnsupported);
  c.stride<"out_stride">(p.out_stride, p.hidden);
  if (!c.ok()) return;
  // Whatever the number of tokens, so that a batch does not find out later.
  MoeFusedParams full = p;
  full.tokens = kMoeFusedMaxTokens;
  const std::int64_t bytes = shared_bytes(full);
  c.require<"hidden and inner", "must fit the shared memory of a block">(
      bytes <= kExpertsSharedBytes, bytes, kExpertsSharedBytes, Code::kUnsupported);
}

// That there is a kernel for the pair of formats; f32 has one for all.
void check_formats(Checks<"moe_fused">& c, const MoeFusedParams& p, bool shared) {
  c.require<"weights.w2.format", "must be that of w1">(
      p.weights.w2.format == p.weights.w1.format, static_cast<std::int64_t>(p.weights.w2.format),
      static_cast<std::int64_t>(p.weights.w1.format), Code::kUnsupported);
  c.require<"shared.w2.format", "must be that of w1">(
      !shared || p.shared.w2.format == p.shared.w1.format, static_cast<std::int64_t>(p.shared.w2.format),
      static_cast<std::int64_t>(p.shared.w1.format), Code::kUnsupported);
  c.require<"shared.w1.format", "must be that of the routed experts, or FP8 beside FP4">(
      !shared || p.shared.w1.format == p.weights.w1.format ||
          (p.weights.w1.format == WeightFormat::kFp4 && p.shared.w1.format == WeightFormat::kFp8),
      static_cast<std::int64_t>(p.shared.w1.format), static_cast<std::int64_t>(p.weights.w1.format),
      Code::kUnsupported);
}

Status check(const MoeFusedParams& p) {
  Checks<"moe_fused"> c;
  check_sizes(c, p);
  if (!c.ok()) return c.status();
  const bool shared = has_shared(p), f32 = is_f32(p);
  check_weights<"weights">(c, p.weights, p.hidden, p.inner, f32);
  if (shared) check_weights<"shared">(c, p.shared, p.hidden, p.inner, f32);
  if (!f32) check_formats(c, p, shared);
  check_input(c, p.input, p.tokens, p.hidden,
              quantises(p.weights.w1.format) && (!shared || quantises(p.shared.w1.format)), f32);
  if (!c.ok() || p.tokens == 0) return c.status();
  c.pointer<"out">(p.out, f32 || p.out_f32 ? sizeof(float) : sizeof(bf16));
  c.pointer<"idx">(p.idx, sizeof(std::int32_t));
  c.optional<"routing">(p.routing, sizeof(float));
  check_input_pointers(c, p.input, f32);
  check_weights_pointers<"weights">(c, p.weights, f32);
  if (shared) check_weights_pointers<"shared">(c, p.shared, f32);
  const auto enough = [](std::size_t bytes) { return static_cast<std::int64_t>(bytes); };
  c.pointer<"state">(p.state, kWorkspaceAlignment);
  c.require<"state_bytes", "must be at least moe_fused_state_bytes">(
      p.state_bytes >= moe_fused_state_bytes(p), enough(p.state_bytes), enough(moe_fused_state_bytes(p)),
      Code::kWorkspaceTooSmall);
  c.pointer<"workspace">(p.workspace, kWorkspaceAlignment);
  c.require<"workspace_bytes", "must be at least moe_fused_workspace_bytes">(
      p.workspace_bytes >= moe_fused_workspace_bytes(p), enough(p.workspace_bytes),
      enough(moe_fused_workspace_bytes(p)), Code::kWorkspaceTooSmall);
  return c.status();
}

template <class Linears>
FusedProblem<typename Linears::Experts> problem_of(const MoeFusedParams& p, const Parts& w,
                                                   std::int32_t blocks) {
  FusedProblem<typename Linears::Experts> f = {};
  set(f.routed, p, p.weights, w.h, w.y);
  f.routed.plan = {w.plan.offsets, w.plan.pair_of, nullptr, nullptr, p.tokens, p.k, kFusedTileRows};
  f.routed.routing = p.routing;
  f.routed.limit = p.limit;
  set(f.shared, p, p.shared, w.shared_h, w.shared_y);
  f.shared.plan = {nullptr, nullptr, nullptr, nullptr, p.tokens, 1, kFusedTileRows};
  f.shared.limit = p.shared_limit;
  f.plan = w.plan;
  f.pairs = {p.idx, static_cast<std::int32_t>(p.tokens * p.k), p.first_expert, p.experts};
  f.state = {{{static_cast<unsigned char*>(p.state)}}, 0};
  f.dispatch = static_cast<std::int32_t>(ceil_div(p.experts, kExpertsWarps));

  const std::int64_t most = max_tiles(p);
  const auto deal = [&](std::int64_t rows, std::int64_t& groups) {
    const std::int64_t all = ceil_div(rows, Linears::kGroupRows);
    groups = std::clamp<std::int64_t>(most * all / kStreamBlocks, 1, kMaxGroups);
    return static_cast<std::int32_t>(ceil_div(all, groups));
  };
  f.queue.tiles = has_shared(p) ? static_cast<std::int32_t>(ceil_div(p.tokens, kFusedTileRows)) : 0;
  f.queue.up = deal(p.inner, f.up_groups);
  f.queue.down = deal(p.hidden, f.down_groups);
  f.queue.wave = static_cast<std::int32_t>(ceil_div(blocks, f.queue.up));  // an item for every block
  using Value = typename Linears::Value;
  f.combine_parts = static_cast<std::int32_t>(ceil_div(p.hidden, fused_span<Value>()));
  f.queue.combine = static_cast<std::int32_t>(p.tokens * f.combine_parts);
  f.out = p.out;
  f.tokens = p.tokens;
  f.out_stride = stride_or(p.out_stride, p.hidden);
  f.out_f32 = p.out_f32;
  f.out_vectors = f.out_stride % linear::kVectorOf<Value> == 0 && is_aligned(p.out, 16);
  return f;
}

}  // namespace

std::size_t moe_fused_state_bytes(const MoeFusedParams& p) noexcept {
  Workspace walk;
  walk.take<std::uint32_t>(FusedState::size(max_tiles(clamped(p))));
  return walk.bytes();
}

std::size_t moe_fused_workspace_bytes(const MoeFusedParams& p) noexcept { return parts(p, nullptr).bytes; }

DSV4_OP(moe_fused, MoeFusedParams) {
  const Status s = check(p);
  if (!s.ok() || p.tokens == 0) return s;
  const auto shared = static_cast<std::size_t>(shared_bytes(p));
  return with_formats(p, [&](auto formats) -> Status {
    using F = decltype(formats);
    const auto kernel = moe_fused_kernel<typename F::Routed, typename F::Shared>;
    int blocks = p.blocks;
    if (blocks == 0) {
      const Status counted = arch::resident_blocks(blocks, kernel, kExpertsThreads, shared);
      if (!counted.ok()) return counted;
    }
    return arch::launch("moe_fused", kernel,
                        {.grid = {static_cast<unsigned>(blocks), 1, 1},
                         .block = {kExpertsThreads, 1, 1},
                         .shared_bytes = shared,
                         .overlap_previous = true},
                        stream, problem_of<typename F::Linears>(p, parts(p, p.workspace), blocks));
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
