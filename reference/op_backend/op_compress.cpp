// OpBackend: the compressors. A sequence's state of op attn_compress lives beside the rows that the reference
// keeps, is copied with them, and is made again from them where it is missing: after SequenceState::restore,
// or where another backend ran.
#include "reference/op_backend/op_backend.hpp"

#include <dsv4/attention/visibility.hpp>
#include <dsv4/ops/attn_compress.hpp>

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {

std::int32_t max_rollback_of(const CompressorState& c) {
  return static_cast<std::int32_t>(c.ring - c.shape.span());
}

// A compressor's part of one op call.
struct Side {
  const CompressorWeights* w;
  bool index;
  const Tensor<float>*kv, *gate;          // [T, width]
  std::vector<std::byte> states;          // of the sequences that run, in an order of no meaning
  PagedRows entries;                      // that all sequences have once the tokens are in
  std::vector<std::int32_t> entry_slots;  // [T]

  CompressorState& of(const Segment& s, int b) const {
    BlockState& block = s.state->block(b);
    return index ? block.index : block.main;
  }
};

}  // namespace

// One call of the op for the segments whose states go back `max_rollback` tokens. store = the entries go
// where their tokens' sequences keep them, else nowhere.
template <class T>
void OpBackend<T>::compress(const AttentionWeights& w, const Compressed& main, const Compressed& index,
                            const std::vector<Segment>& segments, std::int32_t max_rollback, int b,
                            bool store) {
  const LayerKind kind = this->config().kind(b);
  const int ratio = ratio_of(kind);
  std::vector<Side> sides;
  sides.push_back({&w.compressor, false, &main.kv, &main.gate, {}, {}, {}});
  if (kind == LayerKind::kCsa)
    sides.push_back({&w.indexer.compressor, true, &index.kv, &index.gate, {}, {}, {}});

  std::vector<std::int32_t> first_token, state_of;
  std::vector<std::int64_t> start, counts;
  std::int32_t states = 0;
  for (const Segment& s : segments) states += max_rollback_of(s.state->block(b).main) == max_rollback;
  for (const Segment& s : segments) {
    const bool mine = max_rollback_of(s.state->block(b).main) == max_rollback;
    first_token.push_back(static_cast<std::int32_t>(s.first));
    start.push_back(s.start);
    // From the last state to the first: sequence s has not state s.
    state_of.push_back(mine ? states - 1 -
                                  static_cast<std::int32_t>(std::count_if(state_of.begin(), state_of.end(),
                                                                          [](int i) { return i >= 0; }))
                            : -1);
    counts.push_back(store ? attention::visible_entries(s.start + s.count - 1, ratio) : 0);
  }
  first_token.push_back(static_cast<std::int32_t>(segments.back().first + segments.back().count));

  OpCall call;
  ops::AttnCompressParams p{.first_token = call.in(first_token),
                            .start = call.in(start),
                            .state_of = call.in(state_of),
                            .rope = rope_table(call, b),
                            .tokens = main.kv.rows(),
                            .sequences = static_cast<std::int64_t>(segments.size()),
                            .states = states,
                            .ratio = ratio,
                            .max_rollback = max_rollback,
                            .rope_dim = kRopeDim,
                            .eps = this->config().norm_eps,
                            .start_type = ops::PositionType::kInt64,
                            .dtype = kType};
  for (Side& side : sides) {
    const int dim = side.index ? kIndexDim : kHeadDim;
    const std::size_t bytes = ops::attn_compress_state_bytes(ratio, dim, max_rollback);
    side.states.resize(static_cast<std::size_t>(states) * bytes);
    for (std::size_t s = 0; s < segments.size(); ++s) {
      if (state_of[s] < 0) continue;
      std::vector<std::uint8_t>& running = side.of(segments[s], b).running;
      running.resize(bytes);  // a sequence that begins: zeros
      std::memcpy(side.states.data() + static_cast<std::size_t>(state_of[s]) * bytes, running.data(), bytes);
    }
    side.entries =
        PagedRows(side.index ? RowStore(kKeyFormat, kIndexDim) : RowStore(kKvFormat, kHeadDim), counts);
    side.entry_slots.assign(static_cast<std::size_t>(main.kv.rows()),
                            std::numeric_limits<std::int32_t>::min());
    for (std::size_t s = 0; s < segments.size(); ++s)
      for (std::int64_t e = segments[s].start / ratio; e < counts[s]; ++e)
        side.entry_slots[static_cast<std::size_t>(segments[s].first + (e + 1) * ratio - 1 -
                                                  segments[s].start)] =
            side.entries.slot(static_cast<std::int64_t>(s), e);

    ops::CompressorParams& c = side.index ? p.index : p.main;
    c.kv = call.in(*side.kv);
    c.gate = call.in(*side.gate);
    c.ape = weights_.vector(side.w->ape);
    c.norm = weights_.vector(side.w->norm);
    c.state = call.in_out(side.states);
    c.entries = side.entries.writable_pool(call);
    c.entry_slots = call.in(side.entry_slots);
    c.dim = dim;
  }
  call.run(ops::attn_compress(p, OpCall::kStream), "attn_compress");

  for (const Side& side : sides)
    for (std::size_t s = 0; s < segments.size(); ++s) {
      if (state_of[s] < 0) continue;
      CompressorState& c = side.of(segments[s], b);
      std::memcpy(c.running.data(),
                  side.states.data() + static_cast<std::size_t>(state_of[s]) * c.running.size(),
                  c.running.size());
      for (std::int64_t e = segments[s].start / ratio; e < counts[s]; ++e)
        side.entries.give(static_cast<std::int64_t>(s), e, c.entries, e);
    }
}

