// Sparse attention of one token by tensor cores: a block takes a tile of its heads and the rows of a list, in
// groups of 128, and keeps the group as it was stored (FP8 codes in 576 bytes a row) in shared memory for the
// scores and for the values.
//
// Order of every sum, which depends on the token alone. The list is the window's rows, filled up with no rows
// to a multiple of 16, then the entries; groups of 128 follow each other from its beginning.
//   score    channels in eights of 64: a chain of four products from zero, scaled by the row's scale of these
//            channels, added in fp32; then times `scale`.
//   weights  of a group: against the larger of its own maximum and the first group's, whatever the other
//            groups hold; rounded to bf16 for the values, unrounded in the denominator. So a weight is
//            rounded against a maximum over 128 rows at least, nearly as if the final one were known.
//   values   of a group: one chain of products from zero over its rows, ascending.
//   groups   merged in ascending order (AttendState). Groups without any row are left out.
// So blocks that take a group each, score the first group again for its maximum, and leave their parts in
// memory for a merge give the same bits as one block that merges as it goes; and head tiles, ring sizes and
// row layouts change none either.
//
// With 64 heads a query fills the registers with accumulators, and its products keep tensor cores and shared
// memory busy alike: sharing the window's rows between neighbouring queries would need twice the accumulators
// and save nothing but reads that hit L2.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/arch/registers.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/attention/attend_finish.cuh>
#include <dsv4/attention/attend_fragments.cuh>
#include <dsv4/attention/attend_merge.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

inline constexpr int kAttendGroup = 128;  // rows of a group
inline constexpr int kAttendStep = 16;    // rows of a product: of one pool

/// A cached row in memory: 576 bytes of codes and 8 bytes of scales, or 1024 bytes of bf16. data null = no
/// row.
struct AttendRow {
  const std::uint8_t* data = nullptr;
  const std::uint8_t* scales = nullptr;
};

/// The queries.
struct AttendQueries {
  const bf16* q;  // [tokens, heads, 512], rows 16-byte aligned
  std::int64_t stride, head_stride;
  int heads;
  float scale;
};

/// A block's part of the work: kHeads (16, 32 or 64) heads of a token.
///   kPacked  all rows are 576 bytes of codes; else each pool's may be either, in 1024 bytes of shared memory
///   kHalves  2: half a group in shared memory at a time, the second half loaded twice; 16 heads alone. For
///            devices with little shared memory.
/// List names a token's rows by their position in the list:
///   int groups() const, steps(int group) const    steps of 16 positions that the group has
///   AttendRow row(int i) const                    data null = no row, beyond the end too
///   bool packed(int i) const                      the format, the same for the 16 positions of a step
template <int kHeads_, bool kPacked_, int kHalves_ = 1>
class AttendTile {
 public:
  static constexpr int kHeads = kHeads_;
  static constexpr bool kPacked = kPacked_;
  static constexpr int kHalves = kHalves_;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * arch::kWarpThreads;
  static constexpr int kRows = kAttendGroup / kHalves;  // that are in shared memory together
  static constexpr int kListBytes = 496;                // of shared memory, for the caller's list
  static_assert(kHeads == 16 || kHeads == 32 || kHeads == 64);
  static_assert(kHalves == 1 || (kHalves == 2 && kHeads == 16), "all values in one pass over the rows");

 private:
  static constexpr int kTiles = kHeads / 16;
  static constexpr int kUnits = kPacked ? 36 : 64;  // of 16 bytes, in a row
  static constexpr int kPackedUnits = 36;
  static constexpr int kChannels = AttendOutput::kChannels;
  static constexpr int kQueryUnits = kChannels / 8;
  static constexpr int kScaleBlocks = 7;
  static constexpr int kRotatedWarp = 7;      // whose 64 channels are bf16 in every row
  static constexpr int kPairs = 64 / kHeads;  // of n8 tiles of channels, in a pass: 32 accumulators
  static constexpr int kPasses = 4 / kPairs;
  static constexpr int kTogether = kTiles < 2 ? kTiles : 2;  // tiles of 16 heads scored side by side

