// The compressors' part of a ragged batch: who pools which entry, and what becomes of it. One launch, no
// workspace, no plan of the host's.
//
// A sequence's keeper alone reads and writes its state: it pools the entries that need it, folds, and adds
// the newest rows to the ring. Every other entry is pooled from new rows alone. Its tokens are `ratio` new
// rows, so of any `ratio` neighbouring rows of the batch one at most completes such an entry: a picker for
// each of these finds it, or nothing to do. Nobody waits for anybody.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/coop.cuh>
#include <dsv4/attention/compressor.cuh>
#include <dsv4/attention/entries.cuh>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/attention/rows.cuh>
#include <dsv4/attention/visibility.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/linear/angles.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// The sequences of a batch.
struct CompressorBatch {
  const std::int32_t* first_token;  // [sequences + 1]
  linear::Positions start;          // [sequences]
  const std::int32_t* state_of_or_null;
  std::int64_t sequences, states;
  std::int64_t tokens;

  /// State of a sequence, or -1: it is skipped.
  DSV4_DEVICE std::int64_t state_of(std::int64_t s) const {
    const std::int64_t i = state_of_or_null ? arch::load(state_of_or_null + s) : s;
    return i < states && start[s] >= 0 ? i : -1;
  }
  DSV4_DEVICE std::int64_t first(std::int64_t s) const { return arch::load(first_token + s); }
};

/// Where entries go.
template <class T, int kDim>
struct EntryPool {
  enum class Format { kRows, kKv584, kIndexFp4, kIndexFp8 };

  Format format;
  RowPool<T> rows;
  KvPagePool kv;       // dim 512
  IndexFp4Pool fp4;    // dim 128
  IndexFp8Pool fp8;    // dim 128
  std::int64_t slots;  // of whichever it is

  /// All lanes of the warp call.
  DSV4_DEVICE void store(const Row<T, kDim>& row, std::int64_t slot) const {
    using R = Row<T, kDim>;
    const bool writes = arch::lane_id() < R::kLanes;  // the other lanes hold the row once more
    if (format == Format::kRows) {
      if (writes) row.store(rows.data + slot * rows.stride);
      return;
    }
    if constexpr (kDim == KvPagePool::kQuantised + KvPagePool::kRotated) {
      KvEntry<T>::of(row).store(kv, slot);
    } else if (format == Format::kIndexFp4) {
      store_index_fp4(fp4.data_of(slot), fp4.scales_of(slot), row, writes);
    } else {
      const float scale = store_index_fp8(fp8.data_of(slot), row, writes);
      if (arch::lane_id() == 0) arch::store(reinterpret_cast<float*>(fp8.scales_of(slot)), scale);
    }
  }
};

/// One compressor of a batch.
template <class T, int kRatio_, int kDim_>
struct Compressor {
  using Element = T;
  static constexpr int kRatio = kRatio_, kDim = kDim_;

  CompressorLayout layout;
  Projections rows;
  const float* norm;  // [dim]
  std::uint8_t* states;
  std::int64_t state_stride;  // bytes
  linear::Slots entry_slots;  // [tokens]
  EntryPool<T, kDim> entries;
  linear::Angles angles;
  float eps;

  /// Slot of the entry that a row of the batch completes, or -1: it is not stored.
  DSV4_DEVICE std::int64_t slot(std::int64_t row) const {
    const std::int64_t s = entry_slots[row];
    return s < entries.slots ? s : -1;
  }
};

/// Pooled rows of a group that its warps are to finish.
template <class T, int kDim>
struct PooledRows {
  static constexpr int kMost = 2;

  T* rows;  // [kMost, kDim], 16-byte aligned shared memory
  int count = 0;
  std::int64_t entry[kMost] = {}, slot[kMost] = {};

