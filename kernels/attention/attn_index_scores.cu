// Op attn_index_scores: tensor cores (attention/index_scores.cuh), or the primitive for fp32 rows.
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/attention/indexer.hpp>

#include "kernels/attention/index_queries.hpp"

#include <algorithm>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

struct Scores {
  float* data;
  std::int64_t stride;
  kernels::Visible visible;
  std::int32_t segment;  // entries of a block
};

// Grid: x = tokens, y = segments of their entries. Blocks that run together share a segment: the tokens of a
// prefill find its keys in L2.
template <class Scorer>
DSV4_KERNEL(Scorer::kThreads)
index_scores_kernel(const DSV4_GRID_CONSTANT typename Scorer::Problem problem,
                    const DSV4_GRID_CONSTANT Scores out) {
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const std::int64_t token = arch::block_idx().x;
  const auto entries = static_cast<std::int32_t>(out.visible(token));
  const std::int32_t begin = static_cast<std::int32_t>(arch::block_idx().y) * out.segment;
  if (begin >= entries) return;
  const std::int32_t end = entries - begin < out.segment ? entries : begin + out.segment;
  float* row = out.data + token * out.stride;
  const Scorer scorer(problem, token);
  scorer.score(begin, end, [row](std::int32_t entry, float score) { arch::store(row + entry, score); });
}

// Entries of a block: as many as still give a large GPU four blocks an SM, since every block reads its
// token's query; and so few that a block's bandwidth does not bound a single token.
std::int32_t segment_of(std::int64_t tokens, std::int64_t max_entries, std::int32_t tile) {
  constexpr std::int64_t kBlocks = 512, kLeastTiles = 2, kMostTiles = 32;
  const std::int64_t tiles = (max_entries + tile - 1) / tile;
  return tile * static_cast<std::int32_t>(std::clamp(tokens * tiles / kBlocks, kLeastTiles, kMostTiles));
}

template <class Scorer>
Status launch_scores(const typename Scorer::Problem& problem, Scores out, const IndexQueries& q,
                     Stream stream) {
  out.segment = segment_of(q.tokens, q.max_entries, Scorer::kTile);
  const std::int64_t segments = (q.max_entries + out.segment - 1) / out.segment;
  return arch::launch("attn_index_scores", index_scores_kernel<Scorer>,
                      {.grid = {static_cast<unsigned>(q.tokens), static_cast<unsigned>(segments), 1},
                       .block = {Scorer::kThreads, 1, 1},
                       .overlap_previous = true},
                      stream, problem, out);
}

// ---- fp32 rows --------------------------------------------------------------------------------------------

// A sequence's entries as a pool; one without a slot is a row of NaNs.
template <class T>
struct EntryRows {
  attention::RowPool<T> pool;
  attention::PageTable table;
  std::int64_t sequence;

  DSV4_DEVICE std::int64_t slot(std::int64_t entry) const {
    const std::int64_t s = table.slot(sequence, entry);
    return s < pool.slots ? s : -1;
  }
  DSV4_DEVICE void read(std::int64_t entry, float* buffer) const {
    if (slot(entry) >= 0) return;
    for (int d = 0; d < pool.channels; ++d) buffer[d] = bits_as<float>(0x7fc00000u);
  }
  DSV4_DEVICE const float* view(std::int64_t entry, const float* buffer) const {
    const std::int64_t s = slot(entry);
    return s >= 0 ? pool.view(s, buffer) : buffer;
  }
};

template <class T>
struct ExactProblem {
  const T* q;
  const float* weights;
  attention::RowPool<T> keys;
  attention::PageTable table;
  const std::int32_t* sequence_of_or_null;
  std::int32_t heads;
};

// Grid: x = tokens, y = tiles of kScoreTile entries; a warp each. T is float, where that is compiled.
template <class T>
DSV4_KERNEL(arch::kWarpThreads)
exact_scores_kernel(const DSV4_GRID_CONSTANT ExactProblem<T> p, const DSV4_GRID_CONSTANT Scores out) {
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  DSV4_DYN_SMEM(float, scratch);
  const std::int64_t token = arch::block_idx().x;
  const std::int64_t entries = out.visible(token);
  const std::int64_t begin = std::int64_t{arch::block_idx().y} * attention::kScoreTile;
  if (begin >= entries) return;
  const std::int64_t end = entries - begin < attention::kScoreTile ? entries : begin + attention::kScoreTile;
  const EntryRows<T> keys = {
      p.keys, p.table,
      p.sequence_of_or_null && p.table.pages ? arch::load(p.sequence_of_or_null + token) : token};
  attention::index_scores(arch::WarpCoop{}, out.data + token * out.stride,
                          p.q + token * p.heads * attention::kIndexDim, p.weights + token * p.heads, keys,
                          begin, end, p.heads, attention::kIndexDim, scratch);
}

template <class T>
Status launch_exact(const Scores& out, const IndexQueries& q, Stream stream) {
  constexpr std::int64_t kTile = attention::kScoreTile;
  const ExactProblem<T> problem = {.q = static_cast<const T*>(q.q),
                                   .weights = q.weights,
                                   .keys = kernels::row_pool<T>(q.keys, attention::kIndexDim),
                                   .table = kernels::page_table(q.table),
                                   .sequence_of_or_null = q.table.sequence_of,
                                   .heads = q.heads};
  const std::size_t scratch = static_cast<std::size_t>(kTile) * sizeof(float) *
                              static_cast<std::size_t>(q.heads + attention::kIndexDim);
  return arch::launch("attn_index_scores", exact_scores_kernel<T>,
                      {.grid = {static_cast<unsigned>(q.tokens),
                                static_cast<unsigned>((q.max_entries + kTile - 1) / kTile), 1},
                       .block = {arch::kWarpThreads, 1, 1},
                       .shared_bytes = scratch,
                       .overlap_previous = true},
                      stream, problem, out);
}

}  // namespace

Status attn_index_scores(const AttnIndexScoresParams& p, Stream stream) noexcept {
  using namespace kernels;
  const IndexQueries& q = p.queries;
  Checks<"attn_index_scores"> c;
  check_index_sizes(c, q);
  c.stride<"scores_stride">(p.scores_stride, q.max_entries);
  if (!c.ok() || q.tokens == 0 || q.max_entries == 0) return c.status();
  check_index_pointers(c, q);
  c.pointer<"scores">(p.scores, 4);
  if (!c.ok()) return c.status();
  const Scores out = {.data = p.scores,
                      .stride = stride_or(p.scores_stride, q.max_entries),
                      .visible = visible(q.visible, q.max_entries),
                      .segment = 0};
  if constexpr (kHasF32) {
    if (is_exact(q)) return launch_exact<float>(out, q, stream);
  }
  return with_index_scorer(q, [&](auto scorer, const auto& problem) {
    return launch_scores<typename decltype(scorer)::type>(problem, out, q, stream);
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
