// Kernels of moe_experts. Grids: x = tiles of the plan x blocks of rows of weights, those of a tile side by
// side; blocks of tiles that the batch does not have return at once.
#pragma once

#include <dsv4/arch/index.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/core/coop.hpp>
#include <dsv4/moe/expert.hpp>
#include <dsv4/moe/experts_stream.cuh>
#include <dsv4/moe/experts_tile.cuh>
#include <dsv4/ops/linear.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// A matrix of every expert; strides in bytes.
struct ExpertsMatrix {
  const unsigned char* data;
  const e8m0* scales;
  std::int64_t stride, scales_stride;
  ops::WeightFormat format;
};

struct ExpertsProblem {
  ExpertsMatrix up[2], down;  // W1 and W3; W2
  moe::ExpertPlan plan;
  linear::MmaInput input;  // for a kernel that quantises x itself
  moe::TileInput x, h;     // what products read from memory
  bf16* h_values;          // rows of h.stride: rounded, or as x of a product if h_scales is there
  float* h_scales;         // [chunks of inner] rows of h.scales_stride
  const float* routing;
  float limit;
  bf16* y;
  std::int64_t hidden, inner, y_stride;
  std::int64_t row_blocks;    // of a tile
  std::int64_t block_groups;  // row groups of a block of the stream kernels
  bool y_pairs;               // two neighbours of a row of y may be written at once
};

template <class Weights>
inline constexpr bool kQuantised = !std::is_same_v<Weights, linear::Bf16Weights>;

// Blocks of a stream kernel on a multiprocessor: what is in flight is what counts. bf16 weights need more
// registers, and have more of them in flight.
template <class Weights>
inline constexpr int kStreamResident = kQuantised<Weights> ? 2 : 1;

inline constexpr int kExpertsWarps = 8;
inline constexpr int kExpertsThreads = kExpertsWarps * arch::kWarpThreads;
inline constexpr int kExpertsTokens = 32;  // of a tile

/// One expert's matrix [n, k].
template <class Weights>
DSV4_DEVICE typename Weights::Matrix expert_matrix(const ExpertsMatrix& m, std::int64_t expert,
                                                   std::int64_t n, std::int64_t k) {
  const unsigned char* data = m.data + expert * m.stride;
  const e8m0* scales = m.scales ? m.scales + expert * m.scales_stride : nullptr;
  if constexpr (std::is_same_v<Weights, linear::Fp4Weights>) {
    const bool words = k % linear::kMmaChunk == 0 && reinterpret_cast<std::uintptr_t>(scales) % 4 == 0;
    return {reinterpret_cast<const e2m1x2*>(data), scales, n, k, words};
  } else {
    return {reinterpret_cast<const typename Weights::Code*>(data), scales, n, k, k,
            (k + linear::kFp8Tile - 1) / linear::kFp8Tile,         0};
  }
}

/// The activation between the linears, for a lane's sums of a row group: token 2t + i, rows 2g and 2g + 1.
struct ExpertActivation {
  float weight[2];  // routing weights of tokens 2t and 2t + 1
  float limit;

  DSV4_DEVICE ExpertActivation(const ExpertsProblem& p, const moe::TileRows& tile, int first_token)
      : limit(p.limit) {
    DSV4_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int token = first_token + arch::lane_id() % 4 * 2 + i;
      weight[i] = p.routing && token < tile.rows ? p.routing[moe::pair_of(p.plan, tile.first + token)] : 1.0f;
    }
  }
  DSV4_DEVICE arch::Vec<bf16, 2> operator()(const arch::Vec<float, 4>& gate, const arch::Vec<float, 4>& up,
                                            int i) const {
    const bf16 g[2] = {from_float<bf16>(gate[i]), from_float<bf16>(gate[2 + i])};
    const bf16 u[2] = {from_float<bf16>(up[i]), from_float<bf16>(up[2 + i])};
    arch::Vec<bf16, 2> h;
    moe::swiglu(SerialCoop{}, h.v, g, u, 2, limit, weight[i]);
    return h;
  }
};

