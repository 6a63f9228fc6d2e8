// Op moe_experts: the experts' two linears with the activation between them, over the rows of a plan.
#pragma once

#include <dsv4/ops/common.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/moe_route.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::ops {

/// One matrix [n, k] of every local expert, as checkpoints store it: that of expert e begins at byte
/// e * expert_stride of data, its scales at byte e * scales_expert_stride of scales; rows are contiguous.
struct ExpertMatrix {
  const void* data = nullptr;    // kFp4: [n, k/2] e2m1x2; kFp8: [n, k] e4m3; kBf16, kF32; 16-byte aligned
  const void* scales = nullptr;  // kFp4: [n, k/32] UE8M0; kFp8: [ceil(n/128), ceil(k/128)] UE8M0; else null
  WeightFormat format = WeightFormat::kFp4;
  std::int64_t expert_stride = 0;         // bytes, a multiple of 16; 0 = contiguous
  std::int64_t scales_expert_stride = 0;  // bytes; 0 = contiguous
};

/// W1 (gate) and W3 (up) [inner, hidden], of one format; W2 (down) [hidden, inner]; of every local expert.
struct ExpertWeights {
  ExpertMatrix w1 = {}, w3 = {}, w2 = {};
};

/// For each plan row r of expert e, with x the row of its token and w its routing weight:
///     g = round(W1 x), u = round(W3 x)          x quantised to FP8 per 128 channels with FP4 and FP8 weights
///     h = round( silu(min(g, limit)) * clamp(u, +-limit) * w )              (primitive moe::swiglu)
///     y[r] = round(W2 h)                        h quantised likewise, if W2 is FP4 or FP8
/// (spec section 7; primitive linear::tile)
struct MoeExpertsParams {
  void* y = nullptr;       // [plan rows, hidden] dtype, plan order; rows beyond the plan's are not written
  LinearInput input = {};  // [tokens, hidden], no norm; codes only where W1 and W3 are FP4 or FP8
  ExpertWeights weights = {};      // of experts without rows nothing is read
  const float* routing = nullptr;  // [tokens, k] f32, multiplies BEFORE W2; null = 1
  MoePlan plan = {};               // of moe_dispatch (read, all but counts and row_of); all null: every token
                                   // is a row of expert 0, as for a shared expert: experts = k = 1
  std::int64_t tokens = 0;         // 0 .. 2^24; tokens * k < 2^31
  std::int64_t hidden = 0;         // 1 .. 2^20; like inner a multiple of 16 bytes of weights; FP4: of 32
  std::int64_t inner = 0;          //   (f32: any; FP4: of 32)
  std::int32_t k = 0;              // 1 .. 16
  std::int32_t experts = 0;        // of the plan, 1 .. 1024
  std::int32_t tile_rows = 0;      // of the plan, 1 .. 32: see moe_tile_rows
  float limit = 0.0f;              // 0 = no clamp
  DType dtype = DType::kBf16;
  std::int64_t y_stride = 0;  // between rows; 0 = hidden
  void* workspace = nullptr;  // the activations between the linears
  std::size_t workspace_bytes = 0;
};

/// Plan rows a tile should cover. Up to 8: weights stream through blocks of few rows of them, whose warps
/// share the channels, so that a handful of experts keeps a device busy. Beyond: blocks of 128 rows of
/// weights, for up to 32 plan rows.
constexpr std::int32_t moe_tile_rows(std::int64_t tokens, std::int32_t k, std::int32_t experts) {
  // A tile for every expert that can have rows, and 16 or more blocks a tile.
  const std::int64_t pairs = tokens * k;
  return tokens <= 8 || (pairs <= 64 && pairs <= experts) ? 8 : 32;
}

inline namespace DSV4_FLAVOUR {
/// Each row of y depends on its token, its routing weight and its expert alone: one tensor-core shape, order
/// and promotion interval, those of the linear ops, for every batch, tile_rows and chip. FP4 weights give the
/// bits of an FP8 matrix that holds the same values; where the scales of 128 channels of a row lie more than
/// 2^64 apart, their four sums of 32 channels are promoted one by one instead. Scales and codes that are NaN
/// give NaNs. f32: the canonical order of summation, bit for bit linear::tile; weights of any format.
/// Deterministic; does not synchronise.
///
/// The weights of an expert are read once for each of its tiles. Two launches up to tile_rows 8 (unless
/// `hidden` or `inner` is so large that 8 rows do not fit a block's shared memory), or with bf16 or f32
/// weights; else three, the first of which quantises x.
[[nodiscard]] DSV4_API Status moe_experts(const MoeExpertsParams& p, Stream stream) noexcept;

/// Bytes of workspace, 256-byte aligned. Pure; depends on sizes, formats, dtype and tile_rows.
[[nodiscard]] DSV4_API std::size_t moe_experts_workspace_bytes(const MoeExpertsParams& p) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
