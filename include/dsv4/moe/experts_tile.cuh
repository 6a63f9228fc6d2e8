// A grouped linear for many rows: a block's warps share its rows of activations, each has 16 rows of weights
// of its own, of one matrix or of two side by side (linear/mma_tile.cuh).
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/linear/mma_tile.cuh>
#include <dsv4/moe/experts_rows.cuh>

#include <cstdint>

namespace dsv4::moe::inline DSV4_FLAVOUR {

/// Up to kTokens rows of activations by 128 rows of each of kMatrices matrices, in a block of 8 warps.
/// Activations come through shared memory, double buffered; weights go to registers, one chunk ahead: each is
/// used by one warp alone. Products of 8 rows that do not exist are left out.
template <class Weights, int kMatrices, int kTokens_>
struct ExpertTile {
  using Chunk = linear::ScaledChunk<Weights, arch::Cache::kDefault>;
  using Matrix = typename Chunk::Matrix;
  using Sums = arch::Vec<float, 4>;
  static constexpr int kTokens = kTokens_;
  static constexpr int kTiles = kTokens / linear::kMmaTokens;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * arch::kWarpThreads;
  static constexpr int kRows = kWarps * linear::kMmaRows;

  struct Stage {
    bf16 x[kTokens * linear::kMmaChunk];
    float scales[kTokens];
  };
  struct Shared {
    Stage stage[2];
  };

  /// total[m][i] = the products of the tile's rows 8i .. 8i+7 with the warp's 16 rows of matrix m, the
  /// block's first being first_row. Called by all threads of a block; synchronises.
  template <bool kXScaled>
  DSV4_DEVICE static void run(Sums (&total)[kMatrices][kTiles], const Matrix (&w)[kMatrices],
                              const TileInput& in, const ExpertPlan& plan, const TileRows& rows,
                              std::int64_t first_row, Shared& shared) {
    const int lane = arch::lane_id();
    const std::int64_t row = first_row + arch::warp_id() * linear::kMmaRows;
    const int chunks = static_cast<int>((w[0].cols + linear::kMmaChunk - 1) / linear::kMmaChunk);
    const int tiles = (rows.rows + linear::kMmaTokens - 1) / linear::kMmaTokens;
    const Loader<kXScaled> loader(in, plan, rows);
    Chunk weights[kMatrices];
    loader.issue(shared.stage[0], in, 0);
    DSV4_UNROLL
    for (int m = 0; m < kMatrices; ++m) {
      DSV4_UNROLL
      for (int group = 0; group < Chunk::kGroups; ++group) weights[m].load(group, w[m], row, 0);
      weights[m].load_scales(w[m], row, 0);
      DSV4_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) total[m][tile] = {};
    }
    for (int chunk = 0; chunk < chunks; ++chunk) {
      arch::cp_async_wait_all();
      arch::sync_threads();  // this chunk's activations are there, and everyone is done with the other stage
      const Stage& stage = shared.stage[chunk % 2];
      const bool more = chunk + 1 < chunks;
      if (more) loader.issue(shared.stage[(chunk + 1) % 2], in, chunk + 1);
      DSV4_UNROLL
      for (int m = 0; m < kMatrices; ++m) {
        weights[m].step();
        if (more) weights[m].load_scales(w[m], row, chunk + 1);
      }
      linear::chunk_sums<kXScaled, kTiles>(
          weights, tiles,
          [&](int tile, int channel) {
            const int token = tile * linear::kMmaTokens + lane / 4;
            return linear::load_shared(reinterpret_cast<const linear::MmaWords*>(
                stage.x + token * linear::kMmaChunk + linear::swizzled<Chunk>(token, channel)));
          },
          [&](int tile) {
            return linear::load_shared(reinterpret_cast<const arch::Vec<float, 2>*>(
                stage.scales + tile * linear::kMmaTokens + lane % 4 * 2));
          },
          [&](int group) {
            if (!more) return;
            DSV4_UNROLL
            for (int m = 0; m < kMatrices; ++m) weights[m].load(group, w[m], row, chunk + 1);
          },
          [&](int m, int tile, const Sums& v) {
            DSV4_UNROLL
            for (int i = 0; i < 4; ++i) total[m][tile][i] += v[i];
          });
    }
  }

 private:
  // The 16-byte pieces of the activations that a thread brings into shared memory, the same in every chunk,
  // and a row's scale.
  template <bool kXScaled>
  struct Loader {
    static constexpr int kVectors = linear::kMmaChunk / 8;
    static constexpr int kPieces = kTokens * kVectors / kThreads;
    static_assert(kTokens * kVectors % kThreads == 0, "as many pieces for every thread");

    const bf16* source[kPieces];  // at channel 0 of the chunk; null = zeros
    const float* scale;           // null = none to bring
    int rows;                     // that are multiplied

    DSV4_DEVICE Loader(const TileInput& in, const ExpertPlan& plan, const TileRows& tile)
        : scale(nullptr),
          rows((tile.rows + linear::kMmaTokens - 1) / linear::kMmaTokens * linear::kMmaTokens) {
      const int thread = static_cast<int>(arch::thread_idx().x);
      DSV4_UNROLL
      for (int i = 0; i < kPieces; ++i) {
        const int piece = thread + i * kThreads, row = piece / kVectors;
        source[i] = row < tile.rows
                        ? in.x + in.source(plan, tile.first + row) * in.stride + piece % kVectors * 8
                        : nullptr;
      }
      if (kXScaled && thread < tile.rows) scale = in.scales + in.source(plan, tile.first + thread);
    }

    DSV4_DEVICE void issue(Stage& stage, const TileInput& in, int chunk) const {
      const int thread = static_cast<int>(arch::thread_idx().x);
      DSV4_UNROLL
      for (int i = 0; i < kPieces; ++i) {
        const int piece = thread + i * kThreads, row = piece / kVectors, channel = piece % kVectors * 8;
        if (row >= rows) continue;
        const bool exists = source[i] && std::int64_t{chunk} * linear::kMmaChunk + channel < in.cols;
        arch::cp_async<16>(stage.x + row * linear::kMmaChunk + linear::swizzled<Chunk>(row, channel),
                           exists ? source[i] + std::int64_t{chunk} * linear::kMmaChunk : in.x,
                           exists ? 16 : 0);
      }
      if constexpr (kXScaled) {
        if (scale) arch::cp_async<4>(stage.scales + thread, scale + chunk * in.scales_stride);
      }
    }
  };
};

}  // namespace dsv4::moe::inline DSV4_FLAVOUR
