// The straight line: token ids to logits, one stage after the other. Every stage is a Backend function of the
// same name as its primitive; every result passes through `tap`, which may record, compare or replace it. T
// rows in the batch, D hidden, H heads, S = 4 streams, E entries, K selected.
#pragma once

#include "reference/batch.hpp"
#include "reference/model.hpp"
#include "reference/tap.hpp"
#include "reference/tensor.hpp"

namespace dsv4::reference {

/// Logits of the last token of every sequence that got a token, in batch order.
struct Output {
  Tensor<float> logits;      // [B, V]
  Tensor<float> mtp_logits;  // [B, V]; no rows without an MTP block
};

/// Streams collapsed to a sublayer's input, and what mhc_post needs afterwards.
template <class Backend, class Tap>
auto mhc_pre(Backend& be, const HcWeights& w, int b, const char* site, const typename Backend::Streams& s,
             Tap& tap) {
  auto hc = be.mhc_pre(w, s);        // mixes [T, 24] -> x [T, D]
  tap(b, site, ".mixes", hc.mixes);  // [T, 24]
  tap(b, site, ".pre", hc.pre);      // [T, 4]
  tap(b, site, ".post", hc.post);    // [T, 4]
  tap(b, site, ".comb", hc.comb);    // [T, 4, 4]
  tap(b, site, ".in", hc.x);         // [T, D]
  return hc;
}

/// Attention half of block b.
template <class Backend, class Tap>
void attention(Backend& be, const BlockWeights& w, int b, typename Backend::Streams& s, Batch& batch,
               Tap& tap) {
  const LayerKind kind = be.config().kind(b);
  auto hc = mhc_pre(be, w.hc_attn, b, "hc_attn", s, tap);
  auto x = be.rms_norm(w.attn_norm, hc.x);  // [T, D]
  tap(b, "attn", ".in", x);
  auto qr = be.attn_q_lora(w.attn, x);  // [T, q_lora]
  tap(b, "attn", ".qr", qr);
  auto q = be.attn_q_proj(w.attn, qr, b);  // [T, H, 512]
  tap(b, "attn", ".q", q);
  auto kv = be.attn_kv_proj(w.attn, x, b);  // [T, 512]
  be.attn_compress(w.attn, x, b, batch);    // appends entries; CSA: index keys too
  tap.cache(b, batch, kv);
  auto selected = be.attn_select_window(batch);  // window positions [T, 128]
  if (kind == LayerKind::kHca) be.attn_select_all(selected, batch);
  if (kind == LayerKind::kCsa) {
    auto index_q = be.attn_index_query(w.attn, qr, b);  // [T, Hi, 128]
    tap(b, "attn.indexer", ".q", index_q);
    auto weights = be.attn_index_weights(w.attn, x);  // [T, Hi]
    tap(b, "attn.indexer", ".weights", weights);
    auto scores = be.attn_index_scores(index_q, weights, b, batch);  // [T, E]
    tap(b, "attn.indexer", ".scores", scores);
    be.attn_select_top_k(selected, scores, batch);  // entries [T, K], -1 padded
  }
  tap.selection(b, batch, selected);
  auto o = be.attn_attend(w.attn, q, kv, selected, b, batch);  // [T, H, 512]
  be.attn_append(kv, b, batch);                                // the window takes the new rows
  tap(b, "attn", ".o", o);
  auto y = be.attn_out_proj(w.attn, o, b);  // [T, D]
  tap(b, "attn", ".out", y);
  be.mhc_post(s, y, hc.post, hc.comb);
  tap(b, "hc_attn", ".out", s);  // [T, S, D]
}

/// Mixture-of-experts half of block b.
template <class Backend, class Tap>
void ffn(Backend& be, const BlockWeights& w, int b, typename Backend::Streams& s, const Batch& batch,
         Tap& tap) {
  auto hc = mhc_pre(be, w.hc_ffn, b, "hc_ffn", s, tap);
  auto x = be.rms_norm(w.ffn_norm, hc.x);  // [T, D]
  tap(b, "ffn", ".in", x);
  auto route = be.moe_gate(w.ffn, x, b, batch);  // expert ids, weights [T, active]
  tap.route(b, batch, route);
  auto plan = be.moe_dispatch(route);             // offsets, stable permutation
  auto y = be.moe_expert(w.ffn, x, plan, route);  // [T * active, D] in plan order
  auto shared = be.moe_shared(w.ffn, x);          // [T, D]
  tap(b, "ffn", ".shared", shared);
  auto out = be.moe_combine(y, plan, shared);  // [T, D]
  tap(b, "ffn", ".out", out);
  be.mhc_post(s, out, hc.post, hc.comb);
  tap(b, "hc_ffn", ".out", s);  // [T, S, D]
}

/// Streams to the normed rows of the output projection.
template <class Backend, class Streams>
auto collapse(Backend& be, const HcHeadWeights& hc, const std::vector<float>& norm, const Streams& s) {
  return be.rms_norm(norm, be.mhc_head(hc, s));  // [T, D]
}

/// Appends the batch's tokens to their sequences and returns the logits. Deterministic: a sequence's results
/// depend on its own tokens alone, not on chunks, on its neighbours in the batch or on the backend's threads.
/// The batch comes from make_batch, unchanged since, and is spent afterwards.
template <class Backend, class Tap>
Output forward(Backend& be, const Model& m, Batch& batch, Tap& tap) {
  be.begin(batch);
  const int layers = m.config.layers;
  auto s = be.embed(m.embed, batch.tokens);  // [T, S, D]
  for (int l = 0; l < layers; ++l) {
    tap(l, "", "in", s);
    attention(be, m.layers[static_cast<std::size_t>(l)], l, s, batch, tap);
    ffn(be, m.layers[static_cast<std::size_t>(l)], l, s, batch, tap);
  }
  auto x = collapse(be, m.hc_head, m.norm, s);  // [T, D]
  tap(Tap::kModel, "", "final_norm", x);
  Output out{be.lm_head(m.head, x, batch), {}};  // [B, V]
  tap(Tap::kModel, "", "logits", out.logits);
  if (batch.mtp()) {
    const MtpWeights& mtp = m.mtp[0];
    auto ms = be.mtp_input(mtp, m.embed, batch.next_tokens, s);  // [T, S, D]
    tap(layers, "", "in", ms);
    attention(be, mtp.block, layers, ms, batch, tap);
    ffn(be, mtp.block, layers, ms, batch, tap);
    auto mx = collapse(be, mtp.hc_head, mtp.norm, ms);  // [T, D]
    out.mtp_logits = be.lm_head(m.head, mx, batch);     // [B, V]
    tap(layers, "", "logits", out.mtp_logits);
  }
  for (Segment& segment : batch.segments) segment.state->advance(segment.count);
  return out;
}

}  // namespace dsv4::reference