  // Offsets in shared memory.
  static constexpr int kQueriesAt = 0;  // at the end: the rounded values
  static constexpr int kWeightsAt = kQueriesAt + kHeads * kQueryUnits * kUnitBytes;
  static constexpr int kScaleBytesAt = kWeightsAt + kHeads * kAttendGroup * 2;
  static constexpr int kScalePairsAt = kScaleBytesAt + 2 * kAttendGroup * 8;
  static constexpr int kAddressesAt = kScalePairsAt + kScaleBlocks * kAttendGroup * 2;
  static constexpr int kPartialAt = kAddressesAt + 2 * kAttendGroup * 8;
  static constexpr int kStatisticsAt = kPartialAt + kWarps * kHeads * 4;
  static constexpr int kListAt = kStatisticsAt + 6 * kHeads * 4;
  static constexpr int kRowsAt = kListAt + kListBytes;
  static constexpr int kAnglesAt = kPartialAt;  // at the end
  static_assert(kWarps * kHeads * 4 >= AttendOutput::kRopePairs * static_cast<int>(sizeof(math::SinCos)));
  static_assert(kRowsAt % kUnitBytes == 0);

 public:
  /// Bytes of a block's shared memory with a ring of `ring` rows.
  DSV4_HD static constexpr std::int64_t shared_bytes(int ring) {
    return kRowsAt + std::int64_t{ring} * kUnits * kUnitBytes;
  }
  /// Rows of the ring: kRows, and as many of the next group as fit in `limit` bytes.
  DSV4_HD static constexpr int ring_rows(std::int64_t limit) {
    const std::int64_t rows = (limit - kRowsAt) / (kUnits * kUnitBytes) / kAttendStep * kAttendStep;
    return kHalves > 1 || rows <= kRows ? kRows : rows < 2 * kRows ? static_cast<int>(rows) : 2 * kRows;
  }

  /// Where the kListBytes lie; 16-byte aligned.
  DSV4_DEVICE static std::uint8_t* list_memory(std::uint8_t* shared) { return shared + kListAt; }

  /// All groups, merged as they come, and what follows them.
  ///   angles  (int pair) -> math::SinCos of the token; called with out.rotate_back alone
  ///   shared  shared_bytes(ring), 16-byte aligned
  /// Called by all kThreads threads of a block; synchronises.
  template <class List, class Angles>
  DSV4_DEVICE static void run(const AttendQueries& q, const AttendOutput& out, std::int64_t token,
                              int first_head, const List& list, const Angles& angles, int ring,
                              std::uint8_t* shared) {
    AttendTile tile(q, token, first_head, ring, shared);
    float values[kTiles][4][2][4] = {};
    const int groups = list.groups();
    tile.template walk<false>(
        list, groups, [](int group) { return group + 1; }, groups,
        [&](int pass, const float(&part)[kTiles][kPairs][2][4]) { tile.merge(values, pass, part); });
    tile.finish(out, values, angles);
  }

  /// One group, left for the merge.
  template <class List>
  DSV4_DEVICE static void run_part(const AttendQueries& q, const AttendParts& parts, std::int64_t token,
                                   int first_head, const List& list, int group, int ring,
                                   std::uint8_t* shared) {
    AttendTile tile(q, token, first_head, ring, shared);
    const int groups = list.groups();
    if (group >= groups) return;
    const bool present = tile.template walk<true>(
        list, groups, [&](int g) { return g < group ? group : groups; }, group,
        [&](int pass, const float(&part)[kTiles][kPairs][2][4]) {
          tile.store_part(parts, group, pass, part);
        });
    if (tile.thread_ < kHeads && first_head + tile.thread_ < q.heads)
      parts.state[parts.at(token, group, q.heads, first_head + tile.thread_)] =
          present ? softmax::State{tile.group_max()[tile.thread_], tile.partial(0)[tile.thread_]}
                  : softmax::State{-math::kInfinity, AttendParts::kAbsent};
  }

