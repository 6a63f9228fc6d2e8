// FP4 weights on tensor cores, and what makes them look like the other formats: a chunk of 128 channels that
// knows its scales.
//
// An e2m1 code times a power of two is exact in bf16, so the four scales of a row's chunk, taken relative to
// the largest of them, go into the operands; what is left is one factor for each row, applied in fp32 when
// the chunk's sum is promoted. The products of a chunk are then those of an FP8 matrix that holds the same
// values, in the same order. Relative scales below 2^-64 do not go that way (bf16 and the accumulator would
// run out of exponents): such a row's blocks of 32 are multiplied and promoted one by one, the others being
// zeros.
#pragma once

#include <dsv4/arch/convert.cuh>
#include <dsv4/arch/registers.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/linear/fp4.hpp>
#include <dsv4/linear/mma_weights.cuh>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// FP4 weights in memory. Contiguous rows, cols a multiple of 32; data 16-byte aligned.
struct MmaFp4Matrix {
  const e2m1x2* data;
  const e8m0* scales;  // [rows, cols / 32]
  std::int64_t rows, cols;
  bool scale_words;  // the four scales of a chunk are an aligned word: cols a multiple of 128

  /// The scales of a row's chunk, a byte each; those beyond the last column repeat the first.
  DSV4_DEVICE std::uint32_t scales_of(std::int64_t row, std::int64_t chunk) const {
    constexpr int kBlocks = kMmaChunk / kFp4Block;
    const std::int64_t blocks = cols / kFp4Block, first = chunk * kBlocks;
    const e8m0* p = scales + row * blocks + first;
    if (scale_words) return arch::load(reinterpret_cast<const std::uint32_t*>(p));
    std::uint32_t word = arch::load(p).bits * 0x01010101u;
    DSV4_UNROLL
    for (int i = 1; i < kBlocks; ++i)
      if (first + i < blocks)
        word = (word & ~(0xffu << (8 * i))) | std::uint32_t{arch::load(p + i).bits} << (8 * i);
    return word;
  }
};

/// A lane's share of 16 rows x 128 channels of weights with their scales (rows as in WeightChunk). What
/// bodies multiply with, whatever the format:
///   load, load_scales   one group of channels; the scales. Zeros and ones outside the matrix
///   Plan, plan          what the scales mean for the products
///   operands            of eight of a lane's channels of a group
///   factor              what the sums of row 2g + half are multiplied with, where kScaled
///   kWide, is_wide      whether a chunk may have to be multiplied a block of 32 at a time, and whether one
///   has
///                       to; then wide_operands and wide_factor, the same for one block
template <class Weights, arch::Cache kCache>
struct ScaledChunk {
  using Matrix = typename Weights::Matrix;
  using Words = WeightChunk<Weights, kCache>;
  struct Plan {};
  static constexpr int kLoad = Weights::kLoad;
  static constexpr int kGroups = Words::kGroups;
  static constexpr int kGroupChannels = Words::kGroupChannels;
  static constexpr bool kWide = false;
  static constexpr bool kScaled = Weights::kScaled;

  Words words;
  float scale, next_scale;

  DSV4_DEVICE void load(int group, const Matrix& m, std::int64_t row, std::int64_t chunk) {
    words.load(group, m, row, chunk);
  }
  /// Of the next chunk: they count from `step` on.
  DSV4_DEVICE void load_scales(const Matrix& m, std::int64_t row, std::int64_t chunk) {
    next_scale = row < m.rows ? Weights::scale(m, row, chunk) : 1.0f;
  }
  DSV4_DEVICE void step() { scale = next_scale; }
  DSV4_DEVICE Plan plan() const { return {}; }
  DSV4_DEVICE void operands(std::uint32_t (&rows)[2][4], int group, int eight, const Plan&) const {
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      std::uint32_t all[kLoad / 2];
      Weights::operands(all, words.loads[group][half]);
      DSV4_UNROLL
      for (int i = 0; i < 4; ++i) rows[half][i] = all[4 * eight + i];
    }
  }
  DSV4_DEVICE float factor(const Plan&, int) const { return scale; }
};

/// The tag of FP4 weights: see ScaledChunk<Fp4Weights, .>.
struct Fp4Weights {
  using Matrix = MmaFp4Matrix;
};

template <arch::Cache kCache>
struct ScaledChunk<Fp4Weights, kCache> {
  using Matrix = MmaFp4Matrix;
  static constexpr int kLoad = 16;  // as e4m3: the same channels meet in the same products
  static constexpr int kGroupChannels = 4 * kLoad;
  static constexpr int kGroups = kMmaChunk / kGroupChannels;
  static constexpr bool kWide = true;
  static constexpr bool kScaled = true;
  static constexpr std::uint32_t kSpread = 64, kWideFlag = 256;

