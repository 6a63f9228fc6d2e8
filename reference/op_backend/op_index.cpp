// OpBackend: the lightning indexer.
#include "reference/op_backend/op_backend.hpp"

#include <dsv4/attention/visibility.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/attn_index.hpp>
#include <dsv4/ops/attn_proj.hpp>

#include <algorithm>
#include <cstring>
#include <utility>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {

template <class T>
bool same(const Tensor<T>& a, const Tensor<T>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

template <class T>
Tensor<T> copy(const Tensor<T>& x) {
  Tensor<T> y(x.dim(0), x.dim(1), x.dim(2));
  std::copy_n(x.data(), x.size(), y.data());
  return y;
}

}  // namespace

// -------------------------------------------------------------------------------------- queries, weights

template <class T>
typename OpBackend<T>::IndexQuery OpBackend<T>::index_query(Rows raw, Rows head_weights) const {
  const std::int64_t rows = raw.rows(), heads = raw.dim(1);
  IndexQuery query{.raw = std::move(raw),
                   .head_weights = std::move(head_weights),
                   .codes = {},
                   .scales = {},
                   .q = Rows(rows, heads, kIndexDim),
                   .weights_out = Tensor<float>(rows, heads)};
  if constexpr (kDeploy) {
    query.codes.resize(static_cast<std::size_t>(rows * heads * kIndexDim / 2));
    query.scales.resize(static_cast<std::size_t>(rows * heads * kIndexDim / quant::kFp4Block));
  }
  return query;
}

template <class T>
ops::AttnIndexPrepParams OpBackend<T>::index_params(OpCall& call, IndexQuery& query, int b) const {
  ops::AttnIndexPrepParams p{.weights_out = call.out(query.weights_out),
                             .q = call.in(query.raw),
                             .weights = call.in(query.head_weights),
                             .positions = call.in(batch_->position),
                             .rope = rope_table(call, b),
                             .tokens = query.raw.rows(),
                             .heads = static_cast<std::int32_t>(query.raw.dim(1)),
                             .dim = kIndexDim,
                             .rope_dim = kRopeDim,
                             .format = kIndexFormat,
                             .position_type = ops::PositionType::kInt64,
                             .dtype = kType};
  if constexpr (kDeploy) {
    p.codes = call.out(query.codes);
    p.scales = call.out(query.scales);
  } else {
    p.codes = call.out(query.q);
  }
  return p;
}

// The queries that the codes stand for.
template <class T>
void OpBackend<T>::decode(IndexQuery& query) const {
  if constexpr (kDeploy) {
    float block[quant::kFp4Block];
    for (std::size_t i = 0; i < query.scales.size(); ++i) {
      const std::size_t first = i * quant::kFp4Block;
      quant::fp4_decode(block, reinterpret_cast<const e2m1x2*>(query.codes.data() + first / 2),
                        quant::kFp4Block, to_float(e8m0{query.scales[i]}));
      for (std::size_t k = 0; k < quant::kFp4Block; ++k) query.q.data()[first + k] = from_float<T>(block[k]);
    }
  }
}

