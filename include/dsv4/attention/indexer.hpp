// The lightning indexer of CSA layers: its queries, and the score of every compressed entry.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/hadamard.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/rope.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/linear/dot.hpp>

#include <cmath>
#include <cstdint>

namespace dsv4::attention {

/// Finishes ONE head of an indexer query, in place: RoPE on the last channels, then the normalised Hadamard
/// transform, each rounded to T (spec section 5.2). FP4 quantisation follows in deploy mode.
///   q        [kDim] T      a head of Wq_b^I qr
///   angles   [rope_dim/2]  at the token's position
///   scratch  [kDim] f32    shared by the group
/// Called by all threads of `coop`; synchronises.
template <int kDim, Coop C, class T>
DSV4_HD void finish_index_query(C coop, T* q, const math::SinCos* angles, int rope_dim, float* scratch) {
  rope::rotate(coop, q + kDim - rope_dim, angles, rope_dim / 2, rope::Direction::kForward);
  coop.sync();
  hadamard<kDim>(coop, q, scratch);
}

/// What the projected head weights are multiplied by: dim^-0.5 * heads^-0.5, in fp32.
DSV4_HD inline float index_weight_factor(int dim, int heads) {
  return (1.0f / sqrtf(static_cast<float>(dim))) * (1.0f / sqrtf(static_cast<float>(heads)));
}

/// Entries scored together by index_scores: its scratch holds heads * kScoreTile + kScoreTile * dim f32.
inline constexpr int kScoreTile = 32;

/// Scores of ONE token against entries [begin, end): score[i] = sum_h weights[h] * relu(q[h] . key[i])
/// (spec section 5.2). The ReLU is taken per head, BEFORE the sum.
///   scores   [end] f32       elements [begin, end) are written
///   q        [heads, dim] f32
///   weights  [heads] f32     head weights, factor included
///   keys     pool of [dim] rows (kv_cache.hpp)
///   scratch  [kScoreTile * (heads + dim)] f32, shared by the group
/// Dots in canonical order, heads summed in index order: a score depends on the token and the entry alone. A
/// NaN stays a NaN. Called by all threads of `coop`; synchronises.
template <Coop C, class Keys>
DSV4_HD void index_scores(C coop, float* scores, const float* q, const float* weights, const Keys& keys,
                          std::int64_t begin, std::int64_t end, int heads, int dim, float* scratch) {
  float* dots = scratch;                          // [heads, kScoreTile]
  float* decoded = scratch + heads * kScoreTile;  // [kScoreTile, dim]
  for (std::int64_t i0 = begin; i0 < end; i0 += kScoreTile) {
    const int count = end - i0 < kScoreTile ? static_cast<int>(end - i0) : kScoreTile;
    for (int i = coop.rank(); i < count; i += coop.size()) keys.read(i0 + i, decoded + i * dim);
    coop.sync();
    const auto key = [&](int i) { return keys.view(i0 + i, decoded + i * dim); };
    linear::dot_tile(coop, key, count, linear::RowsF32{q, dim}, heads, dim, [&](int i, int h, float dot) {
      if (coop.rank() == 0) dots[h * kScoreTile + i] = dot < 0 ? 0.0f : dot;
    });
    coop.sync();
    for (int i = coop.rank(); i < count; i += coop.size()) scores[i0 + i] = 0;
    for (int h = 0; h < heads; ++h)
      for (int i = coop.rank(); i < count; i += coop.size())
        scores[i0 + i] = math::fma(weights[h], dots[h * kScoreTile + i], scores[i0 + i]);
    coop.sync();
  }
}

}  // namespace dsv4::attention
