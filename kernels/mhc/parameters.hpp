// The rules that the parameters of mHC's ops obey. kIn is what an argument's name starts with in messages: ""
// or the member it lies in.
#pragma once

#include <dsv4/core/quant.hpp>
#include <dsv4/ops/mhc.hpp>

#include "kernels/common/checks.hpp"
#include "kernels/common/quantised.hpp"
#include "kernels/mhc/collapse.cuh"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr int kAlignment = 16;  // of rows of bf16, in bytes

/// Elements of T in an access of the kernels, and its bytes.
constexpr std::int64_t vector_of(ops::DType dtype) { return dtype == ops::DType::kBf16 ? mhc::kVector : 1; }
constexpr std::size_t row_alignment(ops::DType dtype) {
  return dtype == ops::DType::kBf16 ? kAlignment : sizeof(float);
}

template <Text kIn, class C, class P>
void check_sizes(C& c, const P& p) {
  c.template require<kIn + Text("tokens"), "must be in [0, 2^26]">(p.tokens >= 0 && p.tokens <= kMhcTokens,
                                                                   p.tokens, kMhcTokens);
  c.template require<kIn + Text("hidden"), "must be at least 1">(p.hidden >= 1, p.hidden, 1);
  c.template require<kIn + Text("hidden"), "must be at most 16384">(p.hidden <= mhc::kMaxHidden, p.hidden,
                                                                    mhc::kMaxHidden, Code::kUnsupported);
  c.template require<kIn + Text("stream_count"), "must be 4: no other is compiled">(
      p.stream_count == mhc::kStreams, p.stream_count, mhc::kStreams, Code::kUnsupported);
  c.template require<kIn + Text("dtype"), "has no instance in this build">(
      p.dtype == ops::DType::kBf16 || (kHasF32 && p.dtype == ops::DType::kF32),
      static_cast<std::int64_t>(p.dtype), 0, Code::kUnsupported);
  c.template require<kIn + Text("hidden"), "must be a multiple of 32 for bf16">(
      p.dtype != ops::DType::kBf16 || p.hidden % mhc::kStepChannels == 0, p.hidden, mhc::kStepChannels,
      Code::kUnsupported);
}

template <Text kIn, class C>
void check_post_sizes(C& c, const ops::MhcPostParams& p) {
  check_sizes<kIn>(c, p);
  const std::int64_t vector = vector_of(p.dtype);
  c.template stride<kIn + Text("out_stride")>(p.out_stride, mhc::kStreams * p.hidden, vector);
  c.template stride<kIn + Text("y_stride")>(p.y_stride, p.hidden, vector);
  c.template stride<kIn + Text("streams_stride")>(p.streams_stride, mhc::kStreams * p.hidden, vector);
  c.template stride<kIn + Text("post_stride")>(p.post_stride, mhc::kStreams, 4);
  c.template stride<kIn + Text("comb_stride")>(p.comb_stride, mhc::kStreams * mhc::kStreams, 4);
  c.template require<kIn + Text("out_stride"), "must be streams_stride where out is streams">(
      p.out != p.streams || p.out == nullptr ||
          stride_or(p.out_stride, mhc::kStreams * p.hidden) ==
              stride_or(p.streams_stride, mhc::kStreams * p.hidden),
      p.out_stride, p.streams_stride);
}

template <Text kIn, class C>
void check_post_pointers(C& c, const ops::MhcPostParams& p) {
  const std::size_t align = row_alignment(p.dtype);
  c.template pointer<kIn + Text("out")>(p.out, align);
  c.template pointer<kIn + Text("y")>(p.y, align);
  c.template pointer<kIn + Text("streams")>(p.streams, align);
  c.template pointer<kIn + Text("post")>(p.post, kAlignment);
  c.template pointer<kIn + Text("comb")>(p.comb, kAlignment);
}

inline PostArguments post_arguments(const ops::MhcPostParams& p) {
  return {.out = p.out,
          .y = {p.y, stride_or(p.y_stride, p.hidden), p.y_f32},
          .streams = p.streams,
          .post = p.post,
          .comb = p.comb,
          .out_stride = stride_or(p.out_stride, mhc::kStreams * p.hidden),
          .streams_stride = stride_or(p.streams_stride, mhc::kStreams * p.hidden),
          .post_stride = stride_or(p.post_stride, mhc::kStreams),
          .comb_stride = stride_or(p.comb_stride, mhc::kStreams * mhc::kStreams)};
}

