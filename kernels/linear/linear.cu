// Ops linear_bf16, linear_fp8 and linear_multi: one launcher; the first two are its one-part case.
#include <dsv4/arch/launch.cuh>
#include <dsv4/ops/rms_norm.hpp>

#include "kernels/common/nan_guard.hpp"
#include "kernels/linear/plan.hpp"

#include <algorithm>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using namespace kernels;

constexpr std::int64_t kStreamTokens = 32;  // up to here weights may stream through registers
// Row groups from which whole blocks of 128 rows fill a device, so that more than 8 tokens need not be read
// again for every 16 rows.
constexpr std::int64_t kTileGroups = 1024;
// Blocks of the stream kernel: a few for each multiprocessor; more would only prepare activations more often.
constexpr std::int64_t kStreamBlocks = 512;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

linear::MmaInput input_view(const LinearMultiParams& p) {
  const LinearInput& in = p.input;
  const std::int64_t channels = input_channels(p, false);
  const bool by_rows = in.scale_layout == ScaleLayout::kRowMajor;
  const std::int64_t scales = stride_or(in.scales_stride, by_rows ? linear_chunks(channels) : p.tokens);
  return {.x = static_cast<const bf16*>(in.x),
          .codes = static_cast<const e4m3*>(in.codes),
          .scales = {in.scales, by_rows ? scales : 1, by_rows ? 1 : scales, in.scale_type == ScaleType::kF32},
          .weight = in.norm_weight,
          .eps = in.norm_eps,
          .tokens = p.tokens,
          .x_stride = stride_or(in.x_stride, channels),
          .codes_stride = stride_or(in.codes_stride, channels)};
}

/// The matrices of a call, dealt to row blocks of `block_rows` rows.
LinearProblem problem_of(const LinearMultiParams& p, const PreparedInput& prepared, std::int64_t block_rows) {
  LinearProblem problem = {};
  problem.input = input_view(p);
  problem.tokens = p.tokens;
  problem.k = p.k;
  problem.count = p.count;
  problem.block_groups = block_rows / linear::kMmaRows;
  const bool f32 = p.dtype == DType::kF32;
  for (int i = 0; i < p.count; ++i) {
    const LinearPart& part = p.parts[i];
    LinearMatrix& m = problem.matrices[i];
    m.data = part.weight.data;
    m.scales = static_cast<const e8m0*>(part.weight.scales);
    m.rows = part.n;
    m.stride = stride_or(part.weight.stride, p.k);
    m.scales_stride = stride_or(part.weight.scales_stride, linear_chunks(p.k));
    m.scales_row = part.weight.scales_row;
    m.format = part.weight.format;
    m.quantise = part.quantise && !f32;
    m.x_column = part.x_column;
    if (m.quantise && prepared.quantised.values) {
      m.x = prepared.quantised.values + part.x_column;
      m.x_stride = prepared.quantised.stride;
      m.x_scales_stride = prepared.quantised.scales_stride;
      m.x_scales = prepared.quantised.scales + part.x_column / linear::kMmaChunk * m.x_scales_stride;
    } else {
      const void* rows = prepared.normed ? prepared.normed : p.input.x;
      m.x = f32    ? static_cast<const void*>(static_cast<const float*>(rows) + part.x_column)
            : rows ? static_cast<const void*>(static_cast<const bf16*>(rows) + part.x_column)
                   : nullptr;  // all parts take codes
      m.x_stride = prepared.normed ? p.k : problem.input.x_stride;
    }
    m.y = part.y;
    m.y_stride = stride_or(part.y_stride, part.n);
    m.y_f32 = part.y_type == DType::kF32;
    m.y_pairs = m.y_stride % 2 == 0 && is_aligned(part.y, m.y_f32 ? 8 : 4);
    m.first_block = problem.row_blocks;
    problem.row_blocks += ceil_div(part.n, block_rows);
  }
  return problem;
}

