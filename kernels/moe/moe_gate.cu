// Op moe_gate: logits by a linear, then one warp routes a token.
#include <dsv4/arch/atomic.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/core/workspace.hpp>
#include <dsv4/linear/dot_tile.cuh>
#include <dsv4/moe/gate.cuh>
#include <dsv4/ops/moe_route.hpp>

#include "kernels/common/checks.hpp"
#include "kernels/common/nan_guard.hpp"

#include <type_traits>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / arch::kWarpThreads;
constexpr int kMaxExperts = 1024;

static_assert(static_cast<int>(GateScore::kSqrtSoftplus) == static_cast<int>(moe::ScoreKind::kSqrtSoftplus));
static_assert(static_cast<int>(GateScore::kSigmoid) == static_cast<int>(moe::ScoreKind::kSigmoid));
static_assert(static_cast<int>(GateScore::kSoftmax) == static_cast<int>(moe::ScoreKind::kSoftmax));

// The experts that a token's row of the table names; an id or an entry out of range raises the flag.
DSV4_DEVICE void read_table(std::int32_t (&chosen)[moe::kMaxActive], const MoeGateParams& p, std::int64_t t) {
  const std::int64_t id = p.wide_ids ? static_cast<const std::int64_t*>(p.token_ids)[t]
                                     : static_cast<const std::int32_t*>(p.token_ids)[t];
  const bool known = id >= 0 && id < p.vocab;
  bool bad = !known;
  DSV4_UNROLL
  for (int j = 0; j < moe::kMaxActive; ++j) {
    chosen[j] = -1;
    if (!known || j >= p.k) continue;
    const std::int64_t e = p.wide_table ? static_cast<const std::int64_t*>(p.table)[id * p.k + j]
                                        : static_cast<const std::int32_t*>(p.table)[id * p.k + j];
    if (e >= 0 && e < p.experts)
      chosen[j] = static_cast<std::int32_t>(e);
    else
      bad = true;
  }
  // The same word from every token: which of them comes first does not matter.
  if (bad && arch::lane_id() == 0) arch::atomic_or(reinterpret_cast<std::uint32_t*>(p.error), 1u);
}

template <int kPerLane>
DSV4_KERNEL(kThreads)
moe_route_kernel(const DSV4_GRID_CONSTANT MoeGateParams p, const float* logits) {
  arch::wait_for_previous_grid();
  const std::int64_t t = std::int64_t{arch::block_idx().x} * kWarps + arch::warp_id();
  if (t >= p.tokens) return;
  moe::WarpScores<kPerLane> scores;
  scores.load(logits + t * p.experts, p.experts, static_cast<moe::ScoreKind>(p.score));
  if (p.scores) scores.store(p.scores + t * p.experts, p.experts);
  std::int32_t chosen[moe::kMaxActive];
  if (p.table)
    read_table(chosen, p, t);
  else
    moe::choose_experts(chosen, scores, p.bias, p.experts, p.k);
  moe::write_route(p.idx + t * p.k, p.weights + t * p.k, chosen, scores, p.k, p.route_scale);
}

// Logits in the canonical order, for types that linear_bf16 does not take. Grid: (tokens, experts / kTile).
constexpr int kTile = 4;

template <class T, class TGate>
DSV4_KERNEL(kThreads)
moe_logits_kernel(const DSV4_GRID_CONSTANT MoeGateParams p, float* logits, std::int64_t x_stride,
                  std::int64_t gate_stride) {
  arch::wait_for_previous_grid();
  const std::int64_t t = arch::block_idx().x;
  const int e0 = (static_cast<int>(arch::block_idx().y) * kWarps + arch::warp_id()) * kTile;
  if (e0 >= p.experts) return;
  const T* x[1] = {static_cast<const T*>(p.x) + t * x_stride};
  const TGate* w[kTile];
  DSV4_UNROLL
  for (int i = 0; i < kTile; ++i)
    w[i] =
        static_cast<const TGate*>(p.gate.data) + (e0 + i < p.experts ? e0 + i : p.experts - 1) * gate_stride;
  float sum[1][kTile];
  linear::warp_dot_tile(sum, x, w, static_cast<int>(p.hidden));
  DSV4_UNROLL
  for (int i = 0; i < kTile; ++i)
    if (arch::lane_id() == i && e0 + i < p.experts) logits[t * p.experts + e0 + i] = sum[0][i];
}

template <class T, class TGate>
Status canonical_logits(const MoeGateParams& p, float* logits, Stream stream) {
  return arch::launch(
      "moe_gate", moe_logits_kernel<T, TGate>,
      {.grid = {static_cast<unsigned>(p.tokens),
                static_cast<unsigned>((p.experts + kWarps * kTile - 1) / (kWarps * kTile)), 1},
       .block = {kThreads, 1, 1},
       .overlap_previous = true},
      stream, p, logits, kernels::stride_or(p.x_stride, p.hidden),
      kernels::stride_or(p.gate.stride, p.hidden));
}

LinearBf16Params logits_params(const MoeGateParams& p) {
  return {.input = {.x = p.x, .x_stride = p.x_stride},
          .weight = p.gate,
          .tokens = p.tokens,
          .n = p.experts,
          .k = p.hidden,
          .y_type = DType::kF32};
}

