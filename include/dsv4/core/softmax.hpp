// Softmax with an attention sink: the statistics of one row, and how rows that were split are merged.
#pragma once

#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

namespace dsv4::softmax {

/// Statistics of the scores seen so far: their maximum, and sum = sum_j exp(s_j - max).
/// An empty row has max -inf and sum 0; a row of NaN scores alone has max -inf and sum NaN.
struct State {
  float max = -math::kInfinity;
  float sum = 0.0f;
};

/// exp(s - max), with 0 for a score of -inf even if the maximum is -inf too, where s - max would be NaN. A
/// NaN score has a NaN weight whatever the maximum, which a comparison does not let it become.
DSV4_HD inline float weight(float score, float max) {
  return score == -math::kInfinity ? 0.0f : math::exp(score - max);
}

/// Statistics of two disjoint parts of a row. The sink is NOT in either: it enters once, in `denominator`.
DSV4_HD inline State merge(State a, State b) {
  const float max = math::max(a.max, b.max);
  return {max, math::fma(a.sum, weight(a.max, max), b.sum * weight(b.max, max))};
}

/// sum + exp(sink - max): what the weighted values are divided by. A sink adds no value; -inf = no sink.
/// A sink far above the scores overflows to inf here, and the output is 0, the right limit.
/// An empty row gives inf whatever the sink, so that its output 0/inf is 0.
DSV4_HD inline float denominator(State s, float sink) {
  if (s.sum == 0.0f) return math::kInfinity;
  return sink == -math::kInfinity ? s.sum : s.sum + math::exp(sink - s.max);
}

/// Natural-log LSE of the row, without the sink; `empty` for a row without scores.
DSV4_HD inline float lse(State s, float empty = -math::kInfinity) {
  return s.sum == 0.0f ? empty : s.max + math::log(s.sum);
}

}  // namespace dsv4::softmax