  struct Plan {
    std::uint32_t
        largest[2];  // scale of the lane's two rows; kWideFlag is added where its blocks go one by one
  };

  arch::Vec<std::uint32_t, 2> words[kGroups][2];
  std::uint32_t scales[2], next_scales[2];

  DSV4_DEVICE void load(int group, const Matrix& m, std::int64_t first_row, std::int64_t chunk) {
    const int lane = arch::lane_id();
    const std::int64_t channel = chunk * kMmaChunk + group * kGroupChannels + lane % 4 * kLoad;
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = first_row + lane / 4 * 2 + half;
      words[group][half] = {};
      if (row < m.rows && channel < m.cols)
        words[group][half] = arch::load<kCache>(
            reinterpret_cast<const arch::Vec<std::uint32_t, 2>*>(m.data + (row * m.cols + channel) / 2));
    }
  }
  DSV4_DEVICE void load_scales(const Matrix& m, std::int64_t first_row, std::int64_t chunk) {
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = first_row + arch::lane_id() / 4 * 2 + half;
      next_scales[half] = row < m.rows ? m.scales_of(row, chunk) : 0x7f7f7f7fu;
    }
  }
  DSV4_DEVICE void step() { scales[0] = next_scales[0], scales[1] = next_scales[1]; }

  DSV4_DEVICE Plan plan() const {
    Plan p;
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      std::uint32_t largest = 0, smallest = 255;
      DSV4_UNROLL
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t s = scales[half] >> (8 * i) & 0xffu;
        largest = s > largest ? s : largest;
        smallest = s < smallest ? s : smallest;
      }
      // A NaN among the scales makes the whole sum one.
      p.largest[half] = largest - smallest > kSpread && largest != kE8m0Nan ? largest + kWideFlag : largest;
    }
    return p;
  }
  DSV4_DEVICE static bool is_wide(const Plan& p) { return ((p.largest[0] | p.largest[1]) & kWideFlag) != 0; }

  DSV4_DEVICE void operands(std::uint32_t (&rows)[2][4], int group, int eight, const Plan& p) const {
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half)
      decode(rows[half], words[group][half][eight], relative(p, half, block_of(group)));
  }
  DSV4_DEVICE float factor(const Plan& p, int half) const { return power(p.largest[half]); }

  /// A row whose scales are near one another goes with the first block.
  DSV4_DEVICE void wide_operands(std::uint32_t (&rows)[2][4], int group, int eight, const Plan& p,
                                 int block) const {
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      std::uint32_t exponent = block == 0 ? relative(p, half, block_of(group)) : 0u;
      if (p.largest[half] >= kWideFlag) exponent = block == block_of(group) ? 253u : 0u;
      // Opaque, or every code would be kept half decoded in registers of its own for all blocks.
      decode(rows[half], arch::opaque(words[group][half][eight]), exponent);
    }
  }
  DSV4_DEVICE float wide_factor(const Plan& p, int half, int block) const {
    return power(p.largest[half] >= kWideFlag ? scales[half] >> (8 * block) & 0xffu : p.largest[half]);
  }

 private:
  DSV4_DEVICE static int block_of(int group) { return group * 2 + arch::lane_id() % 4 / 2; }
  DSV4_DEVICE static float power(std::uint32_t s) { return to_float(e8m0{static_cast<std::uint8_t>(s)}); }
  // The exponent of 2^(126 + a block's scale - the largest) as a bf16; at 2^-64 still a normal number.
  DSV4_DEVICE std::uint32_t relative(const Plan& p, int half, int block) const {
    return 253u + (scales[half] >> (8 * block) & 0xffu) - p.largest[half];
  }
  DSV4_DEVICE static void decode(std::uint32_t (&row)[4], std::uint32_t codes, std::uint32_t exponent) {
    arch::e2m1x8_to_bf16(row, codes, (exponent & 0xffu) * 0x00800080u);
  }
};

/// part[m] += eight channels' products of a lane's operands of each matrix.
template <int kMatrices>
DSV4_DEVICE void multiply_eight(float (&part)[kMatrices][4], const std::uint32_t (&rows)[kMatrices][2][4],
                                const MmaWords& x) {
  DSV4_UNROLL
  for (int m = 0; m < kMatrices; ++m) {
    DSV4_UNROLL
    for (int j = 0; j < 4; j += 2) {
      const std::uint32_t a[4] = {rows[m][0][j], rows[m][1][j], rows[m][0][j + 1], rows[m][1][j + 1]};
      const std::uint32_t b[2] = {x[j], x[j + 1]};
      arch::mma_m16n8k16_bf16(part[m], a, b, part[m]);
    }
  }
}

