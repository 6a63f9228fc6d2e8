// What the ops that select share: checks of their output, how rows are split among blocks, and the kernel
// that merges the pieces' winners.
#pragma once

#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/attention/select.cuh>
#include <dsv4/core/workspace.hpp>
#include <dsv4/ops/attn_index.hpp>

#include "kernels/common/cache.hpp"
#include "kernels/common/checks.hpp"

#include <algorithm>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr std::int64_t kSelectEntries = 1 << 20;  // of a token
inline constexpr std::int32_t kSelectMost = 4096;        // k
/// Pieces of all rows together: four blocks for each SM of a large GPU. It bounds the workspace.
inline constexpr std::int64_t kSelectPieces = 512;

/// The selector of score rows and of winners, for k <= kMaxK. 56 KiB of shared memory at most.
template <int kMaxK>
using RowTopK = attention::TopK<(kMaxK > 512 ? 512 : 256), kMaxK, (kMaxK > 512 ? 2048 : 1024)>;

/// f(std::integral_constant<int, kMaxK>) for the smallest instance that holds k.
template <class F>
Status with_max_k(int k, F&& f) {
  return k <= 512    ? f(std::integral_constant<int, 512>{})
         : k <= 1024 ? f(std::integral_constant<int, 1024>{})
         : k <= 2048 ? f(std::integral_constant<int, 2048>{})
                     : f(std::integral_constant<int, kSelectMost>{});
}

/// What it costs to split rows. Pieces have floor() entries at least, so that what they hand over stays small
/// beside what they read.
struct SplitCost {
  std::int32_t least;       // entries of a piece, whatever k
  std::int32_t per_chosen;  // entries of a piece for each of its winners
  std::int32_t entry;       // time of an entry in a piece, the time of a winner in the merge being 1

  constexpr std::int32_t floor(std::int64_t k) const {
    return std::max(least, per_chosen * static_cast<std::int32_t>((k + 31) / 32 * 32));
  }
};

constexpr std::int64_t winners_stride(std::int64_t k) { return (k + 3) / 4 * 4; }

/// The split of rows of up to max_entries: a function of sizes alone. A token's result does not depend on it.
constexpr attention::RowSplit row_split(const SplitCost& cost, std::int64_t tokens, std::int64_t max_entries,
                                        std::int64_t k) {
  const std::int32_t least = cost.floor(k);
  const std::int64_t most = std::min(max_entries / least, kSelectPieces / std::max<std::int64_t>(tokens, 1));
  std::int32_t pieces = 1;  // as long as one more saves a piece more time than it adds to the merge
  while (pieces < most && std::int64_t{pieces + 1} * (pieces + 1) * k <= cost.entry * max_entries) ++pieces;
  return {pieces, least};
}

/// Pairs of workspace: no fewer than any split of so many tokens or fewer needs, and monotone in every size.
constexpr std::int64_t winner_pairs(const SplitCost& cost, std::int64_t tokens, std::int64_t max_entries,
                                    std::int64_t k) {
  const std::int64_t stride = winners_stride(k);
  const std::int64_t of_token = std::min(max_entries / cost.least * stride, max_entries / cost.per_chosen);
  if (max_entries < 2 * cost.least) return 0;
  return std::min(tokens * of_token, kSelectPieces * stride);
}

/// Walks over the workspace.
inline attention::Winners take_winners(Workspace& w, const SplitCost& cost, std::int64_t tokens,
                                       std::int64_t max_entries, std::int64_t k) {
  tokens = std::clamp<std::int64_t>(tokens, 0, INT32_MAX);
  max_entries = std::clamp<std::int64_t>(max_entries, 0, kSelectEntries);
  k = std::clamp<std::int64_t>(k, 1, kSelectMost);
  const std::int64_t pairs = winner_pairs(cost, tokens, max_entries, k);
  attention::Winners winners{};
  winners.key = w.take<std::uint32_t>(pairs);
  winners.index = w.take<std::uint32_t>(pairs);
  winners.stride = winners_stride(k);
  return winners;
}

/// Sizes of a selection's output.
template <class C>
void check_select_sizes(C& c, const ops::SelectOutput& o) {
  c.template require<"output.k", "must be 1 .. 4096">(o.k >= 1 && o.k <= kSelectMost, o.k, kSelectMost);
  c.template stride<"output.idx_stride">(o.idx_stride, o.k);
  if (!o.as_slots) return;
  check_page_table<"output.table">(c, o.table);
  c.template require<"output.slots", "must be 0 .. 2^31-1">(o.slots >= 0 && o.slots <= INT32_MAX, o.slots,
                                                            INT32_MAX);
}

template <class C>
void check_select_pointers(C& c, const ops::SelectOutput& o) {
  c.template pointer<"output.idx">(o.idx, 4);
  if (!o.as_slots) return;
  c.template optional<"output.table.pages">(o.table.pages, 4);
  c.template optional<"output.table.sequence_of">(o.table.sequence_of, 4);
}

template <class C>
void check_select_workspace(C& c, const void* workspace, std::size_t given, std::size_t needed) {
  c.template require<"workspace_bytes", "must be at least the op's workspace size">(
      given >= needed, static_cast<std::int64_t>(given), static_cast<std::int64_t>(needed),
      Code::kWorkspaceTooSmall);
  if (needed > 0) c.template pointer<"workspace">(workspace, kWorkspaceAlignment);
}

inline attention::ChosenRows chosen_rows(const ops::SelectOutput& o) {
  return {o.idx,     stride_or(o.idx_stride, o.k), page_table(o.table), o.table.sequence_of, o.slots, o.k,
          o.as_slots};
}

/// The k best of the winners of a token's pieces. Grid: x = tokens.
template <class Best>
DSV4_KERNEL_RESIDENT(Best::kThreads, 1)
merge_winners_kernel(const DSV4_GRID_CONSTANT attention::ChosenRows out,
                     const DSV4_GRID_CONSTANT attention::Winners winners, Visible visible,
                     attention::RowSplit split) {
  DSV4_DYN_SMEM(typename Best::Storage, storage);
  const std::int64_t token = arch::block_idx().x;
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const std::int64_t entries = visible(token);
  const int length = split.length(entries);
  const auto pieces = static_cast<int>((entries + length - 1) / length);
  const std::int64_t first = token * split.pieces * winners.stride;
  Best best(*storage, out.k);
  attention::append_stream(best, attention::WinnerStream{winners.key + first, winners.index + first}, 0,
                           pieces * static_cast<int>(winners.stride));
  attention::write_chosen(best, *storage, out, token);
}

template <class Best>
Status launch_merge(const char* name, const attention::ChosenRows& out, const attention::Winners& winners,
                    const Visible& visible, const attention::RowSplit& split, std::int64_t tokens,
                    Stream stream) {
  return arch::launch(name, merge_winners_kernel<Best>,
                      {.grid = {static_cast<unsigned>(tokens), 1, 1},
                       .block = {Best::kThreads, 1, 1},
                       .shared_bytes = sizeof(typename Best::Storage),
                       .overlap_previous = true},
                      stream, out, winners, visible, split);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
