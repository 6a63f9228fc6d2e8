// The rules that the parameters of attn_q_proj, attn_kv_proj and attn_index_prep obey, and their way into
// kernels. kIn is what an argument's name starts with in messages: "" or the member it lies in.
#pragma once

#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/prep.cuh>
#include <dsv4/ops/attn_proj.hpp>

#include "kernels/common/cache.hpp"
#include "kernels/common/checks.hpp"
#include "kernels/common/rope.hpp"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr int kRowAlignment = 16;  // of rows, in bytes: they are read and written 16 bytes at a time

constexpr std::int64_t prep_vector(ops::DType dtype) { return dtype == ops::DType::kF32 ? 4 : 8; }
constexpr std::size_t prep_element(ops::DType dtype) { return dtype == ops::DType::kF32 ? 4 : 2; }

template <Text kIn, class C>
void check_prep_sizes(C& c, std::int64_t tokens, ops::DType dtype) {
  c.template require<kIn + Text("tokens"), "must be 0 .. 2^31-1">(tokens >= 0 && tokens <= INT32_MAX, tokens,
                                                                  INT32_MAX);
  c.template require<kIn + Text("dtype"), "has no instance in this build">(
      dtype == ops::DType::kBf16 || (kHasF32 && dtype == ops::DType::kF32), static_cast<std::int64_t>(dtype),
      0, Code::kUnsupported);
}

template <Text kIn, class C>
void check_head_dim(C& c, std::int32_t head_dim) {
  c.template require<kIn + Text("head_dim"), "must be 512: no other is compiled">(
      head_dim == attention::kHeadDim, head_dim, attention::kHeadDim, Code::kUnsupported);
}

// ---- queries ----------------------------------------------------------------------------------------------

template <Text kIn, class C>
void check_sizes(C& c, const ops::AttnQProjParams& p) {
  check_prep_sizes<kIn>(c, p.tokens, p.dtype);
  c.template require<kIn + Text("heads"), "must be 1 .. 1024">(p.heads >= 1 && p.heads <= 1024, p.heads,
                                                               1024);
  check_head_dim<kIn>(c, p.head_dim);
  check_rope_sizes<kIn, kIn + Text("rope")>(c, p.rope, p.rope_dim, p.position_type);
  c.template require<kIn + Text("eps"), "must be at least 0">(p.eps >= 0.0f);
  const std::int64_t vector = prep_vector(p.dtype);
  const std::int64_t out_head = stride_or(p.out_head_stride, p.head_dim);
  const std::int64_t q_head = stride_or(p.q_head_stride, p.head_dim);
  c.template stride<kIn + Text("out_head_stride")>(p.out_head_stride, p.head_dim, vector);
  c.template stride<kIn + Text("q_head_stride")>(p.q_head_stride, p.head_dim, vector);
  // The last head of a token needs no padding behind it.
  c.template stride<kIn + Text("out_stride")>(stride_or(p.out_stride, p.heads * out_head),
                                              (p.heads - 1) * out_head + p.head_dim, vector);
  c.template stride<kIn + Text("q_stride")>(stride_or(p.q_stride, p.heads * q_head),
                                            (p.heads - 1) * q_head + p.head_dim, vector);
  const bool in_place = p.out == p.q && p.q != nullptr;
  c.template require<kIn + Text("out_head_stride"), "must be q_head_stride where out is q">(
      !in_place || out_head == q_head, out_head, q_head);
  c.template require<kIn + Text("out_stride"), "must be q_stride where out is q">(
      !in_place || stride_or(p.out_stride, p.heads * out_head) == stride_or(p.q_stride, p.heads * q_head),
      p.out_stride, p.q_stride);
}

template <Text kIn, class C>
void check_pointers(C& c, const ops::AttnQProjParams& p) {
  c.template pointer<kIn + Text("out")>(p.out, kRowAlignment);
  c.template pointer<kIn + Text("q")>(p.q, kRowAlignment);
  check_rope_pointers<kIn, kIn + Text("rope")>(c, p.rope, p.positions, p.position_type);
}

