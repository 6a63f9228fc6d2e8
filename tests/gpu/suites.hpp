// The cases of tests/gpu, by stage. Each compares both sides (compare.hpp); small: few and small shapes, for
// what runs under compute-sanitizer.
#pragma once

#include "tests/gpu/compare.hpp"

namespace dsv4::gpu {

void compare_rows(Tally& tally, bool small);  // embed, norms, quantisers, RoPE, Hadamard, head
void compare_mhc(Tally& tally, bool small);
void compare_linear(Tally& tally, bool small);
void compare_attn_proj(Tally& tally, bool small);
void compare_attn_compress(Tally& tally, bool small);
void compare_attn_index(Tally& tally, bool small);
void compare_attn_attend(Tally& tally, bool small);
void compare_attn_out_proj(Tally& tally, bool small);
void compare_moe_route(Tally& tally, bool small);    // gate, dispatch, combine
void compare_moe_experts(Tally& tally, bool small);  // moe_experts, moe_fused

inline void compare_all(Tally& tally, bool small) {
  compare_rows(tally, small);
  compare_mhc(tally, small);
  compare_linear(tally, small);
  compare_attn_proj(tally, small);
  compare_attn_compress(tally, small);
  compare_attn_index(tally, small);
  compare_attn_attend(tally, small);
  compare_attn_out_proj(tally, small);
  compare_moe_route(tally, small);
  compare_moe_experts(tally, small);
}

}  // namespace dsv4::gpu
