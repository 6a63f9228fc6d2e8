#include "reference/op_backend/op_backend.hpp"

#include <dsv4/mtp/input.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/rms_norm.hpp>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace dsv4::reference::inline DSV4_FLAVOUR {

template <class T>
OpBackend<T>::OpBackend(const Model& model, int threads, bool fused)
    : Base(model.config, threads), fused_(fused) {
  require_device();
  const auto add = [this](const BlockWeights& w) {
    sites_.push_back({&w.hc_attn, &w.attn_norm, true});
    sites_.push_back({&w.hc_ffn, &w.ffn_norm, true});
  };
  for (const BlockWeights& w : model.layers) add(w);
  sites_.back().leads_on = false;  // the head follows, or the MTP block's own input
  for (const MtpWeights& w : model.mtp) {
    add(w.block);
    sites_.back().leads_on = false;
  }
}

template <class T>
void OpBackend<T>::begin(const Batch& batch) {
  Base::begin(batch);
  batch_ = &batch;
  kept_pre_.drop();
  kept_norm_.drop();
  kept_input_.drop();
  kept_latent_.drop();
  kept_kv_.drop();
  kept_query_.drop();
  kept_entries_.drop();
  kept_ffn_.drop();
}

// ---------------------------------------------------------------------------------------------- row ops

template <class T>
template <class TOut>
void OpBackend<T>::product(TOut* y, const WeightView& w, const T* x, std::int64_t rows) {
  OpCall call;
  const auto run = [&](auto p, auto workspace_bytes, auto op, const char* name) {
    p.y = call.out(y, rows * w.rows);
    p.input.x = call.in(x, rows * w.cols);
    p.weight = weights_.linear(w);
    p.tokens = rows;
    p.n = w.rows;
    p.k = w.cols;
    p.dtype = kType;
    p.y_type = std::is_same_v<TOut, float> ? ops::DType::kF32 : ops::DType::kBf16;
    p.workspace_bytes = workspace_bytes(p);
    p.workspace = call.workspace(p.workspace_bytes);
    call.run(op(p, OpCall::kStream), name);
  };
  if (kDeploy && dsv4::linear::quantises_activations(w.type))
    run(ops::LinearFp8Params{}, ops::linear_fp8_workspace_bytes, ops::linear_fp8, "linear_fp8");
  else
    run(ops::LinearBf16Params{}, ops::linear_bf16_workspace_bytes, ops::linear_bf16, "linear_bf16");
}

template void OpBackend<float>::product(float*, const WeightView&, const float*, std::int64_t);
template void OpBackend<bf16>::product(float*, const WeightView&, const bf16*, std::int64_t);
template void OpBackend<bf16>::product(bf16*, const WeightView&, const bf16*, std::int64_t);

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::product(const WeightView& w, const Rows& x) {
  Rows y(x.rows(), w.rows);
  product(y.data(), w, x.data(), x.rows());
  return y;
}

template <class T>
ops::RopeTable OpBackend<T>::rope_table(OpCall& call, int b) const {
  return {.freq = call.in(this->frequencies(b).data(), kRopeDim / 2)};
}

