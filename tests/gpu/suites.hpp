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

}  // namespace dsv4::gpu
