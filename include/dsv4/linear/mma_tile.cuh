// Many tokens: a block's warps share its tokens, each has weight rows of its own.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/linear/mma_stream.cuh>
#include <dsv4/linear/mma_weights.cuh>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// Position of `channel` in a row of activations in shared memory (rows of a multiple of 128 bytes): the two
/// rows that 8 lanes read together, 16 bytes each, lie in different banks. Neighbouring lanes read 16 bytes
/// each, or every other 16 bytes.
template <class Weights>
DSV4_DEVICE int swizzled(int row, int channel) {
  constexpr int kFlip = Weights::kLoad == 8 ? 32 : 8;
  static_assert(Weights::kLoad == 8 || Weights::kLoad == 16, "wider loads need another pattern");
  return channel ^ (row % 2 * kFlip);
}

/// How MmaTile brings activations into a stage: `issue` starts with a chunk while the one before is
/// multiplied, `finish` does what is left then. By cp.async: the 16-byte pieces of a thread, the same in
/// every chunk. A specialisation for another X takes its place.
template <class Tile, class X>
struct TileLoader {
  static constexpr int kVectors = kMmaChunk / 8;
  static constexpr int kPieces = (Tile::kTokens * kVectors + Tile::kThreads - 1) / Tile::kThreads;

  const X& x;
  const std::int64_t first_token;
  const bf16* source[kPieces];  // at channel 0 of the chunk; null = zeros

  DSV4_DEVICE TileLoader(const X& rows, std::int64_t first) : x(rows), first_token(first) {
    DSV4_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      const int piece = static_cast<int>(arch::thread_idx().x) + i * Tile::kThreads;
      const bf16* row = piece / kVectors < Tile::kTokens ? x.row(first_token + piece / kVectors) : nullptr;
      source[i] = row ? row + piece % kVectors * 8 : nullptr;
    }
  }

  template <bool kXScaled>
  DSV4_DEVICE void issue(typename Tile::Stage& stage, int chunk) {
    const int thread = static_cast<int>(arch::thread_idx().x);
    DSV4_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      const int piece = thread + i * Tile::kThreads, token = piece / kVectors, channel = piece % kVectors * 8;
      if (token >= Tile::kTokens) continue;
      const bool exists = source[i] && std::int64_t{chunk} * kMmaChunk + channel < x.cols;
      arch::cp_async<16>(stage.x + token * kMmaChunk + swizzled<typename Tile::Format>(token, channel),
                         exists ? source[i] + std::int64_t{chunk} * kMmaChunk : x.x, exists ? 16 : 0);
    }
    if constexpr (kXScaled) {
      if (thread < Tile::kTokens / 4) {
        const bool exists = first_token + thread * 4 < x.tokens;
        arch::cp_async<16>(stage.scales + thread * 4,
                           exists ? x.scales + chunk * x.scales_stride + first_token + thread * 4 : x.scales,
                           exists ? 16 : 0);
      }
    }
  }
  template <bool kXScaled>
  DSV4_DEVICE void finish(typename Tile::Stage&, int) {}
};

/// kTokens tokens by 128 weight rows in a block of 8 warps. Activations come through shared memory, double
/// buffered; weights go to registers, one chunk ahead: each is used by one warp alone.
template <class Weights, int kTokens_>
struct MmaTile {
  using Format = Weights;
  static constexpr int kTokens = kTokens_;
  static constexpr int kTiles = kTokens / kMmaTokens;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * arch::kWarpThreads;
  static constexpr int kRows = kWarps * kMmaRows;
  static_assert(kTokens % kMmaTokens == 0, "whole products");

  struct Stage {
    bf16 x[kTokens * kMmaChunk];
    float scales[kTokens];
  };
  struct Shared {
    Stage stage[2];
  };

  /// y for tokens [first_token, + kTokens) and rows [first_row, + kRows), as far as they exist.
  ///   X  row(token), x, cols and, with kXScaled, scales, scales_stride and tokens, as GlobalRows;
  ///      scales_stride a multiple of 4 and scales 16-byte aligned. Or what TileLoader is specialised for
  ///   Y  store(sum, first_row, first_token), as MmaOutput
  /// Called by all threads of a block; synchronises.
  template <bool kXScaled, class X, class Y>
  DSV4_DEVICE static void run(const typename Weights::Matrix& w, const X& x, const Y& y,
                              std::int64_t first_row, std::int64_t first_token, Shared& shared) {
    // Up to 32 tokens are one tile: nobody else reads these weights.
    constexpr arch::Cache kCache = kTokens < 64 ? arch::Cache::kStreaming : arch::Cache::kDefault;
    const int lane = arch::lane_id();
    const std::int64_t row = first_row + arch::warp_id() * kMmaRows;
    const int chunks = static_cast<int>((w.cols + kMmaChunk - 1) / kMmaChunk);
    const auto scale_of = [&](int chunk) { return row < w.rows ? Weights::scale(w, row, chunk) : 1.0f; };
    TileLoader<MmaTile, X> loader(x, first_token);
    WeightChunk<Weights, kCache> weights;
    loader.template issue<kXScaled>(shared.stage[0], 0);
    weights.load_all(w, row, 0);
    float w_scale = scale_of(0);
    loader.template finish<kXScaled>(shared.stage[0], 0);
    arch::Vec<float, 4> total[kTiles] = {};
    for (int chunk = 0; chunk < chunks; ++chunk) {
      arch::cp_async_wait_all();
      arch::sync_threads();  // this chunk's activations are there, and everyone is done with the other stage
      const Stage& stage = shared.stage[chunk % 2];
      const bool more = chunk + 1 < chunks;
      if (more) loader.template issue<kXScaled>(shared.stage[(chunk + 1) % 2], chunk + 1);
      float part[kTiles][4] = {};
      multiply_chunk(
          part, weights,
          [&](int tile, int channel) {
            const int token = tile * kMmaTokens + lane / 4;
            return load_shared(reinterpret_cast<const MmaWords*>(stage.x + token * kMmaChunk +
                                                                 swizzled<Weights>(token, channel)));
          },
          [&](int group) {
            if (more) weights.load(group, w, row, chunk + 1);
          });
      const float now_scale = w_scale;
      if (more) w_scale = scale_of(chunk + 1);
      DSV4_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        arch::Vec<float, 2> x_scale = {};
        if constexpr (kXScaled)
          x_scale = load_shared(
              reinterpret_cast<const arch::Vec<float, 2>*>(stage.scales + tile * kMmaTokens + lane % 4 * 2));
        const arch::Vec<float, 4> v = promoted<kXScaled, Weights::kScaled>(part[tile], x_scale, now_scale);
        DSV4_UNROLL
        for (int i = 0; i < 4; ++i) total[tile][i] += v[i];
      }
      if (more) loader.template finish<kXScaled>(shared.stage[(chunk + 1) % 2], chunk + 1);
    }
    DSV4_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) y.store(total[tile], row, first_token + tile * kMmaTokens);
  }
};

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
