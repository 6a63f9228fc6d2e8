// The ops of both flavours side by side, under names that do not depend on the flavour a file is compiled
// for.
#pragma once

#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/hadamard.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>

#include <cstddef>

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
};

namespace cuda_v0 {
const OpTable& op_table();  // device pointers
}
namespace simt_v0 {
const OpTable& op_table();  // host pointers
}

}  // namespace dsv4::gpu
