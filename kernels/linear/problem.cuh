// Kernels of the linear ops: a launch's row blocks are those of all its matrices, one after the other.
#pragma once

#include <dsv4/arch/index.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/core/math.hpp>
#include <dsv4/core/reduce.hpp>
#include <dsv4/linear/mma_arriving.cuh>
#include <dsv4/linear/mma_input.cuh>
#include <dsv4/linear/mma_stream.cuh>
#include <dsv4/linear/mma_tile.cuh>
#include <dsv4/ops/linear.hpp>

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// One matrix, its activations as they are when the product starts, and its output.
struct LinearMatrix {
  const void* data;
  const e8m0* scales;
  std::int64_t rows, stride, scales_stride, scales_row;
  const void* x;          // [tokens, k]
  const float* x_scales;  // of quantised activations
  std::int64_t x_stride, x_scales_stride, x_column;
  void* y;
  std::int64_t y_stride;
  std::int64_t first_block;
  ops::WeightFormat format;
  bool quantise, y_f32, y_pairs;
};

struct LinearProblem {
  LinearMatrix matrices[ops::kMaxLinearParts];
  linear::MmaInput input;  // for kernels that prepare it themselves
  std::int64_t tokens, k;
  std::int64_t row_blocks;    // of all matrices
  std::int64_t block_groups;  // row groups of a block of the stream kernel
  int count;

  /// The matrix that a row block belongs to.
  DSV4_DEVICE int find(std::int64_t block) const {
    int i = 0;
    while (i + 1 < count && matrices[i + 1].first_block <= block) ++i;
    return i;
  }
  DSV4_DEVICE linear::MmaOutput output(const LinearMatrix& m) const {
    return {m.y, m.y_stride, tokens, m.rows, m.y_f32, m.y_pairs};
  }
  template <class Code>
  DSV4_DEVICE linear::MmaMatrix<Code> weights(const LinearMatrix& m) const {
    return {static_cast<const Code*>(m.data), m.scales, m.rows, k, m.stride, m.scales_stride, m.scales_row};
  }
  DSV4_DEVICE linear::GlobalRows rows(const LinearMatrix& m) const {
    return {static_cast<const bf16*>(m.x), m.x_scales, tokens, k, m.x_stride, m.x_scales_stride};
  }
};

/// f.template operator()<Weights, kXScaled>() for the product that `m` asks for. An architecture's own body
/// of one of them takes its place here.
template <class F>
DSV4_DEVICE void visit_product(const LinearMatrix& m, F f) {
  if (m.format == ops::WeightFormat::kBf16)
    f.template operator()<linear::Bf16Weights, false>();
  else if (m.quantise)
    f.template operator()<linear::Fp8Weights, true>();
  else
    f.template operator()<linear::Fp8Weights, false>();
}

inline constexpr int kLinearWarps = 8;
inline constexpr int kLinearThreads = kLinearWarps * arch::kWarpThreads;

/// Where activations of a call are normed and quantised.
enum class Preparation {
  kNone,       // nowhere: bf16 as they are
  kStaged,     // by each block, in shared memory
  kArriving,   // by each block, as it takes them in
  kWorkspace,  // in a workspace, by launches of their own
};

// Grid: x = row blocks. kStaged: up to 8 tokens. kArriving: without a norm.
template <int kTiles, Preparation kPreparation>
DSV4_KERNEL(kLinearThreads)
linear_stream_kernel(const DSV4_GRID_CONSTANT LinearProblem p) {
  struct Rho {
    float values[linear::kMmaTokens];
  };
  DSV4_DYN_SMEM(unsigned char, memory);
  const std::int64_t block = arch::block_idx().x;
  const LinearMatrix& m = p.matrices[p.find(block)];
  const std::int64_t first = (block - m.first_block) * p.block_groups;
  const std::int64_t all = (m.rows + linear::kMmaRows - 1) / linear::kMmaRows;
  const int groups = static_cast<int>(all - first < p.block_groups ? all - first : p.block_groups);
  visit_product(m, [&]<class Weights, bool kXScaled>() {
    using Stream = linear::MmaStream<Weights, kTiles>;
    auto& shared = *reinterpret_cast<typename Stream::Shared*>(memory);
    const auto weights = p.template weights<typename Weights::Code>(m);
    arch::allow_next_grid();
    // Weights are on their way while the previous grid runs out: a hint may precede the wait, a load may not.
    Stream::prefetch(weights, first);
    arch::wait_for_previous_grid();
    if constexpr (kPreparation == Preparation::kStaged) {
      DSV4_SHARED(Rho, rho);
      const auto chunks = static_cast<int>((p.k + linear::kMmaChunk - 1) / linear::kMmaChunk);
      const linear::StagedRows<Weights> x(memory + sizeof shared, static_cast<int>(p.tokens), chunks);
      x.template fill<kXScaled, kLinearWarps>(p.input, m.x_column, static_cast<int>(p.k), rho.values);
      Stream::template run<kXScaled>(weights, x, p.output(m), first, groups, shared);
    } else if constexpr (kPreparation == Preparation::kArriving && kXScaled) {
      const linear::ArrivingRows x = {p.input, m.x_column, p.k, nullptr};
      Stream::template run<true>(weights, x, p.output(m), first, groups, shared);
    } else {
      Stream::template run<kXScaled>(weights, p.rows(m), p.output(m), first, groups, shared);
    }
  });
}

