// Ops mhc_pre and mhc_post_pre: checks and launches. The kernels: collapse.cuh.
#include <dsv4/ops/mhc.hpp>

#include "kernels/common/nan_guard.hpp"
#include "kernels/mhc/collapse.cuh"
#include "kernels/mhc/parameters.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using kernels::Checks;
using kernels::Text;

constexpr int kRows = (2 + mhc::kStreams) * mhc::kStreams;

std::int64_t scale_blocks(const MhcPreParams& p) {
  return (p.hidden + quant::kFp8LinearBlock - 1) / quant::kFp8LinearBlock;
}
kernels::ScalesArgument scales_of(const MhcPreParams& p) {
  return {p.quantised.scales, p.quantised.scales_stride, p.quantised.scale_type, p.quantised.scale_layout};
}

template <Text kIn, class C>
void check_pre_sizes(C& c, const MhcPreParams& p) {
  kernels::check_collapse_sizes<kIn, kRows>(c, p);
  c.template require<kIn + Text("sinkhorn_iterations"), "must be at least 0">(p.sinkhorn_iterations >= 0,
                                                                              p.sinkhorn_iterations, 0);
  c.template stride<kIn + Text("post_stride")>(p.post_stride, mhc::kStreams);
  c.template stride<kIn + Text("comb_stride")>(p.comb_stride, mhc::kStreams * mhc::kStreams);
  if (!p.quantised.codes) return;
  c.template stride<kIn + Text("quantised.codes_stride")>(p.quantised.codes_stride, p.hidden,
                                                          kernels::vector_of(p.dtype));
  if (!c.ok()) return;
  c.merge(kernels::check_scales(
      scales_of(p), p.tokens, scale_blocks(p),
      kernels::kMessage<C::kName, kIn + Text("quantised.scale_type"), "is unknown">.text,
      kernels::kMessage<C::kName, kIn + Text("quantised.scale_layout"), "is unknown">.text,
      kernels::kMessage<C::kName, kIn + Text("quantised.scales_stride"),
                        "must be at least the blocks (row-major) or the tokens (column-major)">.text));
}

template <Text kIn, class C>
void check_pre_pointers(C& c, const MhcPreParams& p) {
  const bool has_codes = p.quantised.codes != nullptr;
  kernels::check_collapse_pointers<kIn>(c, p, has_codes);
  c.template pointer<kIn + Text("post")>(p.post, sizeof(float));
  c.template pointer<kIn + Text("comb")>(p.comb, sizeof(float));
  if (has_codes) {
    c.template optional<kIn + Text("quantised.codes")>(p.quantised.codes,
                                                       static_cast<std::size_t>(kernels::vector_of(p.dtype)));
    c.template pointer<kIn + Text("quantised.scales")>(
        p.quantised.scales, p.quantised.scale_type == ScaleType::kF32 ? sizeof(float) : 1);
  }
  kernels::check_workspace<kIn>(c, p, kernels::collapse_workspace_bytes(p));
}

kernels::Collapse arguments_of(const MhcPreParams& p) {
  kernels::Collapse c = kernels::collapse_arguments<kRows>(p);
  c.codes = static_cast<e4m3*>(p.quantised.codes);
  c.codes_stride = kernels::stride_or(p.quantised.codes_stride, p.hidden);
  c.scales = kernels::scales_view(scales_of(p), p.tokens, scale_blocks(p));
  c.post = p.post;
  c.comb = p.comb;
  c.post_stride = kernels::stride_or(p.post_stride, mhc::kStreams);
  c.comb_stride = kernels::stride_or(p.comb_stride, mhc::kStreams * mhc::kStreams);
  c.site.sinkhorn_iterations = p.sinkhorn_iterations;
  return c;
}

}  // namespace

DSV4_OP(mhc_pre, MhcPreParams) {
  Checks<"mhc_pre"> c;
  check_pre_sizes<"">(c, p);
  if (!c.ok() || p.tokens == 0) return c.status();
  check_pre_pointers<"">(c, p);
  if (!c.ok()) return c.status();
  return kernels::with_type(p.dtype, "mhc_pre: dtype", [&](auto type) {
    return kernels::launch_collapse<typename decltype(type)::type, kRows, false>("mhc_pre", arguments_of(p),
                                                                                 {}, stream);
  });
}

DSV4_OP(mhc_post_pre, MhcPostPreParams) {
  Checks<"mhc_post_pre"> c;
  kernels::check_post_sizes<"post.">(c, p.post);
  check_pre_sizes<"pre.">(c, p.pre);
  c.require<"pre.tokens", "must be post.tokens">(p.pre.tokens == p.post.tokens, p.pre.tokens, p.post.tokens);
  c.require<"pre.hidden", "must be post.hidden">(p.pre.hidden == p.post.hidden, p.pre.hidden, p.post.hidden);
  c.require<"pre.dtype", "must be post.dtype">(p.pre.dtype == p.post.dtype,
                                               static_cast<std::int64_t>(p.pre.dtype),
                                               static_cast<std::int64_t>(p.post.dtype));
  const std::int64_t row = mhc::kStreams * p.pre.hidden;
  c.require<"pre.streams_stride", "must be post.out_stride">(
      kernels::stride_or(p.pre.streams_stride, row) == kernels::stride_or(p.post.out_stride, row),
      p.pre.streams_stride, p.post.out_stride);
  if (!c.ok() || p.pre.tokens == 0) return c.status();
  kernels::check_post_pointers<"post.">(c, p.post);
  c.require<"pre.streams", "must be post.out">(p.pre.streams == p.post.out);
  check_pre_pointers<"pre.">(c, p.pre);
  if (!c.ok()) return c.status();
  return kernels::with_type(p.pre.dtype, "mhc_post_pre: dtype", [&](auto type) {
    return kernels::launch_collapse<typename decltype(type)::type, kRows, true>(
        "mhc_post_pre", arguments_of(p.pre), kernels::post_arguments(p.post), stream);
  });
}

std::size_t mhc_pre_workspace_bytes(const MhcPreParams& p) noexcept {
  return kernels::collapse_workspace_bytes(p);
}
std::size_t mhc_post_pre_workspace_bytes(const MhcPostPreParams& p) noexcept {
  return kernels::collapse_workspace_bytes(p.pre);
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
