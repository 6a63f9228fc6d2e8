// Indexer scores in fp32 and canonical order, by the primitive: what the exact mode runs.
#pragma once

#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/attention/indexer.hpp>

#include "kernels/attention/index_queries.hpp"

#include <cstddef>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// A sequence's entries from `first` on as a pool; one without a slot is a row of NaNs.
template <class T>
struct EntryRows {
  attention::RowPool<T> pool;
  attention::PageTable table;
  std::int64_t sequence;
  std::int64_t first;

  DSV4_DEVICE std::int64_t slot(std::int64_t entry) const {
    const std::int64_t s = table.slot(sequence, first + entry);
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

/// Queries and keys of T, which is float where that is compiled.
template <class T>
struct ExactProblem {
  const T* q;
  const float* weights;
  attention::RowPool<T> keys;
  attention::PageTable table;
  const std::int32_t* sequence_of_or_null;
  std::int32_t heads;

  explicit ExactProblem(const ops::IndexQueries& p)
      : q(static_cast<const T*>(p.q)),
        weights(p.weights),
        keys(row_pool<T>(p.keys, attention::kIndexDim)),
        table(page_table(p.table)),
        sequence_of_or_null(p.table.sequence_of),
        heads(p.heads) {}

  /// Shared memory that score() works in.
  static constexpr std::size_t scratch_bytes(std::int32_t heads) {
    return sizeof(float) * attention::kScoreTile * static_cast<std::size_t>(heads + attention::kIndexDim);
  }

  /// scores[i] of entries begin + i < end. By one warp, which it synchronises.
  DSV4_DEVICE void score(float* scores, std::int64_t token, std::int64_t begin, std::int64_t end,
                         float* scratch) const {
    const EntryRows<T> rows = {
        keys, table, sequence_of_or_null && table.pages ? arch::load(sequence_of_or_null + token) : token,
        begin};
    attention::index_scores(arch::WarpCoop{}, scores, q + token * heads * attention::kIndexDim,
                            weights + token * heads, rows, 0, end - begin, heads, attention::kIndexDim,
                            scratch);
  }
};

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
