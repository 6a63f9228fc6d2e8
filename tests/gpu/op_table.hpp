// The ops of both flavours side by side, under names that do not depend on the flavour a file is compiled
// for.
#pragma once

#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/ops/attn_compress.hpp>
#include <dsv4/ops/attn_index.hpp>
#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/hadamard.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/ops/moe_experts.hpp>
#include <dsv4/ops/moe_fused.hpp>
#include <dsv4/ops/moe_route.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::gpu {

struct OpTable {
  Status (*embed)(const ops::EmbedParams&, Stream) noexcept;
  Status (*rms_norm)(const ops::RmsNormParams&, Stream) noexcept;
  Status (*act_quant)(const ops::ActQuantParams&, Stream) noexcept;
  Status (*rope)(const ops::RopeParams&, Stream) noexcept;
  Status (*hadamard)(const ops::HadamardParams&, Stream) noexcept;
  Status (*lm_head)(const ops::LmHeadParams&, Stream) noexcept;

  Status (*mhc_post)(const ops::MhcPostParams&, Stream) noexcept;
  Status (*mhc_pre)(const ops::MhcPreParams&, Stream) noexcept;
  Status (*mhc_post_pre)(const ops::MhcPostPreParams&, Stream) noexcept;
  Status (*mhc_head)(const ops::MhcHeadParams&, Stream) noexcept;
  std::size_t (*mhc_pre_workspace_bytes)(const ops::MhcPreParams&) noexcept;
  std::size_t (*mhc_post_pre_workspace_bytes)(const ops::MhcPostPreParams&) noexcept;
  std::size_t (*mhc_head_workspace_bytes)(const ops::MhcHeadParams&) noexcept;

  Status (*linear_bf16)(const ops::LinearBf16Params&, Stream) noexcept;
  Status (*linear_fp8)(const ops::LinearFp8Params&, Stream) noexcept;
  Status (*linear_multi)(const ops::LinearMultiParams&, Stream) noexcept;
  std::size_t (*linear_bf16_workspace_bytes)(const ops::LinearBf16Params&) noexcept;
  std::size_t (*linear_fp8_workspace_bytes)(const ops::LinearFp8Params&) noexcept;
  std::size_t (*linear_multi_workspace_bytes)(const ops::LinearMultiParams&) noexcept;

  Status (*attn_q_proj)(const ops::AttnQProjParams&, Stream) noexcept;
  Status (*attn_kv_proj)(const ops::AttnKvProjParams&, Stream) noexcept;
  Status (*attn_index_prep)(const ops::AttnIndexPrepParams&, Stream) noexcept;
  Status (*attn_qk_prep)(const ops::AttnQkPrepParams&, Stream) noexcept;
  Status (*attn_compress)(const ops::AttnCompressParams&, Stream) noexcept;
  std::size_t (*attn_compress_state_bytes)(std::int32_t ratio, std::int32_t dim,
                                           std::int32_t max_rollback) noexcept;

  Status (*attn_index_scores)(const ops::AttnIndexScoresParams&, Stream) noexcept;
  Status (*attn_select)(const ops::AttnSelectParams&, Stream) noexcept;
  Status (*attn_index_select)(const ops::AttnIndexSelectParams&, Stream) noexcept;
  std::size_t (*attn_select_workspace_bytes)(const ops::AttnSelectParams&) noexcept;
  std::size_t (*attn_index_select_workspace_bytes)(const ops::AttnIndexSelectParams&) noexcept;

  Status (*attn_attend)(const ops::AttnAttendParams&, Stream) noexcept;
  std::size_t (*attn_attend_workspace_bytes)(const ops::AttnAttendParams&) noexcept;
  Status (*attn_out_proj)(const ops::AttnOutProjParams&, Stream) noexcept;
  std::size_t (*attn_out_proj_workspace_bytes)(const ops::AttnOutProjParams&) noexcept;

  Status (*moe_gate)(const ops::MoeGateParams&, Stream) noexcept;
  Status (*moe_dispatch)(const ops::MoeDispatchParams&, Stream) noexcept;
  Status (*moe_experts)(const ops::MoeExpertsParams&, Stream) noexcept;
  Status (*moe_combine)(const ops::MoeCombineParams&, Stream) noexcept;
  Status (*moe_fused)(const ops::MoeFusedParams&, Stream) noexcept;
  std::size_t (*moe_gate_workspace_bytes)(const ops::MoeGateParams&) noexcept;
  std::size_t (*moe_experts_workspace_bytes)(const ops::MoeExpertsParams&) noexcept;
  std::size_t (*moe_fused_state_bytes)(const ops::MoeFusedParams&) noexcept;
  std::size_t (*moe_fused_workspace_bytes)(const ops::MoeFusedParams&) noexcept;
};

namespace cuda_v0 {
const OpTable& op_table();  // device pointers
}
namespace simt_v0 {
const OpTable& op_table();  // host pointers
}

}  // namespace dsv4::gpu
