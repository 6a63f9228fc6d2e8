// Mirrors include/dsv4/moe/gate.hpp.
#include <dsv4/moe/gate.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <limits>
#include <vector>

namespace dsv4 {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Route {
  std::vector<std::int32_t> idx;
  std::vector<float> weights;
};

Route gate_scored(const std::vector<float>& scores, const std::vector<float>& bias, int k, float scale) {
  const int experts = static_cast<int>(scores.size());
  Route r{std::vector<std::int32_t>(k + 1, -77), std::vector<float>(k + 1, -77)};
  std::vector<float> biased(experts + 1, -77);
  std::vector<std::int32_t> chosen(k + 1, -77);
  moe::gate_scored(SerialCoop{}, r.idx.data(), r.weights.data(), scores.data(), bias.data(), experts, k,
                   scale, biased.data(), chosen.data());
  REQUIRE(r.idx[k] == -77);
  REQUIRE(r.weights[k] == -77);
  REQUIRE(biased[experts] == -77);
  REQUIRE(chosen[k] == -77);
  r.idx.pop_back(), r.weights.pop_back();
  return r;
}

Route gate_hashed(const std::vector<float>& scores, const std::vector<std::int32_t>& table,
                  std::int64_t token, int k, float scale) {
  Route r{std::vector<std::int32_t>(k + 1, -77), std::vector<float>(k + 1, -77)};
  moe::gate_hashed(SerialCoop{}, r.idx.data(), r.weights.data(), scores.data(), table.data(), token, k,
                   scale);
  REQUIRE(r.idx[k] == -77);
  REQUIRE(r.weights[k] == -77);
  r.idx.pop_back(), r.weights.pop_back();
  return r;
}

// Experts by score + bias (the fp32 sum that the model sorts) descending, the lower one first among equals;
// those whose sum is NaN left out; -1 to the end.
std::vector<std::int32_t> expected_experts(const std::vector<float>& scores, const std::vector<float>& bias,
                                           int k) {
  std::vector<float> biased(scores.size());
  std::vector<std::int32_t> order;
  for (std::size_t e = 0; e < scores.size(); ++e) {
    biased[e] = static_cast<float>(double{scores[e]} + double{bias[e]});
    if (!std::isnan(biased[e])) order.push_back(static_cast<std::int32_t>(e));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return biased[a] > biased[b]; });
  order.resize(k, -1);
  return order;
}

// Scores of the chosen over their sum, times the scale; k - 1 roundings of a sum of positive terms, the
// division and the product.
void check_weights(const Route& r, const std::vector<float>& scores, float scale) {
  const int k = static_cast<int>(r.idx.size());
  double sum = 0;
  for (const std::int32_t e : r.idx) sum += e < 0 ? 0 : double{scores[e]};
  for (int j = 0; j < k; ++j) {
    const double want = r.idx[j] < 0 || sum == 0 ? 0 : scores[r.idx[j]] / sum * double{scale};
    CAPTURE(j, r.idx[j], want);
    REQUIRE(test::within(r.weights[j], want, (k + 1) * test::kUnit * want));
  }
}

// ---- score ------------------------------------------------------------------------------------------------

TEST_CASE("moe::score is sqrt(softplus(logit)) over the whole range", "[moe][gate]") {
  std::vector<float> logits = {0,        -0.0f, 20,     20.0001f, 25,   -30,   -87,    -88,    -100,
                               -103,     -104,  -105,   88,       89,   100,   1e4f,   -1e4f,  3e38f,
                               -3.4e38f, 1e-6f, -1e-6f, 1e-30f,   0.5f, -0.5f, 1e-45f, -1e-45f};
  for (int i = -11000; i <= 4000; ++i) logits.push_back(static_cast<float>(i) * 0.01f);
  for (const float x : test::normal(2000, 1, 2.0)) logits.push_back(x);
  for (const float logit : logits) {
    // softplus: 2.6 units of the exponential and 4 of the logarithm (1.3 and 2 ulp), 1 of the sum; the root
    // halves them and adds 1. Where the exponential is subnormal, its last bit counts for more.
    const double softplus =
        logit > 0 ? logit + std::log1p(std::exp(-double{logit})) : std::log1p(std::exp(double{logit}));
    const double want = std::sqrt(softplus), lost = 2 * 0x1p-149;
    const double low = std::sqrt(std::max(softplus - lost, 0.0)), high = std::sqrt(softplus + lost);
    const float got = moe::score(logit);
    CAPTURE(logit, want);
    REQUIRE(got >= low * (1 - 5 * test::kUnit));
    REQUIRE(got <= high * (1 + 5 * test::kUnit));
    REQUIRE(!std::signbit(got));
  }
  REQUIRE(moe::score(kInf) == kInf);
  REQUIRE(moe::score(-kInf) == 0);
  REQUIRE(moe::score(-104.0f) == 0);
  REQUIRE(std::isnan(moe::score(kNan)));
}

// ---- scored routing ---------------------------------------------------------------------------------------

