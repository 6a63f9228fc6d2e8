// Mirrors reference/cpu_backend.hpp: what a stage takes from which block. The primitives have tests of their
// own; these ask whether the backend hands them the right tables, weights and tokens. The oracles are in
// double.
#include "reference/cpu_backend.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/random_model.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;

namespace {

constexpr double kUnit = 0x1p-24;  // half an ulp of fp32, relative

// A bf16 weight in double.
double weight(const WeightView& w, std::int64_t row, std::int64_t col) {
  REQUIRE(w.type == linear::WeightType::kBf16);
  return test::oracle::bf16_value(static_cast<const bf16*>(w.data)[row * w.cols + col].bits);
}

// Frequencies of both kinds (spec section 4), in double.
double frequency(const ModelConfig& c, bool compressed, int pair) {
  const double theta = compressed ? c.compress_rope_theta : c.rope_theta;
  const double f = std::pow(theta, -2.0 * pair / 64);
  if (!compressed) return f;
  const auto turning = [&](double turns) {
    return 64 * std::log(static_cast<double>(c.rope_original_length) / (turns * 2 * std::acos(-1.0))) /
           (2 * std::log(theta));
  };
  const double low = std::floor(turning(c.rope_beta_fast)), high = std::ceil(turning(c.rope_beta_slow));
  const double ramp = std::clamp((pair - low) / (high - low), 0.0, 1.0);
  return f / c.rope_factor * ramp + f * (1 - ramp);
}

// A batch of one sequence from position 0.
struct Run {
  Run(const Model& model, const std::vector<std::int32_t>& tokens)
      : state(model.config, model.mode, {.mtp = true}) {
    const Append append{&state, tokens, tokens};
    REQUIRE(make_batch(model, {&append, 1}, &batch).ok());
  }
  SequenceState state;
  Batch batch;
};

}  // namespace

TEST_CASE("CpuBackend rotates queries and keys by the kind of their block") {
  const ModelConfig config = test::tiny_config();  // ratios 0, 4, 128, and 0 of the MTP block
  const Model model = test::random_model(config, NumericMode::kExact, 1);
  constexpr int kTokens = 70;
  Run run(model, std::vector<std::int32_t>(kTokens, 3));
  CpuBackend<float> backend(config, 1);
  backend.begin(run.batch);
  for (int b = 0; b < config.blocks(); ++b) {
    CAPTURE(b);
    const AttentionWeights& w =
        b < config.layers ? model.layers[static_cast<std::size_t>(b)].attn : model.mtp[0].block.attn;
    // The same input at every position: position 0 shows it unrotated.
    Tensor<float> x(kTokens, config.hidden), qr(kTokens, config.q_lora_rank);
    const std::vector<float> x0 = test::normal(config.hidden, 5), qr0 = test::normal(config.q_lora_rank, 6);
    for (int t = 0; t < kTokens; ++t) {
      std::copy(x0.begin(), x0.end(), x.row(t));
      std::copy(qr0.begin(), qr0.end(), qr.row(t));
    }
    const Tensor<float> q = backend.attn_q_proj(w, qr, b), kv = backend.attn_kv_proj(w, x, b);
    const bool compressed = config.kind(b) != LayerKind::kSwa;
    double worst = 0;
    for (int t = 0; t < kTokens; ++t)
      for (int row = 0; row <= config.heads; ++row) {  // the heads, then the key
        const bool key = row == config.heads;
        const float* got = key ? kv.row(t) : q.row(t) + row * kHeadDim;
        const float* plain = key ? kv.row(0) : q.row(0) + row * kHeadDim;
        for (int i = 0; i < kRopeDim / 2; ++i) {
          const double a = plain[kNopeDim + 2 * i], c = plain[kNopeDim + 2 * i + 1];
          const double angle = t * frequency(config, compressed, i);
          // fp32: the frequency (2 roundings) and the angle, then cos, sin (2 ulp) and the two products.
          const double bound = (std::abs(a) + std::abs(c)) * kUnit * (4 * angle + 8);
          const double errors[] = {got[kNopeDim + 2 * i] - (a * std::cos(angle) - c * std::sin(angle)),
                                   got[kNopeDim + 2 * i + 1] - (a * std::sin(angle) + c * std::cos(angle))};
          for (const double error : errors) worst = std::max(worst, std::abs(error) / bound);
        }
      }
    CHECK(worst <= 1);
  }
}

TEST_CASE("CpuBackend routes the first layers by the table and the others by score") {
  ModelConfig config = test::tiny_config();
  config.hash_layers = 2, config.active_experts = 3;
  const Model model = test::random_model(config, NumericMode::kExact, 2);
  const std::vector<std::int32_t> tokens = test::integers(20, 7, 0, config.vocab - 1);
  const auto rows = static_cast<std::int64_t>(tokens.size());
  Run run(model, tokens);
  CpuBackend<float> backend(config, 1);
  Tensor<float> x(rows, config.hidden);
  const std::vector<float> values = test::normal(x.size(), 8);
  std::copy(values.begin(), values.end(), x.data());
  const auto active = static_cast<std::size_t>(config.active_experts);
  const auto experts = static_cast<std::size_t>(config.experts);
  for (int b = 0; b < config.blocks(); ++b) {
    CAPTURE(b);
    const FfnWeights& w =
        b < config.layers ? model.layers[static_cast<std::size_t>(b)].ffn : model.mtp[0].block.ffn;
    const Route route = backend.moe_gate(w, x, b, run.batch);
    for (std::int64_t t = 0; t < rows; ++t) {
      CAPTURE(t);
      std::vector<double> score(experts), biased(experts);
      for (std::size_t e = 0; e < experts; ++e) {
        double u = 0;
        for (std::int64_t d = 0; d < config.hidden; ++d)
          u += x.row(t)[d] * weight(w.gate, static_cast<std::int64_t>(e), d);
        score[e] = std::sqrt(std::log1p(std::exp(u)));
        biased[e] = score[e] + (b < 2 ? 0.0 : w.bias[e]);
      }
      std::vector<std::int32_t> expected(active);
      if (b < 2) {
        for (std::size_t j = 0; j < active; ++j)
          expected[j] = w.tid2eid[static_cast<std::size_t>(tokens[static_cast<std::size_t>(t)]) * active + j];
      } else {
        std::vector<std::int32_t> order(experts);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](std::int32_t i, std::int32_t j) {
          return biased[static_cast<std::size_t>(i)] > biased[static_cast<std::size_t>(j)];
        });
        std::copy_n(order.begin(), active, expected.begin());
      }
      CHECK(std::equal(expected.begin(), expected.end(), route.idx.row(t)));
      double sum = 0;
      for (const std::int32_t e : expected) sum += score[static_cast<std::size_t>(e)];
      for (std::size_t j = 0; j < active; ++j) {
        const double want = score[static_cast<std::size_t>(expected[j])] / sum * config.route_scale;
        // A logit of 64 terms of order 0.25: within 1e-5 by far, and a score varies no more than its logit.
        CHECK(std::abs(route.weights.row(t)[j] - want) < 1e-5);
      }
    }
  }
}
