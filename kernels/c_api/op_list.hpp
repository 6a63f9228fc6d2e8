// Every op, in the order of the model: what the C functions, the capability query and the stubs of ops left
// out are made from.
#pragma once

// X(op, Params, bytes): `bytes` is DSV4_NO_BYTES, DSV4_WORKSPACE or DSV4_WORKSPACE_AND_STATE, a macro of the
// user's that says which byte queries the op has.
#define DSV4_FOR_EACH_OP(X)                                   \
  X(embed, EmbedParams, DSV4_NO_BYTES)                        \
  X(rms_norm, RmsNormParams, DSV4_NO_BYTES)                   \
  X(act_quant, ActQuantParams, DSV4_NO_BYTES)                 \
  X(rope, RopeParams, DSV4_NO_BYTES)                          \
  X(hadamard, HadamardParams, DSV4_NO_BYTES)                  \
  X(mhc_pre, MhcPreParams, DSV4_WORKSPACE)                    \
  X(mhc_post, MhcPostParams, DSV4_NO_BYTES)                   \
  X(mhc_post_pre, MhcPostPreParams, DSV4_WORKSPACE)           \
  X(mhc_head, MhcHeadParams, DSV4_WORKSPACE)                  \
  X(linear_bf16, LinearBf16Params, DSV4_WORKSPACE)            \
  X(linear_fp8, LinearFp8Params, DSV4_WORKSPACE)              \
  X(linear_multi, LinearMultiParams, DSV4_WORKSPACE)          \
  X(attn_q_proj, AttnQProjParams, DSV4_NO_BYTES)              \
  X(attn_kv_proj, AttnKvProjParams, DSV4_NO_BYTES)            \
  X(attn_index_prep, AttnIndexPrepParams, DSV4_NO_BYTES)      \
  X(attn_qk_prep, AttnQkPrepParams, DSV4_NO_BYTES)            \
  X(attn_compress, AttnCompressParams, DSV4_NO_BYTES)         \
  X(attn_index_scores, AttnIndexScoresParams, DSV4_NO_BYTES)  \
  X(attn_select, AttnSelectParams, DSV4_WORKSPACE)            \
  X(attn_index_select, AttnIndexSelectParams, DSV4_WORKSPACE) \
  X(attn_attend, AttnAttendParams, DSV4_WORKSPACE)            \
  X(attn_out_proj, AttnOutProjParams, DSV4_WORKSPACE)         \
  X(moe_gate, MoeGateParams, DSV4_WORKSPACE)                  \
  X(moe_dispatch, MoeDispatchParams, DSV4_NO_BYTES)           \
  X(moe_experts, MoeExpertsParams, DSV4_WORKSPACE)            \
  X(moe_combine, MoeCombineParams, DSV4_NO_BYTES)             \
  X(moe_fused, MoeFusedParams, DSV4_WORKSPACE_AND_STATE)      \
  X(lm_head, LmHeadParams, DSV4_NO_BYTES)
