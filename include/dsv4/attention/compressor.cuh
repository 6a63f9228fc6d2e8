// Rows of projections on a device: pooling by a thread, the ring, and whose row is whose.
//
// A thread has the same four neighbouring channels of dim everywhere, in each half of the rows, in the
// checkpoint and in the ring. So what threads read and write of a state needs no order among them.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/compressor_state.hpp>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// The sequence that a row belongs to: the s with first[s] <= row < first[s+1], or -1.
///   first  [sequences + 1] ascending
/// 32 probes at a time. All lanes of the warp call, with the same row.
DSV4_DEVICE std::int64_t sequence_of_row(const std::int32_t* first, std::int64_t sequences,
                                         std::int64_t row) {
  // first[0 .. low) are at most row, all from low + count on are above it.
  std::int64_t low = 0, count = sequences + 1;
  while (count > 0) {
    const std::int64_t step = (count + arch::kWarpThreads - 1) / arch::kWarpThreads;
    const std::int64_t probe = arch::lane_id() * step;
    const unsigned at_most = arch::ballot(probe < count && arch::load(first + low + probe) <= row);
    if (at_most == 0) break;
    const std::int64_t above = arch::count_lanes(at_most) * step;  // a probe above row, or beyond the end
    const std::int64_t known = above - step + 1;
    count = (above < count ? above : count) - known;
    low += known;
  }
  return low <= sequences ? low - 1 : -1;
}

/// Four neighbouring channels.
using Quad = arch::Vec<float, 4>;
inline constexpr int kQuad = 4;

/// The running sums of a thread's channels.
struct QuadPool {
  PoolState channel[kQuad];

  DSV4_DEVICE void fold(const Quad& a, const Quad& b, const Quad& bias) {
    DSV4_UNROLL
    for (int i = 0; i < kQuad; ++i) channel[i].fold(b[i] + bias[i], a[i]);
  }
  /// A checkpoint: max [dim], sum [dim], acc [dim] f32; `column` is the thread's first channel.
  DSV4_DEVICE void load(const float* checkpoint, int dim, int column) {
    Quad part[3];
    DSV4_UNROLL
    for (int k = 0; k < 3; ++k)
      part[k] = arch::load(reinterpret_cast<const Quad*>(checkpoint + k * dim + column));
    DSV4_UNROLL
    for (int i = 0; i < kQuad; ++i) channel[i] = {part[0][i], part[1][i], part[2][i]};
  }
  DSV4_DEVICE void store(float* checkpoint, int dim, int column) const {
    Quad part[3];
    DSV4_UNROLL
    for (int i = 0; i < kQuad; ++i)
      part[0][i] = channel[i].max, part[1][i] = channel[i].sum, part[2][i] = channel[i].acc;
    DSV4_UNROLL
    for (int k = 0; k < 3; ++k) arch::store(reinterpret_cast<Quad*>(checkpoint + k * dim + column), part[k]);
  }
};

/// The rows of a batch, and the ape of their compressor.
struct Projections {
  const float* kv;    // [tokens, width]
  const float* gate;  // [tokens, width]
  const float* ape;   // [ratio, width]
  std::int64_t kv_stride, gate_stride;
};

/// The rows of one sequence: those of the chunk in the batch, older ones in the ring of its state.
template <int kRatio, int kDim>
struct SequenceRows {
  static constexpr CompressorShape kShape{kRatio, kDim};
  static constexpr int kWidth = kShape.width();

  Projections batch;
  std::int64_t first_token;  // row of the batch that holds position chunk.start
  Chunk chunk;
  float* ring;  // [ring_rows, row_floats]; null where only new rows are asked for
  int ring_rows;

  /// Walks over neighbouring positions.
  struct Cursor {
    std::int64_t position;
    int slot;  // of `position` in the ring

    DSV4_DEVICE void next(int rows) {
      ++position;
      if (++slot == rows) slot = 0;
    }
  };
  DSV4_DEVICE Cursor at(std::int64_t position) const {
    return {position, ring_rows > 0 ? static_cast<int>(position % ring_rows) : 0};
  }

