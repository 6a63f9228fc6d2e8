// Ops linear_bf16, linear_fp8 and linear_multi: activations times the transpose of weight matrices.
#pragma once

#include <dsv4/ops/common.hpp>
#include <dsv4/ops/quantised.hpp>

#include <cstdint>

namespace dsv4::ops {

enum class WeightFormat : std::int32_t {
  kBf16 = 0,
  kFp8 = 1,  // e4m3, one UE8M0 scale per 128 x 128 tile
  kF32 = 2,  // with f32 activations (SIMT machine and tests)
  kFp4 = 3,  // e2m1, one UE8M0 scale per row and 32 columns: moe_experts alone
};

/// A weight matrix [n, k] as checkpoints store it.
struct LinearWeight {
  const void* data = nullptr;    // [n, k] bf16, e4m3 or f32; k contiguous; 16-byte aligned rows
  const void* scales = nullptr;  // kFp8: [ceil(n/128), ceil(k/128)] UE8M0; else null
  WeightFormat format = WeightFormat::kBf16;
  std::int64_t stride = 0;         // elements between rows, a multiple of 16 bytes; 0 = k
  std::int64_t scales_stride = 0;  // between rows of scales; 0 = ceil(k/128)
  // Of rows cut out of a larger matrix: how many rows lie between the first that `scales` describes and
  // data's first, so that row r takes the scales of tile row (scales_row + r) / 128. A multiple of 16 (f32:
  // any)
  std::int64_t scales_row = 0;
};

/// Activations [tokens, k], and what happens to them on the way in. With x_column (LinearPart) a row is
/// longer than k: as long as the last of the channels that any matrix takes. f32 activations are never
/// quantised: codes must be null, and `quantise` is ignored.
struct LinearInput {
  // [tokens, k] dtype, 16-byte aligned rows (f32: aligned to the type); may be null if every matrix takes
  // codes
  const void* x = nullptr;
  // [tokens, k] e4m3 of x, made before (act_quant, rms_norm, mhc_pre), 16-byte aligned rows; null: quantised
  // on the way in, where a matrix wants it
  const void* codes = nullptr;
  const void* scales = nullptr;        // of codes, one for every 128 channels; null without
  const float* norm_weight = nullptr;  // [k] f32: x goes through RMSNorm first, rounded to dtype; null = not.
  float norm_eps = 0.0f;               //   Then the norm is over exactly these k channels, and codes is null
  std::int64_t x_stride = 0;           // between tokens; 0 = k
  std::int64_t codes_stride = 0;       // between tokens; 0 = k
  std::int64_t scales_stride = 0;      // between rows of [tokens, blocks] or [blocks, tokens]; 0 = contiguous
  ScaleType scale_type = ScaleType::kUe8m0;
  ScaleLayout scale_layout = ScaleLayout::kRowMajor;
};

/// One matrix of linear_multi and where its product goes.
struct LinearPart {
  void* y = nullptr;  // [tokens, n] y_type
  LinearWeight weight = {};
  std::int64_t n = 0;           // 1 .. 2^30
  std::int64_t x_column = 0;    // first of the k channels of x that this matrix takes, a multiple of 128
  std::int64_t y_stride = 0;    // between tokens; 0 = n
  DType y_type = DType::kBf16;  // kBf16 rounds once; kF32 does not
  bool quantise = false;        // this matrix takes the activations quantised to FP8 per 128 channels
};

/// y[t,n] = round( sum_k x[t,k] * w[n,k] ), x rounded to bf16 or quantised as `input` says (spec section 2).
struct LinearBf16Params {
  void* y = nullptr;          // [tokens, n] y_type
  LinearInput input = {};     // without codes
  LinearWeight weight = {};   // kBf16 (or kF32)
  std::int64_t tokens = 0;    // 0 .. 2^31-1
  std::int64_t n = 0;         // 1 .. 2^30
  std::int64_t k = 0;         // 1 .. 2^20; a multiple of 8 (f32: any)
  std::int64_t y_stride = 0;  // between tokens; 0 = n
  DType dtype = DType::kBf16;
  DType y_type = DType::kBf16;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

/// The same with FP8 weights; activations quantised per 128 channels unless told otherwise.
struct LinearFp8Params {
  void* y = nullptr;  // [tokens, n] y_type
  LinearInput input = {};
  LinearWeight weight = {};    // kFp8
  std::int64_t tokens = 0;     // 0 .. 2^31-1
  std::int64_t n = 0;          // 1 .. 2^30
  std::int64_t k = 0;          // 1 .. 2^20; a multiple of 16 (f32: any)
  std::int64_t y_stride = 0;   // between tokens; 0 = n
  DType dtype = DType::kBf16;  // of x
  DType y_type = DType::kBf16;
  bool quantise = true;  // false: x as it is times the dequantised weights (Wo_a of published checkpoints)
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

/// Most matrices of one linear_multi: the groups of V4-Pro's Wo_a.
inline constexpr int kMaxLinearParts = 16;

/// Several matrices with the same k, of either format, times the same activations in one launch: Wq_a with
/// Wkv, the compressors' and the indexer's projections; or one matrix by groups of columns (Wo_a).
struct LinearMultiParams {
  LinearPart parts[kMaxLinearParts] = {};
  std::int32_t count = 0;  // 1 .. kMaxLinearParts
  LinearInput input = {};
  std::int64_t tokens = 0;  // 0 .. 2^31-1
  std::int64_t k = 0;       // of each part, 1 .. 2^20; a multiple of 8, or of 16 with FP8 weights (f32: any)
  DType dtype = DType::kBf16;  // of x
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

inline namespace DSV4_FLAVOUR {
/// Each y depends on its row of x and its row of w alone: one tensor-core shape, K order and promotion
/// interval (128) for every number of tokens, every chip, and whether alone or in linear_multi
/// (linear/mma_weights.cuh). A sum of 128 channels is scaled in fp32 as (sum * x's scale) * w's scale: exact
/// unless that leaves the normal range. Scales and codes that are NaN give NaNs. f32: the canonical order of
/// summation, bit for bit linear::tile; weights of any format. Deterministic; does not synchronise.
///
/// One launch without a workspace for up to 64 tokens, norm and quantisation included: blocks do both as
/// activations reach them. For more (f32: any number), activations that have to be normed or quantised are
/// prepared in the workspace by one launch for each of the two.
[[nodiscard]] DSV4_API Status linear_bf16(const LinearBf16Params& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API Status linear_fp8(const LinearFp8Params& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API Status linear_multi(const LinearMultiParams& p, Stream stream) noexcept;

/// Bytes of workspace, 256-byte aligned; 0 where none is needed. Pure; monotone in every size.
[[nodiscard]] DSV4_API std::size_t linear_bf16_workspace_bytes(const LinearBf16Params& p) noexcept;
[[nodiscard]] DSV4_API std::size_t linear_fp8_workspace_bytes(const LinearFp8Params& p) noexcept;
[[nodiscard]] DSV4_API std::size_t linear_multi_workspace_bytes(const LinearMultiParams& p) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
