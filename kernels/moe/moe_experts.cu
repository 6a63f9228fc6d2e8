// Op moe_experts: two launches for few rows of each expert; for many, one more in front to quantise x.
#include <dsv4/arch/launch.cuh>
#include <dsv4/core/workspace.hpp>
#include <dsv4/ops/moe_experts.hpp>

#include "kernels/common/nan_guard.hpp"
#include "kernels/moe/experts_exact.cuh"
#include "kernels/moe/experts_host.hpp"

#include <algorithm>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using namespace kernels;

constexpr std::int64_t kMaxTokens = 1 << 24;
constexpr std::int64_t kMaxChannels = 1 << 20;
constexpr std::int64_t kStreamBlocks = 1024;  // more would only quantise activations more often

/// f(Type<Weights>{}) for a format that tensor cores take.
template <class F>
Status with_weights(WeightFormat format, F f) {
  if (format == WeightFormat::kFp4) return f(Type<linear::Fp4Weights>{});
  if (format == WeightFormat::kFp8) return f(Type<linear::Fp8Weights>{});
  return f(Type<linear::Bf16Weights>{});
}

std::int64_t tiles_of(const MoeExpertsParams& p) {
  return p.plan.tile_expert ? moe_max_tiles(p.tokens, p.k, p.experts, p.tile_rows)
                            : ceil_div(p.tokens, p.tile_rows);
}

// Shared memory of a stream kernel whose matrices have k channels.
template <class Weights, int kMatrices>
std::int64_t stream_shared(const MoeExpertsParams& p, std::int64_t k) {
  const std::int64_t rows = std::min<std::int64_t>(p.tile_rows, p.tokens * p.k);
  return static_cast<std::int64_t>(sizeof(typename moe::ExpertStream<Weights, kMatrices>::Shared)) +
         (kQuantised<Weights> ? moe::StagedCodes::bytes(rows, chunks_of(k)) : 0);
}

// Whether weights stream by blocks of few rows; else they go by tiles of 128 rows. Sizes alone decide.
bool streams(const MoeExpertsParams& p) {
  const auto rows = std::min<std::int64_t>(p.tile_rows, moe::StagedCodes::kMaxRows);
  const std::int64_t sums = sizeof(moe::ExpertStream<linear::Fp4Weights, 2>::Shared);
  return p.tile_rows <= moe::StagedCodes::kMaxRows &&
         sums + moe::StagedCodes::bytes(rows, chunks_of(std::max(p.hidden, p.inner))) <= kExpertsSharedBytes;
}

struct Parts {
  void* h;          // rows of the plan: f32; bf16; or values of codes
  float* h_scales;  // of codes
  bf16* x;          // [tokens] values of codes
  float* x_scales;
  std::int64_t h_stride, h_scales_stride, x_stride, x_scales_stride;
  std::size_t bytes;
};

/// The walk over the workspace. Sizes out of range count as the nearest in range.
Parts parts(MoeExpertsParams p, void* base_or_null) {
  p.tokens = std::clamp<std::int64_t>(p.tokens, 0, kMaxTokens);
  p.hidden = std::clamp<std::int64_t>(p.hidden, 0, kMaxChannels);
  p.inner = std::clamp<std::int64_t>(p.inner, 0, kMaxChannels);
  p.k = std::clamp(p.k, 0, 16);
  Parts w = {};
  Workspace walk(base_or_null);
  const std::int64_t pairs = p.tokens * p.k;
  w.h_stride = p.inner;
  if (p.dtype == DType::kF32) {
    w.h = walk.take<float>(pairs * p.inner);
  } else if (streams(p)) {
    w.h = walk.take<bf16>(pairs * p.inner);
  } else {
    w.h = walk.take<bf16>(pairs * p.inner);
    if (quantises(p.weights.w2.format)) {
      w.h_scales_stride = pairs;
      w.h_scales = walk.take<float>(chunks_of(p.inner) * pairs);
    }
    if (quantises(p.weights.w1.format)) {
      w.x_stride = p.hidden;
      w.x_scales_stride = p.tokens;
      w.x = walk.take<bf16>(p.tokens * p.hidden);
      w.x_scales = walk.take<float>(chunks_of(p.hidden) * p.tokens);
    }
  }
  w.bytes = walk.bytes();
  return w;
}