template <class T>
attention::PrepQueries<T> prep_arguments(const ops::AttnQProjParams& p) {
  const std::int64_t out_head = stride_or(p.out_head_stride, p.head_dim);
  const std::int64_t q_head = stride_or(p.q_head_stride, p.head_dim);
  return {.out = static_cast<T*>(p.out),
          .q = static_cast<const T*>(p.q),
          .positions = positions(p.positions, p.position_type),
          .angles = angles(p.rope),
          .out_stride = stride_or(p.out_stride, p.heads * out_head),
          .out_head_stride = out_head,
          .q_stride = stride_or(p.q_stride, p.heads * q_head),
          .q_head_stride = q_head,
          .heads = static_cast<std::int32_t>(p.heads),
          .eps = p.eps};
}

// ---- key-values -------------------------------------------------------------------------------------------

template <Text kIn, class C>
void check_sizes(C& c, const ops::AttnKvProjParams& p) {
  using ops::CacheFormat;
  check_prep_sizes<kIn>(c, p.tokens, p.dtype);
  check_head_dim<kIn>(c, p.head_dim);
  check_rope_sizes<kIn, kIn + Text("rope")>(c, p.rope, p.rope_dim, p.position_type);
  c.template require<kIn + Text("eps"), "must be at least 0">(p.eps >= 0.0f);
  const std::int64_t vector = prep_vector(p.dtype);
  c.template stride<kIn + Text("out_stride")>(p.out_stride, p.head_dim, vector);
  c.template stride<kIn + Text("kv_stride")>(p.kv_stride, p.head_dim, vector);
  c.template require<kIn + Text("out_stride"), "must be kv_stride where out is kv">(
      p.out != p.kv || p.out == nullptr ||
          stride_or(p.out_stride, p.head_dim) == stride_or(p.kv_stride, p.head_dim),
      p.out_stride, p.kv_stride);
  c.template require<kIn + Text("window.format"), "must be kKv584 or kRows">(
      p.window.format == CacheFormat::kKv584 || p.window.format == CacheFormat::kRows,
      static_cast<std::int64_t>(p.window.format), 0, Code::kUnsupported);
  if (!p.window.data) return;  // no cache
  c.template require<kIn + Text("window.dtype"), "must be the op's dtype with kRows">(
      p.window.format != CacheFormat::kRows || p.window.dtype == p.dtype,
      static_cast<std::int64_t>(p.window.dtype), static_cast<std::int64_t>(p.dtype), Code::kUnsupported);
  check_pool_sizes<kIn + Text("window")>(c, p.window, p.head_dim);
  check_slot_type<kIn + Text("slot_type")>(c, p.slot_type);
}

template <Text kIn, class C>
void check_pointers(C& c, const ops::AttnKvProjParams& p) {
  c.template require<kIn + Text("out"), "must not be null where there is no cache">(p.out != nullptr ||
                                                                                    p.window.data != nullptr);
  c.template optional<kIn + Text("out")>(p.out, kRowAlignment);
  if (p.window.data) {
    check_pool_pointers<kIn + Text("window")>(c, p.window);
    c.template pointer<kIn + Text("slots")>(p.slots, slot_bytes(p.slot_type));
  }
  c.template pointer<kIn + Text("kv")>(p.kv, kRowAlignment);
  c.template pointer<kIn + Text("norm")>(p.norm, kRowAlignment);
  check_rope_pointers<kIn, kIn + Text("rope")>(c, p.rope, p.positions, p.position_type);
}

