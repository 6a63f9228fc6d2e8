// A block of AttendTile: what lies where in its shared memory, and who its threads are.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/registers.cuh>
#include <dsv4/attention/attend_finish.cuh>
#include <dsv4/attention/attend_fragments.cuh>
#include <dsv4/core/rope.hpp>
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

/// A group that is being loaded or computed: `buffer` holds its addresses and scales, `base` is where its
/// first row lies in the ring.
struct AttendGroup {
  int number, steps, buffer, base;

  DSV4_DEVICE int ring_row(int row, int ring) const {
    const int r = base + row;
    return r < ring ? r : r - ring;
  }
};

/// What a thread of the block knows and where it finds the rest; the shape: see AttendTile.
template <int kHeads_, bool kPacked_, int kHalves_>
struct AttendBlock {
  static constexpr int kHeads = kHeads_;
  static constexpr bool kPacked = kPacked_;
  static constexpr int kHalves = kHalves_;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * arch::kWarpThreads;
  static constexpr int kRows = kAttendGroup / kHalves;  // that are in shared memory together
  static constexpr int kListBytes = 496;                // of shared memory, for the caller's list
  static_assert(kHeads == 16 || kHeads == 32 || kHeads == 64);
  static_assert(kHalves == 1 || (kHalves == 2 && kHeads == 16), "all values in one pass over the rows");

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

  /// Of a thread. Scores of the step of its warp: heads 16 i + lane / 4 (+ 8), rows 8 j + 2 (lane % 4) (+ 1).
  /// Values of 64 channels of its warp, and the part of them that a pass computes: the same heads, 16
  /// channels in the order of value_operands.
  using Scores = float[kTiles][2][4];
  using Values = float[kTiles][4][2][4];
  using Part = float[kTiles][kPairs][2][4];

  /// Bytes of a block's shared memory with a ring of `ring` rows.
  DSV4_HD static constexpr std::int64_t shared_bytes(int ring) {
    return kRowsAt + std::int64_t{ring} * kUnits * kUnitBytes;
  }
  /// Rows of the ring: kRows, and as many of the next group as fit in `limit` bytes.
  DSV4_HD static constexpr int ring_rows(std::int64_t limit) {
    const std::int64_t rows = (limit - kRowsAt) / (kUnits * kUnitBytes) / kAttendStep * kAttendStep;
    return kHalves > 1 || rows <= kRows ? kRows : rows < 2 * kRows ? static_cast<int>(rows) : 2 * kRows;
  }

  const AttendQueries& q;
  const std::int64_t token;
  const int first_head, ring;  // ring: rows
  std::uint8_t* const shared;
  int thread = static_cast<int>(arch::thread_idx().x);
  int warp = thread / arch::kWarpThreads;
  int lane = arch::lane_id(), g = lane / 4, t = lane % 4;

  /// Makes the compiler compute addresses where they are used: kept from group to group, they would cost more
  /// registers than the accumulators leave.
  DSV4_DEVICE void forget_addresses() {
    thread = arch::opaque(thread);
    warp = thread / arch::kWarpThreads, lane = thread % arch::kWarpThreads;
    g = lane / 4, t = lane % 4;
  }

  template <class T>
  DSV4_DEVICE T* at(int offset) const {
    return reinterpret_cast<T*>(shared + offset);
  }
  DSV4_DEVICE std::uint8_t* row_unit(int row, int unit) const {
    return RowTile<kUnits>::unit(shared + kRowsAt, row, unit);
  }
  DSV4_DEVICE std::uint8_t* query_unit(int head, int unit) const {
    return shared + kQueriesAt + (head * kQueryUnits + swizzled(head, unit)) * kUnitBytes;
  }
  DSV4_DEVICE std::uint8_t* weight_unit(int head, int unit) const {
    return shared + kWeightsAt + (head * (kAttendGroup / 8) + swizzled(head, unit)) * kUnitBytes;
  }
  DSV4_DEVICE const std::uint8_t** addresses(int buffer) const {
    return at<const std::uint8_t*>(kAddressesAt) + buffer * kAttendGroup;
  }
  DSV4_DEVICE std::uint8_t* scale_bytes(int buffer) const {
    return shared + kScaleBytesAt + buffer * kAttendGroup * 8;
  }
  DSV4_DEVICE std::uint16_t* scale_pairs(int block) const {
    return at<std::uint16_t>(kScalePairsAt) + block * kAttendGroup;
  }
  DSV4_DEVICE float* partial(int of_warp) const { return at<float>(kPartialAt) + of_warp * kHeads; }
  // Of every head: what a group's weights refer to, and its factors.
  DSV4_DEVICE float* group_max() const { return at<float>(kStatisticsAt); }
  DSV4_DEVICE float* old_factor() const { return at<float>(kStatisticsAt) + kHeads; }
  DSV4_DEVICE float* part_factor() const { return at<float>(kStatisticsAt) + 2 * kHeads; }
  // Of head `thread`, for thread < kHeads alone: not in registers, which the accumulators need.
  DSV4_DEVICE float& first_max() const { return at<float>(kStatisticsAt)[3 * kHeads + thread]; }
  DSV4_DEVICE AttendState state() const {
    return {{at<float>(kStatisticsAt)[4 * kHeads + thread], at<float>(kStatisticsAt)[5 * kHeads + thread]}};
  }
  DSV4_DEVICE void set_state(const AttendState& s) const {
    at<float>(kStatisticsAt)[4 * kHeads + thread] = s.total.max;
    at<float>(kStatisticsAt)[5 * kHeads + thread] = s.total.sum;
  }
  DSV4_DEVICE math::SinCos* angles() const { return at<math::SinCos>(kAnglesAt); }
  // Where the first row of a step lies in the ring.
  DSV4_DEVICE int step_row(const AttendGroup& of, int step) const {
    return kHalves > 1 ? step * kAttendStep % kRows : of.ring_row(step * kAttendStep, ring);
  }
};

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
