// CpuBackend: the attention half of a block.
#include <dsv4/attention/attend.hpp>
#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/kv_proj.hpp>
#include <dsv4/attention/out_proj.hpp>
#include <dsv4/attention/q_proj.hpp>
#include <dsv4/attention/select.hpp>
#include <dsv4/core/quant.hpp>

#include "reference/cpu_backend.hpp"
#include "reference/cpu_grain.hpp"

#include <cmath>

namespace dsv4::reference {

namespace {

constexpr SerialCoop kCoop;

// The window of a sequence while a batch runs: positions of this batch are rows of `chunk`, older ones lie in
// the ring.
template <class T>
struct WindowPool {
  const RowStore* store;
  std::int64_t ring;
  const T* chunk;      // row of position `start`
  std::int64_t start;  // first position of this batch
  std::int64_t slots;  // positions that exist

  void read(std::int64_t position, float* buffer) const {
    if (position < start)
      store->read(position % ring, buffer);
    else if constexpr (!std::is_same_v<T, float>)
      for (int d = 0; d < kHeadDim; ++d) buffer[d] = to_float(chunk[(position - start) * kHeadDim + d]);
  }
  const float* view(std::int64_t position, const float* buffer) const {
    if (position < start) return store->view(position % ring, buffer);
    if constexpr (std::is_same_v<T, float>)
      return chunk + (position - start) * kHeadDim;
    else
      return buffer;
  }
};

// Entries of a compressor that exist once the batch's tokens are in.
StorePool entries_after(const CompressorState& c, const Segment& s) {
  if (c.shape.ratio == 0) return {nullptr, 0};
  return {&c.entries, attention::visible_entries(s.start + s.count - 1, c.shape.ratio)};
}

}  // namespace

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::attn_q_lora(const AttentionWeights& w, const Rows& x) {
  return rms_norm(w.q_norm, linear(w.wq_a, x));
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::project_heads(const WeightView& w, const Rows& qr, int heads,
                                                          int head_dim) {
  Rows q(qr.rows(), heads, head_dim);
  linear_into(q.data(), q.cols(), w, operand(qr, dsv4::linear::quantises_activations(w.type)));
  return q;
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::attn_q_proj(const AttentionWeights& w, const Rows& qr, int b) {
  Rows q = project_heads(w.wq_b, qr, config_.heads, kHeadDim);
  pool_.run(q.rows() * config_.heads, grain_of(4 * kHeadDim),
            [&](std::int64_t begin, std::int64_t end, Scratch&) {
              for (std::int64_t i = begin; i < end; ++i)
                attention::finish_query(kCoop, q.data() + i * kHeadDim, angles(b, i / config_.heads),
                                        kHeadDim, kRopeDim, config_.norm_eps);
            });
  return q;
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::attn_kv_proj(const AttentionWeights& w, const Rows& x, int b) {
  Rows kv = linear(w.wkv, x);
  pool_.run(kv.rows(), grain_of(8 * kHeadDim), [&](std::int64_t begin, std::int64_t end, Scratch&) {
    for (std::int64_t t = begin; t < end; ++t) {
      attention::finish_key_value(kCoop, kv.row(t), w.kv_norm.data(), angles(b, t), kHeadDim, kRopeDim,
                                  config_.norm_eps);
      // What the cache will give back. Quantising these values once more when they are stored changes none of
      // them.
      if constexpr (kDeploy) quant::fp8_round_trip(kCoop, kv.row(t), kv.row(t), kNopeDim, quant::kFp8KvBlock);
    }
  });
  return kv;
}

// -------------------------------------------------------------------------------------------- compressor

template <class T>
void CpuBackend<T>::attn_compress(const AttentionWeights& w, const Rows& x, int b, Batch& batch) {
  const LayerKind kind = config_.kind(b);
  if (kind == LayerKind::kSwa) return;
  const Operand rows = operand(x, false);
  compress(w.compressor, rows, b, false, batch);
  if (kind == LayerKind::kCsa) compress(w.indexer.compressor, rows, b, true, batch);
}

template <class T>
void CpuBackend<T>::compress(const CompressorWeights& w, const Operand& x, int b, bool index, Batch& batch) {
  const attention::CompressorShape shape{ratio_of(config_.kind(b)), index ? kIndexDim : kHeadDim};
  const int row_floats = shape.row_floats(), dim = shape.dim;
  Tensor<float> projected(x.count, row_floats);  // a, then b
  linear_into(projected.data(), row_floats, w.wkv, x);
  linear_into(projected.data() + shape.width(), row_floats, w.wgate, x);

  struct Completed {
    const Segment* segment;
    std::int64_t entry;
  };
  std::vector<Completed> completed;
  for (const Segment& s : batch.segments)
    for (std::int64_t e = s.start / shape.ratio; e < (s.start + s.count) / shape.ratio; ++e)
      completed.push_back({&s, e});

  const auto count = static_cast<std::int64_t>(completed.size());
  Rows entries(count, dim);
  pool_.run(count, grain_of(std::int64_t{8} * shape.span() * dim),
            [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
              float* pooled = scratch.floats(2 * dim);
              math::SinCos table[kRopeDim / 2];
              for (std::int64_t i = begin; i < end; ++i) {
                const Segment* segment = completed[static_cast<std::size_t>(i)].segment;
                const std::int64_t entry = completed[static_cast<std::size_t>(i)].entry;
                const BlockState& block = segment->state->block(b);
                const CompressorState& state = index ? block.index : block.main;
                const auto row = [&](std::int64_t position) -> const float* {
                  if (position >= segment->start)
                    return projected.row(segment->first + position - segment->start);
                  return state.rows.view(position % state.ring, nullptr);
                };
                attention::pool(kCoop, pooled, row, entry, w.ape.data(), shape);
                rope::angles(kCoop, table, freq_[1].data(), attention::entry_position(entry, shape.ratio),
                             kRopeDim / 2);
                if (index)
                  attention::finish_index_key<kIndexDim>(kCoop, entries.row(i), pooled, w.norm.data(), table,
                                                         kRopeDim, config_.norm_eps, pooled + dim);
                else
                  attention::finish_entry(kCoop, entries.row(i), pooled, w.norm.data(), table, dim, kRopeDim,
                                          config_.norm_eps);
              }
            });

  for (std::int64_t i = 0; i < count; ++i) {
    BlockState& block = completed[static_cast<std::size_t>(i)].segment->state->block(b);
    (index ? block.index : block.main)
        .entries.write(completed[static_cast<std::size_t>(i)].entry, entries.row(i));
  }
  for (const Segment& s : batch.segments) {
    CompressorState& state = index ? s.state->block(b).index : s.state->block(b).main;
    state.running.clear();
    for (std::int64_t t = std::max<std::int64_t>(0, s.count - state.ring); t < s.count; ++t)
      state.rows.write((s.start + t) % state.ring, projected.row(s.first + t));
  }
}

// ------------------------------------------------------------------------------------- indexer, selection

template <class T>
Selected CpuBackend<T>::attn_select_window(const Batch& batch) {
  Selected selected{Tensor<std::int32_t>(batch.rows(), kWindow), Tensor<std::int32_t>(batch.rows(), 0)};
  for (std::int64_t t = 0; t < batch.rows(); ++t)
    attention::select_window(kCoop, selected.window.row(t), batch.position[static_cast<std::size_t>(t)],
                             kWindow,
                             [](std::int64_t position) { return static_cast<std::int32_t>(position); });
  return selected;
}

template <class T>
void CpuBackend<T>::attn_select_all(Selected& selected, const Batch& batch) {
  std::int64_t most = 0;
  for (const std::int64_t t : batch.position) most = std::max(most, attention::visible_entries(t, kHcaRatio));
  selected.entries = Tensor<std::int32_t>(batch.rows(), most);
  for (std::int64_t t = 0; t < batch.rows(); ++t)
    attention::select_all(kCoop, selected.entries.row(t), batch.position[static_cast<std::size_t>(t)],
                          kHcaRatio, static_cast<int>(most));
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::attn_index_query(const AttentionWeights& w, const Rows& qr,
                                                             int b) {
  Rows q = project_heads(w.indexer.wq_b, qr, config_.index_heads, kIndexDim);
  pool_.run(q.rows() * config_.index_heads, grain_of(16 * kIndexDim),
            [&](std::int64_t begin, std::int64_t end, Scratch&) {
              float scratch[kIndexDim];
              for (std::int64_t i = begin; i < end; ++i) {
                T* head = q.data() + i * kIndexDim;
                attention::finish_index_query<kIndexDim>(kCoop, head, angles(b, i / config_.index_heads),
                                                         kRopeDim, scratch);
                if constexpr (kDeploy) quant::fp4_round_trip(kCoop, head, head, kIndexDim);
              }
            });
  return q;
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::attn_index_weights(const AttentionWeights& w, const Rows& x) {
  return linear(w.indexer.weights_proj, x);
}

template <class T>
Tensor<float> CpuBackend<T>::attn_index_scores(const Rows& q, const Rows& weights, int b,
                                               const Batch& batch) {
  constexpr std::int64_t kEntryBlock = 32 * attention::kScoreTile;  // entries that one item scores
  const int heads = config_.index_heads;
  const float factor = attention::index_weight_factor(kIndexDim, heads);
  std::int64_t most = 0;
  for (const Segment& s : batch.segments)
    most = std::max(most, entries_after(s.state->block(b).index, s).slots);
  Tensor<float> scores(batch.rows(), most);
  const std::int64_t blocks = blocks_of(most, kEntryBlock);
  const Operand queries = operand(q, false);
  const std::int64_t cost = std::min(most, kEntryBlock) * heads * kIndexDim;
  pool_.run(batch.rows() * blocks, grain_of(cost),
            [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
              float* head_weights =
                  scratch.floats(heads + std::int64_t{attention::kScoreTile} * (heads + kIndexDim));
              for (std::int64_t i = begin; i < end; ++i) {
                const std::int64_t t = i / blocks, first = i % blocks * kEntryBlock;
                const Segment& s =
                    batch.segments[static_cast<std::size_t>(batch.segment_of[static_cast<std::size_t>(t)])];
                const StorePool keys = entries_after(s.state->block(b).index, s);
                for (int h = 0; h < heads; ++h) head_weights[h] = to_float(weights.row(t)[h]) * factor;
                attention::index_scores(kCoop, scores.row(t), queries.rows(static_cast<int>(t)), head_weights,
                                        keys, first, std::min(first + kEntryBlock, keys.slots), heads,
                                        kIndexDim, head_weights + heads);
              }
            });
  return scores;
}

template <class T>
void CpuBackend<T>::attn_select_top_k(Selected& selected, const Tensor<float>& scores, const Batch& batch) {
  const int k = static_cast<int>(std::min<std::int64_t>(config_.index_top_k, scores.cols()));
  selected.entries = Tensor<std::int32_t>(batch.rows(), k);
  pool_.run(batch.rows(), grain_of(40 * scores.cols()),
            [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
              auto* chosen = reinterpret_cast<std::int32_t*>(scratch.floats(k));
              for (std::int64_t t = begin; t < end; ++t)
                attention::select_top_k(kCoop, selected.entries.row(t), scores.row(t),
                                        batch.position[static_cast<std::size_t>(t)], kCsaRatio, k, chosen);
            });
}

// ----------------------------------------------------------------------------------------- attend, output

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::attn_attend(const AttentionWeights& w, const Rows& q,
                                                        const Rows& kv, const Selected& selected, int b,
                                                        const Batch& batch) {
  constexpr int kHeadGroup = 16;  // heads that one item computes
  const float scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
  const int window = static_cast<int>(selected.window.cols()),
            entries = static_cast<int>(selected.entries.cols());
  const std::int64_t groups = blocks_of(config_.heads, kHeadGroup);
  Rows o(q.rows(), config_.heads, kHeadDim);
  const Operand queries = operand(q, false);
  const std::int64_t cost =
      std::int64_t{2} * (window + entries) * std::min(config_.heads, kHeadGroup) * kHeadDim;
  pool_.run(q.rows() * groups, grain_of(cost), [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t t = i / groups;
      const int head = static_cast<int>(i % groups) * kHeadGroup,
                heads = std::min(kHeadGroup, config_.heads - head);
      const Segment& s =
          batch.segments[static_cast<std::size_t>(batch.segment_of[static_cast<std::size_t>(t)])];
      const BlockState& block = s.state->block(b);
      const attention::Selection<WindowPool<T>> window_rows{
          {&block.window, block.ring, kv.row(s.first), s.start, s.start + s.count},
          selected.window.row(t),
          window};
      const attention::Selection<StorePool> entry_rows{entries_after(block.main, s), selected.entries.row(t),
                                                       entries};
      attention::attend(kCoop, o.row(t) + std::int64_t{head} * kHeadDim, nullptr,
                        queries.rows(static_cast<int>(t)) + std::int64_t{head} * kHeadDim, heads,
                        w.sink.data() + head, window_rows, entry_rows, kHeadDim, scale,
                        scratch.floats(attention::attend_scratch_floats(heads, window + entries, kHeadDim)));
    }
  });
  return o;
}

template <class T>
void CpuBackend<T>::attn_append(const Rows& kv, int b, Batch& batch) {
  for (const Segment& s : batch.segments) {
    BlockState& block = s.state->block(b);
    for (std::int64_t t = std::max<std::int64_t>(0, s.count - block.ring); t < s.count; ++t)
      block.window.write((s.start + t) % block.ring, kv.row(s.first + t));
  }
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::attn_out_proj(const AttentionWeights& w, Rows& o, int b) {
  pool_.run(o.rows() * config_.heads, grain_of(4 * kRopeDim),
            [&](std::int64_t begin, std::int64_t end, Scratch&) {
              for (std::int64_t i = begin; i < end; ++i)
                attention::rotate_back(kCoop, o.data() + i * kHeadDim, angles(b, i / config_.heads), kHeadDim,
                                       kRopeDim);
            });
  return project_output(w, o);
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::project_output(const AttentionWeights& w, const Rows& o) {
  const std::int64_t rank = config_.o_lora_rank;
  Rows low(o.rows(), config_.o_groups, rank);
  const Operand heads = operand(o, false);  // not quantised, whatever Wo_a is stored as
  const std::int64_t blocks = blocks_of(rank, kRowBlock);
  pool_.run(config_.o_groups * blocks, grain_of(o.rows() * w.wo_a.cols * std::min(rank, kRowBlock)),
            [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
              float* decoded = scratch.floats(dsv4::linear::kDecodeRows * w.wo_a.cols);
              for (std::int64_t i = begin; i < end; ++i) {
                const std::int64_t first = i / blocks * rank + i % blocks * kRowBlock;
                const std::int64_t last = std::min(first + kRowBlock, (i / blocks + 1) * rank);
                for_token_blocks(o.rows(), w.wo_a.cols, [&](std::int64_t t0, int tokens) {
                  attention::grouped_linear(kCoop, low.row(t0), low.cols(),
                                            {heads.rows.data + t0 * heads.rows.stride, heads.rows.stride},
                                            tokens, w.wo_a, static_cast<int>(rank), first, last, decoded);
                });
              }
            });
  return linear(w.wo_b, low);
}

template class CpuBackend<float>;
template class CpuBackend<bf16>;

}  // namespace dsv4::reference