// What the product reads, in the workspace.
Status prepare(const char* name, const LinearMultiParams& p, const PreparedInput& prepared, Stream stream) {
  linear::MmaInput in = input_view(p);
  if (prepared.normed) {
    const Status s = rms_norm({.out = prepared.normed,
                               .x = p.input.x,
                               .weight = p.input.norm_weight,
                               .rows = p.tokens,
                               .n = p.k,
                               .eps = p.input.norm_eps,
                               .dtype = p.dtype,
                               .x_stride = in.x_stride},
                              stream);
    if (!s.ok()) return s;
    in.x = static_cast<const bf16*>(prepared.normed);
    in.x_stride = p.k;
  }
  if (!prepared.quantised.values) return {};
  const std::int64_t pieces = p.tokens * ceil_div(prepared.quantised.channels, kExpandChannels);
  return arch::launch(name, linear_expand_kernel,
                      {.grid = {static_cast<unsigned>(ceil_div(pieces, kLinearWarps)), 1, 1},
                       .block = {kLinearThreads, 1, 1},
                       .overlap_previous = true},
                      stream, in, prepared.quantised);
}

template <int kTiles, Preparation kPreparation>
Status launch_stream(const char* name, const LinearProblem& problem, Stream stream) {
  using Shared = typename linear::MmaStream<linear::Fp8Weights, kTiles>::Shared;
  const std::int64_t rows =
      kPreparation == Preparation::kStaged
          ? linear::StagedRows<linear::Fp8Weights>::bytes(problem.tokens, linear_chunks(problem.k))
          : 0;
  return arch::launch(name, linear_stream_kernel<kTiles, kPreparation>,
                      {.grid = {static_cast<unsigned>(problem.row_blocks), 1, 1},
                       .block = {kLinearThreads, 1, 1},
                       .shared_bytes = sizeof(Shared) + static_cast<std::size_t>(rows),
                       .overlap_previous = true},
                      stream, problem);
}

template <int kTokens, Preparation kPreparation>
Status launch_tile(const char* name, const LinearProblem& problem, Stream stream) {
  using Shared = typename linear::MmaTile<linear::Fp8Weights, kTokens>::Shared;
  return arch::launch(
      name, linear_tile_kernel<kTokens, kPreparation>,
      {.grid = {static_cast<unsigned>(problem.row_blocks * ceil_div(problem.tokens, kTokens)), 1, 1},
       .block = {kLinearThreads, 1, 1},
       .shared_bytes = sizeof(Shared),
       .overlap_previous = true},
      stream, problem);
}

template <Preparation kPreparation>
Status launch_streams(const char* name, const LinearProblem& problem, Stream stream) {
  return problem.tokens <= 8    ? launch_stream<1, kPreparation>(name, problem, stream)
         : problem.tokens <= 16 ? launch_stream<2, kPreparation>(name, problem, stream)
                                : launch_stream<4, kPreparation>(name, problem, stream);
}

template <Preparation kPreparation>
Status launch_tiles(const char* name, const LinearProblem& problem, Stream stream) {
  return problem.tokens <= 32 ? launch_tile<32, kPreparation>(name, problem, stream)
                              : launch_tile<64, kPreparation>(name, problem, stream);
}

/// Parameters that have been checked.
Status launch_linear(const char* name, const LinearMultiParams& p, Stream stream) {
  std::int64_t groups = 0;
  for (int i = 0; i < p.count; ++i) groups += ceil_div(p.parts[i].n, linear::kMmaRows);
  Workspace w(p.workspace);
  const PreparedInput prepared = take_prepared(w, p);
  const Status s = prepare(name, p, prepared, stream);
  if (!s.ok()) return s;
  if (p.dtype == DType::kF32) {
    if constexpr (kHasF32) {
      const LinearProblem problem = problem_of(p, prepared, kExactRows);
      return arch::launch(
          name, linear_exact_kernel,
          {.grid = {static_cast<unsigned>(problem.row_blocks * ceil_div(p.tokens, kExactTokens)), 1, 1},
           .block = {kExactRows * kExactTokens, 1, 1},
           .overlap_previous = true},
          stream, problem);
    }
  }
  // By its warps a stream takes a row apart, so it cannot norm one as it arrives.
  const Preparation how = preparation(p);
  const bool stream_rows =
      (p.tokens <= linear::kMmaTokens || (p.tokens <= kStreamTokens && groups < kTileGroups)) &&
      !(how == Preparation::kArriving && p.input.norm_weight);
  if (stream_rows) {
    const std::int64_t block_groups = std::max<std::int64_t>(1, ceil_div(groups, kStreamBlocks));
    const LinearProblem problem = problem_of(p, prepared, block_groups * linear::kMmaRows);
    if (how == Preparation::kStaged) return launch_stream<1, Preparation::kStaged>(name, problem, stream);
    return how == Preparation::kArriving ? launch_streams<Preparation::kArriving>(name, problem, stream)
                                         : launch_streams<Preparation::kNone>(name, problem, stream);
  }
  const LinearProblem problem = problem_of(p, prepared, linear::MmaTile<linear::Fp8Weights, 64>::kRows);
  return how == Preparation::kArriving ? launch_tiles<Preparation::kArriving>(name, problem, stream)
                                       : launch_tiles<Preparation::kNone>(name, problem, stream);
}

