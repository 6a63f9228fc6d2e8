// A grouped linear for few rows of an expert: weights stream once through registers, the channels of a row
// being spread over the warps of a block (linear/mma_stream.cuh), of one matrix or of two side by side.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/moe/experts_rows.cuh>

#include <cstdint>

namespace dsv4::moe::inline DSV4_FLAVOUR {

/// Up to 8 rows of activations times 16 rows of each of kMatrices matrices of one shape at a time.
///
/// The (row group, chunk) pairs of the block's rows, chunks ascending in each group, are dealt to the warps
/// in turn. A warp leaves the promoted sums of a pair in shared memory; after each window of pairs the sums
/// of a row group are added in order by one warp. Two windows alternate, so that one barrier a window is
/// enough.
template <class Weights, int kMatrices>
struct ExpertStream {
  using Chunk = linear::ScaledChunk<Weights, arch::Cache::kStreaming>;
  using Matrix = typename Chunk::Matrix;
  using Sums = arch::Vec<float, 4>;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * arch::kWarpThreads;
  static constexpr int kWindow = 16;  // pairs

  struct Shared {
    Sums sums[2][kWindow][kMatrices][arch::kWarpThreads];
  };

  /// The products with 16 `groups` rows from row 16 first_group on.
  ///   X  words(channel) and, with kXScaled, scale(chunk): StagedCodes, GatheredRows
  ///   Y  y(sum, row): Sums (&sum)[kMatrices][1] of rows row + 2g, + 1 and tokens 2t, 2t + 1
  /// Called by all threads of a block; synchronises.
  template <bool kXScaled, class X, class Y>
  DSV4_DEVICE static void run(const Matrix (&w)[kMatrices], const X& x, Y y, std::int64_t first_group,
                              int groups, Shared& shared) {
    const int lane = arch::lane_id(), warp = arch::warp_id();
    const int chunks = static_cast<int>((w[0].cols + linear::kMmaChunk - 1) / linear::kMmaChunk);
    const int pairs = groups * chunks;
    const auto row_of = [&](int group) { return (first_group + group) * linear::kMmaRows; };
    Chunk weights[kMatrices];
    if (warp < pairs) {
      DSV4_UNROLL
      for (int m = 0; m < kMatrices; ++m) {
        DSV4_UNROLL
        for (int group = 0; group < Chunk::kGroups; ++group)
          weights[m].load(group, w[m], row_of(warp / chunks), warp % chunks);
        weights[m].load_scales(w[m], row_of(warp / chunks), warp % chunks);
      }
    }
    Sums total[kMatrices][1] = {};  // of the row group that this warp adds up
    int buffer = 0;
    for (int first = 0; first < pairs; first += kWindow, buffer ^= 1) {
      const int end = first + kWindow < pairs ? first + kWindow : pairs;
      for (int pair = first + warp; pair < end; pair += kWarps) {
        const int chunk = pair % chunks, later = pair + kWarps;
        const bool more = later < pairs;
        const std::int64_t later_row = row_of(later / chunks);
        const int later_chunk = later % chunks;
        DSV4_UNROLL
        for (int m = 0; m < kMatrices; ++m) {
          weights[m].step();
          if (more) weights[m].load_scales(w[m], later_row, later_chunk);
        }
        linear::chunk_sums<kXScaled, 1>(
            weights, 1,
            [&](int, int channel) { return x.words(std::int64_t{chunk} * linear::kMmaChunk + channel); },
            [&](int) { return x.scale(chunk); },
            [&](int group) {
              if (!more) return;
              DSV4_UNROLL
              for (int m = 0; m < kMatrices; ++m) weights[m].load(group, w[m], later_row, later_chunk);
            },
            [&](int m, int, const Sums& v) {
              linear::store_shared(&shared.sums[buffer][pair - first][m][lane], v);
            });
      }
      arch::sync_threads();
      // What a warp adds here it may write again two windows on, and the next window's barrier lies between.
      for (int group = first / chunks; group * chunks < end; ++group) {
        if (group % kWarps != warp) continue;
        const int begin = group * chunks < first ? first : group * chunks;
        const bool complete = (group + 1) * chunks <= end;
        const int stop = complete ? (group + 1) * chunks : end;
        DSV4_UNROLL
        for (int m = 0; m < kMatrices; ++m) {
          if (begin == group * chunks) total[m][0] = {};
          for (int pair = begin; pair < stop; ++pair) {
            const Sums part = linear::load_shared(&shared.sums[buffer][pair - first][m][lane]);
            DSV4_UNROLL
            for (int i = 0; i < 4; ++i) total[m][0][i] += part[i];
          }
        }
        if (complete) y(total, row_of(group));
      }
    }
  }
};

}  // namespace dsv4::moe::inline DSV4_FLAVOUR
