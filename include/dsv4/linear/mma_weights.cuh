// Matrix products on tensor cores: weights as a warp holds them, and the products of one chunk of channels.
//
// y[t, n] = sum_k x[t,k] * w[n,k], one body for every weight format and every number of tokens. Weights are
// the 16-row side of m16n8k16, so that a single token wastes activations, which are few, and not weights,
// which are what memory has to deliver. They go from memory to registers, 16 bytes a lane, without shared
// memory: a weight is used by one warp of a block.
//
// ONE order of summation, whoever computes: chunks of 128 channels ascending, each a chain of products from
// zero in the tensor core's accumulator; a chunk's sum is scaled ("promoted") and added to the total in fp32.
// Tensor cores truncate sums, so long chains in them lose bits, and the scales of FP8 change here anyway.
// Within a chunk the channels are taken in the order in which a lane's 16 bytes deliver them: a lane with
// kLoad neighbouring channels of a row has the operands of kLoad / 4 products. Both operands agree on that
// order, and a sum does not care.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/convert.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/core/types.hpp>
#include <dsv4/linear/fp8.hpp>

#include <cstdint>
#include <cstring>

namespace dsv4::linear::inline DSV4_FLAVOUR {

inline constexpr int kMmaChunk = 128;  // channels between promotions
inline constexpr int kMmaRows = 16;    // weight rows of a product
inline constexpr int kMmaTokens = 8;   // tokens of a product
static_assert(kMmaChunk == quant::kFp8LinearBlock && kMmaChunk == kFp8Tile, "one pair of scales a chunk");

/// 16 bytes: 8 bf16, or 16 e4m3.
using MmaWords = arch::Vec<std::uint32_t, 4>;

/// One access of shared memory, as wide as the vector. nvcc makes one of a plain copy as well; a host
/// compiler may take that apart, and the machine count bank conflicts that a GPU does not have.
template <class T, int N>
DSV4_DEVICE arch::Vec<T, N> load_shared(const arch::Vec<T, N>* p) {
  if constexpr (!arch::kSimt) return *p;
  arch::Vec<T, N> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T, int N>
DSV4_DEVICE void store_shared(arch::Vec<T, N>* p, const arch::Vec<T, N>& v) {
  if constexpr (arch::kSimt)
    std::memcpy(p, &v, sizeof v);
  else
    *p = v;
}

/// Weights in memory. 16-byte aligned rows of `stride` codes; cols a multiple of the codes in 16 bytes.
template <class Code>
struct MmaMatrix {
  const Code* data;
  const e8m0* scales;  // rows of scales_stride; null without
  std::int64_t rows, cols, stride, scales_stride;
  std::int64_t scales_row;  // row r has the scales of tile row (scales_row + r) / 128; a multiple of 16
};

// A weight format is a policy:
//   Code                what a weight is in memory
//   Matrix              what `load` reads
//   kLoad               neighbouring channels of a row that a lane holds: 8, 16, ...
//   Load, load          a lane's kLoad channels, as they lie in memory (a format with a scale for these alone
//                       takes it along)
//   operands            the same as kLoad / 2 registers of two bf16, in order
//   kScaled, scale      whether a chunk's sum is multiplied, and by what: one value for 16 aligned rows

/// bf16 weights: memory is the operand.
struct Bf16Weights {
  using Code = bf16;
  using Matrix = MmaMatrix<bf16>;
  using Load = MmaWords;
  static constexpr int kLoad = 8;
  static constexpr bool kScaled = false;

  template <arch::Cache kCache>
  DSV4_DEVICE static Load load(const Matrix& m, std::int64_t row, std::int64_t channel) {
    return arch::load<kCache>(reinterpret_cast<const MmaWords*>(m.data + row * m.stride + channel));
  }
  DSV4_DEVICE static void operands(std::uint32_t (&a)[kLoad / 2], const Load& load) {
    DSV4_UNROLL
    for (int i = 0; i < kLoad / 2; ++i) a[i] = load[i];
  }
  DSV4_DEVICE static float scale(const Matrix&, std::int64_t, std::int64_t) { return 1.0f; }
};

/// e4m3 weights, one UE8M0 scale per 128 x 128 tile. A code is exact in bf16.
struct Fp8Weights {
  using Code = e4m3;
  using Matrix = MmaMatrix<e4m3>;
  using Load = MmaWords;
  static constexpr int kLoad = 16;
  static constexpr bool kScaled = true;

  template <arch::Cache kCache>
  DSV4_DEVICE static Load load(const Matrix& m, std::int64_t row, std::int64_t channel) {
    return arch::load<kCache>(reinterpret_cast<const MmaWords*>(m.data + row * m.stride + channel));
  }
  DSV4_DEVICE static void operands(std::uint32_t (&a)[kLoad / 2], const Load& load) {
    DSV4_UNROLL
    for (int i = 0; i < kLoad / 4; ++i) {
      std::uint32_t pair[2];
      arch::e4m3x4_to_bf16(pair, load[i]);
      a[2 * i] = pair[0], a[2 * i + 1] = pair[1];
    }
    // A NaN anywhere in a row makes all its sums NaNs, so which of the channels carries it does not matter.
    if (arch::e4m3_nans(load.v) != 0) a[0] = 0x7fc07fc0u;
  }
  DSV4_DEVICE static float scale(const Matrix& m, std::int64_t row, std::int64_t chunk) {
    return to_float(arch::load(m.scales + (m.scales_row + row) / kFp8Tile * m.scales_stride + chunk));
  }
};

/// A lane's share of 16 rows x 128 channels. Row g of the product is row 2g of the 16 and row g + 8 is row
/// 2g + 1, so that a lane ends up with sums of neighbouring rows.
template <class Weights_, arch::Cache kCache>
struct WeightChunk {
  using Weights = Weights_;
  static constexpr int kGroupChannels = 4 * Weights::kLoad;  // the four lanes of a row
  static constexpr int kGroups = kMmaChunk / kGroupChannels;

  typename Weights::Load loads[kGroups][2];

  /// Loads one group; zeros for what lies outside the matrix.
  DSV4_DEVICE void load(int group, const typename Weights::Matrix& m, std::int64_t first_row,
                        std::int64_t chunk) {
    const int lane = arch::lane_id();
    const std::int64_t channel = chunk * kMmaChunk + group * kGroupChannels + lane % 4 * Weights::kLoad;
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = first_row + lane / 4 * 2 + half;
      loads[group][half] = {};
      if (row < m.rows && channel < m.cols)
        loads[group][half] = Weights::template load<kCache>(m, row, channel);
    }
  }
  DSV4_DEVICE void load_all(const typename Weights::Matrix& m, std::int64_t first_row, std::int64_t chunk) {
    DSV4_UNROLL
    for (int group = 0; group < kGroups; ++group) load(group, m, first_row, chunk);
  }
};

/// part[i] += the products of a chunk with tokens 8i .. 8i+7, as c of mma.cuh (rows as above).
///   x(tile, channel) -> MmaWords   channels channel .. +7 of the chunk of token 8 * tile + lane / 4
///   next(group)                    called once the group's weights are in use: may load others in their
///   place
/// All lanes of the warp call.
template <int kTiles, class Chunk, class X, class Next>
DSV4_DEVICE void multiply_chunk(float (&part)[kTiles][4], const Chunk& w, X x, Next next) {
  using Weights = typename Chunk::Weights;
  constexpr int kLoad = Weights::kLoad;
  const int t = arch::lane_id() % 4;
  DSV4_UNROLL
  for (int group = 0; group < Chunk::kGroups; ++group) {
    std::uint32_t rows[2][kLoad / 2];
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) Weights::operands(rows[half], w.loads[group][half]);
    next(group);
    DSV4_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      DSV4_UNROLL
      for (int eight = 0; eight < kLoad / 8; ++eight) {
        const MmaWords v = x(tile, group * Chunk::kGroupChannels + t * kLoad + eight * 8);
        DSV4_UNROLL
        for (int j = 0; j < 4; j += 2) {
          const int i = eight * 4 + j;
          const std::uint32_t a[4] = {rows[0][i], rows[1][i], rows[0][i + 1], rows[1][i + 1]};
          const std::uint32_t b[2] = {v[j], v[j + 1]};
          arch::mma_m16n8k16_bf16(part[tile], a, b, part[tile]);
        }
      }
    }
  }
}

