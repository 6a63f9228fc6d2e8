// The table of ops.
#include "reference/vectors/suite.hpp"

namespace dsv4::reference::vectors {

const std::vector<Op>& ops() {
  static const std::vector<Op> all = {
      rms_norm_op(),        act_quant_op(),         rope_op(),        hadamard_op(),     mhc_pre_op(),
      mhc_post_op(),        mhc_head_op(),          attn_q_proj_op(), attn_kv_proj_op(), attn_compress_op(),
      attn_index_prep_op(), attn_index_scores_op(), visibility_op(),  attn_select_op(),  attn_attend_op(),
      attn_out_proj_op(),   moe_gate_op(),          moe_experts_op(), moe_combine_op(),  mtp_input_op(),
      lm_head_op(),
  };
  return all;
}

const Op* find_op(std::string_view name) {
  for (const Op& op : ops())
    if (op.name == name) return &op;
  return nullptr;
}

}  // namespace dsv4::reference::vectors
