// Routing of one token by one warp, its scores in registers: lane l holds the experts l, l + 32, ...
#pragma once

#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/reduce.hpp>
#include <dsv4/core/topk.hpp>
#include <dsv4/moe/gate.hpp>

#include <cstdint>

namespace dsv4::moe::inline DSV4_FLAVOUR {

/// Most experts that a token goes to.
inline constexpr int kMaxActive = 16;

/// A token's scores in the registers of a warp. kPerLane * 32 experts at most.
template <int kPerLane>
struct WarpScores {
  float value[kPerLane];  // of expert i * 32 + lane; beyond the end never read

  DSV4_DEVICE static int expert(int i) { return i * arch::kWarpThreads + arch::lane_id(); }

  /// Reads logits [experts] and turns them into scores, bit for bit score_all.
  DSV4_DEVICE void load(const float* logits, int experts, ScoreKind kind) {
    DSV4_UNROLL
    for (int i = 0; i < kPerLane; ++i) value[i] = expert(i) < experts ? logits[expert(i)] : 0.0f;
    if (kind != ScoreKind::kSoftmax) {
      DSV4_UNROLL
      for (int i = 0; i < kPerLane; ++i)
        value[i] = kind == ScoreKind::kSqrtSoftplus ? score(value[i]) : math::sigmoid(value[i]);
      return;
    }
    float max = -math::kInfinity;
    DSV4_UNROLL
    for (int i = 0; i < kPerLane; ++i)
      if (expert(i) < experts) max = math::max(max, value[i]);
    DSV4_UNROLL
    for (int distance = arch::kWarpThreads / 2; distance > 0; distance /= 2)
      max = math::max(max, arch::shfl_xor(max, distance));
    float sum = 0.0f;  // a lane's terms are one of the canonical sum's partial sums
    DSV4_UNROLL
    for (int i = 0; i < kPerLane; ++i) {
      value[i] = math::exp(value[i] - max);
      if (expert(i) < experts) sum += value[i];
    }
    DSV4_UNROLL
    for (int distance = kReduceLanes / 2; distance > 0; distance /= 2) sum += arch::shfl_xor(sum, distance);
    DSV4_UNROLL
    for (int i = 0; i < kPerLane; ++i) value[i] /= sum;
  }

  DSV4_DEVICE void store(float* scores, int experts) const {
    DSV4_UNROLL
    for (int i = 0; i < kPerLane; ++i)
      if (expert(i) < experts) scores[expert(i)] = value[i];
  }

  /// Score of expert e, the same e in every lane, for every lane; 0 for e < 0.
  DSV4_DEVICE float of(int e) const {
    float mine = 0.0f;
    DSV4_UNROLL
    for (int i = 0; i < kPerLane; ++i)
      if (i == e / arch::kWarpThreads) mine = value[i];
    const float s = arch::shfl(mine, e & (arch::kWarpThreads - 1));
    return e < 0 ? 0.0f : s;
  }
};

/// The k experts of largest score + bias, by that value descending, the lower expert first among equals; a
/// NaN is never chosen; -1 fills what is left. Every lane gets all of them.
///   bias  [experts] f32, or null
/// Called by all lanes of a warp.
template <int kPerLane>
DSV4_DEVICE void choose_experts(std::int32_t (&chosen)[kMaxActive], const WarpScores<kPerLane>& scores,
                                const float* bias_or_null, int experts, int k) {
  using Scores = WarpScores<kPerLane>;
  std::uint32_t key[kPerLane];  // 0 = cannot be chosen any more
  DSV4_UNROLL
  for (int i = 0; i < kPerLane; ++i) {
    const int e = Scores::expert(i);
    key[i] = e < experts ? topk::key(bias_or_null ? scores.value[i] + bias_or_null[e] : scores.value[i]) : 0u;
  }
  DSV4_UNROLL
  for (int j = 0; j < kMaxActive; ++j) {
    chosen[j] = -1;
    if (j >= k) continue;
    std::uint32_t best = 0;
    DSV4_UNROLL
    for (int i = 0; i < kPerLane; ++i) best = key[i] > best ? key[i] : best;
    best = arch::reduce_max(best);
    if (best == 0) continue;
    std::uint32_t first = 0xffffffffu;  // the lowest expert with that key
    DSV4_UNROLL
    for (int i = kPerLane - 1; i >= 0; --i)
      if (key[i] == best) first = static_cast<std::uint32_t>(Scores::expert(i));
    first = arch::reduce_min(first);
    DSV4_UNROLL
    for (int i = 0; i < kPerLane; ++i)
      if (static_cast<std::uint32_t>(Scores::expert(i)) == first) key[i] = 0;
    chosen[j] = static_cast<std::int32_t>(first);
  }
}

/// Writes a token's experts and their weights, bit for bit route_weights.
///   idx      [k] i32
///   weights  [k] f32
/// Called by all lanes of a warp.
template <int kPerLane>
DSV4_DEVICE void write_route(std::int32_t* idx, float* weights, const std::int32_t (&chosen)[kMaxActive],
                             const WarpScores<kPerLane>& scores, int k, float route_scale) {
  float s[kMaxActive], sum = 0.0f;
  DSV4_UNROLL
  for (int j = 0; j < kMaxActive; ++j) {
    s[j] = j < k ? scores.of(chosen[j]) : 0.0f;
    if (j < k) sum += s[j];
  }
  const int lane = arch::lane_id();
  DSV4_UNROLL
  for (int j = 0; j < kMaxActive; ++j) {
    if (j >= k || lane != j) continue;
    idx[j] = chosen[j];
    weights[j] = sum == 0.0f ? 0.0f : s[j] / sum * route_scale;
  }
}

}  // namespace dsv4::moe::inline DSV4_FLAVOUR