template <class T>
attention::PrepKeyValues<T> prep_arguments(const ops::AttnKvProjParams& p) {
  attention::PrepKeyValues<T> a = {.out_or_null = static_cast<T*>(p.out),
                                   .kv = static_cast<const T*>(p.kv),
                                   .weight = p.norm,
                                   .slots = slots(p.window.data ? p.slots : nullptr, p.slot_type),
                                   .pages = {},
                                   .rows = {},
                                   .quantised = p.window.format == ops::CacheFormat::kKv584,
                                   .positions = positions(p.positions, p.position_type),
                                   .angles = angles(p.rope),
                                   .out_stride = stride_or(p.out_stride, p.head_dim),
                                   .kv_stride = stride_or(p.kv_stride, p.head_dim),
                                   .eps = p.eps};
  if (a.quantised)
    a.pages = page_pool<attention::KvPagePool>(p.window);
  else
    a.rows = row_pool<T>(p.window, p.head_dim);
  return a;
}

// ---- indexer queries --------------------------------------------------------------------------------------

template <Text kIn, class C>
void check_sizes(C& c, const ops::AttnIndexPrepParams& p) {
  using ops::CacheFormat;
  check_prep_sizes<kIn>(c, p.tokens, p.dtype);
  c.template require<kIn + Text("heads"), "must be 1 .. 64">(p.heads >= 1 && p.heads <= 64, p.heads, 64);
  c.template require<kIn + Text("dim"), "must be 128: no other is compiled">(
      p.dim == attention::kIndexHeadDim, p.dim, attention::kIndexHeadDim, Code::kUnsupported);
  check_rope_sizes<kIn, kIn + Text("rope")>(c, p.rope, p.rope_dim, p.position_type);
  c.template require<kIn + Text("format"), "must be kIndexFp4, kIndexFp8 or kRows">(
      p.format == CacheFormat::kIndexFp4 || p.format == CacheFormat::kIndexFp8 ||
          p.format == CacheFormat::kRows,
      static_cast<std::int64_t>(p.format), 0, Code::kUnsupported);
  const std::int64_t row = std::int64_t{p.heads} * p.dim;
  c.template stride<kIn + Text("q_stride")>(p.q_stride, row, prep_vector(p.dtype));
  c.template stride<kIn + Text("weights_stride")>(p.weights_stride, p.heads);
  c.template require<kIn + Text("codes"), "may be q with kRows of contiguous tokens alone">(
      p.codes != p.q || p.q == nullptr ||
      (p.format == CacheFormat::kRows && stride_or(p.q_stride, row) == row));
}

template <Text kIn, class C>
void check_pointers(C& c, const ops::AttnIndexPrepParams& p) {
  c.template pointer<kIn + Text("codes")>(p.codes, kRowAlignment);
  c.template require<kIn + Text("scales"), "must be given with kIndexFp4, and only then">(
      (p.format == ops::CacheFormat::kIndexFp4) == (p.scales != nullptr));
  c.template optional<kIn + Text("scales")>(p.scales, alignof(std::uint32_t));
  c.template pointer<kIn + Text("weights_out")>(p.weights_out, alignof(float));
  c.template pointer<kIn + Text("q")>(p.q, kRowAlignment);
  c.template pointer<kIn + Text("weights")>(p.weights, prep_element(p.dtype));
  check_rope_pointers<kIn, kIn + Text("rope")>(c, p.rope, p.positions, p.position_type);
}

template <class T>
attention::PrepIndexQueries<T> prep_arguments(const ops::AttnIndexPrepParams& p) {
  using attention::IndexFormat;
  return {.codes = p.codes,
          .scales = static_cast<std::uint32_t*>(p.scales),
          .weights_out = p.weights_out,
          .q = static_cast<const T*>(p.q),
          .weights = static_cast<const T*>(p.weights),
          .positions = positions(p.positions, p.position_type),
          .angles = angles(p.rope),
          .q_stride = stride_or(p.q_stride, std::int64_t{p.heads} * p.dim),
          .weights_stride = stride_or(p.weights_stride, p.heads),
          .heads = p.heads,
          .factor = attention::index_weight_factor(p.dim, p.heads),
          .format = p.format == ops::CacheFormat::kIndexFp4   ? IndexFormat::kFp4
                    : p.format == ops::CacheFormat::kIndexFp8 ? IndexFormat::kFp8
                                                              : IndexFormat::kRows};
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
