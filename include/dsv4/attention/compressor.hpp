// Compressed entries: a block of tokens pooled into one key-value (or index key) row.
#pragma once

#include <dsv4/attention/kv_proj.hpp>
#include <dsv4/core/coop.hpp>
#include <dsv4/core/hadamard.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::attention {

/// Widths of one compressor. Ratio 4 overlaps: a row carries two halves of `dim` channels, the first for the
/// next block's entry and the second for its own. Ratio 128 has one half.
struct CompressorShape {
  int ratio;  // 4 or 128
  int dim;    // 512 main, 128 index

  DSV4_HD constexpr bool overlaps() const { return ratio == 4; }
  DSV4_HD constexpr int halves() const { return overlaps() ? 2 : 1; }
  DSV4_HD constexpr int width() const { return halves() * dim; }
  /// f32 values that a token leaves in the state: its projections a = Wkv x and b = Wgate x, without ape.
  DSV4_HD constexpr int row_floats() const { return 2 * width(); }
  /// Rows, counted back from the end of block i, that its entry is pooled from.
  DSV4_HD constexpr int span() const { return overlaps() ? 2 * ratio : ratio; }
};

/// A softmax-weighted sum of one channel over the tokens seen so far, with its running maximum:
///     max = max_j s_j,   sum = sum_j e^(s_j - max),   acc = sum_j e^(s_j - max) a_j
/// Tokens are folded in one after the other, so a state may be stored after any of them and folded on later:
/// the bits are those of one run.
struct PoolState {
  float max = -math::kInfinity;
  float sum = 0.0f;
  float acc = 0.0f;

  /// One more token, of logit s and value a. Whichever of the token and the sum so far has the lesser
  /// exponent is scaled down to the other's: one exponential, no branch.
  DSV4_HD void fold(float s, float a) {
    const float distance = s - max;
    const bool rises = distance > 0.0f;
    // Nothing to scale: the first token, or one of weight 0, where the distance may be NaN. The exponential
    // of the first would underflow, which is slow on a host.
    const bool alone = s == -math::kInfinity || distance == math::kInfinity;
    const float power = math::exp(alone ? 0.0f : -math::abs(distance));
    const float e = alone ? 0.0f : power;
    sum = math::fma(e, rises ? sum : 1.0f, rises ? 1.0f : sum);
    acc = math::fma(e, rises ? acc : a, rises ? a : acc);
    max = rises ? s : max;
  }

  /// acc / sum. NaN where a logit or value was NaN, where a logit was +inf, and where every logit was -inf:
  /// the softmax is undefined there. A logit of -inf has weight 0 beside any other.
  DSV4_HD float value() const { return max < math::kInfinity ? acc / sum : max - max; }
};

/// Pools ONE entry, per channel c (spec section 5.1):
///     out[c] = sum_j p_j a_j[c],  p = softmax_j( b_j[c] + ape[j mod ratio, c] )
/// over the tokens j of block `entry`; with overlap the channels of these are the second half (dim + c), and
/// the four tokens of block entry - 1 join with their first half (c). Block 0 has no predecessor: those terms
/// are left out.
///   out   [dim] f32                unrounded
///   rows  position -> const float* [row_floats]: a [width], then b [width], of the token at that position
///   ape   [ratio, width] f32       added once, by the token's index inside its own block
/// fp32, a PoolState folded in order of position, so the bits depend on the rows alone. Called by all threads
/// of `coop`; does not synchronise.
template <Coop C, class Rows>
DSV4_HD void pool(C coop, float* out, const Rows& rows, std::int64_t entry, const float* ape,
                  CompressorShape shape) {
  // On a host thread a chunk of channels runs through the terms together, so that the loops vectorise.
  constexpr int kChunk = C::kSerial ? 32 : 1;
  const int width = shape.width();
  const std::int64_t end = (entry + 1) * shape.ratio;
  const std::int64_t begin = shape.overlaps() && entry > 0 ? end - 2 * shape.ratio : end - shape.ratio;
  for (int c0 = coop.rank() * kChunk; c0 < shape.dim; c0 += coop.size() * kChunk) {
    DSV4_ASSERT(c0 + kChunk <= shape.dim);
    float max[kChunk], sum[kChunk], acc[kChunk];  // of a PoolState each
    for (int l = 0; l < kChunk; ++l) {
      const PoolState empty;
      max[l] = empty.max, sum[l] = empty.sum, acc[l] = empty.acc;
    }
    for (std::int64_t position = begin; position < end; ++position) {
      const int column = c0 + (shape.overlaps() && position >= end - shape.ratio ? shape.dim : 0);
      const float* a = rows(position) + column;
      const float* b = a + width;
      const float* bias = ape + position % shape.ratio * width + column;
      for (int l = 0; l < kChunk; ++l) {
        PoolState state{max[l], sum[l], acc[l]};
        state.fold(b[l] + bias[l], a[l]);
        max[l] = state.max, sum[l] = state.sum, acc[l] = state.acc;
      }
    }
    for (int l = 0; l < kChunk; ++l) out[c0 + l] = PoolState{max[l], sum[l], acc[l]}.value();
  }
}

/// Finishes ONE pooled main entry: out = RoPE( norm( round_T(pooled) ) ), rotated at the block's first
/// position. The cache quantises it when it is written (kv_cache.hpp).
///   out     [dim] T
///   pooled  [dim] f32, of `pool`
///   norm    [dim] f32
///   angles  [rope_dim/2] at entry_position(entry, ratio)
/// Rounded to T after each step. Called by all threads of `coop`; synchronises between the steps.
template <Coop C, class T>
DSV4_HD void finish_entry(C coop, T* out, const float* pooled, const float* norm, const math::SinCos* angles,
                          int dim, int rope_dim, float eps) {
  for (int d = coop.rank(); d < dim; d += coop.size()) out[d] = from_float<T>(pooled[d]);
  coop.sync();
  finish_key_value(coop, out, norm, angles, dim, rope_dim, eps);
  coop.sync();
}

/// Finishes ONE pooled index key: as finish_entry, then the normalised Hadamard transform (spec section 5.2).
///   scratch  [kDim] f32, shared by the group
template <int kDim, Coop C, class T>
DSV4_HD void finish_index_key(C coop, T* out, const float* pooled, const float* norm,
                              const math::SinCos* angles, int rope_dim, float eps, float* scratch) {
  finish_entry(coop, out, pooled, norm, angles, kDim, rope_dim, eps);
  hadamard<kDim>(coop, out, scratch);
}

}  // namespace dsv4::attention