/// Sums of the tile's tokens first_token + 2t, + 1 and rows row + 2g, + 1 to y.
DSV4_DEVICE void store_down(const ExpertsProblem& p, const moe::TileRows& tile, int first_token,
                            std::int64_t row, const arch::Vec<float, 4>& sum) {
  const std::int64_t channel = row + arch::lane_id() / 4 * 2;
  if (channel >= p.hidden) return;  // hidden is even
  DSV4_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int token = first_token + arch::lane_id() % 4 * 2 + i;
    if (token >= tile.rows) continue;
    bf16* at = p.y + (tile.first + token) * p.y_stride + channel;
    const arch::Vec<bf16, 2> v = {{from_float<bf16>(sum[i]), from_float<bf16>(sum[2 + i])}};
    if (p.y_pairs) {
      arch::store(reinterpret_cast<arch::Vec<bf16, 2>*>(at), v);
    } else {
      arch::store(at, v[0]);
      arch::store(at + 1, v[1]);
    }
  }
}

/// Row groups, 16 rows of weights each, that a block of a stream body computes; less where the matrix ends.
struct RowGroups {
  std::int64_t first, count;
};

/// Runs a stream body over a block's row groups with the tile's activations, quantised by the block itself
/// in shared memory or, for bf16 weights, read where they lie.
template <class Weights, int kMatrices, class Y>
DSV4_DEVICE void run_stream(const typename Weights::Matrix (&w)[kMatrices], const ExpertsProblem& p,
                            const linear::MmaInput& input, const moe::TileInput& in,
                            const moe::TileRows& tile, const RowGroups& block, unsigned char* memory, Y y) {
  using Stream = moe::ExpertStream<Weights, kMatrices>;
  auto& shared = *reinterpret_cast<typename Stream::Shared*>(memory);
  const std::int64_t left = (w[0].rows + linear::kMmaRows - 1) / linear::kMmaRows - block.first;
  const int groups = static_cast<int>(left < block.count ? left : block.count);
  if constexpr (kQuantised<Weights>) {
    const auto chunks = static_cast<int>((w[0].cols + linear::kMmaChunk - 1) / linear::kMmaChunk);
    const moe::StagedCodes x(memory + sizeof shared, tile.rows, chunks);
    x.template fill<kExpertsWarps>(input, static_cast<int>(w[0].cols),
                                   [&](int row) { return in.source(p.plan, tile.first + row); });
    Stream::template run<true>(w, x, y, block.first, groups, shared);
  } else {
    Stream::template run<false>(w, moe::GatheredRows(in, p.plan, tile), y, block.first, groups, shared);
  }
}

/// Gate and up of the same channels, and the activation: h as bf16. Called by all threads of a block.
template <class Weights>
DSV4_DEVICE void experts_up_stream(const ExpertsProblem& p, const moe::TileRows& tile, const RowGroups& block,
                                   unsigned char* memory) {
  const typename Weights::Matrix w[2] = {expert_matrix<Weights>(p.up[0], tile.expert, p.inner, p.hidden),
                                         expert_matrix<Weights>(p.up[1], tile.expert, p.inner, p.hidden)};
  const ExpertActivation activation(p, tile, 0);
  run_stream<Weights>(
      w, p, p.input, p.x, tile, block, memory, [&](const arch::Vec<float, 4>(&sum)[2][1], std::int64_t row) {
        const std::int64_t channel = row + arch::lane_id() / 4 * 2;
        DSV4_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int token = arch::lane_id() % 4 * 2 + i;
          if (token >= tile.rows || channel >= p.inner) continue;
          arch::store(
              reinterpret_cast<arch::Vec<bf16, 2>*>(p.h_values + (tile.first + token) * p.h.stride + channel),
              activation(sum[0][0], sum[1][0], i));
        }
      });
}