 private:
  const AttendQueries& q_;
  const std::int64_t token_;
  const int first_head_, ring_;
  std::uint8_t* const shared_;
  int thread_ = static_cast<int>(arch::thread_idx().x);
  int warp_ = thread_ / arch::kWarpThreads;
  int lane_ = arch::lane_id(), g_ = lane_ / 4, t_ = lane_ % 4;

  // Makes the compiler compute addresses where they are used: kept from group to group, they would cost more
  // registers than the accumulators leave.
  DSV4_DEVICE void forget_addresses() {
    thread_ = arch::opaque(thread_);
    warp_ = thread_ / arch::kWarpThreads, lane_ = thread_ % arch::kWarpThreads;
    g_ = lane_ / 4, t_ = lane_ % 4;
  }

  DSV4_DEVICE AttendTile(const AttendQueries& q, std::int64_t token, int first_head, int ring,
                         std::uint8_t* shared)
      : q_(q), token_(token), first_head_(first_head), ring_(ring), shared_(shared) {}

  template <class T>
  DSV4_DEVICE T* at(int offset) const {
    return reinterpret_cast<T*>(shared_ + offset);
  }
  DSV4_DEVICE std::uint8_t* row_unit(int row, int unit) const {
    return RowTile<kUnits>::unit(shared_ + kRowsAt, row, unit);
  }
  DSV4_DEVICE std::uint8_t* query_unit(int head, int unit) const {
    return shared_ + kQueriesAt + (head * kQueryUnits + swizzled(head, unit)) * kUnitBytes;
  }
  DSV4_DEVICE std::uint8_t* weight_unit(int head, int unit) const {
    return shared_ + kWeightsAt + (head * (kAttendGroup / 8) + swizzled(head, unit)) * kUnitBytes;
  }
  DSV4_DEVICE const std::uint8_t** addresses(int buffer) const {
    return at<const std::uint8_t*>(kAddressesAt) + buffer * kAttendGroup;
  }
  DSV4_DEVICE std::uint8_t* scale_bytes(int buffer) const {
    return shared_ + kScaleBytesAt + buffer * kAttendGroup * 8;
  }
  DSV4_DEVICE std::uint16_t* scale_pairs(int block) const {
    return at<std::uint16_t>(kScalePairsAt) + block * kAttendGroup;
  }
  DSV4_DEVICE float* partial(int warp) const { return at<float>(kPartialAt) + warp * kHeads; }
  // Of every head: what a group's weights refer to, and its factors.
  DSV4_DEVICE float* group_max() const { return at<float>(kStatisticsAt); }
  DSV4_DEVICE float* old_factor() const { return at<float>(kStatisticsAt) + kHeads; }
  DSV4_DEVICE float* part_factor() const { return at<float>(kStatisticsAt) + 2 * kHeads; }
  // Of head thread_, for thread_ < kHeads alone: not in registers, which the accumulators need.
  DSV4_DEVICE float& first_max() const { return at<float>(kStatisticsAt)[3 * kHeads + thread_]; }
  DSV4_DEVICE AttendState state() const {
    return {{at<float>(kStatisticsAt)[4 * kHeads + thread_], at<float>(kStatisticsAt)[5 * kHeads + thread_]}};
  }
  DSV4_DEVICE void set_state(const AttendState& s) const {
    at<float>(kStatisticsAt)[4 * kHeads + thread_] = s.total.max;
    at<float>(kStatisticsAt)[5 * kHeads + thread_] = s.total.sum;
  }
  DSV4_DEVICE math::SinCos* angles() const { return at<math::SinCos>(kAnglesAt); }

  // A group that is being loaded or computed: `buffer` holds its addresses and scales, `base` is where its
  // first row lies in the ring.
  struct Group {
    int number, steps, buffer, base;

