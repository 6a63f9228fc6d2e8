// The gate: which experts a token goes to, and with what weight.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/math.hpp>
#include <dsv4/core/topk.hpp>

#include <cmath>
#include <cstdint>

namespace dsv4::moe {

/// How a logit becomes a score. The model's is kSqrtSoftplus.
enum class ScoreKind : std::int32_t { kSqrtSoftplus, kSigmoid, kSoftmax };

/// Score of one expert: sqrt(softplus(logit)). Never overflows, never the root of a negative.
DSV4_HD inline float score(float logit) { return sqrtf(math::softplus(logit)); }

/// Scores of ONE token's experts, in place.
///   values  [experts] f32   logits, then scores
/// kSoftmax: exp(u - max) over their canonical sum; a NaN logit makes every score NaN. Called by all threads
/// of `coop`; synchronises.
template <Coop C>
DSV4_HD void score_all(C coop, float* values, int experts, ScoreKind kind) {
  if (kind != ScoreKind::kSoftmax) {
    for (int e = coop.rank(); e < experts; e += coop.size())
      values[e] = kind == ScoreKind::kSqrtSoftplus ? score(values[e]) : math::sigmoid(values[e]);
    coop.sync();
    return;
  }
  float max = -math::kInfinity;
  for (int e = 0; e < experts; ++e) max = math::max(max, values[e]);
  coop.sync();
  for (int e = coop.rank(); e < experts; e += coop.size()) values[e] = math::exp(values[e] - max);
  coop.sync();
  const float sum = coop.reduce_sum(experts, [values](float acc, int e) { return acc + values[e]; });
  coop.sync();
  for (int e = coop.rank(); e < experts; e += coop.size()) values[e] /= sum;
  coop.sync();
}

/// Routing weights of ONE token whose experts are known: the UNBIASED scores of the chosen, divided by their
/// sum, times route_scale (spec section 7). In this order: renormalise, then scale.
///   weights  [k] f32
///   idx      [k] i32    expert ids; a table row may name one twice; -1 (dropped) gets weight 0
///   scores   [experts] f32
/// Sums in slot order. Scores that are all 0 (logits below -103) give weights 0, not NaN. For one thread.
DSV4_HD inline void route_weights(float* weights, const std::int32_t* idx, const float* scores, int k,
                                  float route_scale) {
  float sum = 0;
  for (int j = 0; j < k; ++j) sum += weights[j] = idx[j] < 0 ? 0.0f : scores[idx[j]];
  for (int j = 0; j < k; ++j) weights[j] = sum == 0.0f ? 0.0f : weights[j] / sum * route_scale;
}

/// Scored routing of ONE token: the k experts of largest score + bias, by that value descending, the lower
/// expert first among equals; weights of `route_weights`. The bias selects and does nothing else.
///   idx      [k] i32, -1 where fewer than k experts have a score that is a number
///   weights  [k] f32
///   scores   [experts] f32, of moe::score
///   bias     [experts] f32
///   biased   [experts] f32 and `chosen` [k] i32: scratch of the group
/// Exact, deterministic. Called by all threads of `coop`; synchronises.
template <Coop C>
DSV4_HD void gate_scored(C coop, std::int32_t* idx, float* weights, const float* scores, const float* bias,
                         int experts, int k, float route_scale, float* biased, std::int32_t* chosen) {
  for (int e = coop.rank(); e < experts; e += coop.size()) biased[e] = scores[e] + bias[e];
  coop.sync();
  topk::select(coop, idx, biased, experts, k, chosen);
  if (coop.rank() == 0) route_weights(weights, idx, scores, k, route_scale);
  coop.sync();
}

/// Hash routing of ONE token: the experts are row `token` of the table, the weights still come from the gate.
///   idx      [k] i32
///   weights  [k] f32
///   scores   [experts] f32
///   table    [vocab, k] i32, `tid2eid` of the checkpoint
/// token < vocab (promised). Called by all threads of `coop`; synchronises.
template <Coop C>
DSV4_HD void gate_hashed(C coop, std::int32_t* idx, float* weights, const float* scores,
                         const std::int32_t* table, std::int64_t token, int k, float route_scale) {
  for (int j = coop.rank(); j < k; j += coop.size()) idx[j] = table[token * k + j];
  coop.sync();
  if (coop.rank() == 0) route_weights(weights, idx, scores, k, route_scale);
  coop.sync();
}

}  // namespace dsv4::moe