  struct Term {
    Quad a, b, bias;
  };
  DSV4_DEVICE Term term(const Cursor& c, int column) const {
    const std::int64_t row = first_token + (c.position - chunk.start);
    const float *a = batch.kv + row * batch.kv_stride, *b = batch.gate + row * batch.gate_stride;
    if (c.position < chunk.start) {
      a = ring + std::int64_t{c.slot} * kShape.row_floats();
      b = a + kWidth;
    }
    const float* bias = batch.ape + static_cast<int>(c.position & (kRatio - 1)) * kWidth;
    return {arch::load(reinterpret_cast<const Quad*>(a + column)),
            arch::load(reinterpret_cast<const Quad*>(b + column)),
            arch::load<arch::Cache::kReadOnly>(reinterpret_cast<const Quad*>(bias + column))};
  }

  static constexpr int kTogether = 4;  // rows whose loads a thread has in flight

  /// Adds positions begin .. end - 1, a multiple of kTogether; `column` is the thread's first channel of the
  /// width. The next rows are on their way while these are folded in.
  DSV4_DEVICE void fold(QuadPool& pool, std::int64_t begin, std::int64_t end, int column) const {
    Cursor cursor = at(begin);
    Term next[kTogether];
    const auto load = [&] {
      DSV4_UNROLL
      for (int j = 0; j < kTogether; ++j, cursor.next(ring_rows)) next[j] = term(cursor, column);
    };
    if (begin < end) load();
    for (std::int64_t position = begin; position < end; position += kTogether) {
      Term now[kTogether];
      DSV4_UNROLL
      for (int j = 0; j < kTogether; ++j) now[j] = next[j];
      if (position + kTogether < end) load();
      DSV4_UNROLL
      for (int j = 0; j < kTogether; ++j) pool.fold(now[j].a, now[j].b, now[j].bias);
    }
  }

  /// Pools one whole entry.
  DSV4_DEVICE QuadPool pool_entry(std::int64_t entry, int column) const {
    QuadPool pool;
    const std::int64_t begin = entry * kRatio;
    if constexpr (kShape.overlaps()) {
      if (entry > 0) fold(pool, begin - kRatio, begin, column);
      fold(pool, begin, begin + kRatio, kDim + column);
    } else {
      fold(pool, begin, begin + kRatio, column);
    }
    return pool;
  }

  /// Adds the newest rows of the chunk to the ring, the thread's channels of each half.
  DSV4_DEVICE void keep(int column) const {
    const std::int64_t begin = chunk.end - chunk.start > ring_rows ? chunk.end - ring_rows : chunk.start;
    Cursor cursor = at(begin);
    for (std::int64_t position = begin; position < chunk.end; position += kTogether) {
      constexpr int kParts = 2 * kShape.halves();
      Quad parts[kTogether][kParts];
      DSV4_UNROLL
      for (int j = 0; j < kTogether; ++j) {
        const std::int64_t row = first_token + (position + j - chunk.start);
        if (position + j >= chunk.end) break;
        DSV4_UNROLL
        for (int k = 0; k < kParts; ++k) {
          const int part = column + k / 2 * kDim;
          const float* from =
              k % 2 == 0 ? batch.kv + row * batch.kv_stride : batch.gate + row * batch.gate_stride;
          parts[j][k] = arch::load(reinterpret_cast<const Quad*>(from + part));
        }
      }
      DSV4_UNROLL
      for (int j = 0; j < kTogether; ++j) {
        if (position + j >= chunk.end) break;
        float* to = ring + std::int64_t{cursor.slot} * kShape.row_floats() + column;
        DSV4_UNROLL
        for (int k = 0; k < kParts; ++k)
          arch::store(reinterpret_cast<Quad*>(to + k % 2 * kWidth + k / 2 * kDim), parts[j][k]);
        cursor.next(ring_rows);
      }
    }
  }
};

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
