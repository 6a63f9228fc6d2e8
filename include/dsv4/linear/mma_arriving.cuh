// Activations that are normed, quantised or decoded as a product takes them in, for more tokens than shared
// memory holds: no launch and no workspace of their own. Every block does it again, which is cheap beside
// reading the rows from L2, as a block does anyway.
#pragma once

#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/math.hpp>
#include <dsv4/core/reduce.hpp>
#include <dsv4/linear/lanes.cuh>
#include <dsv4/linear/mma_input.cuh>
#include <dsv4/linear/mma_stream.cuh>
#include <dsv4/linear/mma_tile.cuh>
#include <dsv4/linear/mma_weights.cuh>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// Channels [column, column + cols) of an input.
///   rho  shared, of the block's tokens: what fill_rho leaves; unused without a norm
struct ArrivingRows {
  const MmaInput& in;
  std::int64_t column, cols;
  const float* rho;
};

/// A chunk of kTiles * 8 tokens quantised to FP8 for MmaStream, in registers: a lane's 32 channels of a token
/// for each tile, in the order in which multiply_chunk asks for them. Bit for bit act_quant, or as given
/// codes say. Without a norm. A warp's.
template <class Weights, int kTiles>
class QuantisedChunk {
  static constexpr int kEights = Weights::kLoad / 8, kGroupChannels = 4 * Weights::kLoad, kVectors = 4;

  MmaWords values_[kTiles][kVectors];
  arch::Vec<float, 2> scales_[kTiles];

 public:
  DSV4_DEVICE QuantisedChunk(const ArrivingRows& x, int chunk) {
    const int lane = arch::lane_id(), t = lane % 4;
    const MmaInput& in = x.in;
    const std::int64_t begin = std::int64_t{chunk} * kMmaChunk;
    DSV4_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      const std::int64_t token = tile * kMmaTokens + lane / 4;
      const bool exists = token < in.tokens;
      std::uint32_t amax = 0;
      DSV4_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        const std::int64_t c = begin + i / kEights * kGroupChannels + t * Weights::kLoad + i % kEights * 8;
        const std::int64_t count = exists ? x.cols - c : 0;
        float v[8];
        if (in.codes)
          load_values<true>(v, in.codes + (exists ? token * in.codes_stride : 0) + x.column + c, count);
        else
          load_values<true>(v, in.x + (exists ? token * in.x_stride : 0) + x.column + c, count);
        const std::uint32_t m = amax_bits<1>(v);
        amax = m > amax ? m : amax;
        values_[tile][i] = bits_as<MmaWords>(rounded<bf16>(v));  // exact
      }
      if (in.codes) {
        const std::int64_t first = tile * kMmaTokens + t * 2, block = (x.column + begin) / kMmaChunk;
        DSV4_UNROLL
        for (int i = 0; i < 2; ++i)
          scales_[tile][i] = first + i < in.tokens ? in.scales.at(first + i, block) : 0.0f;
        continue;
      }
      DSV4_UNROLL
      for (int distance = 1; distance <= 2; ++distance) {  // the four lanes of a token
        const std::uint32_t other = arch::shfl_xor(amax, distance);
        amax = other > amax ? other : amax;
      }
      const e8m0 s = quant::fp8_scale(amax);
      const float inverse = quant::inverse_scale(s);
      DSV4_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        auto v = bits_as<arch::Vec<bf16, 8>>(values_[tile][i]);
        DSV4_UNROLL
        for (int j = 0; j < 8; ++j)
          v[j] = from_float<bf16>(to_float(to_e4m3(quant::scaled(to_float(v[j]), inverse))));
        values_[tile][i] = bits_as<MmaWords>(v);
      }
      DSV4_UNROLL
      for (int i = 0; i < 2; ++i) scales_[tile][i] = arch::shfl(to_float(s), 4 * (2 * t + i));
    }
  }
  DSV4_DEVICE MmaWords words(int tile, int channel) const {
    return values_[tile][channel / kGroupChannels * kEights + channel % Weights::kLoad / 8];
  }
  DSV4_DEVICE arch::Vec<float, 2> scale(int tile) const { return scales_[tile]; }
};

/// What MmaStream takes of a chunk (mma_stream.cuh).
template <class Weights, int kTiles>
DSV4_DEVICE QuantisedChunk<Weights, kTiles> chunk_of(const ArrivingRows& x, int chunk) {
  return {x, chunk};
}