  /// A thread's channels of the next row, rounded. Called by all threads of the group.
  DSV4_DEVICE void add(const QuadPool& pool, int column, std::int64_t i, std::int64_t s) {
    arch::Vec<T, kQuad> quad;
    DSV4_UNROLL
    for (int k = 0; k < kQuad; ++k) quad[k] = from_float<T>(pool.channel[k].value());
    *reinterpret_cast<arch::Vec<T, kQuad>*>(rows + count * kDim + column) = quad;
    DSV4_UNROLL
    for (int k = 0; k < kMost; ++k)
      if (k == count) entry[k] = i, slot[k] = s;
    ++count;
  }
};

/// norm, RoPE at the block's first position, Hadamard transform of an index key, and into the cache: bit for
/// bit finish_entry or finish_index_key, and the pool's write.
///   pooled  [dim] T, shared memory
/// All lanes of the warp call.
template <class C>
DSV4_DEVICE void finish_pooled(const C& c, const typename C::Element* pooled, std::int64_t entry,
                               std::int64_t slot) {
  using T = typename C::Element;
  using R = Row<T, C::kDim>;
  constexpr int kW = linear::kVectorOf<float>;
  const math::SinCos angle = c.angles(entry_position(entry, C::kRatio), arch::lane_id());
  const float rho = dsv4::inverse_rms(arch::WarpCoop{}, pooled, C::kDim, c.eps);
  R row;
  DSV4_UNROLL
  for (int p = 0; p < R::kParts; ++p) {
    const int channel = R::channel(p);
    row.part[p] = *reinterpret_cast<const arch::Vec<T, R::kN>*>(pooled + channel);
    DSV4_UNROLL
    for (int begin = 0; begin < R::kN; begin += kW) {
      const auto weight = arch::load(reinterpret_cast<const arch::Vec<float, kW>*>(c.norm + channel + begin));
      DSV4_UNROLL
      for (int i = 0; i < kW; ++i) {
        T& x = row.part[p][begin + i];
        x = from_float<T>(weight[i] * (to_float(x) * rho));
      }
    }
  }
  rotate(row, angle, rope::Direction::kForward);
  if constexpr (C::kDim == IndexFp4Pool::kChannels) hadamard(row);
  c.entries.store(row, slot);
}

/// Finishes the rows of a group of kWarps warps: warp w row w, w + kWarps, ... Called by all threads of the
/// group; `coop` synchronises.
template <int kWarps, class C, Coop G>
DSV4_DEVICE void finish_all(G coop, const C& c, const PooledRows<typename C::Element, C::kDim>& pooled) {
  coop.sync();
  DSV4_UNROLL
  for (int k = 0; k < pooled.kMost; ++k)
    if (k < pooled.count && k % kWarps == coop.rank() / arch::kWarpThreads)
      finish_pooled(c, pooled.rows + k * C::kDim, pooled.entry[k], pooled.slot[k]);
}

