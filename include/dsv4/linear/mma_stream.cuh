// Few tokens: weights stream once through registers, and the channels of a row are spread over the warps of
// a block, so that matrices of few rows keep many warps busy.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/linear/mma_weights.cuh>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// Activations in global memory.
///   x       [tokens, cols] bf16, 16-byte aligned rows of `stride`
///   scales  [ceil(cols/128)] rows of scales_stride f32, a token each (even, 8-byte aligned); null = none
struct GlobalRows {
  const bf16* x;
  const float* scales;
  std::int64_t tokens, cols, stride, scales_stride;

  /// A token's channels; null where there is no such token.
  DSV4_DEVICE const bf16* row(std::int64_t token) const {
    return token < tokens ? x + token * stride : nullptr;
  }
  /// 8 channels; zeros outside.
  DSV4_DEVICE MmaWords words(std::int64_t token, std::int64_t channel) const {
    if (token >= tokens || channel >= cols) return {};
    return arch::load(reinterpret_cast<const MmaWords*>(x + token * stride + channel));
  }
  /// Scales of tokens `token` and `token` + 1 in a chunk; 0 beyond the last.
  DSV4_DEVICE arch::Vec<float, 2> scale(std::int64_t token, std::int64_t chunk) const {
    if (token >= tokens) return {};
    return arch::load(reinterpret_cast<const arch::Vec<float, 2>*>(scales + chunk * scales_stride + token));
  }
};

/// A chunk of rows that are ready: GlobalRows, StagedRows.
template <class X>
struct ReadyChunk {
  const X& x;
  int chunk;

  DSV4_DEVICE MmaWords words(int tile, int channel) const {
    return x.words(tile * kMmaTokens + arch::lane_id() / 4, std::int64_t{chunk} * kMmaChunk + channel);
  }
  DSV4_DEVICE arch::Vec<float, 2> scale(int tile) const {
    return x.scale(tile * kMmaTokens + arch::lane_id() % 4 * 2, chunk);
  }
};
template <class Weights, int kTiles, class X>
DSV4_DEVICE ReadyChunk<X> chunk_of(const X& x, int chunk) {
  return {x, chunk};
}

/// Up to kTiles * 8 tokens in a block of 8 warps.
///
/// The (row group, chunk) pairs of the block's rows, chunks ascending in each group, are dealt to the warps
/// in turn, so any shape keeps all of them busy. A warp leaves the promoted sums of a pair in shared memory;
/// after each window of pairs the sums of a row group are added in order by one warp. Two windows alternate,
/// so that one barrier a window is enough.
template <class Weights, int kTiles>
struct MmaStream {
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * arch::kWarpThreads;
  static constexpr int kWindow = 32 / kTiles;  // pairs
  static_assert(kWindow % kWarps == 0, "as many pairs for every warp");

  using Sums = arch::Vec<float, 4>;
  struct Shared {
    Sums sums[2][kWindow][kTiles][arch::kWarpThreads];
  };

  /// Asks for what the warp needs first. May come before the wait for a previous grid: it is a hint.
  DSV4_DEVICE static void prefetch(const typename Weights::Matrix& w, std::int64_t first_group) {
    constexpr int kLineCodes = 128 / static_cast<int>(sizeof(typename Weights::Code));
    const std::int64_t row = first_group * kMmaRows + arch::lane_id() % kMmaRows;
    const int line = arch::lane_id() / kMmaRows;
    const std::int64_t channel = std::int64_t{arch::warp_id()} * kMmaChunk + line * kLineCodes;
    if (line * kLineCodes < kMmaChunk && row < w.rows && channel < w.cols)
      arch::prefetch_l2(w.data + row * w.stride + channel);
  }

  /// y for 16 `groups` rows from row 16 first_group on.
  ///   X: words(token, channel) and, with kXScaled, scale(token, chunk), as GlobalRows; or what chunk_of has
  ///      an overload for
  /// Called by all threads of a block; synchronises.
  template <bool kXScaled, class X>
  DSV4_DEVICE static void run(const typename Weights::Matrix& w, const X& x, const MmaOutput& y,
                              std::int64_t first_group, int groups, Shared& shared) {
    const int lane = arch::lane_id(), warp = arch::warp_id();
    const int chunks = static_cast<int>((w.cols + kMmaChunk - 1) / kMmaChunk);
    const int pairs = groups * chunks;
    const auto row_of = [&](int pair) { return (first_group + pair / chunks) * kMmaRows; };
    WeightChunk<Weights, arch::Cache::kStreaming> weights = {};
    float w_scale = 1.0f;
    if (warp < pairs) {
      weights.load_all(w, row_of(warp), warp % chunks);
      w_scale = Weights::scale(w, row_of(warp), warp % chunks);
    }
    Sums total = {};  // of the row group that this warp adds up
    int buffer = 0;
    for (int first = 0; first < pairs; first += kWindow, buffer ^= 1) {
      const int end = first + kWindow < pairs ? first + kWindow : pairs;
      for (int pair = first + warp; pair < end; pair += kWarps) {
        const int chunk = pair % chunks, later = pair + kWarps;
        const bool more = later < pairs;
        const std::int64_t later_row = row_of(more ? later : pair);
        const int later_chunk = later % chunks;
        const auto now = chunk_of<Weights, kTiles>(x, chunk);
        float part[kTiles][4] = {};
        multiply_chunk(
            part, weights, [&](int tile, int channel) { return now.words(tile, channel); },
            [&](int group) {
              if (more) weights.load(group, w, later_row, later_chunk);
            });
        const float now_scale = w_scale;
        if (more) w_scale = Weights::scale(w, later_row, later_chunk);
        DSV4_UNROLL
        for (int tile = 0; tile < kTiles; ++tile) {
          arch::Vec<float, 2> x_scale = {};
          if constexpr (kXScaled) x_scale = now.scale(tile);
          store_shared(&shared.sums[buffer][pair - first][tile][lane],
                       promoted<kXScaled, Weights::kScaled>(part[tile], x_scale, now_scale));
        }
      }
      arch::sync_threads();
      // What a warp adds here it may write again two windows on, and the next window's barrier lies between.
      for (int group = first / chunks; group * chunks < end; ++group) {
        const int begin = group * chunks < first ? first : group * chunks;
        const bool complete = (group + 1) * chunks <= end;
        const int stop = complete ? (group + 1) * chunks : end;
        // The sums of tile i of group g are warp (g * kTiles + i) % kWarps's: at most one tile of a group.
        const int tile = (warp - group * kTiles) & (kWarps - 1);
        if (tile >= kTiles) continue;
        if (begin == group * chunks) total = {};
        for (int pair = begin; pair < stop; ++pair) {
          const Sums part = load_shared(&shared.sums[buffer][pair - first][tile][lane]);
          DSV4_UNROLL
          for (int i = 0; i < 4; ++i) total[i] += part[i];
        }
        if (complete) y.store(total, (first_group + group) * kMmaRows, tile * kMmaTokens);
      }
    }
  }
};

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
