// Op attn_out_proj: the way out of attention.
#pragma once

#include <dsv4/ops/cache.hpp>
#include <dsv4/ops/linear.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::ops {

/// y = Wo_b( Wo_a by groups( inverse RoPE(o) ) )               (spec section 5, steps 6 and 7):
///     z[t, g*R + r] = round_T( sum_k o[t, g*K + k] * wo_a[g*R + r, k] ),  K = heads * head_dim / groups
///     y[t, d] = round( sum z[t] . wo_b[d] ), z quantised to FP8 per 128 channels where wo_b is FP8
/// A tensor-parallel shard has whole groups, with their heads, their rows of wo_a (LinearWeight::scales_row)
/// and their columns of wo_b: data and scales begin at the first of them, the strides are the whole's. With
/// FP8 wo_b a shard's first column is a multiple of 128, so that z is quantised in the same blocks. A group
/// cannot be split: its rank channels would need adding up before they are rounded.
struct AttnOutProjParams {
  void* y = nullptr;        // [tokens, hidden] dtype, or f32 with y_f32
  const void* o = nullptr;  // [tokens, heads, head_dim] dtype; contiguous heads, 16-byte aligned rows
  LinearWeight wo_a = {};   // [groups * rank, heads * head_dim / groups], bf16 or FP8; o is NOT quantised
  LinearWeight wo_b = {};   // [hidden, groups * rank], FP8 (or bf16)
  const void* positions = nullptr;  // [tokens] position_type; with rotate_back
  RopeTable rope = {};              // with rotate_back
  std::int64_t tokens = 0;          // 0 .. 2^31-1
  std::int64_t hidden = 0;          // 1 .. 2^20
  std::int32_t heads = 0;           // 1 .. 128, a multiple of groups
  std::int32_t head_dim = 0;        // 512
  std::int32_t rope_dim = 0;        // 64
  std::int32_t groups = 0;          // 1 .. 16
  std::int32_t rank = 0;            // o_lora_rank, 1 .. 65536
  bool y_f32 = false;               // y is f32, not rounded: the partial sum of a shard of the groups
  bool rotate_back = false;         // o has not been turned back yet (attn_attend can do it)
  PositionType position_type = PositionType::kInt32;
  DType dtype = DType::kBf16;
  std::int64_t o_stride = 0;  // between tokens; 0 = heads * head_dim
  std::int64_t y_stride = 0;  // between tokens; 0 = hidden
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

inline namespace DSV4_FLAVOUR {
/// Two launches, three with rotate_back; one more where z of more than 64 tokens is quantised. Always needs
/// its workspace: z, and o turned back. Numerics, order and determinism of linear_multi. bf16: groups * rank
/// a multiple of 8, with FP8 wo_b of 16; with FP8 wo_a of several groups rank a multiple of 16.
[[nodiscard]] DSV4_API Status attn_out_proj(const AttnOutProjParams& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API std::size_t attn_out_proj_workspace_bytes(const AttnOutProjParams& p) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