// Grid: x = row blocks x tiles of tokens, the tiles of the same weights side by side: they share them in L2.
template <int kTokens, Preparation kPreparation>
DSV4_KERNEL(kLinearThreads)
linear_tile_kernel(const DSV4_GRID_CONSTANT LinearProblem p) {
  struct Rho {
    float values[kTokens];
  };
  DSV4_DYN_SMEM(unsigned char, memory);
  const std::int64_t token_tiles = (p.tokens + kTokens - 1) / kTokens;
  const std::int64_t block = arch::block_idx().x / token_tiles, tile = arch::block_idx().x % token_tiles;
  const LinearMatrix& m = p.matrices[p.find(block)];
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  visit_product(m, [&]<class Weights, bool kXScaled>() {
    using Tile = linear::MmaTile<Weights, kTokens>;
    const auto weights = p.template weights<typename Weights::Code>(m);
    const std::int64_t first_row = (block - m.first_block) * Tile::kRows, first_token = tile * kTokens;
    auto& shared = *reinterpret_cast<typename Tile::Shared*>(memory);
    if constexpr (kPreparation == Preparation::kArriving) {
      DSV4_SHARED(Rho, rho);
      const linear::ArrivingRows x = {p.input, m.x_column, p.k, rho.values};
      if (p.input.weight) {
        linear::fill_rho<kTokens, kLinearWarps>(rho.values, x, first_token);
        arch::sync_threads();
      }
      Tile::template run<kXScaled>(weights, x, p.output(m), first_row, first_token, shared);
    } else {
      Tile::template run<kXScaled>(weights, p.rows(m), p.output(m), first_row, first_token, shared);
    }
  });
}

/// Where quantised activations of many tokens go.
struct ExpandedRows {
  bf16* values;
  float* scales;
  std::int64_t stride, scales_stride, channels;
};

inline constexpr int kExpandChannels = arch::kWarpThreads * 8;  // of a warp

// Grid: x = warps' pieces of all tokens.
DSV4_KERNEL(kLinearThreads)
linear_expand_kernel(const DSV4_GRID_CONSTANT linear::MmaInput in,
                     const DSV4_GRID_CONSTANT ExpandedRows out) {
  const std::int64_t pieces = (out.channels + kExpandChannels - 1) / kExpandChannels;
  const std::int64_t piece = std::int64_t{arch::block_idx().x} * kLinearWarps + arch::warp_id();
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  if (piece >= in.tokens * pieces) return;
  linear::expand_quantised(out.values, out.stride, out.scales, out.scales_stride, in, piece / pieces,
                           piece % pieces * kExpandChannels, out.channels);
}

/// A row of FP8 weights, decoded.
struct Fp8Row {
  const e4m3* codes;
  const e8m0* scales;

  DSV4_DEVICE float operator[](int k) const {
    return to_float(codes[k]) * to_float(scales[k / linear::kFp8Tile]);
  }
};

inline constexpr int kExactRows = arch::kWarpThreads;  // weight rows of a block, one a lane
inline constexpr int kExactTokens = 4;                 // of a block, one a warp

// The canonical order, for f32 activations: a thread a sum, so that nothing is exchanged. Grid as that of the
// tile kernel.
DSV4_KERNEL(kExactRows* kExactTokens)
linear_exact_kernel(const DSV4_GRID_CONSTANT LinearProblem p) {
  const std::int64_t token_tiles = (p.tokens + kExactTokens - 1) / kExactTokens;
  const std::int64_t block = arch::block_idx().x / token_tiles;
  const std::int64_t t = arch::block_idx().x % token_tiles * kExactTokens + arch::warp_id();
  const LinearMatrix& m = p.matrices[p.find(block)];
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const std::int64_t r = (block - m.first_block) * kExactRows + arch::lane_id();
  if (t >= p.tokens || r >= m.rows) return;
  const float* const x = static_cast<const float*>(m.x) + t * m.x_stride;
  const auto dot = [&](const auto& w) {
    float partial[kReduceLanes] = {};
    for (std::int64_t k = 0; k < p.k; k += kReduceLanes) {
      DSV4_UNROLL
      for (int l = 0; l < kReduceLanes; ++l)
        if (k + l < p.k) partial[l] = math::fma(x[k + l], to_float(w[static_cast<int>(k + l)]), partial[l]);
    }
    return tree_sum(partial);
  };
  float sum;
  if (m.format == ops::WeightFormat::kF32)
    sum = dot(static_cast<const float*>(m.data) + r * m.stride);
  else if (m.format == ops::WeightFormat::kBf16)
    sum = dot(static_cast<const bf16*>(m.data) + r * m.stride);
  else
    sum = dot(Fp8Row{static_cast<const e4m3*>(m.data) + r * m.stride,
                     m.scales + (m.scales_row + r) / linear::kFp8Tile * m.scales_stride});
  const std::int64_t at = t * m.y_stride + r;
  if (m.y_f32)
    static_cast<float*>(m.y)[at] = sum;
  else
    static_cast<bf16*>(m.y)[at] = from_float<bf16>(sum);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