template <class T>
typename OpBackend<T>::Streams OpBackend<T>::embed(const WeightView& table,
                                                   const std::vector<std::int32_t>& ids) {
  Streams s(static_cast<std::int64_t>(ids.size()), kStreams, table.cols);
  OpCall call;
  call.run(ops::embed({.out = call.out(s),
                       .table = weights_.matrix(table, "embed.weight"),
                       .ids = call.in(ids),
                       .tokens = s.rows(),
                       .hidden = table.cols,
                       .vocab = table.rows,
                       .streams = kStreams,
                       .dtype = kType,
                       .table_dtype = weights_.type_of(table, "embed.weight")},
                      OpCall::kStream),
           "embed");
  return s;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::rms_norm(const std::vector<float>& weight, const Rows& x) {
  if (Rows* kept = kept_norm_.find(&weight, x)) {
    kept_norm_.drop();
    return std::move(*kept);
  }
  Rows y(x.rows(), x.dim(1), x.dim(2));
  const auto n = static_cast<std::int64_t>(weight.size());
  OpCall call;
  call.run(ops::rms_norm({.out = call.out(y),
                          .x = call.in(x),
                          .weight = weights_.vector(weight),
                          .rows = x.size() / n,  // streams are normed one by one
                          .n = n,
                          .eps = this->config().norm_eps,
                          .dtype = kType},
                         OpCall::kStream),
           "rms_norm");
  return y;
}

// ------------------------------------------------------------------------------------------- MTP and head

template <class T>
typename OpBackend<T>::Streams OpBackend<T>::mtp_input(const MtpWeights& w, const WeightView& table,
                                                       const std::vector<std::int32_t>& next_ids,
                                                       const Streams& s) {
  const std::int64_t hidden = this->config().hidden;
  const Streams embedded = embed(table, next_ids);  // four times the same
  Rows e(s.rows(), hidden);
  for (std::int64_t t = 0; t < e.rows(); ++t) std::copy_n(embedded.row(t), hidden, e.row(t));
  const Rows projected = product(w.e_proj, rms_norm(w.enorm, e));  // [T, D]
  const Rows normed = rms_norm(w.hnorm, s);                        // [T, S, D]
  Streams out(s.rows(), kStreams, hidden);
  // Every stream of every token is a row of its own for W_h.
  product(out.data(), w.h_proj, normed.data(), s.rows() * kStreams);
  for (std::int64_t t = 0; t < s.rows(); ++t)
    mtp::input<kStreams>(SerialCoop{}, out.row(t), projected.row(t), out.row(t), static_cast<int>(hidden));
  return out;
}

template <class T>
Tensor<float> OpBackend<T>::lm_head(const WeightView& head, const Rows& x, const Batch& batch) {
  const std::vector<std::int32_t> rows = this->last_rows(batch);
  Tensor<float> logits(static_cast<std::int64_t>(rows.size()), head.rows);
  OpCall call;
  call.run(ops::lm_head({.logits = call.out(logits),
                         .x = call.in(x),
                         .head = weights_.matrix(head, "head.weight"),
                         .rows = call.in(rows),
                         .tokens = logits.rows(),
                         .x_rows = x.rows(),
                         .vocab = head.rows,
                         .hidden = head.cols,
                         .dtype = kType,
                         .head_dtype = weights_.type_of(head, "head.weight")},
                        OpCall::kStream),
           "lm_head");
  return logits;
}

// -------------------------------------------------------------------------------------------------- mHC

template <class T>
std::size_t OpBackend<T>::site_of(const HcWeights& w) const {
  const auto site = std::find_if(sites_.begin(), sites_.end(), [&w](const Site& s) { return s.hc == &w; });
  if (site == sites_.end()) throw std::logic_error("mhc_pre: weights of another model");
  return static_cast<std::size_t>(site - sites_.begin());
}

template <class T>
typename OpBackend<T>::HyperConnection OpBackend<T>::hyper_connection(std::int64_t rows) const {
  return {Tensor<float>(rows, kMixes), Tensor<float>(rows, kStreams), Tensor<float>(rows, kStreams),
          Tensor<float>(rows, kStreams, kStreams), Rows(rows, this->config().hidden)};
}

template <class T>
ops::MhcPreParams OpBackend<T>::pre_params(OpCall& call, const Site& site, HyperConnection& hc,
                                           Rows* normed_or_null, const T* streams) {
  const ModelConfig& c = this->config();
  ops::MhcPreParams p{.x = call.out(hc.x),
                      .normed = normed_or_null ? call.out(*normed_or_null) : nullptr,
                      .post = call.out(hc.post),
                      .comb = call.out(hc.comb),
                      .pre = call.out(hc.pre),
                      .mixes = call.out(hc.mixes),
                      .streams = streams,
                      .fn = static_cast<const float*>(weights_.matrix(site.hc->fn, "hc_fn")),
                      .scale = weights_.vector(site.hc->scale),
                      .base = weights_.vector(site.hc->base),
                      .norm_weight = normed_or_null ? weights_.vector(*site.norm) : nullptr,
                      .tokens = hc.x.rows(),
                      .hidden = c.hidden,
                      .stream_count = kStreams,
                      .sinkhorn_iterations = c.sinkhorn_iterations,
                      .mix_eps = c.norm_eps,
                      .hc_eps = c.hc_eps,
                      .norm_eps = c.norm_eps,
                      .dtype = kType};
  p.workspace_bytes = ops::mhc_pre_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  return p;
}

template <class T>
typename OpBackend<T>::HyperConnection OpBackend<T>::mhc_pre(const HcWeights& w, const Streams& s) {
  last_site_ = site_of(w);
  if (HyperConnection* kept = kept_pre_.find(&w, s)) {
    kept_pre_.drop();
    return std::move(*kept);
  }
  const Site& site = sites_[last_site_];
  HyperConnection hc = hyper_connection(s.rows());
  Rows normed = fused_ ? Rows(s.rows(), this->config().hidden) : Rows();
  OpCall call;
  call.run(ops::mhc_pre(pre_params(call, site, hc, fused_ ? &normed : nullptr, call.in(s)), OpCall::kStream),
           "mhc_pre");
  if (fused_) kept_norm_.keep(site.norm, hc.x, std::move(normed));
  return hc;
}

template <class T>
void OpBackend<T>::mhc_post(Streams& s, const Rows& y, const Tensor<float>& post, const Tensor<float>& comb) {
  OpCall call;
  T* const streams = call.in_out(s);
  const ops::MhcPostParams p{.out = streams,
                             .y = call.in(y),
                             .streams = streams,
                             .post = call.in(post),
                             .comb = call.in(comb),
                             .tokens = s.rows(),
                             .hidden = this->config().hidden,
                             .stream_count = kStreams,
                             .dtype = kType};
  if (!fused_ || !sites_[last_site_].leads_on) {
    call.run(ops::mhc_post(p, OpCall::kStream), "mhc_post");
    return;
  }
  const Site& next = sites_[last_site_ + 1];
  HyperConnection hc = hyper_connection(s.rows());
  Rows normed(s.rows(), this->config().hidden);
  call.run(ops::mhc_post_pre({p, pre_params(call, next, hc, &normed, streams)}, OpCall::kStream),
           "mhc_post_pre");
  kept_norm_.keep(next.norm, hc.x, std::move(normed));
  kept_pre_.keep(next.hc, s, std::move(hc));
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::mhc_head(const HcHeadWeights& w, const Streams& s) {
  const ModelConfig& c = this->config();
  Rows x(s.rows(), c.hidden);
  OpCall call;
  ops::MhcHeadParams p{.x = call.out(x),
                       .streams = call.in(s),
                       .fn = static_cast<const float*>(weights_.matrix(w.fn, "hc_head_fn")),
                       .scale = weights_.vector(w.scale),
                       .base = weights_.vector(w.base),
                       .tokens = s.rows(),
                       .hidden = c.hidden,
                       .stream_count = kStreams,
                       .mix_eps = c.norm_eps,
                       .hc_eps = c.hc_eps,
                       .norm_eps = c.norm_eps,
                       .dtype = kType};
  p.workspace_bytes = ops::mhc_head_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  call.run(ops::mhc_head(p, OpCall::kStream), "mhc_head");
  return x;
}

template class OpBackend<float>;
template class OpBackend<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
