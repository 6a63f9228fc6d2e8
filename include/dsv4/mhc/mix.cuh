// mHC, first step, on tensor cores: partial sums of the mixes and of the squares of 16 tokens in one warp.
//
// The product is fp32-grade although its operands are bf16. The streams are bf16, so the A operand is exact;
// an fp32 weight is the sum of three bf16 pieces of 8 bits each, so B is exact too, and products of 8 x 8
// bits are exact in fp32. What is left is the addition. Tensor cores truncate where an fma rounds, and their
// error grows with the accumulator, so no accumulator lives longer than one step of 128 terms (32 channels of
// the 4 streams); beyond that sums are ordinary fp32 additions.
//
// The order of summation is fixed, and knows neither the number of tokens nor how work is spread over warps:
//   step   32 channels x 4 streams; for each piece of the weights a chain of 8 mma, then (low + middle) +
//   high group  8 steps (the last group may have fewer), added in ascending order row    the groups, added in
//   ascending order
// A row of A never meets another row, so a token's bits do not depend on the batch around it. The sum of
// squares has the same shape: fp32 fma chains of 32 terms in each of 4 lanes, a butterfly, steps, groups.
//
// Within a step the k index of the product is permuted so that a lane's operands are neighbours in memory:
// its 8 channels of a stream are k = {2t, 2t+1, 2t+8, 2t+9} of two mma. A and B agree on it, and a sum does
// not care. So a lane loads each of its rows by 16-byte accesses straight into fragments, without shared
// memory.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/mhc/post.cuh>

#include <cstdint>

namespace dsv4::mhc::inline DSV4_FLAVOUR {

inline constexpr int kTileTokens = 16;  // rows of an mma
inline constexpr int kStepChannels = 32;
inline constexpr int kGroupSteps = 8;
inline constexpr int kPieces = 3;  // bf16 pieces of an fp32 weight: high, middle, low
/// Floats of one token's partial sums in memory: the mixes, the square sum, and room up to a cache line.
inline constexpr int kPartialColumns = 32;
inline constexpr int kSquareColumn = 24;

/// Tiles of 8 columns that `rows` rows of fn fill.
template <int kRows>
inline constexpr int kTiles = (kRows + 7) / 8;

/// B fragments of one stream and one step: four registers (two mma) for each piece.
template <int kRows>
struct MixWeights {
  arch::Vec<std::uint32_t, 4> fragment[kTiles<kRows>][kPieces];
};

/// A lane's 8 weights of each tile, one stream, one step, as they lie in memory.
template <int kRows>
struct RawWeights {
  arch::Vec<float, 4> part[kTiles<kRows>][2];
};

/// fn [kRows, 4 * hidden] f32, 16-byte aligned, hidden % 32 == 0; channel = first of the step. Rows beyond
/// kRows are zeros.
template <int kRows>
DSV4_DEVICE void load_weights(RawWeights<kRows>& raw, const float* fn, std::int64_t hidden, int stream,
                              std::int64_t channel) {
  const int g = arch::lane_id() / 4, t = arch::lane_id() % 4;
  DSV4_UNROLL
  for (int n = 0; n < kTiles<kRows>; ++n) {
    const int row = 8 * n + g;
    const float* p = fn + (std::int64_t{row} * kStreams + stream) * hidden + channel + t * kVector;
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      raw.part[n][half] = {};
      if (row < kRows)
        raw.part[n][half] =
            arch::load<arch::Cache::kReadOnly>(reinterpret_cast<const arch::Vec<float, 4>*>(p) + half);
    }
  }
}

/// Two fp32 weights as three registers of two bf16 pieces: w = high + middle + low, exactly (below 2^-110 up
/// to 2^-134). Each piece is what truncation to 8 bits leaves of the one before.
DSV4_DEVICE void split_weights(std::uint32_t (&piece)[kPieces], float even, float odd) {
  DSV4_UNROLL
  for (int i = 0; i < kPieces; ++i) {
    const std::uint32_t e = bits_as<std::uint32_t>(even), o = bits_as<std::uint32_t>(odd);
    piece[i] = (e >> 16) | (o & 0xffff0000u);
    even -= bits_as<float>(e & 0xffff0000u);
    odd -= bits_as<float>(o & 0xffff0000u);
  }
}