TEST_CASE("moe::gate_scored chooses by score + bias and weighs by the score", "[moe][gate]") {
  const int experts = GENERATE(1, 2, 7, 8, 31, 256, 384);
  for (const int k : {1, 2, 6, 8, 16, experts})
    for (const std::uint64_t seed : {1u, 2u, 3u}) {
      if (k > experts) continue;
      std::vector<float> scores, bias = test::normal(experts, seed + 10, 2.0);  // as large as the scores
      for (const float x : test::normal(experts, seed, 2.0)) scores.push_back(std::sqrt(std::abs(x)));
      const float scale = seed == 1 ? 1.5f : 2.5f;
      const Route r = gate_scored(scores, bias, k, scale);
      CAPTURE(experts, k, seed);
      REQUIRE(r.idx == expected_experts(scores, bias, k));
      check_weights(r, scores, scale);
      if (k < experts && experts >= 31)  // else the bias would not have mattered
        REQUIRE(r.idx != expected_experts(scores, std::vector<float>(experts, 0.0f), k));
    }
}

TEST_CASE("moe::gate_scored: of equal sums the lower expert comes first", "[moe][gate]") {
  // On a coarse grid every sum is exact and many are equal; scores and biases differ where sums do not, so
  // that neither can stand in for the sum.
  const int experts = GENERATE(8, 256, 384);
  for (const int k : {1, 6, 8}) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      std::vector<float> scores, bias;
      for (const std::int32_t x : test::integers(experts, seed, 1, 8))
        scores.push_back(static_cast<float>(x) * 0.25f);
      for (const std::int32_t x : test::integers(experts, seed + 100, -4, 4))
        bias.push_back(static_cast<float>(x) * 0.25f);
      const Route r = gate_scored(scores, bias, k, 2.5f);
      CAPTURE(experts, k, seed);
      REQUIRE(r.idx == expected_experts(scores, bias, k));
      check_weights(r, scores, 2.5f);
    }
    const Route flat =
        gate_scored(std::vector<float>(experts, 0.5f), std::vector<float>(experts, -3), k, 1.5f);
    for (int j = 0; j < k; ++j) {
      REQUIRE(flat.idx[j] == j);
      REQUIRE(test::within(flat.weights[j], 1.5 / k, (k + 1) * test::kUnit * 1.5 / k));
    }
  }
  // A signed zero is no tie-break: 0 + -0 against -0 + -0.
  const Route zeros = gate_scored({-0.0f, 0.0f, -0.0f, 0.0f}, {-0.0f, -0.0f, 0.0f, 0.0f}, 2, 1.5f);
  REQUIRE(zeros.idx == std::vector<std::int32_t>{0, 1});
}

TEST_CASE("moe::gate_scored lists by the biased sum, not by the score", "[moe][gate]") {
  const Route r = gate_scored({1, 2, 3, 4}, {4, 2, 0, -8}, 3, 1.0f);  // sums 5, 4, 3, -4
  REQUIRE(r.idx == std::vector<std::int32_t>{0, 1, 2});
  // Weights follow their experts: 1/6, 2/6, 3/6. Renormalised to 1, then scaled.
  check_weights(r, {1, 2, 3, 4}, 1.0f);
  const Route scaled = gate_scored({1, 2, 3, 4}, {4, 2, 0, -8}, 3, 2.5f);
  REQUIRE(std::abs(scaled.weights[0] + scaled.weights[1] + scaled.weights[2] - 2.5) <= 8 * test::kUnit * 2.5);
}

TEST_CASE("moe::gate_scored renormalises before it scales", "[moe][gate]") {
  // The order of the two is visible in the rounding alone, since s / sum * scale and s * scale / sum are
  // equal but for it; and where the scaled score leaves the fp32 range.
  const Route r = gate_scored({3e38f, 1e-3f}, {0, 0}, 1, 2.5f);
  REQUIRE(r.weights[0] == 2.5f);
  int differ = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const auto scores = test::uniform(6, seed, 0.1, 2.0);
    const Route six = gate_scored(scores, std::vector<float>(6, 0.0f), 6, 1.7f);
    float sum = 0;
    for (const std::int32_t e : six.idx) sum += scores[e];
    for (int j = 0; j < 6; ++j) {
      const float want = scores[six.idx[j]] / sum * 1.7f;  // the model's sequence of fp32 operations
      REQUIRE(six.weights[j] == want);
      differ += want != scores[six.idx[j]] * 1.7f / sum;
    }
  }
  REQUIRE(differ > 50);
}

TEST_CASE("moe::gate_scored with scores that are all 0 gives weights 0", "[moe][gate]") {
  for (const int experts : {1, 8, 384}) {
    const int k = std::min(experts, 6);
    std::vector<float> bias(experts, 0.0f);
    bias[experts - 1] = 1;
    const Route r = gate_scored(std::vector<float>(experts, moe::score(-1e4f)), bias, k, 2.5f);
    REQUIRE(r.idx[0] == experts - 1);
    for (int j = 1; j < k; ++j) REQUIRE(r.idx[j] == j - 1);
    for (int j = 0; j < k; ++j) REQUIRE(r.weights[j] == 0.0f);
  }
  // One score that is not 0, however small, takes all of the weight.
  const Route one = gate_scored({0, 1e-22f, 0, 0}, {0, 0, 0, 0}, 3, 1.5f);
  REQUIRE(one.idx == std::vector<std::int32_t>{1, 0, 2});
  REQUIRE(one.weights == std::vector<float>{1.5f, 0, 0});
}