template <Text kOp>
Status run(const LinearMultiParams& p, Stream stream) {
  Checks<kOp> c;
  check_linear(c, p);
  if (!c.ok()) return c.status();
  if (p.tokens == 0) return {};
  std::int64_t blocks = ceil_div(p.tokens * ceil_div(input_channels(p, true), kExpandChannels), kLinearWarps);
  std::int64_t row_blocks = 0;
  const bool f32 = p.dtype == DType::kF32;
  for (int i = 0; i < p.count; ++i)
    row_blocks += ceil_div(p.parts[i].n, f32 ? kExactRows : linear::kMmaRows * kLinearWarps);
  blocks = std::max(blocks, row_blocks * ceil_div(p.tokens, f32 ? kExactTokens : kStreamTokens));
  c.template require<"tokens", "and rows must fit a grid of 2^31-1 blocks">(blocks <= INT32_MAX, blocks,
                                                                            INT32_MAX);
  if (!c.ok()) return c.status();
  return launch_linear(kOp.text, p, stream);
}

LinearMultiParams multi(const LinearBf16Params& p) {
  LinearMultiParams m = {.count = 1,
                         .input = p.input,
                         .tokens = p.tokens,
                         .k = p.k,
                         .dtype = p.dtype,
                         .workspace = p.workspace,
                         .workspace_bytes = p.workspace_bytes};
  m.parts[0] = {.y = p.y, .weight = p.weight, .n = p.n, .y_stride = p.y_stride, .y_type = p.y_type};
  return m;
}

LinearMultiParams multi(const LinearFp8Params& p) {
  LinearMultiParams m = {.count = 1,
                         .input = p.input,
                         .tokens = p.tokens,
                         .k = p.k,
                         .dtype = p.dtype,
                         .workspace = p.workspace,
                         .workspace_bytes = p.workspace_bytes};
  m.parts[0] = {.y = p.y,
                .weight = p.weight,
                .n = p.n,
                .y_stride = p.y_stride,
                .y_type = p.y_type,
                .quantise = p.quantise};
  return m;
}

}  // namespace

DSV4_OP(linear_bf16, LinearBf16Params) {
  DSV4_REQUIRE(p.weight.format != WeightFormat::kFp8,
               unsupported("linear_bf16: weight.format must be bf16, or f32 with f32 activations",
                           static_cast<std::int64_t>(p.weight.format)));
  DSV4_REQUIRE(!p.input.codes, invalid_argument("linear_bf16: input.codes must be null"));
  return run<"linear_bf16">(multi(p), stream);
}
DSV4_OP(linear_fp8, LinearFp8Params) {
  DSV4_REQUIRE(
      p.weight.format == WeightFormat::kFp8,
      unsupported("linear_fp8: weight.format must be FP8", static_cast<std::int64_t>(p.weight.format)));
  return run<"linear_fp8">(multi(p), stream);
}
DSV4_OP(linear_multi, LinearMultiParams) { return run<"linear_multi">(p, stream); }

std::size_t linear_bf16_workspace_bytes(const LinearBf16Params& p) noexcept {
  return linear_workspace_bytes(multi(p));
}
std::size_t linear_fp8_workspace_bytes(const LinearFp8Params& p) noexcept {
  return linear_workspace_bytes(multi(p));
}
std::size_t linear_multi_workspace_bytes(const LinearMultiParams& p) noexcept {
  return linear_workspace_bytes(p);
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