template <int kRows>
DSV4_DEVICE void split_weights(MixWeights<kRows>& w, const RawWeights<kRows>& raw) {
  DSV4_UNROLL
  for (int n = 0; n < kTiles<kRows>; ++n) DSV4_UNROLL
  for (int pair = 0; pair < 4; ++pair) {
    const arch::Vec<float, 4>& part = raw.part[n][pair / 2];
    std::uint32_t piece[kPieces];
    split_weights(piece, part[pair % 2 * 2], part[pair % 2 * 2 + 1]);
    DSV4_UNROLL
    for (int i = 0; i < kPieces; ++i) w.fragment[n][i][pair] = piece[i];
  }
}

/// Streams of 16 tokens at one step, as a lane of the warp holds them: 8 channels of the rows g = lane / 4
/// and g + 8, from channel 8 * (lane % 4) of the step. Rows beyond the batch are zeros.
struct StreamTile {
  Channels row[2][kStreams];
};

/// Token-indexed rows of bf16: row t at data + t * stride.
struct TokenRows {
  const bf16* data;
  std::int64_t stride;
};

/// Where mhc::post of a batch reads and writes; `out` may be `streams`.
struct PostRows {
  bf16* out;
  std::int64_t out_stride;
  SublayerRows y;
  TokenRows streams;
  const float *post, *comb;
  std::int64_t post_stride, comb_stride;
};

/// Loads the streams of `tokens` (16 or fewer, or none) tokens from `first` at `channel`, the first of a
/// step.
DSV4_DEVICE void load_streams(StreamTile& tile, const TokenRows& streams, std::int64_t first,
                              std::int64_t tokens, std::int64_t hidden, std::int64_t channel) {
  const int g = arch::lane_id() / 4, t = arch::lane_id() % 4;
  DSV4_UNROLL
  for (int r = 0; r < 2; ++r) {
    const bool inside = g + 8 * r < tokens;
    const bf16* p = streams.data + (first + g + 8 * r) * streams.stride + channel + t * kVector;
    DSV4_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      tile.row[r][s] = {};
      if (inside) tile.row[r][s] = arch::load(reinterpret_cast<const Channels*>(p + s * hidden));
    }
  }
}

/// What mhc::post needs of 16 tokens at a step, as a lane holds it: the old streams and y.
struct PostTile {
  StreamTile streams;
  Channels y[2];
};

/// Loads it, as load_streams does; all loads are in flight together.
DSV4_DEVICE void load_post(PostTile& tile, const PostRows& rows, std::int64_t first, std::int64_t tokens,
                           std::int64_t hidden, std::int64_t channel) {
  const int g = arch::lane_id() / 4, t = arch::lane_id() % 4;
  DSV4_UNROLL
  for (int r = 0; r < 2; ++r) {
    const bool inside = g + 8 * r < tokens;
    const std::int64_t token = first + g + 8 * r, d = channel + t * kVector;
    const bf16* p = rows.streams.data + token * rows.streams.stride + d;
    tile.y[r] = {};
    if (inside) tile.y[r] = rows.y.load(token, d);
    DSV4_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      tile.streams.row[r][s] = {};
      if (inside)
        tile.streams.row[r][s] =
            arch::load<arch::Cache::kStreaming>(reinterpret_cast<const Channels*>(p + s * hidden));
    }
  }
}

/// Makes the streams after mhc::post of it, and writes them to out. Every element is read and written by one
/// thread, once, so out may be the old streams.
DSV4_DEVICE void apply_post(PostTile& tile, const PostRows& rows, std::int64_t first, std::int64_t tokens,
                            std::int64_t hidden, std::int64_t channel) {
  const int g = arch::lane_id() / 4, t = arch::lane_id() % 4;
  DSV4_UNROLL
  for (int r = 0; r < 2; ++r) {
    if (g + 8 * r >= tokens) continue;
    const std::int64_t token = first + g + 8 * r;
    post_channels(
        tile.streams.row[r], tile.y[r],
        load_post_coefficients(rows.post + token * rows.post_stride, rows.comb + token * rows.comb_stride));
    bf16* p = rows.out + token * rows.out_stride + channel + t * kVector;
    DSV4_UNROLL
    for (int s = 0; s < kStreams; ++s)
      arch::store(reinterpret_cast<Channels*>(p + s * hidden), tile.streams.row[r][s]);
  }
}