/// add(m, i, v): v the promoted sums of a chunk of matrix m with tokens 8i .. 8i+7 (c of mma.cuh), once for
/// each i < tiles: bit for bit multiply_chunk and promoted.
///   x(tile, channel) -> MmaWords     channels channel .. +7 of the chunk of token 8 * tile + lane / 4
///   x_scale(tile) -> Vec<float, 2>   with kXScaled: of the lane's tokens 2t and 2t + 1
///   next(group)                      called once the group's weights are in use: may load others
/// All lanes of the warp call.
template <bool kXScaled, int kTiles, int kMatrices, class Chunk, class X, class XScale, class Next, class Add>
DSV4_DEVICE void chunk_sums(const Chunk (&w)[kMatrices], int tiles, X x, XScale x_scale, Next next, Add add) {
  constexpr int kEights = Chunk::kLoad / 8;
  const auto channel = [](int group, int eight) {
    return group * Chunk::kGroupChannels + arch::lane_id() % 4 * Chunk::kLoad + eight * 8;
  };
  typename Chunk::Plan plan[kMatrices];
  DSV4_UNROLL
  for (int m = 0; m < kMatrices; ++m) plan[m] = w[m].plan();

  if constexpr (Chunk::kWide) {
    bool wide = false;
    DSV4_UNROLL
    for (int m = 0; m < kMatrices; ++m) wide = wide || Chunk::is_wide(plan[m]);
    if (arch::any(
            wide)) {  // never with trained weights: what counts is that it costs the others no registers
      DSV4_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        if (kTiles > 1 && tile >= tiles) continue;
        arch::Vec<float, 4> sum[kMatrices] = {};
        for (int block = 0; block < kMmaChunk / kFp4Block; ++block) {
          float part[kMatrices][4] = {};
          DSV4_UNROLL
          for (int group = 0; group < Chunk::kGroups; ++group) {
            DSV4_UNROLL
            for (int eight = 0; eight < kEights; ++eight) {
              std::uint32_t rows[kMatrices][2][4];
              DSV4_UNROLL
              for (int m = 0; m < kMatrices; ++m) w[m].wide_operands(rows[m], group, eight, plan[m], block);
              multiply_eight(part, rows, x(tile, channel(group, eight)));
            }
          }
          arch::Vec<float, 2> scale = {};
          if constexpr (kXScaled) scale = x_scale(tile);
          DSV4_UNROLL
          for (int m = 0; m < kMatrices; ++m) {
            DSV4_UNROLL
            for (int i = 0; i < 4; ++i) {
              float v = part[m][i];
              if constexpr (kXScaled) v *= scale[i % 2];
              sum[m][i] += v * w[m].wide_factor(plan[m], i / 2, block);
            }
          }
        }
        DSV4_UNROLL
        for (int m = 0; m < kMatrices; ++m) add(m, tile, sum[m]);
      }
      DSV4_UNROLL
      for (int group = 0; group < Chunk::kGroups; ++group) next(group);
      return;
    }
  }

  float part[kTiles][kMatrices][4] = {};
  DSV4_UNROLL
  for (int group = 0; group < Chunk::kGroups; ++group) {
    DSV4_UNROLL
    for (int eight = 0; eight < kEights; ++eight) {
      std::uint32_t rows[kMatrices][2][4];
      DSV4_UNROLL
      for (int m = 0; m < kMatrices; ++m) w[m].operands(rows[m], group, eight, plan[m]);
      if (eight == kEights - 1) next(group);
      DSV4_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        if (kTiles > 1 && tile >= tiles) continue;
        multiply_eight(part[tile], rows, x(tile, channel(group, eight)));
      }
    }
  }
  DSV4_UNROLL
  for (int tile = 0; tile < kTiles; ++tile) {
    if (kTiles > 1 && tile >= tiles) continue;
    arch::Vec<float, 2> scale = {};
    if constexpr (kXScaled) scale = x_scale(tile);
    DSV4_UNROLL
    for (int m = 0; m < kMatrices; ++m) {
      arch::Vec<float, 4> v;
      DSV4_UNROLL
      for (int i = 0; i < 4; ++i) {
        v[i] = part[tile][m][i];
        if constexpr (kXScaled) v[i] *= scale[i % 2];
        if constexpr (Chunk::kScaled) v[i] *= w[m].factor(plan[m], i / 2);
      }
      add(m, tile, v);
    }
  }
}

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
