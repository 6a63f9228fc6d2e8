// OpBackend: projections, the window cache, attention over both pools and the way out.
#include "reference/op_backend/op_backend.hpp"

#include <dsv4/attention/visibility.hpp>
#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/attn_proj.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {

bool exists(const WeightView& w) { return w.rows > 0; }

}  // namespace

// ------------------------------------------------------------------------------------------- projections

// One matrix of a linear_multi, and the rows its product goes to.
template <class T>
template <class TOut>
ops::LinearPart OpBackend<T>::part(OpCall& call, const WeightView& w, Tensor<TOut>& y) {
  return {.y = call.out(y),
          .weight = weights_.linear(w),
          .n = w.rows,
          .y_type = std::is_same_v<TOut, float> ? ops::DType::kF32 : ops::DType::kBf16,
          .quantise = kDeploy && dsv4::linear::quantises_activations(w.type)};
}

template <class T>
void OpBackend<T>::run_multi(OpCall& call, ops::LinearMultiParams p) {
  p.dtype = kType;
  p.workspace_bytes = ops::linear_multi_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  call.run(ops::linear_multi(p, OpCall::kStream), "linear_multi");
}

// Everything that a layer projects its input to, in one launch.
template <class T>
typename OpBackend<T>::Projections OpBackend<T>::project(const AttentionWeights& w, const Rows& x) {
  const std::int64_t rows = x.rows();
  OpCall call;
  ops::LinearMultiParams p{.input = {.x = call.in(x)}, .tokens = rows, .k = x.cols()};
  const auto add = [&](const WeightView& matrix, auto& y) {
    if (!exists(matrix)) return;
    y = std::remove_reference_t<decltype(y)>(rows, matrix.rows);
    p.parts[p.count++] = part(call, matrix, y);
  };
  Projections out;
  add(w.wq_a, out.q_a);
  add(w.wkv, out.kv);
  add(w.compressor.wkv, out.main.kv);
  add(w.compressor.wgate, out.main.gate);
  add(w.indexer.compressor.wkv, out.index.kv);
  add(w.indexer.compressor.wgate, out.index.gate);
  add(w.indexer.weights_proj, out.head_weights);
  run_multi(call, p);
  return out;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_q_lora(const AttentionWeights& w, const Rows& x) {
  if (!fused_) return rms_norm(w.q_norm, product(w.wq_a, x));
  Projections& p = kept_input_.keep(&w, x, project(w, x));
  Rows qr = rms_norm(w.q_norm, p.q_a);
  kept_latent_.keep(&w, qr, std::move(p.q_a));
  return qr;
}

template <class T>
ops::AttnQProjParams OpBackend<T>::q_params(OpCall& call, Rows& q, int b) const {
  T* const data = call.in_out(q);
  return {.out = data,
          .q = data,
          .positions = call.in(batch_->position),
          .rope = rope_table(call, b),
          .tokens = q.rows(),
          .heads = q.dim(1),
          .head_dim = kHeadDim,
          .rope_dim = kRopeDim,
          .eps = this->config().norm_eps,
          .position_type = ops::PositionType::kInt64,
          .dtype = kType};
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_q_proj(const AttentionWeights& w, const Rows& qr, int b) {
  if (fused_) return prepare(w, qr, b);
  Rows q(qr.rows(), this->config().heads, kHeadDim);
  product(q.data(), w.wq_b, qr.data(), qr.rows());
  OpCall call;
  call.run(ops::attn_q_proj(q_params(call, q, b), OpCall::kStream), "attn_q_proj");
  return q;
}

// Wq_b and the indexer's in one launch, Wq_a's norm on the way in; then all that follows the projections in
// another: queries, and for later stages key-values and indexer queries.
template <class T>
typename OpBackend<T>::Rows OpBackend<T>::prepare(const AttentionWeights& w, const Rows& qr, int b) {
  const std::int64_t rows = qr.rows();
  const bool indexed = exists(w.indexer.wq_b);
  Rows q(rows, this->config().heads, kHeadDim), raw;
  {
    OpCall call;
    ops::LinearMultiParams p{.tokens = rows, .k = qr.cols()};
    if (const Rows* q_a = kept_latent_.find(&w, qr))
      p.input = {
          .x = call.in(*q_a), .norm_weight = weights_.vector(w.q_norm), .norm_eps = this->config().norm_eps};
    else
      p.input = {.x = call.in(qr)};
    p.parts[p.count++] = part(call, w.wq_b, q);
    if (indexed) {
      raw = Rows(rows, this->config().index_heads, kIndexDim);
      p.parts[p.count++] = part(call, w.indexer.wq_b, raw);
    }
    run_multi(call, p);
  }

  OpCall call;
  ops::AttnQkPrepParams p{.q = q_params(call, q, b)};
  Projections* const input = kept_input_.of(&w);
  Rows kv;
  if (input) {
    open_window();
    kv = Rows(rows, kHeadDim);
    p.kv = kv_params(call, w, input->kv, kv, b);
  }
  IndexQuery index;
  if (indexed) {
    index = index_query(std::move(raw), input ? std::move(input->head_weights) : Rows());
    p.index = index_params(call, index, b);
  }
  call.run(ops::attn_qk_prep(p, OpCall::kStream), "attn_qk_prep");
  if (input) kept_kv_.keep(&w, kept_input_.input(), std::move(kv));
  if (indexed) {
    decode(index);
    kept_query_.keep(&w, qr, std::move(index));
  }
  return q;
}

// ------------------------------------------------------------------------------------ key-values, window

// Room for the new rows and for the window that the first of them sees.
template <class T>
void OpBackend<T>::open_window() {
  std::int64_t most = 0;
  for (const Segment& s : batch_->segments) most = std::max(most, s.count);
  const std::int64_t ring = kWindow - 1 + std::max<std::int64_t>(1, most);
  window_ = PagedRows(RowStore(kKvFormat, kHeadDim), std::vector(batch_->segments.size(), ring),
                      static_cast<std::int32_t>(ring));
  slots_.clear();
  for (std::size_t t = 0; t < batch_->position.size(); ++t)
    slots_.push_back(window_.slot(batch_->segment_of[t], batch_->position[t]));
}

template <class T>
ops::AttnKvProjParams OpBackend<T>::kv_params(OpCall& call, const AttentionWeights& w, const Rows& kv,
                                              Rows& out, int b) {
  return {.window = window_.writable_pool(call),
          .slots = call.in(slots_),
          .out = call.out(out),
          .kv = call.in(kv),
          .norm = weights_.vector(w.kv_norm),
          .positions = call.in(batch_->position),
          .rope = rope_table(call, b),
          .tokens = kv.rows(),
          .head_dim = kHeadDim,
          .rope_dim = kRopeDim,
          .eps = this->config().norm_eps,
          .position_type = ops::PositionType::kInt64,
          .dtype = kType};
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_kv_proj(const AttentionWeights& w, const Rows& x, int b) {
  Rows kv;
  if (Rows* kept = kept_kv_.find(&w, x)) {
    kv = std::move(*kept);
    kept_kv_.drop();
  } else {
    kv = Rows(x.rows(), kHeadDim);
    const Rows projected = product(w.wkv, x);
    open_window();
    OpCall call;
    call.run(ops::attn_kv_proj(kv_params(call, w, projected, kv, b), OpCall::kStream), "attn_kv_proj");
  }
  window_rows_ = Rows(kv.rows(), kHeadDim);
  std::copy_n(kv.data(), kv.size(), window_rows_.data());
  return kv;
}

// -------------------------------------------------------------------------------------- attention, output

template <class T>
PagedRows OpBackend<T>::entries_of(int b, bool index) const {
  std::vector<std::int64_t> counts;
  for (const Segment& s : batch_->segments)
    counts.push_back(attention::visible_entries(s.start + s.count - 1, ratio_of(this->config().kind(b))));
  PagedRows rows(index ? RowStore(kKeyFormat, kIndexDim) : RowStore(kKvFormat, kHeadDim), counts);
  for (std::size_t s = 0; s < counts.size(); ++s) {
    const BlockState& block = batch_->segments[s].state->block(b);
    for (std::int64_t e = 0; e < counts[s]; ++e)
      rows.get(static_cast<std::int64_t>(s), e, (index ? block.index : block.main).entries, e);
  }
  return rows;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_attend(const AttentionWeights& w, const Rows& q,
                                                      const Rows& kv, const Selected& selected, int b,
                                                      const Batch& batch) {
  const LayerKind kind = this->config().kind(b);
  // The rows before this batch; of its own those that a tap replaced.
  for (std::size_t s = 0; s < batch.segments.size(); ++s) {
    const Segment& segment = batch.segments[s];
    const BlockState& block = segment.state->block(b);
    const auto sequence = static_cast<std::int64_t>(s);
    if (segment.count == 0) continue;
    for (std::int64_t p = attention::window_begin(segment.start, kWindow); p < segment.start; ++p)
      window_.get(sequence, p, block.window, p % block.ring);
    for (std::int64_t t = segment.first; t < segment.first + segment.count; ++t)
      if (std::memcmp(kv.row(t), window_rows_.row(t), kHeadDim * sizeof(T)) != 0)
        window_.put(sequence, segment.start + t - segment.first, kv.row(t));
  }

  const std::int64_t count = kind == LayerKind::kSwa ? 0 : selected.entries.cols();
  const PagedRows entries = count > 0 ? entries_of(b, false) : PagedRows();
  std::vector<std::int32_t> slots;  // CSA: of the chosen entries
  if (kind == LayerKind::kCsa)
    for (std::int64_t t = 0; t < batch.rows(); ++t)
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int32_t entry = selected.entries.row(t)[i];
        slots.push_back(entry < 0 ? -1 : entries.slot(batch.segment_of[static_cast<std::size_t>(t)], entry));
      }

  Rows o(q.rows(), this->config().heads, kHeadDim);
  OpCall call;
  const auto* const positions = call.in(batch.position);
  ops::AttnAttendParams p{.o = call.out(o),
                          .q = call.in(q),
                          .sink = weights_.vector(w.sink),
                          .window = {.pool = window_.pool(call),
                                     .kind = ops::SelectionKind::kWindow,
                                     .table = window_.table(call, batch.segment_of),
                                     .max_count = kWindow,
                                     .window = kWindow},
                          .positions = positions,
                          .tokens = q.rows(),
                          .heads = this->config().heads,
                          .head_dim = kHeadDim,
                          .scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim)),
                          .position_type = ops::PositionType::kInt64,
                          .dtype = kType};
  if (count > 0) {
    p.entries.pool = entries.pool(call);
    p.entries.max_count = count;
    if (kind == LayerKind::kCsa) {
      p.entries.kind = ops::SelectionKind::kList;
      p.entries.idx = call.in(slots);
    } else {
      p.entries.kind = ops::SelectionKind::kEntries;
      p.entries.table = entries.table(call, batch.segment_of);
      p.entries.visible = {
          .positions = positions, .position_type = ops::PositionType::kInt64, .ratio = ratio_of(kind)};
    }
  }
  p.workspace_bytes = ops::attn_attend_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  call.run(ops::attn_attend(p, OpCall::kStream), "attn_attend");
  return o;
}

// The new rows' bytes, from the pool that attention read them from.
template <class T>
void OpBackend<T>::attn_append(const Rows&, int b, Batch& batch) {
  for (std::size_t s = 0; s < batch.segments.size(); ++s) {
    const Segment& segment = batch.segments[s];
    BlockState& block = segment.state->block(b);
    const std::int64_t end = segment.start + segment.count;
    for (std::int64_t p = std::max(segment.start, end - block.ring); p < end; ++p)
      window_.give(static_cast<std::int64_t>(s), p, block.window, p % block.ring);
  }
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_out_proj(const AttentionWeights& w, Rows& o, int b) {
  const ModelConfig& c = this->config();
  Rows y(o.rows(), c.hidden);
  OpCall call;
  ops::AttnOutProjParams p{.y = call.out(y),
                           .o = call.in(o),
                           .wo_a = weights_.linear(w.wo_a),
                           .wo_b = weights_.linear(w.wo_b),
                           .positions = call.in(batch_->position),
                           .rope = rope_table(call, b),
                           .tokens = o.rows(),
                           .hidden = c.hidden,
                           .heads = c.heads,
                           .head_dim = kHeadDim,
                           .rope_dim = kRopeDim,
                           .groups = c.o_groups,
                           .rank = c.o_lora_rank,
                           .rotate_back = true,
                           .position_type = ops::PositionType::kInt64,
                           .dtype = kType};
  p.workspace_bytes = ops::attn_out_proj_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  call.run(ops::attn_out_proj(p, OpCall::kStream), "attn_out_proj");
  return y;
}

template class OpBackend<float>;
template class OpBackend<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