/// The keeper of sequence s. Called by all threads of a group of dim / kQuad.
///   shared  [2, dim] T, 16-byte aligned shared memory of the group
template <class C, Coop G>
DSV4_DEVICE void keep_sequence(G coop, const C& c, const CompressorBatch& batch, std::int64_t s,
                               typename C::Element* shared) {
  static_assert(G::size() == C::kDim / kQuad);
  const std::int64_t first = batch.first(s), count = batch.first(s + 1) - first;
  if (count <= 0) return;
  const std::int64_t state_number = batch.state_of(s);
  if (state_number < 0) return;
  const std::int64_t start = batch.start[s];
  const Chunk chunk{start, start + count};
  std::uint8_t* state = c.states + state_number * c.state_stride;
  const int column = coop.rank() * kQuad;
  using Rows = SequenceRows<C::kRatio, C::kDim>;
  const Rows rows{c.rows, first, chunk, reinterpret_cast<float*>(state + c.layout.ring_offset()),
                  c.layout.ring_rows()};
  PooledRows<typename C::Element, C::kDim> pooled{shared};
  const auto slot_of = [&](std::int64_t entry) {
    return c.slot(first + (entry + 1) * C::kRatio - 1 - start);
  };
  const auto completes = [&](std::int64_t entry) { return (entry + 1) * C::kRatio <= chunk.end; };
  using Length = arch::Vec<std::int64_t, 2>;
  auto* header = reinterpret_cast<Length*>(state);
  std::int64_t length = 0;  // greatest before
  if constexpr (Rows::kShape.overlaps()) {
    for (std::int64_t entry = start / C::kRatio; completes(entry) && needs_state(c.layout, entry, chunk);
         ++entry) {
      const std::int64_t slot = slot_of(entry);
      if (slot >= 0) pooled.add(rows.pool_entry(entry, column), column, entry, slot);
    }
  } else {
    if (start > 0) length = arch::load(header)[0];
    auto* checkpoint = reinterpret_cast<float*>(state + CompressorLayout::kHeaderBytes);
    const std::int64_t blocks[2] = {start / C::kRatio, c.layout.folded(chunk.end) / C::kRatio};
    DSV4_UNROLL
    for (int k = 0; k < 2; ++k) {
      const std::int64_t block = blocks[k];
      if (k > 0 && block == blocks[0]) break;
      const std::int64_t slot =
          completes(block) && chunk.start < (block + 1) * C::kRatio ? slot_of(block) : -1;
      const BlockFold f = fold_of(c.layout, block, length, chunk, slot >= 0);
      QuadPool pool;
      if (f.end > f.begin && f.begin > block * C::kRatio) pool.load(checkpoint, C::kDim, column);
      if (f.save >= 0) {
        rows.fold(pool, f.begin, f.save, column);
        pool.store(checkpoint, C::kDim, column);
      }
      if (f.pools) {
        rows.fold(pool, f.save >= 0 ? f.save : f.begin, f.end, column);
        pooled.add(pool, column, block, slot);
      }
    }
  }
  rows.keep(column);
  finish_all<C::kDim / kQuad / arch::kWarpThreads>(coop, c, pooled);
  // All have read the length.
  if (c.layout.folds() && coop.rank() == 0 && chunk.end > length) arch::store(header, Length{{chunk.end, 0}});
}

/// The picker of rows ratio * g .. ratio * (g + 1) - 1 of the batch. Called as keep_sequence.
template <class C, Coop G>
DSV4_DEVICE void pick_entry(G coop, const C& c, const CompressorBatch& batch, std::int64_t g,
                            typename C::Element* shared) {
  const std::int64_t begin = g * C::kRatio;
  const std::int64_t s = sequence_of_row(batch.first_token, batch.sequences, begin);
  if (s < 0 || batch.state_of(s) < 0) return;
  const std::int64_t first = batch.first(s), start = batch.start[s];
  const Chunk chunk{start, start + batch.first(s + 1) - first};
  // The first entry that a row from `begin` on completes. A sequence that begins behind that completes none
  // from new rows alone before the next picker's.
  const std::int64_t entry = (start + begin - first) / C::kRatio;
  const std::int64_t last = (entry + 1) * C::kRatio - 1, row = first + last - start;
  if (last >= chunk.end || needs_state(c.layout, entry, chunk)) return;
  const std::int64_t slot = c.slot(row);
  if (slot < 0) return;
  const int column = coop.rank() * kQuad;
  const SequenceRows<C::kRatio, C::kDim> rows{c.rows, first, chunk, nullptr, 0};
  PooledRows<typename C::Element, C::kDim> pooled{shared};
  pooled.add(rows.pool_entry(entry, column), column, entry, slot);
  finish_all<C::kDim / kQuad / arch::kWarpThreads>(coop, c, pooled);
}

/// Number `item` of the work of one compressor: keepers first.
template <class C, Coop G>
DSV4_DEVICE void compress_item(G coop, const C& c, const CompressorBatch& batch, std::int64_t item,
                               typename C::Element* shared) {
  if (item < batch.sequences)
    keep_sequence(coop, c, batch, item, shared);
  else if ((item - batch.sequences) * C::kRatio < batch.tokens)
    pick_entry(coop, c, batch, item - batch.sequences, shared);
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
