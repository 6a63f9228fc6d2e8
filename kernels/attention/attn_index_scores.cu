// Op attn_index_scores: tensor cores (attention/index_scores.cuh), or the primitive for fp32 rows.
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>

#include "kernels/attention/index_exact.cuh"
#include "kernels/attention/index_queries.hpp"
#include "kernels/common/nan_guard.hpp"

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
// prefill find its keys in L2. Queries and the keys in flight fill the registers of one block of a
// multiprocessor, or of two where heads are few.
template <class Scorer>
DSV4_KERNEL_RESIDENT(Scorer::kThreads, Scorer::kMaxHeads > 16 ? 1 : 2)
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

// Grid: x = tokens, y = tiles of kScoreTile entries; a warp each. T is float, where that is compiled.
template <class T>
DSV4_KERNEL(arch::kWarpThreads)
exact_scores_kernel(const DSV4_GRID_CONSTANT kernels::ExactProblem<T> p,
                    const DSV4_GRID_CONSTANT Scores out) {
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  DSV4_DYN_SMEM(float, scratch);
  const std::int64_t token = arch::block_idx().x;
  const std::int64_t entries = out.visible(token);
  const std::int64_t begin = std::int64_t{arch::block_idx().y} * attention::kScoreTile;
  if (begin >= entries) return;
  const std::int64_t end = entries - begin < attention::kScoreTile ? entries : begin + attention::kScoreTile;
  p.score(out.data + token * out.stride + begin, token, begin, end, scratch);
}

template <class T>
Status launch_exact(const Scores& out, const IndexQueries& q, Stream stream) {
  constexpr std::int64_t kTile = attention::kScoreTile;
  return arch::launch("attn_index_scores", exact_scores_kernel<T>,
                      {.grid = {static_cast<unsigned>(q.tokens),
                                static_cast<unsigned>((q.max_entries + kTile - 1) / kTile), 1},
                       .block = {arch::kWarpThreads, 1, 1},
                       .shared_bytes = kernels::ExactProblem<T>::scratch_bytes(q.heads),
                       .overlap_previous = true},
                      stream, kernels::ExactProblem<T>(q), out);
}

}  // namespace

DSV4_OP(attn_index_scores, AttnIndexScoresParams) {
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
