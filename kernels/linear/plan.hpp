// The rules that the parameters of the linear ops obey, and what a call takes: which kernel, which workspace.
#pragma once

#include <dsv4/core/workspace.hpp>
#include <dsv4/ops/linear.hpp>

#include "kernels/common/checks.hpp"
#include "kernels/common/dispatch.hpp"
#include "kernels/common/quantised.hpp"
#include "kernels/linear/problem.cuh"

#include <algorithm>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr std::int64_t kMaxLinearRows = 1 << 30;
inline constexpr std::int64_t kMaxLinearChannels = 1 << 20;
inline constexpr std::int64_t kLinearAlignment = 16;  // bytes, of rows of x, codes and weights

constexpr std::int64_t linear_chunks(std::int64_t k) {
  return (k + linear::kMmaChunk - 1) / linear::kMmaChunk;
}

/// Channels that the parts of a call take from its input.
inline std::int64_t input_channels(const ops::LinearMultiParams& p, bool quantised_parts_only) {
  std::int64_t channels = 0;
  for (int i = 0; i < std::clamp(p.count, 0, ops::kMaxLinearParts); ++i)
    if (!quantised_parts_only || p.parts[i].quantise)
      channels = std::max(channels, std::clamp<std::int64_t>(p.parts[i].x_column, 0, INT32_MAX) +
                                        std::clamp<std::int64_t>(p.k, 0, kMaxLinearChannels));
  return channels;
}

// Shared memory that every chip from sm_80 on gives a block.
inline constexpr std::int64_t kLinearSharedBytes = 99 * 1024;
inline constexpr auto kStreamSharedBytes =
    static_cast<std::int64_t>(sizeof(linear::MmaStream<linear::Fp8Weights, 1>::Shared));

/// Up to here activations are prepared as they arrive. Each block's registers and time pay for it: with more
/// tokens several blocks read the same weights, and a launch is little beside them.
inline constexpr std::int64_t kArrivingTokens = 64;

inline Preparation preparation(const ops::LinearMultiParams& p) {
  const bool f32 = p.dtype == ops::DType::kF32;
  const bool wanted = p.input.norm_weight || (!f32 && input_channels(p, true) > 0);
  if (!wanted) return Preparation::kNone;
  using Rows = linear::StagedRows<linear::Fp8Weights>;
  constexpr std::int64_t kOwn = 1024;  // the norm's, and what aligns the rest
  const bool staged =
      !f32 && p.tokens <= Rows::kMaxTokens &&
      kStreamSharedBytes + kOwn + Rows::bytes(p.tokens, linear_chunks(p.k)) <= kLinearSharedBytes;
  return staged                                ? Preparation::kStaged
         : !f32 && p.tokens <= kArrivingTokens ? Preparation::kArriving
                                               : Preparation::kWorkspace;
}

/// Prepared activations in a workspace; null where there are none.
struct PreparedInput {
  void* normed = nullptr;  // [tokens, k] dtype
  ExpandedRows quantised = {};
};

/// The walk over the workspace. Sizes out of range count as the nearest in range.
inline PreparedInput take_prepared(Workspace& w, const ops::LinearMultiParams& p) {
  PreparedInput prepared;
  if (preparation(p) != Preparation::kWorkspace) return prepared;
  const std::int64_t tokens = std::clamp<std::int64_t>(p.tokens, 0, INT32_MAX);
  const std::int64_t k = std::clamp<std::int64_t>(p.k, 0, kMaxLinearChannels);
  if (p.dtype == ops::DType::kF32) {
    prepared.normed = w.take<float>(tokens * k);
    return prepared;
  }
  if (p.input.norm_weight) prepared.normed = w.take<bf16>(tokens * k);
  if (const std::int64_t channels = input_channels(p, true); channels > 0) {
    ExpandedRows& q = prepared.quantised;
    q.channels = channels;
    q.stride = linear_chunks(channels) * linear::kMmaChunk;
    q.scales_stride = (tokens + 3) / 4 * 4;
    q.values = w.take<bf16>(tokens * q.stride);
    q.scales = w.take<float>(linear_chunks(channels) * q.scales_stride);
  }
  return prepared;
}

inline std::size_t linear_workspace_bytes(const ops::LinearMultiParams& p) {
  Workspace w;
  take_prepared(w, p);
  return w.bytes();
}

/// Bytes of a weight.
constexpr std::int64_t weight_bytes(ops::WeightFormat f) {
  return f == ops::WeightFormat::kFp8 ? 1 : f == ops::WeightFormat::kBf16 ? 2 : 4;
}

template <class C>
void check_linear_input(C& c, const ops::LinearMultiParams& p) {
  const ops::LinearInput& in = p.input;
  const bool f32 = p.dtype == ops::DType::kF32;
  const std::int64_t channels = input_channels(p, false);
  c.template stride<"input.x_stride">(in.x_stride, channels, f32 ? 1 : kLinearAlignment / 2);
  c.template require<"input.norm_eps", "must not be negative">(in.norm_eps >= 0.0f);
  c.template require<"input.codes", "must be null with a norm">(!in.codes || !in.norm_weight);
  c.template require<"input.codes", "must be null with f32 activations">(!in.codes || !f32);
  if (!in.codes) return;
  c.template stride<"input.codes_stride">(in.codes_stride, channels, kLinearAlignment);
  c.template require<"input.scale_type", "has no instance">(
      in.scale_type == ops::ScaleType::kUe8m0 || in.scale_type == ops::ScaleType::kF32,
      static_cast<std::int64_t>(in.scale_type), 0, Code::kUnsupported);
  c.template require<"input.scale_layout", "has no instance">(
      in.scale_layout == ops::ScaleLayout::kRowMajor || in.scale_layout == ops::ScaleLayout::kColumnMajor,
      static_cast<std::int64_t>(in.scale_layout), 0, Code::kUnsupported);
  c.template stride<"input.scales_stride">(
      in.scales_stride, in.scale_layout == ops::ScaleLayout::kRowMajor ? linear_chunks(channels) : p.tokens);
}