moe::ExpertPlan plan_of(const MoeExpertsParams& p) {
  return {p.plan.offsets, p.plan.pair_of, p.plan.tile_offsets, p.plan.tile_expert, p.tokens, p.k,
          p.tile_rows};
}

ExpertsProblem problem_of(const MoeExpertsParams& p, const Parts& w) {
  ExpertsProblem problem = {};
  problem.up[0] = matrix_of(p.weights.w1, p.inner, p.hidden);
  problem.up[1] = matrix_of(p.weights.w3, p.inner, p.hidden);
  problem.down = matrix_of(p.weights.w2, p.hidden, p.inner);
  problem.plan = plan_of(p);
  problem.input = input_of(p.input, p.tokens, p.hidden);
  problem.x = {.x = w.x ? w.x : problem.input.x,
               .scales = w.x_scales,
               .cols = p.hidden,
               .stride = w.x ? w.x_stride : problem.input.x_stride,
               .scales_stride = w.x_scales_stride,
               .by_token = true};
  problem.h_values = static_cast<bf16*>(w.h);
  problem.h_scales = w.h_scales;
  problem.h = {.x = problem.h_values,
               .scales = w.h_scales,
               .cols = p.inner,
               .stride = w.h_stride,
               .scales_stride = w.h_scales_stride,
               .by_token = false};
  problem.routing = p.routing;
  problem.limit = p.limit;
  problem.y = static_cast<bf16*>(p.y);
  problem.hidden = p.hidden, problem.inner = p.inner;
  problem.y_stride = stride_or(p.y_stride, p.hidden);
  problem.y_pairs = problem.y_stride % 2 == 0 && is_aligned(p.y, 4);
  return problem;
}

arch::LaunchConfig config_of(std::int64_t blocks, int threads, std::int64_t shared_bytes = 0) {
  return {.grid = {static_cast<unsigned>(blocks), 1, 1},
          .block = {static_cast<unsigned>(threads), 1, 1},
          .shared_bytes = static_cast<std::size_t>(shared_bytes),
          .overlap_previous = true};
}

constexpr const char* kName = "moe_experts";

Status launch_stream(const MoeExpertsParams& p, ExpertsProblem problem, Stream stream) {
  const std::int64_t tiles = tiles_of(p);
  const auto deal = [&](std::int64_t rows) {
    const std::int64_t groups = ceil_div(rows, linear::kMmaRows);
    problem.block_groups = std::clamp<std::int64_t>(tiles * groups / kStreamBlocks, 1, 8);
    problem.row_blocks = ceil_div(groups, problem.block_groups);
    return tiles * problem.row_blocks;
  };
  const Status s = with_weights(p.weights.w1.format, [&](auto type) {
    using Weights = typename decltype(type)::type;
    const std::int64_t blocks = deal(p.inner);
    return arch::launch(kName, experts_up_stream_kernel<Weights>,
                        config_of(blocks, kExpertsThreads, stream_shared<Weights, 2>(p, p.hidden)), stream,
                        problem);
  });
  if (!s.ok()) return s;
  return with_weights(p.weights.w2.format, [&](auto type) {
    using Weights = typename decltype(type)::type;
    const std::int64_t blocks = deal(p.hidden);
    return arch::launch(kName, experts_down_stream_kernel<Weights>,
                        config_of(blocks, kExpertsThreads, stream_shared<Weights, 1>(p, p.inner)), stream,
                        problem);
  });
}