/// rho[i] = inverse_rms of row first_token + i, bit for bit, for kTokens tokens as far as they exist; a warp
/// takes kTokens / kWarps of them at once. Called by all threads of a block of kWarps warps; the caller
/// synchronises before rho is read.
template <int kTokens, int kWarps>
DSV4_DEVICE void fill_rho(float* rho, const ArrivingRows& x, std::int64_t first_token) {
  constexpr int kMine = kTokens / kWarps;
  const int lane = arch::lane_id(), first = arch::warp_id() * kMine;
  const MmaInput& in = x.in;
  float partial[kMine] = {};
  for (std::int64_t c = lane; c < x.cols; c += kReduceLanes) {
    DSV4_UNROLL
    for (int i = 0; i < kMine; ++i) {
      const std::int64_t token = first_token + first + i;
      if (token >= in.tokens) continue;
      const float v = to_float(arch::load(in.x + token * in.x_stride + x.column + c));
      partial[i] = math::fma(v, v, partial[i]);
    }
  }
  DSV4_UNROLL
  for (int i = 0; i < kMine; ++i) {
    DSV4_UNROLL
    for (int distance = kReduceLanes / 2; distance > 0; distance /= 2)
      partial[i] += arch::shfl_xor(partial[i], distance);
    if (lane == 0) rho[first + i] = math::rsqrt(partial[i] / static_cast<float>(x.cols) + in.eps);
  }
}

/// MmaTile's loader of rows as they arrive: memory to registers while the chunk before is multiplied, then
/// normed and quantised (kXScaled) to shared memory. Bit for bit rms_norm and act_quant.
template <class Tile>
struct TileLoader<Tile, ArrivingRows> {
  static constexpr int kVectors = kMmaChunk / 8;
  static constexpr int kPieces = Tile::kTokens * kVectors / Tile::kThreads;
  static_assert(kPieces * Tile::kThreads == Tile::kTokens * kVectors, "whole warps do the same");

  const ArrivingRows& x;
  const std::int64_t first_token;
  InputLane lanes[kPieces];  // as memory has them

  DSV4_DEVICE TileLoader(const ArrivingRows& rows, std::int64_t first) : x(rows), first_token(first) {}

  DSV4_DEVICE static int token_of(int i) {
    return (static_cast<int>(arch::thread_idx().x) + i * Tile::kThreads) / kVectors;
  }
  DSV4_DEVICE static int channel() { return static_cast<int>(arch::thread_idx().x) % kVectors * 8; }

  template <bool kXScaled>
  DSV4_DEVICE void issue(typename Tile::Stage&, int chunk) {
    const MmaInput& in = x.in;
    const std::int64_t c = std::int64_t{chunk} * kMmaChunk + channel();
    DSV4_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      const std::int64_t token = first_token + token_of(i);
      lanes[i] = {};
      if (token >= in.tokens || c >= x.cols) continue;
      if (kXScaled && in.codes) {
        float v[8];
        load_values<true>(v, in.codes + token * in.codes_stride + x.column + c, 8);
        lanes[i] = {rounded<bf16>(v), in.scales.at(token, (x.column + c) / kMmaChunk)};
      } else {
        lanes[i].values = arch::load(
            reinterpret_cast<const arch::Vec<bf16, 8>*>(in.x + token * in.x_stride + x.column + c));
      }
    }
  }

  template <bool kXScaled>
  DSV4_DEVICE void finish(typename Tile::Stage& stage, int chunk) {
    const MmaInput& in = x.in;
    const std::int64_t c = std::int64_t{chunk} * kMmaChunk + channel();
    DSV4_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      const int token = token_of(i);
      InputLane& out = lanes[i];
      if (in.weight || (kXScaled && !in.codes)) {
        float v[8];
        DSV4_UNROLL
        for (int j = 0; j < 8; ++j) v[j] = to_float(out.values[j]);
        if (in.weight && c < x.cols && first_token + token < in.tokens) {
          DSV4_UNROLL
          for (int j = 0; j < 8; ++j)
            v[j] = round_to<bf16>(arch::load(in.weight + x.column + c + j) * (v[j] * x.rho[token]));
        }
        if constexpr (kXScaled)
          out = quantised_lane(v);
        else
          out.values = rounded<bf16>(v);
      }
      store_shared(reinterpret_cast<arch::Vec<bf16, 8>*>(stage.x + token * kMmaChunk +
                                                         swizzled<typename Tile::Format>(token, channel())),
                   out.values);
      if (kXScaled && channel() == 0) stage.scales[token] = out.scale;
    }
  }
};

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
