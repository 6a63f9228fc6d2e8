// The attention half's caches as ops see them, its history, and the parameters of every launch.
#pragma once

#include "tests/ops/attention_half.hpp"

#include <cmath>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

namespace dsv4::test {

inline ops::CachePool Half::window_cache() {
  return {.data = window.data(),
          .format = ops::CacheFormat::kKv584,
          .slots = 7 * kWindowPage,
          .stride = kWindowBytes,
          .page_rows = kWindowPage};
}
inline ops::CachePool Half::entry_cache() {
  return {.data = main.pages.data(),
          .format = ops::CacheFormat::kKv584,
          .slots = 5 * kEntryPage,
          .page_rows = kEntryPage};
}
inline ops::CachePool Half::key_cache() {
  return {.data = index.pages.data(),
          .format = ops::CacheFormat::kIndexFp4,
          .slots = 5 * kEntryPage,
          .page_rows = kEntryPage};
}
inline ops::PageTable Half::window_pages() const {
  return {.pages = window_table.data(), .stride = 3, .sequences = 2, .page_rows = kWindowPage, .ring = 128};
}
inline ops::PageTable Half::entry_pages() const {
  return {.pages = entry_table.data(), .stride = 2, .sequences = 2, .page_rows = kEntryPage};
}

inline ops::CompressorParams Half::compressor(Compressor& c) {
  return {.kv = c.kv.data(),
          .gate = c.gate.data(),
          .ape = c.ape.data(),
          .norm = c.norm.data(),
          .state = c.states.data(),
          .entries = c.dim == 512 ? entry_cache() : key_cache(),
          .entry_slots = entry_slots.data(),
          .dim = c.dim};
}

inline void Half::prefill() {
  const std::vector<std::int32_t> first{0, position[0] + 1, position[0] + position[1] + 2}, start{0, 0};
  const std::int64_t tokens = first[2];
  std::vector<std::int32_t> positions, slots_w, slots_e;
  for (int s = 0; s < 2; ++s)
    for (std::int32_t p = 0; p <= position[static_cast<std::size_t>(s)]; ++p) {
      positions.push_back(p);
      // Rows that a later one takes the place of are not stored: stored slots are distinct.
      slots_w.push_back(p + 128 > position[static_cast<std::size_t>(s)]
                            ? static_cast<std::int32_t>(window_slot(s, p))
                            : -1);
      slots_e.push_back(static_cast<std::int32_t>(entry_slot(s, p / 4)));
    }
  const std::vector<bf16> rows = rounded(normal(tokens * 512, 50));
  REQUIRE_OK(ops::attn_kv_proj({.window = window_cache(),
                                .slots = slots_w.data(),
                                .kv = rows.data(),
                                .norm = kv_norm.data(),
                                .positions = positions.data(),
                                .rope = {.freq = freq.data()},
                                .tokens = tokens,
                                .head_dim = 512,
                                .rope_dim = 64,
                                .eps = kEps},
                               nullptr));
  ops::AttnCompressParams p{.main = compressor(main),
                            .index = compressor(index),
                            .first_token = first.data(),
                            .start = start.data(),
                            .state_of = state_of.data(),
                            .rope = {.freq = freq.data()},
                            .tokens = tokens,
                            .sequences = 2,
                            .states = 2,
                            .ratio = 4,
                            .max_rollback = kMaxRollback,
                            .rope_dim = 64,
                            .eps = kEps};
  std::deque<std::vector<float>> projected;
  for (auto [c, params] : {std::pair{&main, &p.main}, std::pair{&index, &p.index}}) {
    const auto seed = static_cast<std::uint64_t>(60 + c->dim);
    const float* a = projected.emplace_back(normal(tokens * c->width, seed)).data();
    const float* b = projected.emplace_back(normal(tokens * c->width, seed + 1)).data();
    params->kv = a;
    params->gate = b;
    params->entry_slots = slots_e.data();
    for (std::size_t s = 0; s < 2; ++s)
      for (std::int64_t t = first[s]; t < first[s + 1]; ++t)
        for (const float* from : {a, b})
          c->history[s].rows.insert(c->history[s].rows.end(), from + t * c->width, from + (t + 1) * c->width);
  }
  REQUIRE_OK(ops::attn_compress(p, nullptr));
}

inline Half::Launches Half::capture() {
  Launches l;
  l.mhc.post = {.out = streams.data(),
                .y = y.data(),
                .streams = streams.data(),
                .post = post_in.data(),
                .comb = comb_in.data(),
                .tokens = kTokens,
                .hidden = kHidden,
                .stream_count = 4};
  l.mhc.pre = {.normed = x.data(),
               .post = post.data(),
               .comb = comb.data(),
               .streams = streams.data(),
               .fn = fn.data(),
               .scale = hc_scale.data(),
               .base = hc_base.data(),
               .norm_weight = norm.data(),
               .tokens = kTokens,
               .hidden = kHidden,
               .stream_count = 4,
               .sinkhorn_iterations = 20,
               .mix_eps = kEps,
               .hc_eps = kEps,
               .norm_eps = kEps};
  l.mhc.pre.workspace_bytes = ops::mhc_post_pre_workspace_bytes(l.mhc);
  l.mhc.pre.workspace = workspace(l.mhc.pre.workspace_bytes);

  const auto add = [](ops::LinearMultiParams& p, const Matrix& m, void* to, ops::DType type) {
    p.parts[p.count++] = {.y = to, .weight = m.weight(), .n = m.rows, .y_type = type, .quantise = m.fp8()};
  };
  l.input.input.x = x.data();
  l.input.k = kHidden;
  add(l.input, wq_a, q_a.data(), ops::DType::kBf16);
  add(l.input, wkv, kv.data(), ops::DType::kBf16);
  for (Compressor* c : {&main, &index}) {
    add(l.input, c->wkv, c->kv.data(), ops::DType::kF32);
    add(l.input, c->wgate, c->gate.data(), ops::DType::kF32);
  }
  add(l.input, wproj, head_weights.data(), ops::DType::kBf16);
  l.queries.input = {.x = q_a.data(), .norm_weight = q_norm.data(), .norm_eps = kEps};
  l.queries.k = kLora;
  add(l.queries, wq_b, q_raw.data(), ops::DType::kBf16);
  add(l.queries, wq_bi, index_raw.data(), ops::DType::kBf16);
  for (ops::LinearMultiParams* p : {&l.input, &l.queries}) {
    p->tokens = kTokens;
    p->workspace_bytes = ops::linear_multi_workspace_bytes(*p);
    p->workspace = workspace(p->workspace_bytes);
  }

  const ops::RopeTable rope{.freq = freq.data()};
  l.prepare.q = {.out = q.data(),
                 .q = q_raw.data(),
                 .positions = position.data(),
                 .rope = rope,
                 .tokens = kTokens,
                 .heads = kHeads,
                 .head_dim = 512,
                 .rope_dim = 64,
                 .eps = kEps};
  l.prepare.kv = {.window = window_cache(),
                  .slots = window_slots.data(),
                  .kv = kv.data(),
                  .norm = kv_norm.data(),
                  .positions = position.data(),
                  .rope = rope,
                  .tokens = kTokens,
                  .head_dim = 512,
                  .rope_dim = 64,
                  .eps = kEps};
  l.prepare.index = {.codes = index_codes.data(),
                     .scales = index_scales.data(),
                     .weights_out = weights.data(),
                     .q = index_raw.data(),
                     .weights = head_weights.data(),
                     .positions = position.data(),
                     .rope = rope,
                     .tokens = kTokens,
                     .heads = kIndexHeads,
                     .dim = 128,
                     .rope_dim = 64};
  l.compress = {.main = compressor(main),
                .index = compressor(index),
                .first_token = first_token.data(),
                .start = position.data(),
                .state_of = state_of.data(),
                .rope = rope,
                .tokens = kTokens,
                .sequences = 2,
                .states = 2,
                .ratio = 4,
                .max_rollback = kMaxRollback,
                .rope_dim = 64,
                .eps = kEps};
  const ops::VisibleEntries visible{.positions = position.data(), .ratio = 4};
  l.select.queries = {.q = index_codes.data(),
                      .scales = index_scales.data(),
                      .weights = weights.data(),
                      .keys = key_cache(),
                      .table = entry_pages(),
                      .visible = visible,
                      .tokens = kTokens,
                      .max_entries = kMaxEntries,
                      .heads = kIndexHeads,
                      .dim = 128};
  l.select.output = {
      .idx = chosen.data(), .table = entry_pages(), .slots = 5 * kEntryPage, .k = kTopK, .as_slots = true};
  l.select.workspace_bytes = ops::attn_index_select_workspace_bytes(l.select);
  l.select.workspace = workspace(l.select.workspace_bytes);
  l.attend = {.o = o.data(),
              .q = q.data(),
              .sink = sink.data(),
              .window = {.pool = window_cache(),
                         .kind = ops::SelectionKind::kWindow,
                         .table = window_pages(),
                         .max_count = 128,
                         .window = 128},
              .entries = {.pool = entry_cache(),
                          .kind = ops::SelectionKind::kList,
                          .idx = chosen.data(),
                          .max_count = kTopK},
              .positions = position.data(),
              .rope = rope,
              .tokens = kTokens,
              .heads = kHeads,
              .head_dim = 512,
              .rope_dim = 64,
              .scale = 1.0f / std::sqrt(512.0f),
              .rotate_back = true};
  l.attend.workspace_bytes = ops::attn_attend_workspace_bytes(l.attend);
  l.attend.workspace = workspace(l.attend.workspace_bytes);
  l.out = {.y = out.data(),
           .o = o.data(),
           .wo_a = wo_a.weight(),
           .wo_b = wo_b.weight(),
           .tokens = kTokens,
           .hidden = kHidden,
           .heads = kHeads,
           .head_dim = 512,
           .rope_dim = 64,
           .groups = kGroups,
           .rank = kRank};
  l.out.workspace_bytes = ops::attn_out_proj_workspace_bytes(l.out);
  l.out.workspace = workspace(l.out.workspace_bytes);
  return l;
}

inline void Half::next_tokens() {
  for (std::size_t t = 0; t < kTokens; ++t) {
    ++position[t];
    window_slots[t] = static_cast<std::int32_t>(window_slot(static_cast<std::int64_t>(t), position[t]));
    entry_slots[t] = static_cast<std::int32_t>(entry_slot(static_cast<std::int64_t>(t), position[t] / 4));
  }
}

inline void Half::replay(const Launches& l) const {
  REQUIRE_OK(ops::mhc_post_pre(l.mhc, nullptr));
  REQUIRE_OK(ops::linear_multi(l.input, nullptr));
  REQUIRE_OK(ops::linear_multi(l.queries, nullptr));
  REQUIRE_OK(ops::attn_qk_prep(l.prepare, nullptr));
  REQUIRE_OK(ops::attn_compress(l.compress, nullptr));
  REQUIRE_OK(ops::attn_index_select(l.select, nullptr));
  REQUIRE_OK(ops::attn_attend(l.attend, nullptr));
  REQUIRE_OK(ops::attn_out_proj(l.out, nullptr));
}

inline void Half::note_rows() {
  for (Compressor* c : {&main, &index})
    for (std::size_t s = 0; s < 2; ++s)
      for (const std::vector<float>* from : {&c->kv, &c->gate})
        c->history[s].rows.insert(c->history[s].rows.end(),
                                  from->begin() + static_cast<std::int64_t>(s) * c->width,
                                  from->begin() + static_cast<std::int64_t>(s + 1) * c->width);
}

}  // namespace dsv4::test