Status launch_tile(const MoeExpertsParams& p, const Parts& w, ExpertsProblem problem, Stream stream) {
  if (w.x) {
    const std::int64_t pieces = p.tokens * ceil_div(p.hidden, kExpertsSpan);
    const ExpertsExpand expand = {w.x, w.x_scales, w.x_stride, w.x_scales_stride, p.hidden};
    const Status s = arch::launch(kName, experts_expand_kernel<kExpertsThreads>,
                                  config_of(ceil_div(pieces, kExpertsWarps), kExpertsThreads), stream,
                                  problem.input, expand);
    if (!s.ok()) return s;
  }
  const Status s = with_weights(p.weights.w1.format, [&](auto type) {
    using Weights = typename decltype(type)::type;
    using Tile = moe::ExpertTile<Weights, 2, kExpertsTokens>;
    problem.row_blocks = ceil_div(p.inner, Tile::kRows);
    return arch::launch(
        kName, experts_up_tile_kernel<Weights>,
        config_of(tiles_of(p) * problem.row_blocks, kExpertsThreads, sizeof(typename Tile::Shared)), stream,
        problem);
  });
  if (!s.ok()) return s;
  return with_weights(p.weights.w2.format, [&](auto type) {
    using Weights = typename decltype(type)::type;
    using Tile = moe::ExpertTile<Weights, 1, kExpertsTokens>;
    problem.row_blocks = ceil_div(p.hidden, Tile::kRows);
    return arch::launch(
        kName, experts_down_tile_kernel<Weights>,
        config_of(tiles_of(p) * problem.row_blocks, kExpertsThreads, sizeof(typename Tile::Shared)), stream,
        problem);
  });
}

Status launch_exact(const MoeExpertsParams& p, const Parts& w, Stream stream) {
  ExpertsExact problem = {
      .up = {matrix_of(p.weights.w1, p.inner, p.hidden), matrix_of(p.weights.w3, p.inner, p.hidden)},
      .down = matrix_of(p.weights.w2, p.hidden, p.inner),
      .plan = plan_of(p),
      .x = static_cast<const float*>(p.input.x),
      .routing = p.routing,
      .h = static_cast<float*>(w.h),
      .y = static_cast<float*>(p.y),
      .limit = p.limit,
      .hidden = p.hidden,
      .inner = p.inner,
      .x_stride = stride_or(p.input.x_stride, p.hidden),
      .y_stride = stride_or(p.y_stride, p.hidden),
      .row_blocks = ceil_div(p.inner, kExactExpertWarps * kExactExpertRows)};
  constexpr int kThreads = kExactExpertWarps * arch::kWarpThreads;
  const Status s = arch::launch(kName, experts_exact_kernel<true>,
                                config_of(tiles_of(p) * problem.row_blocks, kThreads), stream, problem);
  if (!s.ok()) return s;
  problem.row_blocks = ceil_div(p.hidden, kExactExpertWarps * kExactExpertRows);
  return arch::launch(kName, experts_exact_kernel<false>,
                      config_of(tiles_of(p) * problem.row_blocks, kThreads), stream, problem);
}

