// What follows the projections of queries, key-values and indexer queries: a warp holds its rows in registers
// from the load to the store, several of them in flight where a token has several.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/attention/entries.cuh>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/attention/rows.cuh>
#include <dsv4/core/rope.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/linear/angles.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

inline constexpr int kHeadDim = 512;
inline constexpr int kIndexHeadDim = 128;

/// Tiles of the three bodies. The defaults suit every chip: few registers, many small blocks.
struct PrepTiles {
  static constexpr int kWarps = 4;        // of a block
  static constexpr int kQueryHeads = 2;   // of a warp, in flight together: they share their angles
  static constexpr int kIndexPasses = 2;  // of as many index heads as lie side by side in a warp
};

/// Queries: [tokens, heads, 512] T.
template <class T>
struct PrepQueries {
  T* out;  // may be q, with the same strides
  const T* q;
  linear::Positions positions;
  linear::Angles angles;
  std::int64_t out_stride, out_head_stride;  // elements
  std::int64_t q_stride, q_head_stride;
  std::int32_t heads;
  float eps;
};

/// finish_query of kQueryHeads heads from `head` of one token. Called by a whole warp.
template <class Tiles, class T>
DSV4_DEVICE void prepare_queries(const PrepQueries<T>& a, std::int64_t token, int head) {
  using R = Row<T, kHeadDim>;
  R rows[Tiles::kQueryHeads];
  const T* q = a.q + token * a.q_stride + head * a.q_head_stride;
  DSV4_UNROLL
  for (int h = 0; h < Tiles::kQueryHeads; ++h) rows[h].load(q + h * a.q_head_stride, head + h < a.heads);
  const math::SinCos angle = a.angles(a.positions[token], arch::lane_id());
  T* out = a.out + token * a.out_stride + head * a.out_head_stride;
  DSV4_UNROLL
  for (int h = 0; h < Tiles::kQueryHeads; ++h) {
    if (head + h >= a.heads) break;
    norm(rows[h], nullptr, a.eps);
    rotate(rows[h], angle, rope::Direction::kForward);
    rows[h].store(out + h * a.out_head_stride);
  }
}

/// Key-value rows: [tokens, 512] T, into 584-byte entries, plain rows, a tensor, or several of these.
template <class T>
struct PrepKeyValues {
  T* out_or_null;
  const T* kv;
  const float* weight;  // [512], 16-byte aligned
  linear::Slots slots;  // [tokens]; data null = no cache
  KvPagePool pages;     // where the format is quantised
  RowPool<T> rows;      // where it is not
  bool quantised;
  linear::Positions positions;
  linear::Angles angles;
  std::int64_t out_stride, kv_stride;
  float eps;
};

/// finish_key_value of one token's row, and its entry. A slot outside the pool is not stored. Called by a
/// whole warp.
template <class T>
DSV4_DEVICE void prepare_key_value(const PrepKeyValues<T>& a, std::int64_t token) {
  Row<T, kHeadDim> row;
  row.load(a.kv + token * a.kv_stride);
  const math::SinCos angle = a.angles(a.positions[token], arch::lane_id());
  const std::int64_t slot = a.slots.data ? a.slots[token] : -1;
  norm(row, a.weight, a.eps);
  rotate(row, angle, rope::Direction::kForward);
  if (a.quantised) {
    const auto entry = KvEntry<T>::of(row);
    if (slot >= 0 && slot < a.pages.slots) entry.store(a.pages, slot);
    row = entry.decoded();
  } else if (slot >= 0 && slot < a.rows.slots) {
    row.store(a.rows.data + slot * a.rows.stride);
  }
  if (a.out_or_null) row.store(a.out_or_null + token * a.out_stride);
}

enum class IndexFormat { kFp4, kFp8, kRows };

/// Indexer queries: [tokens, heads, 128] T, and the weights of their heads.
template <class T>
struct PrepIndexQueries {
  void* codes;            // [tokens, heads, 128]: e2m1x2 (64 bytes), e4m3 or T; 16-byte aligned
  std::uint32_t* scales;  // [tokens, heads], 4 UE8M0 a word; with kFp4
  float* weights_out;     // [tokens, heads]
  const T* q;
  const T* weights;
  linear::Positions positions;
  linear::Angles angles;
  std::int64_t q_stride, weights_stride;
  std::int32_t heads;
  float factor;  // of the weights: index_weight_factor
  IndexFormat format;
};

/// Index heads of a warp.
template <class Tiles, class T>
inline constexpr int kIndexHeads =
    Tiles::kIndexPasses* static_cast<int>(arch::kWarpThreads) / Row<T, kIndexHeadDim>::kLanes;

/// finish_index_query of kIndexHeads heads from `head` of one token, quantised; and their weights, into which
/// the scale of an FP8 head goes. Called by a whole warp.
template <class Tiles, class T>
DSV4_DEVICE void prepare_index_queries(const PrepIndexQueries<T>& a, std::int64_t token, int head) {
  using R = Row<T, kIndexHeadDim>;
  constexpr int kAbreast = static_cast<int>(arch::kWarpThreads) / R::kLanes;
  R rows[Tiles::kIndexPasses];
  const T* q = a.q + token * a.q_stride;
  const int mine = head + arch::lane_id() / R::kLanes;
  DSV4_UNROLL
  for (int pass = 0; pass < Tiles::kIndexPasses; ++pass) {
    const int h = mine + pass * kAbreast;
    rows[pass].load(q + std::int64_t{h} * kIndexHeadDim, h < a.heads);
  }
  const math::SinCos angle = a.angles(a.positions[token], arch::lane_id());
  DSV4_UNROLL
  for (int pass = 0; pass < Tiles::kIndexPasses; ++pass) {
    const int h = mine + pass * kAbreast;
    const bool there = h < a.heads;
    R& row = rows[pass];
    rotate(row, angle, rope::Direction::kForward);
    hadamard(row);
    const std::int64_t i = token * a.heads + h;
    float scale = 1.0f;
    if (a.format == IndexFormat::kFp4)
      store_index_fp4(static_cast<std::uint8_t*>(a.codes) + i * IndexFp4Pool::kDataBytes, a.scales + i, row,
                      there);
    else if (a.format == IndexFormat::kFp8)
      scale = store_index_fp8(static_cast<std::uint8_t*>(a.codes) + i * IndexFp8Pool::kDataBytes, row, there);
    else if (there)
      row.store(static_cast<T*>(a.codes) + i * kIndexHeadDim);
    if (there && R::channel(0) == 0) {
      const float weight = to_float(a.weights[token * a.weights_stride + h]) * a.factor;
      a.weights_out[i] = weight * scale;  // a product with 1 is exact
    }
  }
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
