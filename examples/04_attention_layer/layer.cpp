// Seven ops make the layer; each is told where its operands lie, and nothing else.
#include "examples/04_attention_layer/layer.hpp"

namespace examples {

CsaLayer::CsaLayer(int pages, int sequences)
    : window_(static_cast<std::size_t>(pages * kPageTokens * 584)),
      window_pool_{.data = window_.data(),
                   .format = ops::CacheFormat::kKv584,
                   .slots = pages * kPageTokens,
                   .page_rows = kPageTokens},
      main_(kDim, ops::CacheFormat::kKv584, 584, pages, sequences, 20),
      index_(kIndexDim, ops::CacheFormat::kIndexFp4, 68, pages, sequences, 30),
      sequences_(sequences) {
  for (int i = 0; i < kRope / 2; ++i)
    freq_[static_cast<std::size_t>(i)] =
        std::pow(160000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(kRope));
}

namespace {

template <class T>
Buffer<T> room(std::int64_t n) {
  return Buffer<T>(static_cast<std::size_t>(n));
}

template <class Matrix>
void add(ops::LinearMultiParams& p, const Matrix& m, void* y, ops::DType type = ops::DType::kBf16) {
  const ops::LinearWeight w = m.weight();
  p.parts[p.count++] = {
      .y = y, .weight = w, .n = m.n, .y_type = type, .quantise = w.format == ops::WeightFormat::kFp8};
}

// Calls an op with as much workspace as it asks for.
template <class Params>
void run(Params& p, std::size_t (*bytes)(const Params&) noexcept,
         Status (*op)(const Params&, Stream) noexcept, Stream stream) {
  Buffer<std::byte> workspace(bytes(p));
  p.workspace = workspace.data(), p.workspace_bytes = workspace.size();
  must(op(p, stream));
  synchronise(stream);  // the workspace ends here
}

}  // namespace

Buffer<bf16> CsaLayer::forward(const Step& s, Stream stream) {
  const auto tokens = static_cast<std::int64_t>(s.positions.size());
  const auto sequences = static_cast<std::int64_t>(s.start.size());
  const ops::RopeTable rope{.freq = freq_.data()};

  // Down: everything that reads x, in one launch; then up from the normed latent, in another.
  auto qr = room<bf16>(tokens * kLora), kv = room<bf16>(tokens * kDim),
       head_weights = room<bf16>(tokens * kIndexHeads), q = room<bf16>(tokens * kHeads * kDim),
       index_q = room<bf16>(tokens * kIndexHeads * kIndexDim);
  main_.rows = room<float>(tokens * 2 * main_.width), index_.rows = room<float>(tokens * 2 * index_.width);
  ops::LinearMultiParams down{.input = {.x = s.x.data()}, .tokens = tokens, .k = kHidden};
  add(down, wq_a_, qr.data());
  add(down, wkv_, kv.data());
  add(down, wproj_, head_weights.data());
  add(down, main_.kv_gate, main_.rows.data(), ops::DType::kF32);
  add(down, index_.kv_gate, index_.rows.data(), ops::DType::kF32);
  run(down, ops::linear_multi_workspace_bytes, ops::linear_multi, stream);
  ops::LinearMultiParams up{.tokens = tokens, .k = kLora};
  up.input = {.x = qr.data(), .norm_weight = q_norm_.data(), .norm_eps = kEps};
  add(up, wq_b_, q.data());
  add(up, wq_index_, index_q.data());
  run(up, ops::linear_multi_workspace_bytes, ops::linear_multi, stream);

  // Queries finished, and every new row in its place: window, entries, index keys.
  auto codes = room<std::uint8_t>(tokens * kIndexHeads * kIndexDim / 2),
       scales = room<std::uint8_t>(tokens * kIndexHeads * 4);
  auto weights = room<float>(tokens * kIndexHeads);
  ops::AttnQkPrepParams prep;
  prep.q = {.out = q.data(), .q = q.data(), .heads = kHeads};
  prep.kv = {
      .window = window_pool_, .slots = s.window_slots.data(), .kv = kv.data(), .norm = kv_norm_.data()};
  prep.index = {.codes = codes.data(),
                .scales = scales.data(),
                .weights_out = weights.data(),
                .q = index_q.data(),
                .weights = head_weights.data(),
                .heads = kIndexHeads,
                .dim = kIndexDim};
  prep.q.head_dim = prep.kv.head_dim = kDim;
  prep.q.eps = prep.kv.eps = kEps;
  const auto common = [&](auto&... part) {
    ((part.positions = s.positions.data(), part.rope = rope, part.rope_dim = kRope, part.tokens = tokens),
     ...);
  };
  common(prep.q, prep.kv, prep.index);
  must(ops::attn_qk_prep(prep, stream));
  must(ops::attn_compress({.main = main_.params(s),
                           .index = index_.params(s),
                           .first_token = s.first_token.data(),
                           .start = s.start.data(),
                           .state_of = s.state_of.data(),
                           .rope = rope,
                           .tokens = tokens,
                           .sequences = sequences,
                           .states = sequences_,
                           .ratio = kRatio,
                           .max_rollback = kMaxRollback,
                           .rope_dim = kRope,
                           .eps = kEps},
                          stream));

  // Which entries, then attention over them and the window, then out.
  ops::PageTable table{.pages = s.pages.data(), .sequence_of = s.sequence_of.data(), .stride = kMaxPages};
  table.sequences = sequences;
  ops::PageTable entries = table, window = table;
  entries.page_rows = kPageEntries, window.page_rows = kPageTokens;
  auto chosen = room<std::int32_t>(tokens * kTopK);
  ops::AttnIndexSelectParams select;
  select.queries = {
      .q = codes.data(), .scales = scales.data(), .weights = weights.data(), .keys = index_.pool};
  select.queries.table = entries;
  select.queries.visible = {.positions = s.positions.data(), .ratio = kRatio};
  select.queries.tokens = tokens, select.queries.max_entries = kMaxPages * kPageEntries;
  select.queries.heads = kIndexHeads, select.queries.dim = kIndexDim;
  select.output = {.idx = chosen.data(), .table = entries, .slots = main_.pool.slots, .k = kTopK};
  select.output.as_slots = true;
  run(select, ops::attn_index_select_workspace_bytes, ops::attn_index_select, stream);

  auto o = room<bf16>(tokens * kHeads * kDim), out = room<bf16>(tokens * kHidden);
  ops::AttnAttendParams attend{.o = o.data(), .q = q.data(), .sink = sink_.data()};
  attend.window = {.pool = window_pool_, .kind = ops::SelectionKind::kWindow, .table = window};
  attend.window.max_count = attend.window.window = kWindow;
  attend.entries = {.pool = main_.pool, .kind = ops::SelectionKind::kList, .idx = chosen.data()};
  attend.entries.max_count = kTopK;
  common(attend);
  attend.heads = kHeads, attend.head_dim = kDim;
  attend.scale = 1.0f / std::sqrt(static_cast<float>(kDim));
  attend.rotate_back = true;
  run(attend, ops::attn_attend_workspace_bytes, ops::attn_attend, stream);
  ops::AttnOutProjParams proj{.y = out.data(), .o = o.data(), .wo_a = wo_a_.weight(), .wo_b = wo_b_.weight()};
  proj.tokens = tokens, proj.hidden = kHidden, proj.heads = kHeads, proj.head_dim = kDim;
  proj.rope_dim = kRope, proj.groups = kGroups, proj.rank = kRank;
  run(proj, ops::attn_out_proj_workspace_bytes, ops::attn_out_proj, stream);
  return out;
}

}  // namespace examples