/// A chunk's sums with their scales: (part * x's) * w's, each product rounded to fp32 (exact while it neither
/// overflows nor becomes subnormal: scales are powers of two).
///   x_scale  of the lane's tokens 2t and 2t + 1
template <bool kXScaled, bool kWScaled>
DSV4_DEVICE arch::Vec<float, 4> promoted(const float (&part)[4], const arch::Vec<float, 2>& x_scale,
                                         float w_scale) {
  arch::Vec<float, 4> v;
  DSV4_UNROLL
  for (int i = 0; i < 4; ++i) {
    v[i] = part[i];
    if constexpr (kXScaled) v[i] *= x_scale[i % 2];
    if constexpr (kWScaled) v[i] *= w_scale;
  }
  return v;
}

/// Where sums go: rows of tokens.
struct MmaOutput {
  void* y;              // [tokens] rows of stride
  std::int64_t stride;  // elements
  std::int64_t tokens, rows;
  bool f32;    // else bf16
  bool pairs;  // two neighbours may be written at once: even stride, y aligned to two elements

  /// sum: of rows first_row + 2g, + 1 and tokens first_token + 2t, + 1.
  DSV4_DEVICE void store(const arch::Vec<float, 4>& sum, std::int64_t first_row,
                         std::int64_t first_token) const {
    if (f32)
      store_as<float>(sum, first_row, first_token);
    else
      store_as<bf16>(sum, first_row, first_token);
  }

 private:
  template <class T>
  DSV4_DEVICE void store_as(const arch::Vec<float, 4>& sum, std::int64_t first_row,
                            std::int64_t first_token) const {
    const int lane = arch::lane_id();
    const std::int64_t row = first_row + lane / 4 * 2;
    DSV4_UNROLL
    for (int i = 0; i < 2; ++i) {
      const std::int64_t token = first_token + lane % 4 * 2 + i;
      if (token >= tokens || row >= rows) continue;
      T* p = static_cast<T*>(y) + token * stride + row;
      const arch::Vec<T, 2> v = {{from_float<T>(sum[i]), from_float<T>(sum[2 + i])}};
      if (pairs && row + 1 < rows) {
        arch::store(reinterpret_cast<arch::Vec<T, 2>*>(p), v);
      } else {
        arch::store(p, v[0]);
        if (row + 1 < rows) arch::store(p + 1, v[1]);
      }
    }
  }
};

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
