// Compiled once for each flavour.
#include "tests/gpu/op_table.hpp"

namespace dsv4::gpu::DSV4_FLAVOUR {

const OpTable& op_table() {
  static constexpr OpTable table = {
      .embed = &ops::embed,
      .rms_norm = &ops::rms_norm,
      .act_quant = &ops::act_quant,
      .rope = &ops::rope,
      .hadamard = &ops::hadamard,
      .lm_head = &ops::lm_head,
      .mhc_post = &ops::mhc_post,
      .mhc_pre = &ops::mhc_pre,
      .mhc_post_pre = &ops::mhc_post_pre,
      .mhc_head = &ops::mhc_head,
      .mhc_pre_workspace_bytes = &ops::mhc_pre_workspace_bytes,
      .mhc_post_pre_workspace_bytes = &ops::mhc_post_pre_workspace_bytes,
      .mhc_head_workspace_bytes = &ops::mhc_head_workspace_bytes,
      .linear_bf16 = &ops::linear_bf16,
      .linear_fp8 = &ops::linear_fp8,
      .linear_multi = &ops::linear_multi,
      .linear_bf16_workspace_bytes = &ops::linear_bf16_workspace_bytes,
      .linear_fp8_workspace_bytes = &ops::linear_fp8_workspace_bytes,
      .linear_multi_workspace_bytes = &ops::linear_multi_workspace_bytes,
      .attn_q_proj = &ops::attn_q_proj,
      .attn_kv_proj = &ops::attn_kv_proj,
      .attn_index_prep = &ops::attn_index_prep,
      .attn_qk_prep = &ops::attn_qk_prep,
      .attn_compress = &ops::attn_compress,
      .attn_compress_state_bytes = &ops::attn_compress_state_bytes,
      .attn_index_scores = &ops::attn_index_scores,
      .attn_select = &ops::attn_select,
      .attn_index_select = &ops::attn_index_select,
      .attn_select_workspace_bytes = &ops::attn_select_workspace_bytes,
      .attn_index_select_workspace_bytes = &ops::attn_index_select_workspace_bytes,
      .attn_attend = &ops::attn_attend,
      .attn_attend_workspace_bytes = &ops::attn_attend_workspace_bytes,
      .attn_out_proj = &ops::attn_out_proj,
      .attn_out_proj_workspace_bytes = &ops::attn_out_proj_workspace_bytes,
      .moe_gate = &ops::moe_gate,
      .moe_dispatch = &ops::moe_dispatch,
      .moe_experts = &ops::moe_experts,
      .moe_combine = &ops::moe_combine,
      .moe_fused = &ops::moe_fused,
      .moe_gate_workspace_bytes = &ops::moe_gate_workspace_bytes,
      .moe_experts_workspace_bytes = &ops::moe_experts_workspace_bytes,
      .moe_fused_state_bytes = &ops::moe_fused_state_bytes,
      .moe_fused_workspace_bytes = &ops::moe_fused_workspace_bytes};
  return table;
}

}  // namespace dsv4::gpu::DSV4_FLAVOUR