    DSV4_DEVICE int ring_row(int row, int ring) const {
      const int r = base + row;
      return r < ring ? r : r - ring;
    }
  };

  // Addresses of the first group from g.number on that has rows, and copies of its scales; of groups without
  // rows nothing is loaded.
  template <class List, class Next>
  DSV4_DEVICE void find(Group& g, const List& list, int groups, const Next& next) const {
    for (; g.number < groups; g.number = next(g.number)) {
      bool exists = false;
      if (thread_ < kAttendGroup) {
        const int i = g.number * kAttendGroup + thread_;
        const AttendRow row = list.row(i);
        exists = row.data != nullptr;
        addresses(g.buffer)[thread_] = row.data;
        if (list.packed(i)) {
          auto* scales = reinterpret_cast<arch::Vec<std::uint32_t, 2>*>(scale_bytes(g.buffer)) + thread_;
          if (exists)
            arch::cp_async<8>(scales, row.scales);
          else
            *scales = {};
        }
      }
      const int rows = arch::sync_threads_count(exists);
      if (rows == 0) continue;
      g.steps = list.steps(g.number);
      return;
    }
  }

  // Starts the copies of rows [first, last) of the group; rows that are none become zeros.
  template <class List>
  DSV4_DEVICE void load(const Group& g, const List& list, int first, int last) const {
    const std::uint8_t* const* address = addresses(g.buffer);
    const auto* nowhere = reinterpret_cast<const std::uint8_t*>(q_.q);  // aligned; not read
    for (int piece = thread_; piece < (last - first) * kUnits; piece += kThreads) {
      const int row = first + piece / kUnits, unit = piece % kUnits;
      if (!kPacked && unit >= kPackedUnits && list.packed(g.number * kAttendGroup + row)) continue;
      const std::uint8_t* from = address[row];
      const int place = kHalves > 1 ? row % kRows : g.ring_row(row, ring_);
      arch::cp_async<16>(row_unit(place, unit), from ? from + unit * kUnitBytes : nowhere, from ? 16 : 0);
    }
  }

  // Queries of the tile in the order of score_operands; zeros for heads that do not exist.
  DSV4_DEVICE void load_queries() const {
    for (int i = warp_; i < kHeads / 8 * 16; i += kWarps) {
      const int head = i / 16 * 8 + g_, quad = i % 16;  // 4 units
      arch::Vec<std::uint32_t, 4> w = {};
      if (first_head_ + head < q_.heads)
        w = arch::load(reinterpret_cast<const arch::Vec<std::uint32_t, 4>*>(
            q_.q + token_ * q_.stride + (first_head_ + head) * q_.head_stride + quad * 32 + t_ * 8));
      std::uint32_t operands[2][2];
      score_operands_bf16(operands, w);
      DSV4_UNROLL
      for (int k = 0; k < 4; ++k)
        *reinterpret_cast<std::uint32_t*>(query_unit(head, quad * 4 + k) + t_ * 4) = operands[k / 2][k % 2];
    }
  }

