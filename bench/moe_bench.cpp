// The mixture of experts by its primitives, one host thread (SerialCoop), at the published models' sizes, for
// T tokens: their routing, the rows that one of the experts gets, their outputs added up. Counters as in
// primitives_bench.cpp.
#include "tests/support/random.hpp"

#include <dsv4/core/quant.hpp>
#include <dsv4/linear/linear.hpp>
#include <dsv4/moe/combine.hpp>
#include <dsv4/moe/dispatch.hpp>
#include <dsv4/moe/expert.hpp>
#include <dsv4/moe/gate.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dsv4::bench {
namespace {

constexpr SerialCoop kCoop;
constexpr int kActive = 6;

struct Model {
  const char* name;
  int hidden, inner, experts;
};
constexpr Model kModels[] = {{"Flash", 4096, 2048, 256}, {"Pro", 7168, 3072, 384}};

/// model: index of kModels; T.
void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"Pro", "T"})->Unit(benchmark::kMicrosecond);
  for (const int model : {0, 1})
    for (const int tokens : {1, 8, 32, 128, 512, 2048, 8192}) b->Args({model, tokens});
}
const Model& model_of(const benchmark::State& bench) { return kModels[bench.range(0)]; }

void count(benchmark::State& bench, double bytes, double flops) {
  bench.SetLabel(model_of(bench).name);
  bench.SetBytesProcessed(static_cast<std::int64_t>(bytes * static_cast<double>(bench.iterations())));
  if (flops > 0)
    bench.counters["flops"] =
        benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

std::vector<bf16> bf16_values(std::int64_t n, std::uint64_t seed) {
  std::vector<bf16> v;
  for (const float x : test::normal(n, seed)) v.push_back(from_float<bf16>(x));
  return v;
}

// From the scores on: the logits are a product like any other.
void BM_moe_routing(benchmark::State& bench) {
  const Model& m = model_of(bench);
  const auto tokens = static_cast<std::size_t>(bench.range(1)), experts = static_cast<std::size_t>(m.experts),
             pairs = tokens * kActive;
  const auto logits = test::normal(static_cast<std::int64_t>(tokens * experts), 1),
             bias = test::normal(m.experts, 2);
  std::vector<float> scores(experts), biased(experts), weights(pairs);
  std::vector<std::int32_t> idx(pairs), chosen(kActive), counts(experts), offsets(experts + 1),
      pair_of(pairs), row_of(pairs);
  for (auto _ : bench) {
    for (std::size_t t = 0; t < tokens; ++t) {
      std::copy_n(logits.data() + t * experts, experts, scores.data());
      moe::score_all(kCoop, scores.data(), m.experts, moe::ScoreKind::kSqrtSoftplus);
      moe::gate_scored(kCoop, idx.data() + t * kActive, weights.data() + t * kActive, scores.data(),
                       bias.data(), m.experts, kActive, 1.5f, biased.data(), chosen.data());
    }
    moe::dispatch(kCoop, counts.data(), offsets.data(), pair_of.data(), row_of.data(), idx.data(),
                  static_cast<int>(pairs), 0, m.experts);
    benchmark::DoNotOptimize(row_of.data());
  }
  count(bench, 4.0 * static_cast<double>(tokens * experts + 4 * pairs), 0);
}
BENCHMARK(BM_moe_routing)->Apply(sizes);

// One FP4 expert with its share of the batch: both linears, the activation, and what quantises their rows.
void BM_moe_expert(benchmark::State& bench) {
  const Model& m = model_of(bench);
  const auto rows = static_cast<std::size_t>(std::max<std::int64_t>(1, bench.range(1) * kActive / m.experts));
  const auto hidden = static_cast<std::size_t>(m.hidden), inner = static_cast<std::size_t>(m.inner);
  const std::int64_t elements = std::int64_t{m.hidden} * m.inner;
  const auto codes = test::bytes(3 * elements / 2, 3);
  std::vector<e8m0> scales(static_cast<std::size_t>(elements / 32), e8m0{120});
  const auto matrix = [&](int i, std::int64_t n, std::int64_t k) {
    return linear::WeightView{linear::WeightType::kFp4, codes.data() + i * elements / 2, scales.data(), n, k};
  };
  const auto values = bf16_values(static_cast<std::int64_t>(rows * hidden), 4);
  std::vector<float> x(rows * hidden), h_values(rows * inner),
      scratch(linear::kDecodeRows * std::max(hidden, inner));
  std::vector<bf16> g(rows * inner), u(rows * inner), y(rows * hidden);
  const auto tokens = static_cast<int>(rows);
  for (auto _ : bench) {
    for (std::size_t r = 0; r < rows; ++r)
      quant::fp8_round_trip(kCoop, x.data() + r * hidden, values.data() + r * hidden, m.hidden,
                            quant::kFp8LinearBlock);
    const linear::RowsF32 in = {x.data(), m.hidden}, between = {h_values.data(), m.inner};
    linear::tile(kCoop, g.data(), m.inner, in, tokens, matrix(0, m.inner, m.hidden), 0, m.inner,
                 scratch.data());
    linear::tile(kCoop, u.data(), m.inner, in, tokens, matrix(1, m.inner, m.hidden), 0, m.inner,
                 scratch.data());
    for (std::size_t r = 0; r < rows; ++r) {
      bf16* h = g.data() + r * inner;
      moe::swiglu(kCoop, h, h, u.data() + r * inner, m.inner, 10.0f, 0.25f);
      quant::fp8_round_trip(kCoop, h_values.data() + r * inner, h, m.inner, quant::kFp8LinearBlock);
    }
    linear::tile(kCoop, y.data(), m.hidden, between, tokens, matrix(2, m.hidden, m.inner), 0, m.hidden,
                 scratch.data());
    benchmark::DoNotOptimize(y.data());
  }
  const auto weights = static_cast<double>(3 * elements);
  count(bench, weights * (0.5 + 1.0 / 32) + 4.0 * static_cast<double>(rows * hidden),
        2.0 * weights * static_cast<double>(rows));
}
BENCHMARK(BM_moe_expert)->Apply(sizes);

// The outputs of a batch's experts, of which as many lie in memory as 256 tokens have.
void BM_moe_combine(benchmark::State& bench) {
  const Model& m = model_of(bench);
  const std::int64_t tokens = bench.range(1), rows = std::min<std::int64_t>(tokens, 256) * kActive;
  const auto y = bf16_values(rows * m.hidden, 5), shared = bf16_values(m.hidden, 6);
  const auto row_of = test::integers(tokens * kActive, 7, 0, rows - 1);
  std::vector<bf16> out(static_cast<std::size_t>(m.hidden));
  for (auto _ : bench) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      moe::combine(kCoop, out.data(), y.data(), row_of.data() + t * kActive, kActive, shared.data(),
                   m.hidden);
      benchmark::DoNotOptimize(out.data());
    }
  }
  const double elements = static_cast<double>(tokens) * m.hidden;
  count(bench, 2.0 * elements * (kActive + 2), elements * (kActive + 1));
}
BENCHMARK(BM_moe_combine)->Apply(sizes);

}  // namespace
}  // namespace dsv4::bench