template <class C>
void check_sizes(C& c, const MoeExpertsParams& p) {
  c.template require<"tokens", "must be 0 .. 2^24">(p.tokens >= 0 && p.tokens <= kMaxTokens, p.tokens,
                                                    kMaxTokens);
  c.template require<"k", "must be 1 .. 16">(p.k >= 1 && p.k <= 16, p.k, 16);
  c.template require<"experts", "must be 1 .. 1024">(p.experts >= 1 && p.experts <= 1024, p.experts, 1024);
  c.template require<"tile_rows", "must be 1 .. 32">(p.tile_rows >= 1 && p.tile_rows <= kExpertsTokens,
                                                     p.tile_rows, kExpertsTokens, Code::kUnsupported);
  c.template require<"hidden", "must be 1 .. 2^20">(p.hidden >= 1 && p.hidden <= kMaxChannels, p.hidden,
                                                    kMaxChannels);
  c.template require<"inner", "must be 1 .. 2^20">(p.inner >= 1 && p.inner <= kMaxChannels, p.inner,
                                                   kMaxChannels);
  c.template require<"limit", "must not be negative">(p.limit >= 0.0f);
  c.template require<"dtype", "has no instance in this build">(
      p.dtype == DType::kBf16 || (kHasF32 && p.dtype == DType::kF32), static_cast<std::int64_t>(p.dtype), 0,
      Code::kUnsupported);
  if (!c.ok()) return;
  const MoePlan& plan = p.plan;
  const bool none = !plan.offsets && !plan.pair_of && !plan.tile_offsets && !plan.tile_expert;
  c.template require<"plan", "must be whole, or all null with experts = k = 1">(
      none ? p.experts == 1 && p.k == 1
           : plan.offsets && plan.tile_offsets && (p.tokens == 0 || (plan.pair_of && plan.tile_expert)));
  c.template stride<"y_stride">(p.y_stride, p.hidden);
}

Status check(const MoeExpertsParams& p, const Parts& w) {
  Checks<"moe_experts"> c;
  const bool f32 = p.dtype == DType::kF32;
  check_sizes(c, p);
  if (!c.ok()) return c.status();
  c.require<"weights.w3.format", "must be that of w1">(p.weights.w1.format == p.weights.w3.format,
                                                       static_cast<std::int64_t>(p.weights.w3.format),
                                                       static_cast<std::int64_t>(p.weights.w1.format));
  check_weights<"weights">(c, p.weights, p.hidden, p.inner, f32);
  if (!f32) {
    c.require<"hidden", "must be a multiple of 8">(p.hidden % 8 == 0, p.hidden, 8, Code::kUnsupported);
    c.require<"inner", "must be a multiple of 8">(p.inner % 8 == 0, p.inner, 8, Code::kUnsupported);
  }
  check_input(c, p.input, p.tokens, p.hidden, quantises(p.weights.w1.format), f32);
  if (!c.ok() || p.tokens == 0) return c.status();
  c.pointer<"y">(p.y, f32 ? 4 : 2);
  check_input_pointers(c, p.input, f32);
  c.optional<"routing">(p.routing, alignof(float));
  check_weights_pointers<"weights">(c, p.weights, f32);
  c.pointer<"workspace">(p.workspace, kWorkspaceAlignment);
  c.require<"workspace_bytes", "must be at least moe_experts_workspace_bytes">(
      p.workspace_bytes >= w.bytes, static_cast<std::int64_t>(p.workspace_bytes),
      static_cast<std::int64_t>(w.bytes), Code::kWorkspaceTooSmall);
  const std::int64_t rows = f32 ? kExactExpertWarps * kExactExpertRows : linear::kMmaRows;
  std::int64_t blocks = tiles_of(p) * ceil_div(std::max(p.hidden, p.inner), rows);
  blocks = std::max(blocks, ceil_div(p.tokens * ceil_div(p.hidden, kExpertsSpan), kExpertsWarps));
  c.require<"tokens", "and rows must fit a grid of 2^31-1 blocks">(blocks <= INT32_MAX, blocks, INT32_MAX);
  return c.status();
}

}  // namespace

std::size_t moe_experts_workspace_bytes(const MoeExpertsParams& p) noexcept {
  return parts(p, nullptr).bytes;
}

DSV4_OP(moe_experts, MoeExpertsParams) {
  const Parts w = parts(p, p.workspace);
  const Status s = check(p, w);
  if (!s.ok() || p.tokens == 0) return s;
  if (p.dtype == DType::kF32) {
    if constexpr (kHasF32) return launch_exact(p, w, stream);
  }
  const ExpertsProblem problem = problem_of(p, w);
  return streams(p) ? launch_stream(p, problem, stream) : launch_tile(p, w, problem, stream);
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
