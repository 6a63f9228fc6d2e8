// Logits, and the greedy choice.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/topk.hpp>
#include <dsv4/linear/linear.hpp>

#include <cstdint>

namespace dsv4::lm_head {

/// Logits [begin, end) of `tokens` rows: logits[t,v] = sum_d x[t,d] * head[v,d]    (spec section 3: fp32
/// result)
///   logits   [tokens] rows of `stride` f32
///   x        [tokens, hidden] f32, after the final norm
///   head     [vocab, hidden]
///   scratch  [linear::kDecodeRows * hidden] f32, shared by the group
/// Canonical dots, never rounded. Called by all threads of `coop`; synchronises.
template <Coop C>
DSV4_HD void logits(C coop, float* logits, std::int64_t stride, const linear::RowsF32& x, int tokens,
                    const linear::WeightView& head, std::int64_t begin, std::int64_t end, float* scratch) {
  linear::tile(coop, logits, stride, x, tokens, head, begin, end, scratch);
}

/// Token id of the largest logit, the lowest id among equals; NaN is never chosen; -1 if every logit is NaN.
///   logits  [vocab] f32
/// For one thread.
DSV4_HD inline std::int32_t greedy(const float* logits, int vocab) {
  std::int32_t best = -1;
  std::uint32_t best_key = 0;
  for (std::int32_t v = 0; v < vocab; ++v) {
    const std::uint32_t key = topk::key(logits[v]);
    if (key > best_key) best = v, best_key = key;
  }
  return best;
}

}  // namespace dsv4::lm_head
