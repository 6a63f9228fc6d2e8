// Op attn_index_select: entries scored tile by tile, of which only the best so far are kept.
#include <dsv4/arch/index.cuh>

#include "kernels/attention/index_exact.cuh"
#include "kernels/attention/index_queries.hpp"
#include "kernels/attention/select_common.cuh"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

// An entry costs 64 heads of 128 channels, some 30 times what a winner costs the merge; and it is 68 bytes at
// least, beside which the winner's 16 are a few percent.
constexpr kernels::SplitCost kCost = {.least = 1024, .per_chosen = 4, .entry = 32};

struct Selection {
  attention::ChosenRows out;
  attention::Winners winners;
  kernels::Visible visible;
  attention::RowSplit split;
};

template <class Scorer, int kMaxK>
using ScoredTopK = attention::TopK<Scorer::kThreads, kMaxK, Scorer::kTile>;

// Grid: x = tokens * pieces. The last tokens come first: in a prefill they see the most. Its blocks that run
// together walk over the same keys and find them in L2.
template <class Scorer, int kMaxK>
DSV4_KERNEL_RESIDENT(Scorer::kThreads, 1)
index_select_kernel(const DSV4_GRID_CONSTANT typename Scorer::Problem problem,
                    const DSV4_GRID_CONSTANT Selection s) {
  using Best = ScoredTopK<Scorer, kMaxK>;
  DSV4_DYN_SMEM(typename Best::Storage, storage);
  const auto list = static_cast<std::int32_t>(arch::grid_dim().x - 1 - arch::block_idx().x);
  const std::int32_t token = list / s.split.pieces;
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const auto entries = static_cast<std::int32_t>(s.visible(token));
  const std::int32_t length = s.split.length(entries);
  const std::int32_t begin = list % s.split.pieces * length;
  if (begin > 0 && begin >= entries) return;
  const std::int32_t end = entries - begin < length ? entries : begin + length;
  Best best(*storage, s.out.k);
  if (begin < end) {  // else there may be no query
    const Scorer scorer(problem, token);
    scorer.for_each_tile(begin, end, [&](std::int32_t entry, float score) {
      const std::uint32_t key[1] = {topk::key(score)}, index[1] = {static_cast<std::uint32_t>(entry)};
      best.append(key, index);
    });
  }
  if (s.split.pieces == 1)
    attention::write_chosen(best, *storage, s.out, token);
  else
    attention::write_winners(best, *storage, s.winners, list);
}

template <class Scorer, int kMaxK>
Status launch_scored(const typename Scorer::Problem& problem, const Selection& s, std::int64_t tokens,
                     Stream stream) {
  return arch::launch("attn_index_select", index_select_kernel<Scorer, kMaxK>,
                      {.grid = {static_cast<unsigned>(tokens * s.split.pieces), 1, 1},
                       .block = {Scorer::kThreads, 1, 1},
                       .shared_bytes = sizeof(typename ScoredTopK<Scorer, kMaxK>::Storage),
                       .overlap_previous = true},
                      stream, problem, s);
}

template <class Best>
struct ExactStorage {
  typename Best::Storage best;
  float tile[Best::kTile];
  float scratch[1];  // ExactProblem::scratch_bytes
};

// The same in fp32. Warp 0 scores a tile of entries for all.
template <class Best, class T>
DSV4_KERNEL_RESIDENT(Best::kThreads, 1)
exact_select_kernel(const DSV4_GRID_CONSTANT kernels::ExactProblem<T> problem,
                    const DSV4_GRID_CONSTANT Selection s) {
  using Storage = ExactStorage<Best>;
  DSV4_DYN_SMEM(Storage, storage);
  const std::int64_t token = arch::block_idx().x;
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const auto entries = static_cast<std::int32_t>(s.visible(token));
  const int mine = static_cast<int>(arch::thread_idx().x);
  Best best(storage->best, s.out.k);
  for (std::int32_t first = 0; first < entries; first += Best::kTile) {
    const std::int32_t end = entries - first < Best::kTile ? entries : first + Best::kTile;
    if (arch::warp_id() == 0) problem.score(storage->tile, token, first, end, storage->scratch);
    arch::sync_threads();
    const std::uint32_t key[1] = {first + mine < end ? topk::key(storage->tile[mine]) : 0u};
    const std::uint32_t index[1] = {static_cast<std::uint32_t>(first + mine)};
    best.append(key, index);
  }
  attention::write_chosen(best, storage->best, s.out, token);
}

template <class T, int kMaxK>
Status launch_exact(const Selection& s, const IndexQueries& q, Stream stream) {
  using Best = attention::TopK<256, kMaxK, 256>;
  return arch::launch(
      "attn_index_select", exact_select_kernel<Best, T>,
      {.grid = {static_cast<unsigned>(q.tokens), 1, 1},
       .block = {Best::kThreads, 1, 1},
       .shared_bytes = sizeof(ExactStorage<Best>) + kernels::ExactProblem<T>::scratch_bytes(q.heads),
       .overlap_previous = true},
      stream, kernels::ExactProblem<T>(q), s);
}

template <int kMaxK>
Status launch_select(const AttnIndexSelectParams& p, const Selection& s, Stream stream) {
  if constexpr (kernels::kHasF32) {
    if (kernels::is_exact(p.queries)) return launch_exact<float, kMaxK>(s, p.queries, stream);
  }
  const Status scored = kernels::with_index_scorer(p.queries, [&](auto type, const auto& problem) {
    return launch_scored<typename decltype(type)::type, kMaxK>(problem, s, p.queries.tokens, stream);
  });
  if (!scored.ok() || s.split.pieces == 1) return scored;
  return kernels::launch_merge<kernels::RowTopK<kMaxK>>("attn_index_select", s.out, s.winners, s.visible,
                                                        s.split, p.queries.tokens, stream);
}

}  // namespace

Status attn_index_select(const AttnIndexSelectParams& p, Stream stream) noexcept {
  using namespace kernels;
  const IndexQueries& q = p.queries;
  Checks<"attn_index_select"> c;
  check_index_sizes(c, q);
  check_select_sizes(c, p.output);
  if (!c.ok() || q.tokens == 0) return c.status();
  if (q.max_entries > 0)
    check_index_pointers(c, q);
  else
    check_visible_pointers<"queries.visible">(c, q.visible);
  check_select_pointers(c, p.output);
  check_select_workspace(c, p.workspace, p.workspace_bytes, attn_index_select_workspace_bytes(p));
  if (!c.ok()) return c.status();
  Workspace w(p.workspace);
  const Selection s = {.out = chosen_rows(p.output),
                       .winners = take_winners(w, kCost, q.tokens, q.max_entries, p.output.k),
                       .visible = visible(q.visible, q.max_entries),
                       .split = row_split(kCost, q.tokens, q.max_entries, p.output.k)};
  // V4's k are 512 and 1024; a finer choice of instances would gain little beside the scores.
  return p.output.k <= 1024 ? launch_select<1024>(p, s, stream) : launch_select<kSelectMost>(p, s, stream);
}

std::size_t attn_index_select_workspace_bytes(const AttnIndexSelectParams& p) noexcept {
  Workspace w;
  kernels::take_winners(w, kCost, p.queries.tokens, p.queries.max_entries, p.output.k);
  return w.bytes();
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