/// Partial sums of 16 tokens, a lane's share: element [n][c] of the mixes is column 8n + 2 (lane % 4) + c % 2
/// of row g + 8 (c / 2); squares are those of rows g and g + 8.
template <int kRows>
struct MixSums {
  float mixes[kTiles<kRows>][4];
  float squares[2];

  DSV4_DEVICE MixSums& operator+=(const MixSums& o) {
    DSV4_UNROLL
    for (int n = 0; n < kTiles<kRows>; ++n) DSV4_UNROLL
    for (int c = 0; c < 4; ++c) mixes[n][c] += o.mixes[n][c];
    DSV4_UNROLL
    for (int r = 0; r < 2; ++r) squares[r] += o.squares[r];
    return *this;
  }
};

/// Sums of one step. weights(stream) -> MixWeights<kRows>. All lanes of the warp call.
template <int kRows, class Weights>
DSV4_DEVICE MixSums<kRows> mix_step(const StreamTile& tile, Weights weights) {
  constexpr int kN = kTiles<kRows>;
  float acc[kN][kPieces][4] = {};
  float squares[2] = {};
  DSV4_UNROLL
  for (int s = 0; s < kStreams; ++s) {
    const MixWeights<kRows> w = weights(s);
    const auto a_rows = [&](int r, int pair) {  // two neighbouring channels in a register
      const Channels& v = tile.row[r][s];
      return std::uint32_t{v[2 * pair].bits} | (std::uint32_t{v[2 * pair + 1].bits} << 16);
    };
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t a[4] = {a_rows(0, 2 * half), a_rows(1, 2 * half), a_rows(0, 2 * half + 1),
                                  a_rows(1, 2 * half + 1)};
      DSV4_UNROLL
      for (int n = 0; n < kN; ++n) DSV4_UNROLL
      for (int i = 0; i < kPieces; ++i) {
        const std::uint32_t b[2] = {w.fragment[n][i][2 * half], w.fragment[n][i][2 * half + 1]};
        arch::mma_m16n8k16_bf16(acc[n][i], a, b, acc[n][i]);
      }
    }
    DSV4_UNROLL
    for (int r = 0; r < 2; ++r) DSV4_UNROLL
    for (int i = 0; i < kVector; ++i) {
      const float v = to_float(tile.row[r][s][i]);
      squares[r] = math::fma(v, v, squares[r]);
    }
  }
  MixSums<kRows> sums;
  DSV4_UNROLL
  for (int n = 0; n < kN; ++n) DSV4_UNROLL
  for (int c = 0; c < 4; ++c) sums.mixes[n][c] = (acc[n][2][c] + acc[n][1][c]) + acc[n][0][c];
  DSV4_UNROLL
  for (int r = 0; r < 2; ++r) {
    sums.squares[r] = squares[r] + arch::shfl_xor(squares[r], 1);
    sums.squares[r] += arch::shfl_xor(sums.squares[r], 2);
  }
  return sums;
}

/// Writes the sums of `tokens` <= 16 tokens.
///   partial  [tokens, kPartialColumns] f32, 8-byte aligned: columns 0 .. kRows-1 and kSquareColumn
template <int kRows>
DSV4_DEVICE void store_sums(float* partial, const MixSums<kRows>& sums, std::int64_t tokens) {
  const int g = arch::lane_id() / 4, t = arch::lane_id() % 4;
  DSV4_UNROLL
  for (int r = 0; r < 2; ++r) {
    if (g + 8 * r >= tokens) continue;
    float* row = partial + (g + 8 * r) * kPartialColumns;
    DSV4_UNROLL
    for (int n = 0; n < kTiles<kRows>; ++n)
      if (8 * n + 2 * t < kRows)
        arch::store(reinterpret_cast<arch::Vec<float, 2>*>(row + 8 * n + 2 * t),
                    arch::Vec<float, 2>{{sums.mixes[n][2 * r], sums.mixes[n][2 * r + 1]}});
    if (t == 0) arch::store(row + kSquareColumn, sums.squares[r]);
  }
}

}  // namespace dsv4::mhc::inline DSV4_FLAVOUR
