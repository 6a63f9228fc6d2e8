// Ops moe_gate, moe_dispatch and moe_combine: which experts a token goes to, the plan of the batch, and the
// experts' outputs added up.
#pragma once

#include <dsv4/ops/common.hpp>
#include <dsv4/ops/linear.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::ops {

/// Score of an expert from its logit u.
enum class GateScore : std::int32_t {
  kSqrtSoftplus = 0,  // sqrt(softplus(u)): the model's
  kSigmoid = 1,
  kSoftmax = 2,  // over all experts
};

/// u[t,e] = x[t] . gate[e] in fp32; score = s(u); then the k experts of largest score + bias (the lower index
/// among equals), or, where `table` is given, the experts that the token's row of it names. Weights: the
/// UNBIASED scores of the chosen, divided by their sum, times route_scale      (primitives moe::gate_scored,
/// moe::gate_hashed; spec section 7)
struct MoeGateParams {
  std::int32_t* idx = nullptr;    // [tokens, k]; -1 where fewer than k experts have a score that is a number
  float* weights = nullptr;       // [tokens, k] f32
  float* scores = nullptr;        // [tokens, experts] f32; null = not wanted
  std::int32_t* error = nullptr;  // set to 1 if a token id or a table entry is out of range: that token's idx
                                  // are -1 and its weights 0 (that slot's alone, for an entry). Never cleared
                                  // here. Required with table
  const void* x = nullptr;        // [tokens, hidden] dtype
  LinearWeight gate = {};         // [experts, hidden] bf16 or f32
  const float* bias = nullptr;    // [experts] f32, selects and does nothing else; null = none
  const void* table = nullptr;    // [vocab, k] table_type, `tid2eid`; a row may name an expert twice
  const void* token_ids = nullptr;  // [tokens] id_type, with table
  std::int64_t tokens = 0;          // 0 .. 2^31-1
  std::int64_t hidden = 0;
  std::int64_t vocab = 0;    // with table
  std::int32_t experts = 0;  // 1 .. 1024
  std::int32_t k = 0;        // 1 .. 16, <= experts
  float route_scale = 1.0f;
  GateScore score = GateScore::kSqrtSoftplus;
  bool wide_table = false;  // table is int64, else int32
  bool wide_ids = false;    // token_ids are int64, else int32
  DType dtype = DType::kBf16;
  std::int64_t x_stride = 0;  // between tokens; 0 = hidden
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

/// Plan of a batch: the (token, slot) pairs sorted by expert, stably (primitive moe::dispatch), and the tiles
/// that cover its rows, so that a grouped linear can be launched without the host knowing the counts.
struct MoePlan {
  std::int32_t* counts = nullptr;   // [experts] rows of expert first_expert + e
  std::int32_t* offsets = nullptr;  // [experts + 1] its first plan row; the last = number of plan rows
  std::int32_t* pair_of = nullptr;  // [tokens * k] pair (t * k + j) of each plan row
  std::int32_t* row_of = nullptr;   // [tokens * k] plan row of each pair; -1 = not one of these experts
  std::int32_t* tile_offsets =
      nullptr;                          // [experts + 1] first tile of each expert; the last = number of tiles
  std::int32_t* tile_expert = nullptr;  // [moe_max_tiles] expert (0 .. experts - 1) of each tile; -1 beyond
};

struct MoeDispatchParams {
  MoePlan plan = {};
  const std::int32_t* idx = nullptr;  // [tokens, k]; outside [first_expert, first_expert + experts): left out
  std::int64_t tokens = 0;            // 0 .. 2^24; tokens * k < 2^31
  std::int32_t k = 0;                 // 1 .. 16
  std::int32_t first_expert = 0;      // this rank's experts
  std::int32_t experts = 0;           // 1 .. 1024
  std::int32_t tile_rows = 0;         // plan rows a tile covers, 1 .. 1024; a tile holds rows of one expert
};

/// Most tiles that any routing of `tokens` tokens needs: the length of tile_expert.
constexpr std::int64_t moe_max_tiles(std::int64_t tokens, std::int32_t k, std::int32_t experts,
                                     std::int32_t tile_rows) {
  const std::int64_t pairs = tokens * k;
  return pairs / tile_rows + (pairs < experts ? pairs : experts);
}

/// out[t,d] = round( sum_j y[row_of[t,j], d] + shared[t,d] ): fp32, slots in order, then the shared expert
/// (primitive moe::combine)
struct MoeCombineParams {
  void* out = nullptr;           // [tokens, hidden] dtype, or f32 with out_f32; may be `shared` itself
  const void* y = nullptr;       // [rows, hidden] dtype, plan order; the routing weight is in it
  const void* shared = nullptr;  // [tokens, hidden] dtype; null = no shared expert
  const std::int32_t* row_of = nullptr;  // [tokens, k]; outside [0, rows) adds nothing
  std::int64_t tokens = 0;               // 0 .. 2^31-1
  std::int64_t rows = 0;                 // rows of y there is memory for
  std::int64_t hidden = 0;
  std::int32_t k = 0;  // 1 .. 16
  DType dtype = DType::kBf16;
  bool out_f32 = false;            // out is f32, not rounded: the partial sum of a shard of the experts
  std::int64_t out_stride = 0;     // between tokens; 0 = hidden
  std::int64_t y_stride = 0;       // between rows; 0 = hidden
  std::int64_t shared_stride = 0;  // between tokens; 0 = hidden
};

inline namespace DSV4_FLAVOUR {
/// Logits by linear_bf16's body, so a token's routing depends on that token alone. Exact top-k. Two launches.
/// Deterministic; does not synchronise.
[[nodiscard]] DSV4_API Status moe_gate(const MoeGateParams& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API std::size_t moe_gate_workspace_bytes(const MoeGateParams& p) noexcept;

/// A counting sort without atomics or workspace. Deterministic; does not synchronise.
[[nodiscard]] DSV4_API Status moe_dispatch(const MoeDispatchParams& p, Stream stream) noexcept;

/// Deterministic; no workspace; does not synchronise. Fastest where rows are multiples of 16 bytes.
[[nodiscard]] DSV4_API Status moe_combine(const MoeCombineParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
