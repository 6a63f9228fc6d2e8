// The ops of the kit, each defined in the file of its stage.
#pragma once

#include "reference/vectors/problem.hpp"

namespace dsv4::reference::vectors {

Op rms_norm_op();
Op act_quant_op();
Op rope_op();
Op hadamard_op();
Op mhc_pre_op();
Op mhc_post_op();
Op mhc_head_op();
Op attn_q_proj_op();
Op attn_kv_proj_op();
Op attn_compress_op();
Op attn_index_prep_op();
Op attn_index_scores_op();
Op visibility_op();
Op attn_select_op();
Op attn_attend_op();
Op attn_out_proj_op();
Op moe_gate_op();
Op moe_experts_op();
Op moe_combine_op();
Op mtp_input_op();
Op lm_head_op();

}  // namespace dsv4::reference::vectors
