// What launchers of experts' kernels share: sizes of matrices, checks, and what kernels are told.
#pragma once

#include <dsv4/ops/moe_experts.hpp>

#include "kernels/common/checks.hpp"
#include "kernels/moe/experts.cuh"

#include <cstddef>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr std::int64_t kExpertsSharedBytes = 99 * 1024;  // that every chip from sm_80 on gives a block

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t chunks_of(std::int64_t k) { return ceil_div(k, linear::kMmaChunk); }
constexpr bool quantises(ops::WeightFormat f) {
  return f == ops::WeightFormat::kFp8 || f == ops::WeightFormat::kFp4;
}

/// Bytes of one expert's matrix [n, k], and of its scales.
constexpr std::int64_t matrix_bytes(ops::WeightFormat f, std::int64_t n, std::int64_t k) {
  return f == ops::WeightFormat::kFp4    ? n * (k / 2)
         : f == ops::WeightFormat::kFp8  ? n * k
         : f == ops::WeightFormat::kBf16 ? n * k * 2
                                         : n * k * 4;
}
constexpr std::int64_t scale_bytes(ops::WeightFormat f, std::int64_t n, std::int64_t k) {
  return f == ops::WeightFormat::kFp4   ? n * (k / linear::kFp4Block)
         : f == ops::WeightFormat::kFp8 ? ceil_div(n, linear::kFp8Tile) * chunks_of(k)
                                        : 0;
}

inline ExpertsMatrix matrix_of(const ops::ExpertMatrix& m, std::int64_t n, std::int64_t k) {
  return {static_cast<const unsigned char*>(m.data), static_cast<const e8m0*>(m.scales),
          stride_or(m.expert_stride, matrix_bytes(m.format, n, k)),
          stride_or(m.scales_expert_stride, scale_bytes(m.format, n, k)), m.format};
}

inline linear::MmaInput input_of(const ops::LinearInput& in, std::int64_t tokens, std::int64_t hidden) {
  const bool by_rows = in.scale_layout == ops::ScaleLayout::kRowMajor;
  const std::int64_t scales = stride_or(in.scales_stride, by_rows ? chunks_of(hidden) : tokens);
  return {.x = static_cast<const bf16*>(in.x),
          .codes = static_cast<const e4m3*>(in.codes),
          .scales = {in.scales, by_rows ? scales : 1, by_rows ? 1 : scales,
                     in.scale_type == ops::ScaleType::kF32},
          .weight = nullptr,
          .eps = 0.0f,
          .tokens = tokens,
          .x_stride = stride_or(in.x_stride, hidden),
          .codes_stride = stride_or(in.codes_stride, hidden)};
}

/// Elements that rows of a format are a multiple of.
constexpr std::int64_t row_multiple(ops::WeightFormat f, bool f32) {
  return f == ops::WeightFormat::kFp4 ? linear::kFp4Block : f32 ? 1 : f == ops::WeightFormat::kFp8 ? 16 : 8;
}

template <Text kArgument, class C>
void check_matrix(C& c, const ops::ExpertMatrix& m, std::int64_t n, std::int64_t k, bool f32) {
  using ops::WeightFormat;
  c.template require<kArgument + Text(".format"), "has no instance for these activations">(
      m.format == WeightFormat::kFp4 || m.format == WeightFormat::kFp8 || m.format == WeightFormat::kBf16 ||
          (m.format == WeightFormat::kF32 && f32),
      static_cast<std::int64_t>(m.format), 0, Code::kUnsupported);
  if (!c.ok()) return;
  const std::int64_t multiple = row_multiple(m.format, f32);
  c.template require<kArgument, "must have rows of whole vectors of weights">(k % multiple == 0, k, multiple,
                                                                              Code::kUnsupported);
  c.template stride<kArgument + Text(".expert_stride")>(m.expert_stride, matrix_bytes(m.format, n, k),
                                                        f32 ? 1 : 16);
  c.template stride<kArgument + Text(".scales_expert_stride")>(m.scales_expert_stride,
                                                               scale_bytes(m.format, n, k));
}

/// Formats and strides of three matrices.
template <Text kArgument, class C>
void check_weights(C& c, const ops::ExpertWeights& w, std::int64_t hidden, std::int64_t inner, bool f32) {
  check_matrix<kArgument + Text(".w1")>(c, w.w1, inner, hidden, f32);
  check_matrix<kArgument + Text(".w3")>(c, w.w3, inner, hidden, f32);
  check_matrix<kArgument + Text(".w2")>(c, w.w2, hidden, inner, f32);
  c.template require<kArgument + Text(".w3.format"), "must be that of w1">(
      w.w1.format == w.w3.format, static_cast<std::int64_t>(w.w3.format),
      static_cast<std::int64_t>(w.w1.format));
}

template <Text kArgument, class C>
void check_matrix_pointers(C& c, const ops::ExpertMatrix& m, bool f32) {
  const std::size_t own = m.format == ops::WeightFormat::kF32    ? 4
                          : m.format == ops::WeightFormat::kBf16 ? 2
                                                                 : 1;
  c.template pointer<kArgument + Text(".data")>(m.data, f32 ? own : 16);
  if (quantises(m.format)) c.template pointer<kArgument + Text(".scales")>(m.scales, 1);
}
template <Text kArgument, class C>
void check_weights_pointers(C& c, const ops::ExpertWeights& w, bool f32) {
  check_matrix_pointers<kArgument + Text(".w1")>(c, w.w1, f32);
  check_matrix_pointers<kArgument + Text(".w3")>(c, w.w3, f32);
  check_matrix_pointers<kArgument + Text(".w2")>(c, w.w2, f32);
}

/// The batch's activations; `quantised`: all that multiply them are FP4 or FP8.
template <class C>
void check_input(C& c, const ops::LinearInput& in, std::int64_t tokens, std::int64_t hidden, bool quantised,
                 bool f32) {
  c.template require<"input.norm_weight", "must be null">(!in.norm_weight);
  c.template require<"input.codes", "go with FP4 and FP8 weights and bf16 activations">(!in.codes ||
                                                                                        (!f32 && quantised));
  c.template stride<"input.x_stride">(in.x_stride, hidden, f32 ? 1 : 8);
  if (!in.codes) return;
  c.template stride<"input.codes_stride">(in.codes_stride, hidden, 16);
  c.template require<"input.scale_type", "has no instance">(
      in.scale_type == ops::ScaleType::kUe8m0 || in.scale_type == ops::ScaleType::kF32,
      static_cast<std::int64_t>(in.scale_type), 0, Code::kUnsupported);
  c.template require<"input.scale_layout", "has no instance">(
      in.scale_layout == ops::ScaleLayout::kRowMajor || in.scale_layout == ops::ScaleLayout::kColumnMajor,
      static_cast<std::int64_t>(in.scale_layout), 0, Code::kUnsupported);
  c.template stride<"input.scales_stride">(
      in.scales_stride, in.scale_layout == ops::ScaleLayout::kRowMajor ? chunks_of(hidden) : tokens);
}
template <class C>
void check_input_pointers(C& c, const ops::LinearInput& in, bool f32) {
  if (!in.codes) return c.template pointer<"input.x">(in.x, f32 ? 4 : 16);
  c.template pointer<"input.codes">(in.codes, 16);
  c.template pointer<"input.scales">(in.scales, in.scale_type == ops::ScaleType::kF32 ? 4 : 1);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