/// h times W2. Called by all threads of a block.
template <class Weights>
DSV4_DEVICE void experts_down_stream(const ExpertsProblem& p, const moe::TileRows& tile,
                                     const RowGroups& block, unsigned char* memory) {
  const typename Weights::Matrix w[1] = {expert_matrix<Weights>(p.down, tile.expert, p.hidden, p.inner)};
  linear::MmaInput input = {};
  input.x = p.h.x;
  input.x_stride = p.h.stride;
  run_stream<Weights>(w, p, input, p.h, tile, block, memory,
                      [&](const arch::Vec<float, 4>(&sum)[1][1], std::int64_t row) {
                        store_down(p, tile, 0, row, sum[0][0]);
                      });
}

/// The row groups of the calling block.
DSV4_DEVICE RowGroups row_groups(const ExpertsProblem& p) {
  return {arch::block_idx().x % p.row_blocks * p.block_groups, p.block_groups};
}

template <class Weights>
DSV4_KERNEL_RESIDENT(kExpertsThreads, kStreamResident<Weights>)
experts_up_stream_kernel(const DSV4_GRID_CONSTANT ExpertsProblem p) {
  DSV4_DYN_SMEM(unsigned char, memory);
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const moe::TileRows tile(p.plan, arch::block_idx().x / p.row_blocks);
  if (tile.expert >= 0) experts_up_stream<Weights>(p, tile, row_groups(p), memory);
}

template <class Weights>
DSV4_KERNEL_RESIDENT(kExpertsThreads, kStreamResident<Weights>)
experts_down_stream_kernel(const DSV4_GRID_CONSTANT ExpertsProblem p) {
  DSV4_DYN_SMEM(unsigned char, memory);
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const moe::TileRows tile(p.plan, arch::block_idx().x / p.row_blocks);
  if (tile.expert >= 0) experts_down_stream<Weights>(p, tile, row_groups(p), memory);
}

// 128 channels of h in shared memory, on their way to codes.
struct ActivationTile {
  static constexpr int kPitch = linear::kMmaChunk + 8;  // 8 lanes' pairs and 4 tokens' rows: all banks

  bf16 h[kExpertsTokens * kPitch];

  DSV4_DEVICE void put(int token, int channel, const arch::Vec<bf16, 2>& v) {
    linear::store_shared(reinterpret_cast<arch::Vec<bf16, 2>*>(h + token * kPitch + channel), v);
  }
  /// Quantises `rows` rows, whose channels begin at first_channel of h: bit for bit quant::fp8_block.
  DSV4_DEVICE void write(const ExpertsProblem& p, const moe::TileRows& tile,
                         std::int64_t first_channel) const {
    const int lane = arch::lane_id(), channel = lane % 16 * 8;
    for (int first = arch::warp_id() * 2; first < tile.rows; first += kExpertsWarps * 2) {
      const int token = first + lane / 16;
      const bool exists = token < tile.rows && first_channel + channel < p.inner;
      float v[8] = {};
      if (exists) {
        const auto raw =
            linear::load_shared(reinterpret_cast<const arch::Vec<bf16, 8>*>(h + token * kPitch + channel));
        DSV4_UNROLL
        for (int i = 0; i < 8; ++i) v[i] = to_float(raw[i]);
      }
      const linear::InputLane out = linear::quantised_lane(v);
      if (!exists) continue;
      const std::int64_t row = tile.first + token;
      arch::store(
          reinterpret_cast<arch::Vec<bf16, 8>*>(p.h_values + row * p.h.stride + first_channel + channel),
          out.values);
      if (channel == 0)
        arch::store(p.h_scales + first_channel / linear::kMmaChunk * p.h.scales_stride + row, out.scale);
    }
  }
};

