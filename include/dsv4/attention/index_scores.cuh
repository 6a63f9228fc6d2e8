// Scores of the lightning indexer by tensor cores: the body that attn_index_scores and attn_index_select are
// made of.
//
//   using Scorer = IndexScorer<Fp4Queries, IndexFp4Pool, 4>;         // of index_codec.cuh; 64 heads
//   const Scorer scorer(problem, token);                             // all Scorer::kThreads threads of a
//   block scorer.score(begin, end, [&](std::int64_t entry, float score) {  // as often as wanted; no shared
//   memory
//     shared_scores[entry - begin] = score;
//   });
//   arch::sync_threads();                                            // score() itself does not synchronise
#pragma once

#include <dsv4/arch/arithmetic.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/attention/index_codec.cuh>
#include <dsv4/attention/page_table.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// Which queries are scored against which keys.
///   queries      [tokens * heads] rows, token t's from t * heads
///   weights      [tokens, heads] f32, factor included
///   table        entry of a token's sequence -> slot of `keys`
///   sequence_of  [tokens] rows of the table; null = token t's is t
template <class Queries, class Pool>
struct IndexProblem {
  Queries queries;
  const float* weights;
  Pool keys;
  PageTable table;
  const std::int32_t* sequence_of_or_null;
  std::int32_t heads;

  DSV4_DEVICE std::int64_t sequence(std::int64_t token) const {
    return sequence_of_or_null && table.pages ? arch::load(sequence_of_or_null + token) : token;
  }
};

/// One token's scores: score[i] = sum_h weights[h] * relu(q[h] . key[i]), heads at most 16 * kHeadGroups.
///
/// Every warp holds the whole query as A operands in registers, 32 a group of 16 heads: it never passes
/// through shared memory, and no warp waits for another. Keys are the B operand, straight from memory: the
/// four threads that hold a column of B read a key's 64 bytes in one instruction, and convert what they read
/// where it is, because q . k may take the channels in any order that both operands share. A warp takes 32
/// entries at a time, eight to a product, kAtOnce products side by side so that their latencies overlap. Each
/// lane finds one entry's slot, an iteration before its key is read, and a key is read kAhead products before
/// it is multiplied: the block has about 17 KiB in flight.
///
/// One order for every entry: eight products accumulated by the tensor core from zero; in a thread, heads g,
/// g + 8, g + 16, ... by fp32 fma; these eight sums pairwise, g with g + 1, then + 2, then + 4. A score
/// depends on its token and its entry alone. NaNs stay: ReLU does not swallow them.
///   Queries  Fp4Queries, Fp8Queries, Bf16Queries      Pool  IndexFp4Pool, IndexFp8Pool, RowPool<bf16>
template <class Queries, class Pool, int kHeadGroups>
class IndexScorer {
 public:
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * arch::kWarpThreads;
  static constexpr int kTile = kThreads;  // entries that the block scores at a time
  static constexpr int kMaxHeads = 16 * kHeadGroups;
  using Problem = IndexProblem<Queries, Pool>;

