// Op attn_select: the k best of each score row, by one block a row or, where rows are few and long, by
// several.
#include <dsv4/arch/index.cuh>

#include "kernels/attention/select_common.cuh"

#include <type_traits>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

// A piece hands over 16 bytes (a pair written and read) for each of k winners: a tenth of the 4 bytes an
// entry that it reads.
constexpr kernels::SplitCost kCost = {.least = 8192, .per_chosen = 40, .entry = 1};

struct Rows {
  const float* scores;
  std::int64_t stride;
  kernels::Visible visible;
  attention::RowSplit split;
};

// Blocks of a multiprocessor: 1024 threads of 64 registers each, half as many where lists are longest and a
// thread holds more of their candidates.
template <class Best>
[[maybe_unused]] inline constexpr int kResident = (Best::kMaxK > 2048 ? 512 : 1024) / Best::kThreads;

// Grid: x = tokens * pieces. The last tokens come first: in a prefill they see the most.
template <class Best, bool kSplit>
DSV4_KERNEL_RESIDENT(Best::kThreads, kResident<Best>)
attn_select_kernel(const DSV4_GRID_CONSTANT attention::ChosenRows out,
                   const DSV4_GRID_CONSTANT attention::Winners winners, const DSV4_GRID_CONSTANT Rows rows) {
  DSV4_DYN_SMEM(typename Best::Storage, storage);
  const std::int64_t list = std::int64_t{arch::grid_dim().x} - 1 - arch::block_idx().x;
  const std::int64_t token = kSplit ? list / rows.split.pieces : list;
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const auto entries = static_cast<int>(rows.visible(token));
  int begin = 0, end = entries;
  if constexpr (kSplit) {
    const int length = rows.split.length(entries);
    begin = static_cast<int>(list % rows.split.pieces) * length;
    if (begin >= entries) return;
    end = entries - begin < length ? entries : begin + length;
  }
  Best best(*storage, out.k);
  attention::append_stream(best, attention::ScoreStream{rows.scores + token * rows.stride}, begin, end);
  if constexpr (kSplit)
    attention::write_winners(best, *storage, winners, list);
  else
    attention::write_chosen(best, *storage, out, token);
}

template <class Best>
Status launch_select(const AttnSelectParams& p, const attention::Winners& winners, Stream stream) {
  const Rows rows = {.scores = p.scores,
                     .stride = kernels::stride_or(p.scores_stride, p.max_entries),
                     .visible = kernels::visible(p.visible, p.max_entries),
                     .split = kernels::row_split(kCost, p.tokens, p.max_entries, p.output.k)};
  const attention::ChosenRows out = kernels::chosen_rows(p.output);
  const bool split = rows.split.pieces > 1;
  const Status s =
      arch::launch("attn_select", split ? attn_select_kernel<Best, true> : attn_select_kernel<Best, false>,
                   {.grid = {static_cast<unsigned>(p.tokens * rows.split.pieces), 1, 1},
                    .block = {Best::kThreads, 1, 1},
                    .shared_bytes = sizeof(typename Best::Storage),
                    .overlap_previous = true},
                   stream, out, winners, rows);
  if (!s.ok() || !split) return s;
  return kernels::launch_merge<Best>("attn_select", out, winners, rows.visible, rows.split, p.tokens, stream);
}

}  // namespace

Status attn_select(const AttnSelectParams& p, Stream stream) noexcept {
  using namespace kernels;
  Checks<"attn_select"> c;
  c.require<"tokens", "must be 0 .. 2^31-1">(p.tokens >= 0 && p.tokens <= INT32_MAX, p.tokens, INT32_MAX);
  c.require<"max_entries", "must be 0 .. 2^20">(p.max_entries >= 0 && p.max_entries <= kSelectEntries,
                                                p.max_entries, kSelectEntries);
  c.stride<"scores_stride">(p.scores_stride, p.max_entries);
  check_select_sizes(c, p.output);
  check_visible<"visible">(c, p.visible);
  if (!c.ok() || p.tokens == 0) return c.status();
  check_select_pointers(c, p.output);
  check_visible_pointers<"visible">(c, p.visible);
  if (p.max_entries > 0) c.pointer<"scores">(p.scores, 4);
  check_select_workspace(c, p.workspace, p.workspace_bytes, attn_select_workspace_bytes(p));
  if (!c.ok()) return c.status();
  Workspace w(p.workspace);
  const attention::Winners winners = take_winners(w, kCost, p.tokens, p.max_entries, p.output.k);
  return with_max_k(p.output.k,
                    [&](auto k) { return launch_select<RowTopK<decltype(k)::value>>(p, winners, stream); });
}

std::size_t attn_select_workspace_bytes(const AttnSelectParams& p) noexcept {
  Workspace w;
  kernels::take_winners(w, kCost, p.tokens, p.max_entries, p.output.k);
  return w.bytes();
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