TEST_CASE("moe::gate_scored never chooses NaN and fills with -1", "[moe][gate]") {
  const Route r = gate_scored({1, kNan, 2, 3}, {0, 5, 0, kNan}, 3, 1.5f);
  REQUIRE(r.idx == std::vector<std::int32_t>{2, 0, -1});
  check_weights(r, {1, 0, 2, 3}, 1.5f);
  const Route few = gate_scored({1, 2}, {0, 0}, 6, 1.5f);
  REQUIRE(few.idx == std::vector<std::int32_t>{1, 0, -1, -1, -1, -1});
  check_weights(few, {1, 2}, 1.5f);
  const Route none = gate_scored({kNan, kNan}, {0, 0}, 2, 1.5f);
  REQUIRE(none.idx == std::vector<std::int32_t>{-1, -1});
  REQUIRE(none.weights == std::vector<float>{0, 0});
  // -inf is a number: the last choice.
  REQUIRE(gate_scored({1, 2, 3}, {-kInf, 0, 0}, 3, 1).idx == std::vector<std::int32_t>{2, 1, 0});
}

// ---- hash routing -----------------------------------------------------------------------------------------

TEST_CASE("moe::gate_hashed takes the token's row and weighs by the scores", "[moe][gate]") {
  const int experts = GENERATE(1, 8, 256, 384);
  for (const int k : {1, 6, 8}) {
    const int vocab = 17;
    const auto table = test::integers(std::int64_t{vocab} * k, 5, 0, experts - 1);
    const auto scores = test::uniform(experts, 6, 0.01, 2.0);
    for (const std::int64_t token : {0, 1, 8, 16}) {
      const Route r = gate_hashed(scores, table, token, k, 1.5f);
      CAPTURE(experts, k, token);
      REQUIRE(r.idx == std::vector<std::int32_t>(table.begin() + token * k, table.begin() + (token + 1) * k));
      check_weights(r, scores, 1.5f);
    }
  }
}

TEST_CASE("moe::gate_hashed: a row that names an expert twice counts it twice", "[moe][gate]") {
  const Route r = gate_hashed({1, 2, 4}, {0, 0, 0, 2, 1, 2}, 1, 3, 1.0f);
  REQUIRE(r.idx == std::vector<std::int32_t>{2, 1, 2});
  const double want[3] = {0.4, 0.2, 0.4};  // 4, 2, 4 of 10
  for (int j = 0; j < 3; ++j) REQUIRE(std::abs(r.weights[j] - want[j]) <= 4 * test::kUnit * want[j]);
}

TEST_CASE("moe::gate_hashed: zero scores and dropped slots", "[moe][gate]") {
  const Route zero = gate_hashed({0, 0, 5}, {0, 1}, 0, 2, 2.5f);
  REQUIRE(zero.weights == std::vector<float>{0, 0});
  const Route dropped = gate_hashed({1, 3, 5}, {-1, 1, 0}, 0, 3, 2.0f);
  REQUIRE(dropped.idx == std::vector<std::int32_t>{-1, 1, 0});
  REQUIRE(dropped.weights == std::vector<float>{0, 1.5f, 0.5f});
  const Route nan = gate_hashed({kNan, 1}, {0, 1}, 0, 2, 2.0f);  // bad numbers stay visible
  REQUIRE((std::isnan(nan.weights[0]) && std::isnan(nan.weights[1])));
}

// ---- any number of threads --------------------------------------------------------------------------------

TEST_CASE("moe gates are the same for any number of threads", "[moe][gate]") {
  const int experts = GENERATE(1, 8, 384);
  const int k = std::min(experts, 6);
  const auto scores = test::uniform(experts, 7), bias = test::normal(experts, 8);
  const auto table = test::integers(3 * k, 9, 0, experts - 1);
  const Route scored = gate_scored(scores, bias, k, 1.5f), hashed = gate_hashed(scores, table, 2, k, 1.5f);
  Route group{std::vector<std::int32_t>(k), std::vector<float>(k)}, group_hashed = group;
  std::vector<float> biased(experts);
  std::vector<std::int32_t> chosen(k);
  test::run_group<5>([&](auto coop) {
    moe::gate_scored(coop, group.idx.data(), group.weights.data(), scores.data(), bias.data(), experts, k,
                     1.5f, biased.data(), chosen.data());
    moe::gate_hashed(coop, group_hashed.idx.data(), group_hashed.weights.data(), scores.data(), table.data(),
                     2, k, 1.5f);
  });
  REQUIRE(group.idx == scored.idx);
  REQUIRE(group.weights == scored.weights);
  REQUIRE(group_hashed.idx == hashed.idx);
  REQUIRE(group_hashed.weights == hashed.weights);
}

}  // namespace
}  // namespace dsv4
