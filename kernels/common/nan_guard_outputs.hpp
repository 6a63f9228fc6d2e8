// What the NaN guard looks at: the floating outputs of every op.
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

#include "kernels/common/nan_guard_look.hpp"
#include "kernels/common/rope.hpp"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline GuardedType guarded_type(ops::DType t) {
  return t == ops::DType::kF32 ? GuardedType::kF32 : GuardedType::kBf16;
}
inline std::int64_t guarded_bytes(GuardedType t) {
  return t == GuardedType::kF32 ? 4 : t == GuardedType::kBf16 ? 2 : 1;
}

/// Plain rows; stride 0 = contiguous.
inline GuardedTensor guarded_rows(const void* data, GuardedType type, std::int64_t rows, std::int64_t cols,
                                  std::int64_t stride = 0) {
  GuardedTensor t = {};
  t.data = data, t.type = type, t.rows = rows, t.cols = cols;
  t.row_stride = stride_or(stride, cols);
  return t;
}

/// Rows of heads, of which channels first .. first + count - 1 were written.
inline GuardedTensor guarded_heads(const void* data, ops::DType dtype, std::int64_t tokens,
                                   std::int64_t heads, std::int64_t head_dim, std::int64_t stride,
                                   std::int64_t head_stride, std::int64_t count) {
  GuardedTensor t = guarded_rows(data, guarded_type(dtype), tokens, heads * count,
                                 stride_or(stride, heads * stride_or(head_stride, head_dim)));
  t.piece = count, t.piece_stride = stride_or(head_stride, head_dim), t.piece_first = head_dim - count;
  return t;
}

inline GuardedTensor guarded_scales(const void* data, ops::ScaleType type, ops::ScaleLayout layout,
                                    std::int64_t rows, std::int64_t blocks, std::int64_t stride) {
  GuardedTensor t = guarded_rows(data, type == ops::ScaleType::kF32 ? GuardedType::kF32 : GuardedType::kUe8m0,
                                 rows, blocks, stride);
  if (layout == ops::ScaleLayout::kColumnMajor) t.row_stride = 1, t.col_stride = stride_or(stride, rows);
  return t;
}

inline void look_at(NanGuardLook& look, const ops::Fp8Output& q, std::int64_t rows, std::int64_t n) {
  if (!q.codes) return;
  look("quantised.codes", guarded_rows(q.codes, GuardedType::kE4m3, rows, n, q.codes_stride));
  look("quantised.scales",
       guarded_scales(q.scales, q.scale_type, q.scale_layout, rows, (n + 127) / 128, q.scales_stride));
}

/// Rows that an op wrote at slots of a pool. `like`: what decides which rows those are.
inline void look_at(NanGuardLook& look, const char* name, const ops::CachePool& pool, std::int64_t channels,
                    const GuardedTensor& like) {
  using ops::CacheFormat;
  if (!pool.data) return;
  GuardedTensor t = like;
  t.pool_slots = pool.slots;
  const auto part = [&](const void* data, GuardedType type, std::int64_t cols, std::int64_t page_bytes,
                        std::int64_t slot_bytes, std::int64_t shown_first) {
    t.data = data, t.type = type, t.cols = cols;
    t.page_bytes = page_bytes, t.slot_bytes = slot_bytes, t.shown_first = shown_first;
    look(name, t);
  };
  if (pool.format == CacheFormat::kRows) {
    const GuardedType type = guarded_type(pool.dtype);
    return part(pool.data, type, channels, stride_or(pool.stride, channels) * guarded_bytes(type), 0, 0);
  }
  t.page_rows = pool.page_rows;
  const auto* data = static_cast<const unsigned char*>(pool.data);
  const auto scales = [&](const auto& pages, GuardedType type, std::int64_t cols) {
    part(pages.scales_or_null ? pages.scales_or_null : data + std::int64_t{pool.page_rows} * pages.kDataBytes,
         type, cols, pages.scales_or_null ? pages.scales_stride : pages.page_stride, pages.kScaleBytes,
         channels);
  };
  if (pool.format == CacheFormat::kKv584) {
    const auto pages = page_pool<attention::KvPagePool>(pool);
    constexpr int kQuantised = attention::KvPagePool::kQuantised;
    part(data, GuardedType::kE4m3, kQuantised, pages.page_stride, pages.kDataBytes, 0);
    part(data + kQuantised, GuardedType::kBf16, attention::KvPagePool::kRotated, pages.page_stride,
         pages.kDataBytes, kQuantised);
    scales(pages, GuardedType::kUe8m0, kQuantised / 64);
  } else if (pool.format == CacheFormat::kIndexFp4) {
    scales(page_pool<attention::IndexFp4Pool>(pool), GuardedType::kUe8m0, 4);
  } else {
    const auto pages = page_pool<attention::IndexFp8Pool>(pool);
    part(data, GuardedType::kE4m3, channels, pages.page_stride, pages.kDataBytes, 0);
    scales(pages, GuardedType::kF32, 1);
  }
}