template <class Weights>
DSV4_KERNEL_RESIDENT(kExpertsThreads, 1)
experts_up_tile_kernel(const DSV4_GRID_CONSTANT ExpertsProblem p) {
  using Tile = moe::ExpertTile<Weights, 2, kExpertsTokens>;
  static_assert(sizeof(ActivationTile) <= sizeof(typename Tile::Shared));
  DSV4_DYN_SMEM(unsigned char, memory);
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const moe::TileRows tile(p.plan, arch::block_idx().x / p.row_blocks);
  if (tile.expert < 0) return;
  const typename Weights::Matrix w[2] = {expert_matrix<Weights>(p.up[0], tile.expert, p.inner, p.hidden),
                                         expert_matrix<Weights>(p.up[1], tile.expert, p.inner, p.hidden)};
  const std::int64_t first_row = arch::block_idx().x % p.row_blocks * Tile::kRows;
  arch::Vec<float, 4> total[2][Tile::kTiles];
  Tile::template run<kQuantised<Weights>>(total, w, p.x, p.plan, tile, first_row,
                                          *reinterpret_cast<typename Tile::Shared*>(memory));
  auto& h = *reinterpret_cast<ActivationTile*>(memory);
  if (p.h_scales) arch::sync_threads();  // everyone is done with the activations that lie there
  const int channel = arch::warp_id() * linear::kMmaRows + arch::lane_id() / 4 * 2;
  DSV4_UNROLL
  for (int tokens = 0; tokens < Tile::kTiles; ++tokens) {
    const int first_token = tokens * linear::kMmaTokens;
    if (first_token >= tile.rows) continue;
    const ExpertActivation activation(p, tile, first_token);
    DSV4_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int token = first_token + arch::lane_id() % 4 * 2 + i;
      if (token >= tile.rows || first_row + channel >= p.inner) continue;
      const arch::Vec<bf16, 2> v = activation(total[0][tokens], total[1][tokens], i);
      if (p.h_scales)
        h.put(token, channel, v);
      else
        arch::store(reinterpret_cast<arch::Vec<bf16, 2>*>(p.h_values + (tile.first + token) * p.h.stride +
                                                          first_row + channel),
                    v);
    }
  }
  if (!p.h_scales) return;
  arch::sync_threads();
  h.write(p, tile, first_row);
}

template <class Weights>
DSV4_KERNEL_RESIDENT(kExpertsThreads, 1)
experts_down_tile_kernel(const DSV4_GRID_CONSTANT ExpertsProblem p) {
  using Tile = moe::ExpertTile<Weights, 1, kExpertsTokens>;
  DSV4_DYN_SMEM(unsigned char, memory);
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const moe::TileRows tile(p.plan, arch::block_idx().x / p.row_blocks);
  if (tile.expert < 0) return;
  const typename Weights::Matrix w[1] = {expert_matrix<Weights>(p.down, tile.expert, p.hidden, p.inner)};
  const std::int64_t first_row = arch::block_idx().x % p.row_blocks * Tile::kRows;
  arch::Vec<float, 4> total[1][Tile::kTiles];
  Tile::template run<kQuantised<Weights>>(total, w, p.h, p.plan, tile, first_row,
                                          *reinterpret_cast<typename Tile::Shared*>(memory));
  DSV4_UNROLL
  for (int tokens = 0; tokens < Tile::kTiles; ++tokens)
    store_down(p, tile, tokens * linear::kMmaTokens, first_row + arch::warp_id() * linear::kMmaRows,
               total[0][tokens]);
}

/// Where the quantised x of a batch goes, and how much of it there is.
struct ExpertsExpand {
  bf16* values;
  float* scales;
  std::int64_t stride, scales_stride, channels;
};

inline constexpr int kExpertsSpan = arch::kWarpThreads * 8;  // channels of a warp

// Grid: x = warps' pieces of all tokens.
template <int kThreads>
DSV4_KERNEL(kThreads)
experts_expand_kernel(const DSV4_GRID_CONSTANT linear::MmaInput in,
                      const DSV4_GRID_CONSTANT ExpertsExpand out) {
  const std::int64_t pieces = (out.channels + kExpertsSpan - 1) / kExpertsSpan;
  const std::int64_t piece =
      std::int64_t{arch::block_idx().x} * (kThreads / arch::kWarpThreads) + arch::warp_id();
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  if (piece >= in.tokens * pieces) return;
  linear::expand_quantised(out.values, out.stride, out.scales, out.scales_stride, in, piece / pieces,
                           piece % pieces * kExpertsSpan, out.channels);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