// The op's states of a sequence from the rows that the reference keeps of it. They begin at the first token
// of a block, early enough for the sequence to go back as far as it may; what a block before it would have
// added to its entry is missing, and the entry is stored nowhere.
template <class T>
void OpBackend<T>::rebuild(const AttentionWeights& w, const Segment& segment, int b) {
  BlockState& block = segment.state->block(b);
  const attention::CompressorShape shape = block.main.shape;
  const std::int64_t floor = std::min(segment.state->rollback_floor(), segment.start);
  const std::int64_t first =
      std::max<std::int64_t>(0, floor / shape.ratio * shape.ratio - (shape.span() - shape.ratio));
  const std::int64_t count = segment.start - first;
  const auto rows_of = [&](const CompressorState& c) {
    const int width = c.shape.width();
    Compressed rows{Tensor<float>(count, width), Tensor<float>(count, width)};
    for (std::int64_t i = 0; i < count && width > 0; ++i) {
      const float* row = c.rows.view((first + i) % c.ring, nullptr);
      std::copy_n(row, width, rows.kv.row(i));
      std::copy_n(row + width, width, rows.gate.row(i));
    }
    return rows;
  };
  const Compressed main = rows_of(block.main), index = rows_of(block.index);
  compress(w, main, index, {{segment.state, 0, count, first}}, max_rollback_of(block.main), b, false);
}

template <class T>
void OpBackend<T>::attn_compress(const AttentionWeights& w, const Rows& x, int b, Batch& batch) {
  const LayerKind kind = this->config().kind(b);
  if (kind == LayerKind::kSwa || batch.segments.empty()) return;
  Compressed main, index;
  if (Projections* kept = kept_input_.find(&w, x)) {
    main = std::move(kept->main);
    index = std::move(kept->index);
  } else {
    const auto project = [&](const CompressorWeights& c) {
      Compressed rows{Tensor<float>(x.rows(), c.wkv.rows), Tensor<float>(x.rows(), c.wgate.rows)};
      product(rows.kv.data(), c.wkv, x.data(), x.rows());
      product(rows.gate.data(), c.wgate, x.data(), x.rows());
      return rows;
    };
    main = project(w.compressor);
    if (kind == LayerKind::kCsa) index = project(w.indexer.compressor);
  }

  std::set<std::int32_t> rollbacks;
  for (const Segment& s : batch.segments) {
    const BlockState& block = s.state->block(b);
    rollbacks.insert(max_rollback_of(block.main));
    if (block.main.running.empty() && s.start > 0) rebuild(w, s, b);
  }
  for (const std::int32_t max_rollback : rollbacks)
    compress(w, main, index, batch.segments, max_rollback, b, true);

  // The rows themselves, for `rebuild`, SequenceState::save and other backends.
  std::vector<float> row;
  for (const Segment& s : batch.segments) {
    BlockState& block = s.state->block(b);
    const auto keep = [&](CompressorState& c, const Compressed& rows) {
      const auto width = static_cast<std::size_t>(c.shape.width());
      row.resize(2 * width);
      for (std::int64_t t = std::max<std::int64_t>(0, s.count - c.ring); t < s.count; ++t) {
        std::copy_n(rows.kv.row(s.first + t), width, row.data());
        std::copy_n(rows.gate.row(s.first + t), width, row.data() + width);
        c.rows.write((s.start + t) % c.ring, row.data());
      }
    };
    keep(block.main, main);
    if (kind == LayerKind::kCsa) keep(block.index, index);
  }
}

template class OpBackend<float>;
template class OpBackend<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