template <class C>
void check_linear_part(C& c, const ops::LinearMultiParams& p, const ops::LinearPart& part) {
  using ops::WeightFormat;
  const bool f32 = p.dtype == ops::DType::kF32;
  const WeightFormat format = part.weight.format;
  c.template require<"n", "must be in [1, 2^30]">(part.n >= 1 && part.n <= kMaxLinearRows, part.n,
                                                  kMaxLinearRows);
  c.template require<"weight.format", "has no instance for these activations">(
      format == WeightFormat::kBf16 || format == WeightFormat::kFp8 || (format == WeightFormat::kF32 && f32),
      static_cast<std::int64_t>(format), 0, Code::kUnsupported);
  c.template require<"y_type", "has no instance">(
      part.y_type == ops::DType::kBf16 || part.y_type == ops::DType::kF32,
      static_cast<std::int64_t>(part.y_type), 0, Code::kUnsupported);
  c.template require<"quantise", "goes with FP8 weights alone">(!part.quantise || f32 ||
                                                                format == WeightFormat::kFp8);
  c.template require<"x_column", "must be a multiple of 128, 0 or more">(
      part.x_column >= 0 && part.x_column % linear::kMmaChunk == 0 && part.x_column <= INT32_MAX,
      part.x_column, linear::kMmaChunk);
  c.template require<"x_column", "must be 0 with a norm">(part.x_column == 0 || !p.input.norm_weight,
                                                          part.x_column);
  if (!c.ok()) return;
  const std::int64_t vector = f32 ? 1 : kLinearAlignment / weight_bytes(format);
  c.template require<"k", "must be a multiple of 16 bytes of weights">(p.k % vector == 0, p.k, vector,
                                                                       Code::kUnsupported);
  c.template stride<"weight.stride">(part.weight.stride, p.k, vector);
  if (format == WeightFormat::kFp8) {
    c.template stride<"weight.scales_stride">(part.weight.scales_stride, linear_chunks(p.k));
    c.template require<"weight.scales_row", "must be a multiple of 16, 0 or more">(
        part.weight.scales_row >= 0 && (f32 || part.weight.scales_row % linear::kMmaRows == 0),
        part.weight.scales_row, linear::kMmaRows);
  }
  c.template stride<"y_stride">(part.y_stride, part.n);
}

template <class C>
void check_linear_pointers(C& c, const ops::LinearMultiParams& p) {
  const ops::LinearInput& in = p.input;
  const bool f32 = p.dtype == ops::DType::kF32;
  bool x_wanted = in.norm_weight || !in.codes;
  for (int i = 0; i < p.count; ++i) {
    const ops::LinearPart& part = p.parts[i];
    const bool fp8 = part.weight.format == ops::WeightFormat::kFp8;
    x_wanted = x_wanted || !part.quantise;
    c.template pointer<"y">(part.y, part.y_type == ops::DType::kF32 ? 4 : 2);
    c.template pointer<"weight.data">(
        part.weight.data,
        static_cast<std::size_t>(f32 ? weight_bytes(part.weight.format) : kLinearAlignment));
    if (fp8) c.template pointer<"weight.scales">(part.weight.scales, 1);
  }
  if (x_wanted) c.template pointer<"input.x">(in.x, f32 ? sizeof(float) : kLinearAlignment);
  if (in.codes) {
    c.template pointer<"input.codes">(in.codes, kLinearAlignment);
    c.template pointer<"input.scales">(in.scales, in.scale_type == ops::ScaleType::kF32 ? 4 : 1);
  }
  c.template optional<"input.norm_weight">(in.norm_weight, sizeof(float));
}

/// Everything about a call but whether its grid is too large.
template <class C>
void check_linear(C& c, const ops::LinearMultiParams& p) {
  c.template require<"tokens", "must be in [0, 2^31)">(p.tokens >= 0 && p.tokens <= INT32_MAX, p.tokens,
                                                       INT32_MAX);
  c.template require<"k", "must be in [1, 2^20]">(p.k >= 1 && p.k <= kMaxLinearChannels, p.k,
                                                  kMaxLinearChannels);
  c.template require<"count", "must be in [1, 16]">(p.count >= 1 && p.count <= ops::kMaxLinearParts, p.count,
                                                    ops::kMaxLinearParts);
  c.template require<"dtype", "has no instance in this build">(
      p.dtype == ops::DType::kBf16 || (kHasF32 && p.dtype == ops::DType::kF32),
      static_cast<std::int64_t>(p.dtype), 0, Code::kUnsupported);
  if (!c.ok()) return;
  for (int i = 0; i < p.count; ++i) check_linear_part(c, p, p.parts[i]);
  check_linear_input(c, p);
  if (!c.ok() || p.tokens == 0) return;
  check_linear_pointers(c, p);
  const std::size_t needed = linear_workspace_bytes(p);
  c.template require<"workspace_bytes", "must be at least the op's workspace size">(
      p.workspace_bytes >= needed, static_cast<std::int64_t>(p.workspace_bytes),
      static_cast<std::int64_t>(needed), Code::kWorkspaceTooSmall);
  if (needed > 0) c.template pointer<"workspace">(p.workspace, kWorkspaceAlignment);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