  // Walks over groups 0, next(0), ... and hands the values of those from `full` on to `use`; of others, the
  // maxima are taken alone (kSplit). True if group `full` has rows (kSplit).
  template <bool kSplit, class List, class Next, class Use>
  DSV4_DEVICE bool walk(const List& list, int groups, const Next& next, int full, const Use& use) {
    Group now = {0, 0, 0, 0};
    if (thread_ < kHeads) first_max() = -math::kInfinity, set_state({});
    find(now, list, groups, next);
    if (kHalves == 1 && now.number < groups) load(now, list, 0, now.steps * kAttendStep);
    load_queries();
    bool present = false;
    while (now.number < groups) {
      Group then = {next(now.number), 0, now.buffer ^ 1, now.base + kAttendGroup};
      if (then.base >= ring_) then.base -= ring_;
      find(then, list, groups, next);
      forget_addresses();
      float score[kTiles][2][4];
      if constexpr (kHalves == 1) {
        arch::cp_async_wait_all();
        arch::sync_threads();
        if (then.number < groups) prefetch(then, list);
        if (warp_ < now.steps) score_step(score, now, list, warp_);
      } else {
        for (int half = (now.steps - 1) / (kRows / kAttendStep); half >= 0; --half) {
          load_half(now, list, half);
          if (warp_ < now.steps && warp_ / (kRows / kAttendStep) == half) score_step(score, now, list, warp_);
          arch::sync_threads();
        }
      }
      forget_addresses();
      const bool maxima_alone = kSplit && now.number != full;
      statistics(score, now, maxima_alone);
      if (!maxima_alone) {
        weigh(score, now);
        present = true;
        DSV4_UNROLL
        for (int pass = 0; pass < kPasses; ++pass) {
          forget_addresses();
          float part[kTiles][kPairs][2][4] = {};
          for (int step = 0; step < now.steps; ++step) {
            if (kHalves > 1 && step > 0 && step % (kRows / kAttendStep) == 0) {
              arch::sync_threads();
              load_half(now, list, step / (kRows / kAttendStep));
            }
            add_values(part, now, pass, step,
                       kPacked || list.packed(now.number * kAttendGroup + step * kAttendStep));
          }
          use(pass, part);
        }
      }
      arch::sync_threads();  // everyone is done with the rows and with the statistics
      if (kHalves == 1 && then.number < groups) {
        const int early = ring_ - kRows, rows = then.steps * kAttendStep;
        if (early < rows) load(then, list, early, rows);
      }
      now = then;
    }
    return present;
  }

  // As much of the next group as fits beside this one; the rest as far as L2.
  template <class List>
  DSV4_DEVICE void prefetch(const Group& g, const List& list) const {
    const int rows = g.steps * kAttendStep, early = ring_ - kRows < rows ? ring_ - kRows : rows;
    load(g, list, 0, early);
    constexpr int kLine = 128, kLines = (kUnits * kUnitBytes + kLine - 1) / kLine;
    for (int i = thread_; i < (rows - early) * kLines; i += kThreads) {
      const std::uint8_t* row = addresses(g.buffer)[early + i / kLines];
      const int offset = i % kLines * kLine;
      if (row &&
          offset < (list.packed(g.number * kAttendGroup + early + i / kLines) ? kPackedUnits : kUnits) *
                       kUnitBytes)
        arch::prefetch_l2(row + offset);
    }
  }

  template <class List>
  DSV4_DEVICE void load_half(const Group& g, const List& list, int half) const {
    const int rows = g.steps * kAttendStep, last = (half + 1) * kRows;
    load(g, list, half * kRows, last < rows ? last : rows);
    arch::cp_async_wait_all();
    arch::sync_threads();
  }

  DSV4_DEVICE int step_row(const Group& g, int step) const {
    return kHalves > 1 ? step * kAttendStep % kRows : g.ring_row(step * kAttendStep, ring_);
  }