template <class T>
void OpBackend<T>::finish(IndexQuery& query, int b) const {
  OpCall call;
  call.run(ops::attn_index_prep(index_params(call, query, b), OpCall::kStream), "attn_index_prep");
  decode(query);
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_index_query(const AttentionWeights& w, const Rows& qr, int b) {
  const int heads = this->config().index_heads;
  if (IndexQuery* kept = kept_query_.find(&w, qr)) {
    index_ = std::move(*kept);
    kept_query_.drop();
  } else {
    Rows raw(qr.rows(), heads, kIndexDim);
    product(raw.data(), w.indexer.wq_b, qr.data(), qr.rows());
    // The head weights are not known yet; attn_index_scores finishes them.
    Rows head_weights(qr.rows(), heads);
    std::fill_n(head_weights.data(), head_weights.size(), T{});
    index_ = index_query(std::move(raw), std::move(head_weights));
    finish(index_, b);
  }
  return copy(index_.q);
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_index_weights(const AttentionWeights& w, const Rows& x) {
  if (kept_input_.find(&w, x) && index_.head_weights.rows() == x.rows()) return copy(index_.head_weights);
  return product(w.indexer.weights_proj, x);
}

// ----------------------------------------------------------------------------------------- scores, top k

// index_ as attn_index_scores and attn_index_select take it.
template <class T>
ops::IndexQueries OpBackend<T>::queries(OpCall& call, const PagedRows& keys, std::int64_t most) const {
  ops::IndexQueries p{.weights = call.in(index_.weights_out),
                      .keys = keys.pool(call),
                      .table = keys.table(call, batch_->segment_of),
                      .tokens = index_.q.rows(),
                      .max_entries = most,
                      .heads = static_cast<std::int32_t>(index_.q.dim(1)),
                      .dim = kIndexDim,
                      .format = kIndexFormat,
                      .dtype = kType};
  if constexpr (kDeploy) {
    p.q = call.in(index_.codes);
    p.scales = call.in(index_.scales);
  } else {
    p.q = call.in(index_.q);
  }
  return p;
}

template <class T>
ops::VisibleEntries OpBackend<T>::visible(OpCall& call) const {
  return {
      .positions = call.in(batch_->position), .position_type = ops::PositionType::kInt64, .ratio = kCsaRatio};
}

template <class T>
Tensor<float> OpBackend<T>::attn_index_scores(const Rows& q, const Rows& weights, int b, const Batch& batch) {
  if (!same(weights, index_.head_weights)) {
    index_.head_weights = copy(weights);
    finish(index_, b);
  }
  if (!same(q, index_.q)) {  // a tap replaced them: values that FP4 holds, so that quantising changes none
    index_.q = copy(q);
    if constexpr (kDeploy) {
      OpCall call;
      call.run(ops::act_quant({.codes = call.out(index_.codes),
                               .scales = call.out(index_.scales),
                               .x = call.in(q),
                               .rows = q.size() / kIndexDim,
                               .n = kIndexDim,
                               .block = quant::kFp4Block,
                               .format = ops::QuantFormat::kE2m1,
                               .dtype = kType},
                              OpCall::kStream),
               "act_quant");
    }
  }

  // Every entry of the token's sequence is scored, those that it does not see among them: a recording has
  // them.
  std::vector<std::int32_t> counts;
  for (std::int64_t t = 0; t < batch.rows(); ++t) {
    const Segment& s =
        batch.segments[static_cast<std::size_t>(batch.segment_of[static_cast<std::size_t>(t)])];
    counts.push_back(static_cast<std::int32_t>(attention::visible_entries(s.start + s.count - 1, kCsaRatio)));
  }
  const std::int64_t most = counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
  Tensor<float> scores(batch.rows(), most);
  const PagedRows keys = entries_of(b, true);
  {
    OpCall call;
    ops::AttnIndexScoresParams p{.scores = call.out(scores), .queries = queries(call, keys, most)};
    p.queries.visible.counts = call.in(counts);
    call.run(ops::attn_index_scores(p, OpCall::kStream), "attn_index_scores");
  }
  if (fused_ && most > 0) {
    Tensor<std::int32_t> entries(batch.rows(), std::min<std::int64_t>(this->config().index_top_k, most));
    OpCall call;
    ops::AttnIndexSelectParams p{
        .output = {.idx = call.out(entries), .k = static_cast<std::int32_t>(entries.cols())},
        .queries = queries(call, keys, most)};
    p.queries.visible = visible(call);
    p.workspace_bytes = ops::attn_index_select_workspace_bytes(p);
    p.workspace = call.workspace(p.workspace_bytes);
    call.run(ops::attn_index_select(p, OpCall::kStream), "attn_index_select");
    kept_entries_.keep(batch_, scores, std::move(entries));
  }
  return scores;
}

template <class T>
void OpBackend<T>::attn_select_top_k(Selected& selected, const Tensor<float>& scores, const Batch& batch) {
  if (Tensor<std::int32_t>* kept = kept_entries_.find(batch_, scores)) {
    selected.entries = std::move(*kept);
    kept_entries_.drop();
    return;
  }
  const std::int64_t k = std::min<std::int64_t>(this->config().index_top_k, scores.cols());
  selected.entries = Tensor<std::int32_t>(batch.rows(), k);
  if (k == 0) return;
  OpCall call;
  ops::AttnSelectParams p{.output = {.idx = call.out(selected.entries), .k = static_cast<std::int32_t>(k)},
                          .scores = call.in(scores),
                          .visible = visible(call),
                          .tokens = scores.rows(),
                          .max_entries = scores.cols()};
  p.workspace_bytes = ops::attn_select_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  call.run(ops::attn_select(p, OpCall::kStream), "attn_select");
}

template class OpBackend<float>;
template class OpBackend<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