// Tensor cores take bf16 alone; rows of other lengths than whole 16-byte vectors are theirs neither.
bool by_tensor_cores(const MoeGateParams& p) {
  return p.dtype == DType::kBf16 && p.gate.format == WeightFormat::kBf16 && p.hidden % 8 == 0 &&
         p.x_stride % 8 == 0 && p.gate.stride % 8 == 0 && kernels::is_aligned(p.x, 16) &&
         kernels::is_aligned(p.gate.data, 16);
}

struct Parts {
  float* logits;      // [tokens, experts]
  std::byte* linear;  // workspace of linear_bf16
  std::size_t linear_bytes, bytes;
};
Parts parts(const MoeGateParams& p, void* base_or_null) {
  Parts w = {};
  const bool sized = p.tokens > 0 && p.experts > 0 && p.hidden > 0;
  w.linear_bytes = sized && p.dtype == DType::kBf16 && p.gate.format == WeightFormat::kBf16
                       ? linear_bf16_workspace_bytes(logits_params(p))
                       : 0;
  Workspace walk(base_or_null);
  w.logits = walk.take<float>(sized ? p.tokens * p.experts : 0);
  w.linear = walk.take<std::byte>(static_cast<std::int64_t>(w.linear_bytes));
  w.bytes = walk.bytes();
  return w;
}

}  // namespace

std::size_t moe_gate_workspace_bytes(const MoeGateParams& p) noexcept { return parts(p, nullptr).bytes; }

DSV4_OP(moe_gate, MoeGateParams) {
  using namespace kernels;
  Checks<"moe_gate"> checks;
  checks.require<"tokens", "must be 0 .. 2^31-1">(p.tokens >= 0 && p.tokens <= INT32_MAX, p.tokens,
                                                  INT32_MAX);
  checks.require<"hidden", "must be 1 .. 2^20">(p.hidden >= 1 && p.hidden <= (1 << 20), p.hidden, 1 << 20);
  checks.require<"experts", "must be 1 .. 1024">(p.experts >= 1 && p.experts <= kMaxExperts, p.experts,
                                                 kMaxExperts);
  checks.require<"k", "must be 1 .. 16">(p.k >= 1 && p.k <= moe::kMaxActive, p.k, moe::kMaxActive);
  checks.require<"k", "must not be more than experts">(p.k <= p.experts, p.k, p.experts);
  checks.stride<"x_stride">(p.x_stride, p.hidden);
  checks.stride<"gate.stride">(p.gate.stride, p.hidden);
  checks.require<"gate.format", "must be bf16 or f32">(
      p.gate.format == WeightFormat::kBf16 || p.gate.format == WeightFormat::kF32,
      static_cast<std::int64_t>(p.gate.format), 0, Code::kUnsupported);
  checks.require<"score", "is none that is known">(
      p.score >= GateScore::kSqrtSoftplus && p.score <= GateScore::kSoftmax,
      static_cast<std::int64_t>(p.score), 0, Code::kUnsupported);
  if (p.table) checks.require<"vocab", "must be at least 1 with table">(p.vocab >= 1, p.vocab, 1);
  if (!checks.ok()) return checks.status();
  return with_type(p.dtype, "moe_gate: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    if (p.tokens == 0) return {};
    const bool f32_gate = p.gate.format == WeightFormat::kF32;
    checks.pointer<"idx">(p.idx, sizeof(std::int32_t));
    checks.pointer<"weights">(p.weights, sizeof(float));
    checks.pointer<"x">(p.x, sizeof(T));
    checks.pointer<"gate.data">(p.gate.data, f32_gate ? sizeof(float) : sizeof(bf16));
    checks.optional<"scores">(p.scores, sizeof(float));
    checks.optional<"bias">(p.bias, sizeof(float));
    if (p.table) {
      checks.pointer<"error">(p.error, sizeof(std::int32_t));
      checks.pointer<"token_ids">(p.token_ids, p.wide_ids ? 8 : 4);
      checks.optional<"table">(p.table, p.wide_table ? 8 : 4);
    }
    const Parts w = parts(p, p.workspace);
    checks.pointer<"workspace">(p.workspace, kWorkspaceAlignment);
    checks.require<"workspace_bytes", "must be at least moe_gate_workspace_bytes">(
        p.workspace_bytes >= w.bytes, static_cast<std::int64_t>(p.workspace_bytes),
        static_cast<std::int64_t>(w.bytes), Code::kWorkspaceTooSmall);
    if (!checks.ok()) return checks.status();

    Status s;
    if (by_tensor_cores(p)) {
      LinearBf16Params linear = logits_params(p);
      linear.y = w.logits;
      linear.workspace = w.linear;
      linear.workspace_bytes = w.linear_bytes;
      s = linear_bf16(linear, stream);
    } else {
      s = f32_gate ? canonical_logits<T, float>(p, w.logits, stream)
                   : canonical_logits<T, bf16>(p, w.logits, stream);
    }
    if (!s.ok()) return s;
    const arch::LaunchConfig config = {
        .grid = {static_cast<unsigned>((p.tokens + kWarps - 1) / kWarps), 1, 1},
        .block = {kThreads, 1, 1},
        .overlap_previous = true};
    const float* logits = w.logits;
    if (p.experts <= 8 * arch::kWarpThreads)
      return arch::launch("moe_gate", moe_route_kernel<8>, config, stream, p, logits);
    if (p.experts <= 12 * arch::kWarpThreads)
      return arch::launch("moe_gate", moe_route_kernel<12>, config, stream, p, logits);
    return arch::launch("moe_gate", moe_route_kernel<32>, config, stream, p, logits);
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
