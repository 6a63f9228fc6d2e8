// CpuBackend: the mixture-of-experts half of a block.
#include <dsv4/core/quant.hpp>
#include <dsv4/linear/linear.hpp>
#include <dsv4/moe/combine.hpp>
#include <dsv4/moe/dispatch.hpp>
#include <dsv4/moe/expert.hpp>
#include <dsv4/moe/gate.hpp>

#include "reference/cpu_backend.hpp"
#include "reference/cpu_grain.hpp"

#include <cstring>

namespace dsv4::reference {

namespace {
constexpr SerialCoop kCoop;
}

template <class T>
Route CpuBackend<T>::moe_gate(const FfnWeights& w, const Rows& x, int b, const Batch& batch) {
  const int experts = config_.experts, active = config_.active_experts;
  Route route{Tensor<std::int32_t>(x.rows(), active), Tensor<float>(x.rows(), active)};
  Tensor<float> scores(x.rows(), experts);
  linear_into(scores.data(), experts, w.gate, operand(x, false));
  pool_.run(x.rows(), grain_of(64 * experts), [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
    float* biased = scratch.floats(experts + active);
    auto* chosen = reinterpret_cast<std::int32_t*>(biased + experts);
    for (std::int64_t t = begin; t < end; ++t) {
      float* row = scores.row(t);
      for (int e = 0; e < experts; ++e) row[e] = moe::score(row[e]);
      if (config_.hashed(b))
        moe::gate_hashed(kCoop, route.idx.row(t), route.weights.row(t), row, w.tid2eid.data(),
                         batch.tokens[static_cast<std::size_t>(t)], active, config_.route_scale);
      else
        moe::gate_scored(kCoop, route.idx.row(t), route.weights.row(t), row, w.bias.data(), experts, active,
                         config_.route_scale, biased, chosen);
    }
  });
  return route;
}

template <class T>
typename CpuBackend<T>::Plan CpuBackend<T>::moe_dispatch(const Route& route) {
  const auto pairs = static_cast<std::size_t>(route.idx.size());
  const auto experts = static_cast<std::size_t>(config_.experts);
  Plan plan{std::vector<std::int32_t>(experts), std::vector<std::int32_t>(experts + 1),
            std::vector<std::int32_t>(pairs), std::vector<std::int32_t>(pairs)};
  moe::dispatch(kCoop, plan.counts.data(), plan.offsets.data(), plan.pair_of.data(), plan.row_of.data(),
                route.idx.data(), static_cast<int>(pairs), 0, config_.experts);
  return plan;
}

template <class T>
void CpuBackend<T>::run_experts(const std::vector<ExpertRun>& runs, const Rows& x, const float* weight,
                                float limit, Rows& y) {
  // Items are blocks of output rows of one run's expert, so that few tokens use all threads too.
  struct Item {
    const ExpertRun* run;
    std::int64_t begin, end;
  };
  const auto items_of = [&](std::int64_t rows) {
    std::vector<Item> items;
    for (const ExpertRun& run : runs)
      for (std::int64_t n = 0; n < rows; n += kRowBlock)
        items.push_back({&run, n, std::min(n + kRowBlock, rows)});
    return items;
  };
  std::int64_t total = 0;
  for (const ExpertRun& run : runs) total += run.count;
  if (total == 0) return;
  const std::int64_t inner = config_.expert_inner, hidden = config_.hidden;
  const std::int64_t mean_rows = blocks_of(total, static_cast<std::int64_t>(runs.size()));

  const Operand in = operand(x, dsv4::linear::quantises_activations(runs[0].w->w1.type));
  Rows h(x.rows(), inner), up(x.rows(), inner);
  const std::vector<Item> first_items = items_of(inner);
  pool_.run(static_cast<std::int64_t>(first_items.size()), grain_of(2 * mean_rows * hidden * kRowBlock),
            [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
              float* decoded = scratch.floats(dsv4::linear::kDecodeRows * hidden);
              for (std::int64_t i = begin; i < end; ++i) {
                const Item& item = first_items[static_cast<std::size_t>(i)];
                const ExpertRun& run = *item.run;
                for_token_blocks(run.count, hidden, [&](std::int64_t t0, int tokens) {
                  const std::int64_t first = run.first + t0;
                  const dsv4::linear::RowsF32 rows{in.rows.data + first * in.rows.stride, in.rows.stride};
                  dsv4::linear::tile(kCoop, h.row(first), inner, rows, tokens, run.w->w1, item.begin,
                                     item.end, decoded);
                  dsv4::linear::tile(kCoop, up.row(first), inner, rows, tokens, run.w->w3, item.begin,
                                     item.end, decoded);
                });
                for (std::int64_t t = run.first; t < run.first + run.count; ++t)
                  moe::swiglu(kCoop, h.row(t) + item.begin, h.row(t) + item.begin, up.row(t) + item.begin,
                              static_cast<int>(item.end - item.begin), limit, weight ? weight[t] : 1.0f);
              }
            });

  const Operand middle = operand(h, dsv4::linear::quantises_activations(runs[0].w->w2.type));
  const std::vector<Item> second_items = items_of(hidden);
  pool_.run(static_cast<std::int64_t>(second_items.size()), grain_of(mean_rows * inner * kRowBlock),
            [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
              float* decoded = scratch.floats(dsv4::linear::kDecodeRows * inner);
              for (std::int64_t i = begin; i < end; ++i) {
                const Item& item = second_items[static_cast<std::size_t>(i)];
                const ExpertRun& run = *item.run;
                for_token_blocks(run.count, inner, [&](std::int64_t t0, int tokens) {
                  const std::int64_t first = run.first + t0;
                  dsv4::linear::tile(kCoop, y.row(first), hidden,
                                     {middle.rows.data + first * middle.rows.stride, middle.rows.stride},
                                     tokens, run.w->w2, item.begin, item.end, decoded);
                });
              }
            });
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::moe_expert(const FfnWeights& w, const Rows& x, const Plan& plan,
                                                       const Route& route) {
  const std::int64_t total = plan.offsets.back(), active = route.idx.cols();
  Rows rows(total, config_.hidden), y(total, config_.hidden);
  std::vector<float> weight(static_cast<std::size_t>(total));
  for (std::int64_t i = 0; i < total; ++i) {
    const std::int32_t pair = plan.pair_of[static_cast<std::size_t>(i)];
    std::memcpy(rows.row(i), x.row(pair / active), static_cast<std::size_t>(config_.hidden) * sizeof(T));
    weight[static_cast<std::size_t>(i)] = route.weights.data()[pair];
  }
  std::vector<ExpertRun> runs;
  for (std::size_t e = 0; e < plan.counts.size(); ++e)
    if (plan.counts[e] > 0) runs.push_back({&w.experts[e], plan.offsets[e], plan.counts[e]});
  run_experts(runs, rows, weight.data(), config_.swiglu_limit, y);
  return y;
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::moe_shared(const FfnWeights& w, const Rows& x) {
  Rows y(x.rows(), config_.hidden);
  run_experts({{&w.shared, 0, x.rows()}}, x, nullptr, config_.shared_swiglu_limit, y);
  return y;
}

template <class T>
typename CpuBackend<T>::Rows CpuBackend<T>::moe_combine(const Rows& y, const Plan& plan, const Rows& shared) {
  Rows out(shared.rows(), config_.hidden);
  const int active = config_.active_experts;
  pool_.run(out.rows(), grain_of(std::int64_t{active} * config_.hidden),
            [&](std::int64_t begin, std::int64_t end, Scratch&) {
              for (std::int64_t t = begin; t < end; ++t)
                moe::combine(kCoop, out.row(t), y.data(), plan.row_of.data() + t * active, active,
                             shared.row(t), config_.hidden);
            });
  return out;
}

template class CpuBackend<float>;
template class CpuBackend<bf16>;

}  // namespace dsv4::reference
