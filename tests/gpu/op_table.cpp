// Compiled once for each flavour.
#include "tests/gpu/op_table.hpp"

namespace dsv4::gpu::DSV4_FLAVOUR {

const OpTable& op_table() {
  static constexpr OpTable table = {.embed = &ops::embed,
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
                                    .mhc_head_workspace_bytes = &ops::mhc_head_workspace_bytes};
  return table;
}

}  // namespace dsv4::gpu::DSV4_FLAVOUR
