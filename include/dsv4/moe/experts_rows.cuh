// The rows that a block of an expert's linear computes: where they stand in the plan, which tokens they are,
// and their activations on the way into a product.
#pragma once

#include <dsv4/linear/mma_fp4.cuh>
#include <dsv4/linear/mma_input.cuh>

#include <cstdint>

namespace dsv4::moe::inline DSV4_FLAVOUR {

/// What of a plan a grouped linear reads (ops::MoePlan); all null: every token is a row of expert 0.
struct ExpertPlan {
  const std::int32_t* offsets;       // [experts + 1]
  const std::int32_t* pair_of;       // [pairs]
  const std::int32_t* tile_offsets;  // [experts + 1]
  const std::int32_t* tile_expert;   // [tiles of the grid]
  std::int64_t tokens;
  std::int32_t k, tile_rows;
};

/// The rows of a tile: plan rows first .. first + rows - 1, all of one expert.
struct TileRows {
  std::int64_t expert;  // -1: no such tile
  std::int64_t first;
  int rows;

  DSV4_DEVICE TileRows(std::int64_t expert_, std::int64_t first_, int rows_)
      : expert(expert_), first(first_), rows(rows_) {}
  DSV4_DEVICE TileRows(const ExpertPlan& plan, std::int64_t tile) {
    std::int64_t end;
    if (plan.tile_expert) {
      expert = plan.tile_expert[tile];
      if (expert < 0) return;
      first = plan.offsets[expert] + (tile - plan.tile_offsets[expert]) * plan.tile_rows;
      end = plan.offsets[expert + 1];
    } else {
      expert = 0;
      first = tile * plan.tile_rows;
      end = plan.tokens;
    }
    rows = static_cast<int>(end - first < plan.tile_rows ? end - first : plan.tile_rows);
  }
};

/// Pair (token * k + slot) of a plan row.
DSV4_DEVICE std::int64_t pair_of(const ExpertPlan& plan, std::int64_t row) {
  return plan.pair_of ? plan.pair_of[row] : row;
}

/// A tile's activations in global memory, ready for the product.
///   x       bf16, rows of `stride`, 16-byte aligned: of tokens, or of plan rows
///   scales  [chunks] rows of scales_stride f32; null = none
struct TileInput {
  const bf16* x;
  const float* scales;
  std::int64_t cols, stride, scales_stride;
  bool by_token;

  DSV4_DEVICE std::int64_t source(const ExpertPlan& plan, std::int64_t plan_row) const {
    return by_token ? pair_of(plan, plan_row) / plan.k : plan_row;
  }
};

/// Up to 8 rows of bf16 activations, read by the product where they lie.
struct GatheredRows {
  const bf16* row;  // of the lane's token, lane / 4; null = no such row
  std::int64_t cols;

  DSV4_DEVICE GatheredRows(const TileInput& in, const ExpertPlan& plan, const TileRows& tile)
      : row(nullptr), cols(in.cols) {
    const int t = arch::lane_id() / 4;
    if (t < tile.rows) row = in.x + in.source(plan, tile.first + t) * in.stride;
  }
  DSV4_DEVICE linear::MmaWords words(std::int64_t channel) const {
    if (!row || channel >= cols) return {};
    return arch::load(reinterpret_cast<const linear::MmaWords*>(row + channel));
  }
  DSV4_DEVICE arch::Vec<float, 2> scale(int) const { return {}; }
};

/// Up to 8 rows of quantised activations in shared memory, as codes: half the room of what the product takes,
/// so that 8 rows of the widest model fit beside the sums.
struct StagedCodes {
  static constexpr int kMaxRows = linear::kMmaTokens;
  static constexpr int kSpan = arch::kWarpThreads * 8;  // channels of a warp at a time

  float* scales;  // [chunks, 8]
  e4m3* codes;    // [rows, pitch], channels swizzled
  int rows, pitch;

