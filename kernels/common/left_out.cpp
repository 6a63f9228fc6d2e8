// Ops that DSV4_OPS leaves out of this build: they are there, and refuse.
#include "kernels/c_api/op_list.hpp"

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

// X(op, Params, bytes) -> DSV4_STUB_<DSV4_HAS_op>(op, Params, bytes): DSV4_STUB_1 is nothing.
#define DSV4_STUB(op, Params, bytes) DSV4_STUB_EXPANDED(DSV4_HAS_##op, op, Params, bytes)
#define DSV4_STUB_EXPANDED(has, op, Params, bytes) DSV4_STUB_PASTED(has, op, Params, bytes)
#define DSV4_STUB_PASTED(has, op, Params, bytes) DSV4_STUB_##has(op, Params, bytes)
#define DSV4_STUB_1(op, Params, bytes)
#define DSV4_STUB_0(op, Params, bytes)                                            \
  Status op(const Params&, Stream) noexcept {                                     \
    return unsupported(#op ": left out of this build of dsv4 (CMake: DSV4_OPS)"); \
  }                                                                               \
  bytes(op, Params)
#define DSV4_NO_BYTES(op, Params)
#define DSV4_WORKSPACE(op, Params) \
  std::size_t op##_workspace_bytes(const Params&) noexcept { return 0; }
#define DSV4_WORKSPACE_AND_STATE(op, Params) \
  DSV4_WORKSPACE(op, Params)                 \
  std::size_t op##_state_bytes(const Params&) noexcept { return 0; }

namespace dsv4::ops::inline DSV4_FLAVOUR {

DSV4_FOR_EACH_OP(DSV4_STUB)

#if !DSV4_HAS_attn_compress
std::size_t attn_compress_state_bytes(std::int32_t, std::int32_t, std::int32_t) noexcept { return 0; }
#endif

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