// ---- the ops
// -----------------------------------------------------------------------------------------------

inline void look_at_outputs(NanGuardLook& look, const ops::ActQuantParams& p) {
  if (p.format == ops::QuantFormat::kE4m3)
    look("codes", guarded_rows(p.codes, GuardedType::kE4m3, p.rows, p.n, p.codes_stride));
  look("scales", guarded_scales(p.scales, p.scale_type, p.scale_layout, p.rows, (p.n + p.block - 1) / p.block,
                                p.scales_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::AttnAttendParams& p) {
  look("o",
       guarded_heads(p.o, p.dtype, p.tokens, p.heads, p.head_dim, p.o_stride, p.o_head_stride, p.head_dim));
  look_at(look, p.quantised, p.tokens, std::int64_t{p.heads} * p.head_dim);
  look("lse", guarded_rows(p.lse, GuardedType::kF32, p.tokens, p.heads, p.lse_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::AttnCompressParams& p) {
  const auto entries = [&](const char* name, const ops::CompressorParams& c) {
    if (!c.kv) return;
    GuardedTensor like = {};
    like.rows = p.tokens;
    like.slots = slots(c.entry_slots, c.slot_type);
    like.first_token = p.first_token;
    like.start = positions(p.start, p.start_type);
    like.state_of = p.state_of;
    like.sequences = p.sequences, like.states = p.states, like.ratio = p.ratio;
    look_at(look, name, c.entries, c.dim, like);
  };
  entries("main.entries", p.main);
  entries("index.entries", p.index);
}

inline void look_at_outputs(NanGuardLook& look, const ops::AttnIndexScoresParams& p) {
  const ops::IndexQueries& q = p.queries;
  GuardedTensor t = guarded_rows(p.scores, GuardedType::kF32, q.tokens, q.max_entries, p.scores_stride);
  t.visible = visible(q.visible, q.max_entries);
  t.table = page_table(q.table);
  t.sequence_of = q.table.sequence_of;
  t.table_slots = q.keys.slots;
  look("scores", t);
}

inline void look_at_outputs(NanGuardLook& look, const ops::AttnOutProjParams& p) {
  look("y", guarded_rows(p.y, p.y_f32 ? GuardedType::kF32 : guarded_type(p.dtype), p.tokens, p.hidden,
                         p.y_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::AttnQProjParams& p) {
  look("out", guarded_heads(p.out, p.dtype, p.tokens, p.heads, p.head_dim, p.out_stride, p.out_head_stride,
                            p.head_dim));
}

inline void look_at_outputs(NanGuardLook& look, const ops::AttnKvProjParams& p) {
  look("out", guarded_rows(p.out, guarded_type(p.dtype), p.tokens, p.head_dim, p.out_stride));
  GuardedTensor like = {};
  like.rows = p.tokens;
  like.slots = slots(p.slots, p.slot_type);
  look_at(look, "window", p.window, p.head_dim, like);
}

inline void look_at_outputs(NanGuardLook& look, const ops::AttnIndexPrepParams& p) {
  using ops::CacheFormat;
  const std::int64_t row = std::int64_t{p.heads} * p.dim;
  if (p.format != CacheFormat::kIndexFp4)
    look(
        "codes",
        guarded_rows(p.codes, p.format == CacheFormat::kIndexFp8 ? GuardedType::kE4m3 : guarded_type(p.dtype),
                     p.tokens, row));
  look("scales", guarded_rows(p.scales, GuardedType::kUe8m0, p.tokens, std::int64_t{p.heads} * 4));
  look("weights_out", guarded_rows(p.weights_out, GuardedType::kF32, p.tokens, p.heads));
}

inline void look_at_outputs(NanGuardLook& look, const ops::AttnQkPrepParams& p) {
  if (p.q.q) look_at_outputs(look, p.q);
  if (p.kv.kv) look_at_outputs(look, p.kv);
  if (p.index.q) look_at_outputs(look, p.index);
}

inline void look_at_outputs(NanGuardLook& look, const ops::EmbedParams& p) {
  look("out", guarded_rows(p.out, guarded_type(p.dtype), p.tokens, p.streams * p.hidden, p.out_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::HadamardParams& p) {
  look("out", guarded_rows(p.out, guarded_type(p.dtype), p.rows, p.n, p.out_stride));
}

template <class P>  // LinearBf16Params, LinearFp8Params
requires requires(const P& p) { p.weight, p.y_type; }
void look_at_outputs(NanGuardLook& look, const P& p) {
  look("y", guarded_rows(p.y, guarded_type(p.y_type), p.tokens, p.n, p.y_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::LinearMultiParams& p) {
  static constexpr const char* kNames[ops::kMaxLinearParts] = {
      "parts[0].y",  "parts[1].y",  "parts[2].y",  "parts[3].y", "parts[4].y",  "parts[5].y",
      "parts[6].y",  "parts[7].y",  "parts[8].y",  "parts[9].y", "parts[10].y", "parts[11].y",
      "parts[12].y", "parts[13].y", "parts[14].y", "parts[15].y"};
  for (int i = 0; i < p.count; ++i) {
    const ops::LinearPart& part = p.parts[i];
    look(kNames[i], guarded_rows(part.y, guarded_type(part.y_type), p.tokens, part.n, part.y_stride));
  }
}

inline void look_at_outputs(NanGuardLook& look, const ops::LmHeadParams& p) {
  look("logits", guarded_rows(p.logits, GuardedType::kF32, p.tokens, p.vocab, p.logits_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::MhcPostParams& p) {
  look("out", guarded_rows(p.out, guarded_type(p.dtype), p.tokens, p.stream_count * p.hidden, p.out_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::MhcPreParams& p) {
  look("mixes", guarded_rows(p.mixes, GuardedType::kF32, p.tokens, 24, p.mixes_stride));
  look("pre", guarded_rows(p.pre, GuardedType::kF32, p.tokens, 4, p.pre_stride));
  look("post", guarded_rows(p.post, GuardedType::kF32, p.tokens, 4, p.post_stride));
  look("comb", guarded_rows(p.comb, GuardedType::kF32, p.tokens, 16, p.comb_stride));
  look("x", guarded_rows(p.x, guarded_type(p.dtype), p.tokens, p.hidden, p.x_stride));
  look("normed", guarded_rows(p.normed, guarded_type(p.dtype), p.tokens, p.hidden, p.normed_stride));
  look_at(look, p.quantised, p.tokens, p.hidden);
}

inline void look_at_outputs(NanGuardLook& look, const ops::MhcPostPreParams& p) {
  look_at_outputs(look, p.post);
  look_at_outputs(look, p.pre);
}

inline void look_at_outputs(NanGuardLook& look, const ops::MhcHeadParams& p) {
  look("mixes", guarded_rows(p.mixes, GuardedType::kF32, p.tokens, 4, p.mixes_stride));
  look("pre", guarded_rows(p.pre, GuardedType::kF32, p.tokens, 4, p.pre_stride));
  look("x", guarded_rows(p.x, guarded_type(p.dtype), p.tokens, p.hidden, p.x_stride));
  look("normed", guarded_rows(p.normed, guarded_type(p.dtype), p.tokens, p.hidden, p.normed_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::MoeCombineParams& p) {
  look("out", guarded_rows(p.out, p.out_f32 ? GuardedType::kF32 : guarded_type(p.dtype), p.tokens, p.hidden,
                           p.out_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::MoeExpertsParams& p) {
  GuardedTensor t = guarded_rows(p.y, guarded_type(p.dtype), p.tokens * p.k, p.hidden, p.y_stride);
  t.row_count = p.plan.offsets ? p.plan.offsets + p.experts : nullptr;
  look("y", t);
}

inline void look_at_outputs(NanGuardLook& look, const ops::MoeFusedParams& p) {
  look("out", guarded_rows(p.out, p.out_f32 ? GuardedType::kF32 : guarded_type(p.dtype), p.tokens, p.hidden,
                           p.out_stride));
}

inline void look_at_outputs(NanGuardLook& look, const ops::MoeGateParams& p) {
  look("scores", guarded_rows(p.scores, GuardedType::kF32, p.tokens, p.experts));
  look("weights", guarded_rows(p.weights, GuardedType::kF32, p.tokens, p.k));
}

inline void look_at_outputs(NanGuardLook& look, const ops::RmsNormParams& p) {
  look("out", guarded_rows(p.out, guarded_type(p.dtype), p.rows, p.n, p.out_stride));
  look_at(look, p.quantised, p.rows, p.n);
}

inline void look_at_outputs(NanGuardLook& look, const ops::RopeParams& p) {
  look("out", guarded_heads(p.out, p.dtype, p.tokens, p.heads, p.head_dim, p.out_stride, p.out_head_stride,
                            p.rope_dim));
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