/// What mhc_pre and mhc_head have in common; kRows rows of fn.
template <Text kIn, int kRows, class C, class P>
void check_collapse_sizes(C& c, const P& p) {
  check_sizes<kIn>(c, p);
  const std::int64_t vector = vector_of(p.dtype);
  c.template require<kIn + Text("mix_eps"), "must be at least 0">(p.mix_eps >= 0.0f);
  c.template require<kIn + Text("hc_eps"), "must be at least 0">(p.hc_eps >= 0.0f);
  c.template require<kIn + Text("norm_eps"), "must be at least 0">(p.norm_eps >= 0.0f);
  c.template stride<kIn + Text("streams_stride")>(p.streams_stride, mhc::kStreams * p.hidden, vector);
  c.template stride<kIn + Text("x_stride")>(p.x_stride, p.hidden, vector);
  c.template stride<kIn + Text("normed_stride")>(p.normed_stride, p.hidden, vector);
  c.template stride<kIn + Text("pre_stride")>(p.pre_stride, mhc::kStreams);
  c.template stride<kIn + Text("mixes_stride")>(p.mixes_stride, kRows);
}

template <Text kIn, class C, class P>
void check_collapse_pointers(C& c, const P& p, bool has_codes) {
  const std::size_t align = row_alignment(p.dtype);
  c.template require<kIn + Text("x"), "must not be null where nothing else is wanted">(
      p.x != nullptr || p.normed != nullptr || has_codes);
  c.template optional<kIn + Text("x")>(p.x, align);
  c.template optional<kIn + Text("normed")>(p.normed, align);
  c.template optional<kIn + Text("pre")>(p.pre, sizeof(float));
  c.template optional<kIn + Text("mixes")>(p.mixes, sizeof(float));
  c.template pointer<kIn + Text("streams")>(p.streams, align);
  c.template pointer<kIn + Text("fn")>(p.fn, align);
  c.template pointer<kIn + Text("scale")>(p.scale, sizeof(float));
  c.template pointer<kIn + Text("base")>(p.base, sizeof(float));
  const bool wants_norm = p.normed != nullptr || has_codes;
  c.template require<kIn + Text("norm_weight"),
                     "must be given where a normed output is wanted, and only then">(
      wants_norm == (p.norm_weight != nullptr));
  c.template optional<kIn + Text("norm_weight")>(p.norm_weight, align);
}

/// The caller's workspace against the size of the walk. The walk's only part starts where it does.
template <Text kIn, class C, class P>
void check_workspace(C& c, const P& p, std::size_t needed) {
  c.template require<kIn + Text("workspace_bytes"), "must be at least the op's workspace size">(
      p.workspace_bytes >= needed, static_cast<std::int64_t>(p.workspace_bytes),
      static_cast<std::int64_t>(needed), Code::kWorkspaceTooSmall);
  if (needed > 0) c.template pointer<kIn + Text("workspace")>(p.workspace, kWorkspaceAlignment);
}

/// Size of the walk, sizes out of range counting as the nearest in range.
template <class P>
std::size_t collapse_workspace_bytes(const P& p) {
  Workspace w;
  take_partials(w, p.dtype, std::clamp<std::int64_t>(p.tokens, 0, kMhcTokens),
                std::clamp<std::int64_t>(p.hidden, 0, mhc::kMaxHidden));
  return w.bytes();
}

template <int kRows, class P>
Collapse collapse_arguments(const P& p) {
  Workspace w(p.workspace);
  return {.x = p.x,
          .normed = p.normed,
          .codes = nullptr,
          .scales = {},
          .post = nullptr,
          .comb = nullptr,
          .pre = p.pre,
          .mixes = p.mixes,
          .streams = p.streams,
          .fn = p.fn,
          .site = {.scale = p.scale,
                   .base = p.base,
                   .mix_eps = p.mix_eps,
                   .hc_eps = p.hc_eps,
                   .sinkhorn_iterations = 0,
                   .norm_weight = p.norm_weight,
                   .norm_eps = p.norm_eps},
          .first = 0,
          .tokens = p.tokens,
          .hidden = p.hidden,
          .x_stride = stride_or(p.x_stride, p.hidden),
          .normed_stride = stride_or(p.normed_stride, p.hidden),
          .codes_stride = 0,
          .post_stride = 0,
          .comb_stride = 0,
          .pre_stride = stride_or(p.pre_stride, mhc::kStreams),
          .mixes_stride = stride_or(p.mixes_stride, kRows),
          .streams_stride = stride_or(p.streams_stride, mhc::kStreams * p.hidden),
          .partial = take_partials(w, p.dtype, p.tokens, p.hidden)};
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