  /// Bytes of shared memory for `rows` rows of `chunks` chunks.
  DSV4_HD static constexpr std::int64_t bytes(std::int64_t rows, std::int64_t chunks) {
    return chunks * (kMaxRows * static_cast<std::int64_t>(sizeof(float)) + rows * linear::kMmaChunk);
  }
  DSV4_DEVICE StagedCodes(void* memory, int row_count, int chunks)
      : scales(static_cast<float*>(memory)),
        codes(reinterpret_cast<e4m3*>(scales + chunks * kMaxRows)),
        rows(row_count),
        pitch(chunks * linear::kMmaChunk) {}

  /// Channel `channel` of the lane's token and the seven after it.
  DSV4_DEVICE linear::MmaWords words(std::int64_t channel) const {
    const int t = arch::lane_id() / 4;
    if (t >= rows) return {};
    const auto raw = linear::load_shared(
        reinterpret_cast<const arch::Vec<std::uint32_t, 2>*>(at(t, static_cast<int>(channel))));
    linear::MmaWords v;
    DSV4_UNROLL
    for (int i = 0; i < 2; ++i) {
      std::uint32_t pair[2];
      arch::e4m3x4_to_bf16(pair, raw[i]);
      v[2 * i] = pair[0], v[2 * i + 1] = pair[1];
    }
    return v;
  }
  /// Of the lane's tokens 2t and 2t + 1.
  DSV4_DEVICE arch::Vec<float, 2> scale(int chunk) const {
    return linear::load_shared(
        reinterpret_cast<const arch::Vec<float, 2>*>(scales + chunk * kMaxRows + arch::lane_id() % 4 * 2));
  }

  /// Fills the rows: given codes as they are, else bit for bit quant::fp8_block. A NaN code makes its scale a
  /// NaN: the conversion above knows none.
  ///   source(row)  row of the input
  /// Called by all threads of a block of kWarps warps; synchronises.
  template <int kWarps, class Source>
  DSV4_DEVICE void fill(const linear::MmaInput& in, int k, Source source) const {
    const int lane = arch::lane_id();
    const int spans = (pitch + kSpan - 1) / kSpan;
    for (int i = arch::warp_id(); i < rows * spans; i += kWarps) {
      const int row = i / spans, c = i % spans * kSpan + lane * 8;
      const std::int64_t token = source(row);
      arch::Vec<e4m3, 8> raw = {};
      float scale = 0.0f;
      if (in.codes) {
        if (c < k) {
          raw =
              arch::load(reinterpret_cast<const arch::Vec<e4m3, 8>*>(in.codes + token * in.codes_stride + c));
          scale = in.scales.at(token, c / linear::kMmaChunk);
        }
      } else {
        float v[8];
        linear::load_values<true>(v, in.x + token * in.x_stride + c, k - c);
        scale = to_float(linear::fp8_codes<linear::kMmaChunk>(raw, v));
      }
      bool nan = false;
      DSV4_UNROLL
      for (int j = 0; j < 8; ++j) nan = nan || (raw[j].bits & 0x7f) == 0x7f;
      const unsigned nans =
          arch::ballot(nan) >> (lane & 16) & 0xffffu;  // of the 16 lanes with these channels
      if (c >= pitch) continue;
      linear::store_shared(reinterpret_cast<arch::Vec<e4m3, 8>*>(at(row, c)), raw);
      if (c % linear::kMmaChunk == 0)
        scales[c / linear::kMmaChunk * kMaxRows + row] = nans != 0 ? to_float(e8m0{kE8m0Nan}) : scale;
    }
    arch::sync_threads();
  }

 private:
  // Four tokens' lanes read 8 bytes each, 16 apart: they lie in different banks.
  DSV4_DEVICE e4m3* at(int row, int channel) const {
    return codes + row * pitch + (channel ^ (row % 2 * 8) ^ (row / 2 % 2 * 64));
  }
};

}  // namespace dsv4::moe::inline DSV4_FLAVOUR