  // This warp's scores: every head of the tile against the 16 rows of a step; -inf for rows that are none.
  template <class List>
  DSV4_DEVICE void score_step(float (&score)[kTiles][2][4], const Group& g, const List& list,
                              int step) const {
    const bool packed = kPacked || list.packed(g.number * kAttendGroup + step * kAttendStep);
    const int base = step_row(g, step), row = step * kAttendStep;
    const std::uint8_t* scales = scale_bytes(g.buffer) + row * 8;
    if (packed && lane_ < kAttendStep)
      for (int block = 0; block < kScaleBlocks; ++block)
        scale_pairs(block)[row + lane_] = scale_bits(scales[lane_ * 8 + block]);

    DSV4_UNROLL
    for (int i = 0; i < kTiles * 8; ++i) score[i / 8][i / 4 % 2][i % 4] = 0.0f;
    std::uint32_t nan[2] = {};
    for (int block = 0; block < 8; ++block) {
      const bool codes = packed && block < kScaleBlocks;
      std::uint32_t b[2][2][2][2];  // of 32 channels, 8 rows, a product
      DSV4_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int half = i / 2, n = i % 2;
        if (codes) {
          const int unit = 4 * block + 2 * half + t_ / 2;
          score_operands_e4m3(b[half][n], nan[n], row_unit(base + 8 * n + g_, unit) + t_ % 2 * 8);
        } else {
          const int unit = (packed ? 4 * kScaleBlocks : 8 * block) + 4 * half + t_;
          const auto w =
              *reinterpret_cast<const arch::Vec<std::uint32_t, 4>*>(row_unit(base + 8 * n + g_, unit));
          score_operands_bf16(b[half][n], w);
        }
      }
      float scale[2][2];
      DSV4_UNROLL
      for (int i = 0; i < 4; ++i)
        scale[i / 2][i % 2] =
            codes ? to_float(e8m0{scales[(8 * (i / 2) + 2 * t_ + i % 2) * 8 + block]}) : 1.0f;
      DSV4_UNROLL
      for (int first = 0; first < kTiles; first += kTogether) {
        float part[kTogether][2][4] = {};
        DSV4_UNROLL
        for (int k = 0; k < 4; ++k) {
          DSV4_UNROLL
          for (int tile = 0; tile < kTogether; ++tile) {
            std::uint32_t a[4];
            arch::ldmatrix(a, query_unit(16 * (first + tile) + lane_ % 16, 8 * block + 2 * k + lane_ / 16));
            DSV4_UNROLL
            for (int n = 0; n < 2; ++n)
              arch::mma_m16n8k16_bf16(part[tile][n], a, b[k / 2][n][k % 2], part[tile][n]);
          }
        }
        DSV4_UNROLL
        for (int i = 0; i < kTogether * 8; ++i) {
          float& sum = score[first + i / 8][i / 4 % 2][i % 4];
          sum = math::fma(part[i / 8][i / 4 % 2][i % 4], scale[i / 4 % 2][i % 2], sum);
        }
      }
    }
    DSV4_UNROLL
    for (int n = 0; n < 2; ++n) {
      const unsigned votes = arch::ballot(nan[n] != 0);  // four lanes a row
      DSV4_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int column = 2 * t_ + i;
        const bool exists = addresses(g.buffer)[row + 8 * n + column] != nullptr;
        const bool is_nan = (votes >> (4 * column) & 15u) != 0;
        DSV4_UNROLL
        for (int k = 0; k < 2 * kTiles; ++k) {
          float& s = score[k / 2][n][k % 2 * 2 + i];
          s = !exists ? -math::kInfinity : is_nan ? bits_as<float>(0x7fc00000u) : s * q_.scale;
        }
      }
    }
  }

  // The group's maxima, and what follows from them for the merge.
  DSV4_DEVICE void statistics(const float (&score)[kTiles][2][4], const Group& g, bool maxima_alone) {
    if (warp_ < g.steps) {
      DSV4_UNROLL
      for (int k = 0; k < 2 * kTiles; ++k) {  // head 8 k + g_
        const float(&s)[2][4] = score[k / 2];
        const int i = k % 2 * 2;
        float m = math::max(math::max(s[0][i], s[0][i + 1]), math::max(s[1][i], s[1][i + 1]));
        m = math::max(m, arch::shfl_xor(m, 1));
        m = math::max(m, arch::shfl_xor(m, 2));
        if (t_ == 0) partial(warp_)[8 * k + g_] = m;
      }
    }
    arch::sync_threads();
    if (thread_ < kHeads) {
      float m = -math::kInfinity;
      for (int w = 0; w < g.steps; ++w) m = math::max(m, partial(w)[thread_]);
      if (g.number == 0) first_max() = m;
      m = math::max(first_max(), m);
      if (!maxima_alone) {
        group_max()[thread_] = m;
        AttendState s = state();
        const AttendState::Factors f = s.raise(m);
        set_state(s);
        old_factor()[thread_] = f.old_factor;
        part_factor()[thread_] = f.part_factor;
      }
    }
    if (!maxima_alone) arch::sync_threads();
  }

  // Scores to weights: bf16 in shared memory; their sums into the state.
  DSV4_DEVICE void weigh(const float (&score)[kTiles][2][4], const Group& g) {
    if (warp_ < g.steps) {
      DSV4_UNROLL
      for (int k = 0; k < 2 * kTiles; ++k) {
        const int head = 8 * k + g_, i = k % 2 * 2;
        const float m = group_max()[head];
        float sum[2];
        DSV4_UNROLL
        for (int n = 0; n < 2; ++n) {
          const float first = softmax::weight(score[k / 2][n][i], m);
          const float second = softmax::weight(score[k / 2][n][i + 1], m);
          sum[n] = first + second;
          *reinterpret_cast<std::uint32_t*>(weight_unit(head, 2 * warp_ + n) + 4 * t_) =
              std::uint32_t{from_float<bf16>(first).bits} | std::uint32_t{from_float<bf16>(second).bits}
                                                                << 16;
        }
        float total = sum[0] + sum[1];
        total += arch::shfl_xor(total, 1);
        total += arch::shfl_xor(total, 2);
        if (t_ == 0) partial(warp_)[head] = total;
      }
    }
    arch::sync_threads();
    if (thread_ < kHeads) {
      float sum = 0.0f;
      for (int w = 0; w < g.steps; ++w) sum += partial(w)[thread_];
      partial(0)[thread_] = sum;
      AttendState s = state();
      s.add(sum, {old_factor()[thread_], part_factor()[thread_]});
      set_state(s);
    }
  }

  // part += weights times the 16 rows of a step, in a pass over this warp's 64 channels.
  DSV4_DEVICE void add_values(float (&part)[kTiles][kPairs][2][4], const Group& g, int pass, int step,
                              bool packed) const {
    const int base = step_row(g, step);
    std::uint32_t b[kPairs][2][2];
    DSV4_UNROLL
    for (int k = 0; k < kPairs; ++k) {
      const int pair = pass * kPairs + k;  // 16 channels
      if (warp_ == kRotatedWarp) {
        const int unit = (packed ? 4 * kScaleBlocks : 8 * kRotatedWarp) + 2 * pair + lane_ / 16;
        value_operands_split(b[k], row_unit(base + lane_ % 16, unit));
      } else if (packed) {
        value_operands_e4m3(b[k], row_unit(base + lane_ % 16, 4 * warp_ + pair),
                            scale_pairs(warp_) + step * kAttendStep);
      } else {
        value_operands_interleaved(b[k], [&](int row) {
          const std::uint8_t* unit = row_unit(base + row, 8 * warp_ + 2 * pair + g_ / 4);
          return *reinterpret_cast<const std::uint32_t*>(unit + g_ % 4 * 4);
        });
      }
    }
    DSV4_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      std::uint32_t a[4];
      arch::ldmatrix(a, weight_unit(16 * tile + lane_ % 16, 2 * step + lane_ / 16));
      DSV4_UNROLL
      for (int k = 0; k < kPairs * 2; ++k)
        arch::mma_m16n8k16_bf16(part[tile][k / 2][k % 2], a, b[k / 2][k % 2], part[tile][k / 2][k % 2]);
    }
  }

  DSV4_DEVICE void merge(float (&values)[kTiles][4][2][4], int pass,
                         const float (&part)[kTiles][kPairs][2][4]) const {
    DSV4_UNROLL
    for (int k = 0; k < 2 * kTiles; ++k) {
      const int head = 8 * k + g_;
      const AttendState::Factors f = {old_factor()[head], part_factor()[head]};
      DSV4_UNROLL
      for (int i = 0; i < kPairs * 4; ++i) {
        float& v = values[k / 2][pass * kPairs + i / 4][i / 2 % 2][k % 2 * 2 + i % 2];
        v = merged(v, part[k / 2][i / 4][i / 2 % 2][k % 2 * 2 + i % 2], f);
      }
    }
  }

  // The values that a lane holds of 16 channels of a head, in the order of value_operands: neighbours, or two
  // pairs. four(channel, x[4]) or two(channel, x, y) twice.
  template <class Four, class Two>
  DSV4_DEVICE void scatter(const float (&v)[2][4], int half, int pair, const Four& four,
                           const Two& two) const {
    const int channel = 64 * warp_ + 16 * pair, i = 2 * half;
    if (warp_ == kRotatedWarp) {
      two(channel + 2 * t_, v[0][i], v[0][i + 1]);
      two(channel + 8 + 2 * t_, v[1][i], v[1][i + 1]);
    } else {
      const float x[4] = {v[0][i], v[1][i], v[0][i + 1], v[1][i + 1]};
      four(channel + 4 * t_, x);
    }
  }

  DSV4_DEVICE void store_part(const AttendParts& parts, int group, int pass,
                              const float (&part)[kTiles][kPairs][2][4]) const {
    DSV4_UNROLL
    for (int k = 0; k < 2 * kTiles; ++k) {
      const int head = first_head_ + 8 * k + g_;
      if (head >= q_.heads) continue;
      float* to = parts.values + parts.at(token_, group, q_.heads, head) * kChannels;
      DSV4_UNROLL
      for (int i = 0; i < kPairs; ++i)
        scatter(
            part[k / 2][i], k % 2, pass * kPairs + i,
            [&](int channel, const float(&x)[4]) {
              arch::store(reinterpret_cast<arch::Vec<float, 4>*>(to + channel), {{x[0], x[1], x[2], x[3]}});
            },
            [&](int channel, float x, float y) {
              arch::store(reinterpret_cast<arch::Vec<float, 2>*>(to + channel), {{x, y}});
            });
    }
  }

  template <class Angles>
  DSV4_DEVICE void finish(const AttendOutput& out, const float (&values)[kTiles][4][2][4],
                          const Angles& angle) const {
    float* inverse = group_max();
    if (thread_ < kHeads && first_head_ + thread_ < q_.heads)
      inverse[thread_] = out.close(token_, first_head_ + thread_, state().total);
    if (out.rotate_back && thread_ < AttendOutput::kRopePairs) angles()[thread_] = angle(thread_);
    arch::sync_threads();
    DSV4_UNROLL
    for (int k = 0; k < 2 * kTiles; ++k) {
      const int head = 8 * k + g_;
      if (first_head_ + head >= q_.heads) continue;
      const float d = inverse[head];
      const auto rounded = [d](float x, float y) {
        return std::uint32_t{from_float<bf16>(x * d).bits} | std::uint32_t{from_float<bf16>(y * d).bits}
                                                                 << 16;
      };
      const auto word = [&](int channel) { return query_unit(head, channel / 8) + channel % 8 * 2; };
      DSV4_UNROLL
      for (int pair = 0; pair < 4; ++pair)
        scatter(
            values[k / 2][pair], k % 2, pair,
            [&](int channel, const float(&x)[4]) {
              *reinterpret_cast<std::uint64_t*>(word(channel)) =
                  rounded(x[0], x[1]) | std::uint64_t{rounded(x[2], x[3])} << 32;
            },
            [&](int channel, float x, float y) {
              *reinterpret_cast<std::uint32_t*>(word(channel)) = rounded(x, y);
            });
    }
    arch::sync_threads();
    for (int head = warp_; head < kHeads && first_head_ + head < q_.heads; head += kWarps) {
      Octet<bf16> v[2];
      DSV4_UNROLL
      for (int half = 0; half < 2; ++half)
        v[half].part[0] = *reinterpret_cast<const arch::Vec<bf16, 8>*>(query_unit(head, 32 * half + lane_));
      out.put(token_, first_head_ + head, v, angles());
    }
  }
};

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