  /// Reads the token's query. Called by all threads of the block; keeps a reference to `p`.
  DSV4_DEVICE IndexScorer(const Problem& p, std::int64_t token) : p_(p), lane_(arch::lane_id()) {
    const int g = lane_ / 4, t = lane_ % 4;
    DSV4_UNROLL
    for (int i = 0; i < kHeadGroups; ++i) {
      DSV4_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int head = 16 * i + 8 * half + g;
        const std::int64_t row = token * p.heads + head;
        const bool exists = head < p.heads;
        if (exists) heads_ |= 1u << (2 * i + half);
        weight_[i][half] = exists ? arch::load(p.weights + row) : 0.0f;
        DSV4_UNROLL
        for (int u = 0; u < 4; ++u) {
          Channels own = {}, c;
          if (exists) p.queries.load(own, row, Reader::channel(t, u));
          reorder<Queries, typename Reader::Order>(c, own);
          DSV4_UNROLL
          for (int j = 0; j < 4; ++j) query_[i][2 * u + j / 2][j % 2 * 2 + half] = c[j];
        }
      }
    }
    const std::int64_t sequence = p.sequence(token);
    const bool known = sequence >= 0 && sequence < p.table.sequences && sequence <= INT32_MAX;
    sequence_ = known ? static_cast<std::int32_t>(sequence) : -1;
  }

  /// Calls store(entry, score) for every entry in [begin, end), 0 <= begin, end <= 2^30, once, from one
  /// thread: neighbouring lanes have neighbouring entries. An entry without a slot scores NaN; of keys,
  /// nothing but the slots of [begin, end) is read. Called by all threads of the block; does not synchronise.
  template <class Store>
  DSV4_DEVICE void score(std::int32_t begin, std::int32_t end, Store store) const {
    for_each_tile(begin, end, [&](std::int32_t entry, float score) {
      if (entry < end) store(entry, score);
    });
  }

  /// The same in tiles of kTile entries: calls f(entry, score) by all threads of the block for a tile, so
  /// that f may synchronise. Thread i has entry i of the tile, also where that is not below `end`: then the
  /// score is a NaN.
  template <class F>
  DSV4_DEVICE void for_each_tile(std::int32_t begin, std::int32_t end, F f) const {
    const auto thread = static_cast<std::int32_t>(arch::thread_idx().x);
    KeyPlace next = place_of(begin + thread, end);
    float next_factor = factor_of(next);
    typename Reader::Raw raw[kAhead];
    DSV4_UNROLL
    for (int s = 0; s < kAhead; ++s) raw[s] = load_key(next, s);
    KeyPlace after = place_of(begin + kTile + thread, end);
    for (std::int32_t tile = begin; tile < end; tile += kTile) {
      const KeyPlace now = next;
      const float factor = next_factor;
      next = after;
      next_factor = factor_of(next);
      after = place_of(tile + 2 * kTile + thread, end);
      float mine = 0;
      if (tile + thread - lane_ < end) {  // for the whole warp: the last tile may be a few entries
        DSV4_UNROLL
        for (int s = 0; s < kSteps; s += kAtOnce) {
          typename Reader::Raw keys[kAtOnce];
          DSV4_UNROLL
          for (int j = 0; j < kAtOnce; ++j) {
            keys[j] = raw[(s + j) % kAhead];
            raw[(s + j) % kAhead] = load_key(s + j + kAhead < kSteps ? now : next, (s + j + kAhead) % kSteps);
          }
          float sum[kAtOnce];
          score_steps(sum, keys);
          DSV4_UNROLL
          for (int j = 0; j < kAtOnce; ++j)
            if (lane_ / 8 == s + j) mine = sum[j];
        }
      }
      f(tile + thread, now.page >= 0 ? mine * factor : bits_as<float>(0x7fc00000u));
    }
  }

 private:
  using Reader = KeyReader<Pool>;
  static constexpr int kSteps = 4;  // of 8 entries, in a warp's 32
  static constexpr int kAhead = Reader::kAhead;
  static constexpr int kAtOnce = Reader::kAtOnce;

  // PageTable::slot and the pool's split of it, in 32 bits: a division of 64 costs more than a key's
  // products.
  DSV4_DEVICE KeyPlace place_of(std::int32_t entry, std::int32_t end) const {
    constexpr KeyPlace kNone = {};
    if (entry >= end) return kNone;
    auto r = static_cast<std::uint32_t>(entry);
    if (p_.table.ring > 0) r %= static_cast<std::uint32_t>(p_.table.ring);
    std::int64_t slot = r;
    if (p_.table.pages) {
      const auto rows = static_cast<std::uint32_t>(p_.table.page_rows);
      const std::uint32_t page = r / rows;
      if (sequence_ < 0 || page >= p_.table.stride) return kNone;
      const std::int32_t number = arch::load(p_.table.pages + sequence_ * p_.table.stride + page);
      if (number < 0) return kNone;
      slot = std::int64_t{number} * rows + (r - page * rows);
    }
    if (slot >= p_.keys.slots) return kNone;
    if constexpr (Reader::kPaged) {
      const auto s = static_cast<std::uint32_t>(slot);
      const auto rows = static_cast<std::uint32_t>(p_.keys.page_entries);
      return {static_cast<std::int32_t>(s / rows), static_cast<std::int32_t>(s % rows)};
    } else {
      return {static_cast<std::int32_t>(slot), 0};
    }
  }

  DSV4_DEVICE float factor_of(KeyPlace place) const {
    return place.page >= 0 ? Reader::factor(p_.keys, place) : 0.0f;
  }

  // The thread's part of the key that is its column of B in step s of the 32 entries whose places the lanes
  // hold. Column 2c + d is entry 4d + c of the eight, so that the sums end in the lanes of their entries.
  DSV4_DEVICE typename Reader::Raw load_key(KeyPlace places, int s) const {
    const int column = lane_ / 4, source = 8 * s + column % 2 * 4 + column / 2;
    KeyPlace place;
    place.page = arch::shfl(places.page, source);
    if constexpr (Reader::kPaged) place.row = arch::shfl(places.row, source);
    return place.page >= 0 ? Reader::load(p_.keys, place, lane_ % 4) : typename Reader::Raw{};
  }

  // Scores of the eight keys of each of kAtOnce steps: of entry i in the lanes i, i + 8, i + 16 and i + 24.
  DSV4_DEVICE void score_steps(float (&score)[kAtOnce], const typename Reader::Raw (&keys)[kAtOnce]) const {
    const typename Reader::template Decoder<kAtOnce> decoder(keys);
    float dot[kAtOnce][kHeadGroups][4] = {};
    DSV4_UNROLL
    for (int u = 0; u < 4; ++u) {
      Channels c[kAtOnce];
      DSV4_UNROLL
      for (int k = 0; k < kAtOnce; ++k) decoder.get(c[k], k, u);
      DSV4_UNROLL
      for (int j = 0; j < 2; ++j) {
        DSV4_UNROLL
        for (int k = 0; k < kAtOnce; ++k) {
          const std::uint32_t b[2] = {c[k][2 * j], c[k][2 * j + 1]};
          DSV4_UNROLL
          for (int i = 0; i < kHeadGroups; ++i)
            arch::mma_m16n8k16_bf16(dot[k][i], query_[i][2 * u + j], b, dot[k][i]);
        }
      }
    }
    DSV4_UNROLL
    for (int k = 0; k < kAtOnce; ++k) score[k] = sum_heads(dot[k]);
  }

  DSV4_DEVICE float sum_heads(const float (&dot)[kHeadGroups][4]) const {
    float sum[2] = {};  // columns 2t and 2t + 1
    DSV4_UNROLL
    for (int i = 0; i < kHeadGroups; ++i) {
      DSV4_UNROLL
      for (int half = 0; half < 2; ++half) {
        // A head that does not exist has the query 0, whose product with an infinite key is a NaN.
        if ((heads_ >> (2 * i + half) & 1u) == 0) continue;
        DSV4_UNROLL
        for (int d = 0; d < 2; ++d)
          sum[d] = math::fma(weight_[i][half], arch::max_nan(dot[i][2 * half + d], 0.0f), sum[d]);
      }
    }
    const bool odd = lane_ / 4 % 2 != 0;  // the column that this lane keeps
    float kept = odd ? sum[1] : sum[0];
    kept += arch::shfl_xor(odd ? sum[0] : sum[1], 4);
    kept += arch::shfl_xor(kept, 8);
    kept += arch::shfl_xor(kept, 16);
    return kept;
  }

  const Problem& p_;
  int lane_;
  std::int32_t sequence_;    // row of the table, -1 if there is none
  std::uint32_t heads_ = 0;  // bit 2i + h: head 16i + 8h + lane / 4 exists
  float weight_[kHeadGroups][2];
  std::uint32_t query_[kHeadGroups][kIndexDim / 16][4];
};

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
