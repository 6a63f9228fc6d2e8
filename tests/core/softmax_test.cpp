// Mirrors include/dsv4/core/softmax.hpp.
#include <dsv4/core/softmax.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

using namespace dsv4;
using softmax::State;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// math.hpp: exp is within 1.3 ulp, an ulp being at most two units; its argument s - max is rounded, which
// costs |s - max| units more.
double weight_error(double distance) { return (2.6 + std::abs(distance)) * test::kUnit; }

// Statistics of scores [begin, end), term after term.
State row_state(const std::vector<float>& scores, std::size_t begin, std::size_t end) {
  State s;
  for (std::size_t j = begin; j < end; ++j) s.max = std::fmax(s.max, scores[j]);
  for (std::size_t j = begin; j < end; ++j) s.sum += softmax::weight(scores[j], s.max);
  return s;
}

}  // namespace

TEST_CASE("softmax weight is exp(score - max), 0 in an empty row", "[core][softmax]") {
  REQUIRE(softmax::weight(3.5f, 3.5f) == 1.0f);
  REQUIRE(softmax::weight(-kInf, 3.5f) == 0.0f);
  REQUIRE(softmax::weight(-kInf, -kInf) == 0.0f);  // not NaN
  REQUIRE(softmax::weight(-FLT_MAX, FLT_MAX) == 0.0f);
  REQUIRE(std::isnan(softmax::weight(std::nanf(""), 3.5f)));
  REQUIRE(std::isnan(softmax::weight(std::nanf(""), -kInf)));  // a NaN never becomes the maximum
  for (const float s : test::uniform(1000, 1, -90.0, 5.0)) {
    const double want = std::exp(double(s) - 5.0);
    CAPTURE(s);
    REQUIRE(
        test::within(softmax::weight(s, 5.0f), want, weight_error(s - 5.0) * want + 0x1p-148));  // subnormals
  }
}

TEST_CASE("a fresh state is the empty row", "[core][softmax]") {
  REQUIRE(State{}.max == -kInf);
  REQUIRE(State{}.sum == 0.0f);
}

TEST_CASE("merging the parts of a row gives the whole row", "[core][softmax]") {
  for (const double sigma : {0.1, 3.0, 30.0}) {
    const std::size_t n = GENERATE(1u, 2u, 3u, 64u, 127u, 1000u);
    const auto scores = test::normal(static_cast<std::int64_t>(n), 2, sigma);
    double max = -1e300, sum = 0;
    for (const float s : scores) max = std::fmax(max, s);
    for (const float s : scores) sum += std::exp(s - max);
    test::Random random(n);
    for (int split = 0; split < 50; ++split) {
      // A random number of parts, empty ones among them, merged from the left or from the right.
      std::vector<std::size_t> cuts{0, n};
      for (std::int64_t c = random.integer(0, 6); c > 0; --c)
        cuts.push_back(static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(n))));
      std::sort(cuts.begin(), cuts.end());
      State left, right;
      for (std::size_t p = 0; p + 1 < cuts.size(); ++p) {
        left = softmax::merge(left, row_state(scores, cuts[p], cuts[p + 1]));
        const std::size_t q = cuts.size() - 2 - p;
        right = softmax::merge(row_state(scores, cuts[q], cuts[q + 1]), right);
      }
      // A term's weight is a product of exps whose arguments add up to its distance (above all, 8 * sigma);
      // n additions in the parts and three operations in each of at most seven merges round.
      const double bound =
          (static_cast<double>(n) + 7 * (3 + 2.6) + 2.6 + 2 * 7 * sigma * 8) * test::kUnit * sum;
      CAPTURE(n, sigma, split);
      REQUIRE(left.max == static_cast<float>(max));
      REQUIRE(right.max == static_cast<float>(max));
      REQUIRE(test::within(left.sum, sum, bound));
      REQUIRE(test::within(right.sum, sum, bound));
    }
  }
}

TEST_CASE("merging with an empty row changes no bit", "[core][softmax]") {
  const State s{-123.25f, 1.7f};
  for (const State& m : {softmax::merge(s, State{}), softmax::merge(State{}, s)}) {
    REQUIRE(m.max == s.max);
    REQUIRE(m.sum == s.sum);
  }
  const State empty = softmax::merge(State{}, State{});
  REQUIRE(empty.max == -kInf);
  REQUIRE(empty.sum == 0.0f);
}

TEST_CASE("merge weighs each sum by its own distance to the maximum", "[core][softmax]") {
  const State m = softmax::merge({0.0f, 3.0f}, {2.0f, 5.0f});
  REQUIRE(m.max == 2.0f);
  REQUIRE(test::within(m.sum, 5 + 3 * std::exp(-2.0), 8 * test::kUnit * 6));
  const State far = softmax::merge({1e38f, 3.0f}, {-1e38f, 5.0f});
  REQUIRE(far.max == 1e38f);
  REQUIRE(far.sum == 3.0f);
  const State overflow = softmax::merge({-FLT_MAX, 3.0f}, {FLT_MAX, 5.0f});  // max - max is -inf
  REQUIRE(overflow.max == FLT_MAX);
  REQUIRE(overflow.sum == 5.0f);
}

TEST_CASE("a NaN score stays visible through a merge", "[core][softmax]") {
  const State bad{std::nanf(""), std::nanf("")}, sum_only{1.0f, std::nanf("")}, good{1.0f, 2.0f};
  const State alone{-kInf, std::nanf("")};  // a row of NaN scores: it is not an empty row
  for (const State& b : {bad, sum_only, alone}) {
    for (const float sink : {-kInf, 1e38f}) REQUIRE(std::isnan(softmax::denominator(b, sink)));
    REQUIRE(std::isnan(softmax::lse(b, kInf)));
    REQUIRE(std::isnan(softmax::merge(b, State{}).sum));
    REQUIRE(std::isnan(softmax::merge(State{}, b).sum));
    REQUIRE(std::isnan(softmax::merge(good, b).sum));
    REQUIRE(std::isnan(softmax::merge(b, good).sum));
    REQUIRE(std::isnan(softmax::denominator(b, 0.0f)));
    REQUIRE(std::isnan(softmax::lse(b)));
  }
}

TEST_CASE("the sink enters the denominator once, at any size", "[core][softmax]") {
  test::Random random(3);
  for (int i = 0; i < 1000; ++i) {
    const State s{static_cast<float>(random.normal() * 10), static_cast<float>(1 + random.unit() * 100)};
    const auto sink = static_cast<float>(random.normal() * 10);
    const double term = std::exp(double(sink) - s.max), want = s.sum + term;
    CAPTURE(s.max, s.sum, sink);
    REQUIRE(test::within(softmax::denominator(s, sink), want,
                         weight_error(sink - s.max) * term + 1.01 * test::kUnit * want));
  }
  const State s{2.0f, 7.0f};
  REQUIRE(softmax::denominator(s, 2.0f) == 8.0f);
  REQUIRE(softmax::denominator(s, -kInf) == 7.0f);  // no sink
  REQUIRE(softmax::denominator(s, -1e38f) == 7.0f);
  REQUIRE(softmax::denominator(s, 1e38f) == kInf);  // the output is 0
  REQUIRE(softmax::denominator(s, kInf) == kInf);
  REQUIRE(softmax::denominator({1e38f, 7.0f}, 1e38f) == 8.0f);
  REQUIRE(softmax::denominator({-FLT_MAX, 7.0f}, FLT_MAX) == kInf);
  REQUIRE(softmax::denominator({FLT_MAX, 7.0f}, -FLT_MAX) == 7.0f);
  // Split into two parts, the sink still enters once, after the merge.
  REQUIRE(softmax::denominator(softmax::merge({2.0f, 3.0f}, {2.0f, 4.0f}), 2.0f) == 8.0f);
}

TEST_CASE("an empty row divides by inf whatever the sink", "[core][softmax]") {
  for (const float sink : {0.0f, -5.0f, 1e38f, -1e38f, kInf, -kInf}) {
    CAPTURE(sink);
    REQUIRE(softmax::denominator(State{}, sink) == kInf);
    REQUIRE(0.0f / softmax::denominator(State{}, sink) == 0.0f);
  }
}

TEST_CASE("a row whose scores are all -inf is empty", "[core][softmax]") {
  State s;
  for (int j = 0; j < 3; ++j) s.sum += softmax::weight(-kInf, s.max);
  REQUIRE(softmax::denominator(s, 0.0f) == kInf);
  REQUIRE(softmax::lse(s) == -kInf);
}

TEST_CASE("lse is the natural log, without the sink", "[core][softmax]") {
  test::Random random(4);
  for (int i = 0; i < 1000; ++i) {
    const State s{static_cast<float>(random.normal() * 10), static_cast<float>(1 + random.unit() * 1000)};
    const double want = s.max + std::log(double(s.sum));
    // log within 1 ulp (2 units), the sum rounds.
    const double bound = 2 * test::kUnit * std::log(double(s.sum)) + 1.01 * test::kUnit * std::abs(want);
    CAPTURE(s.max, s.sum);
    REQUIRE(test::within(softmax::lse(s), want, bound));
  }
  REQUIRE(softmax::lse({3.0f, 1.0f}) == 3.0f);
  REQUIRE(softmax::lse(State{}) == -kInf);
  REQUIRE(softmax::lse(State{}, kInf) == kInf);  // engines differ in what an empty row's LSE is
  REQUIRE(softmax::lse({3.0f, 1.0f}, kInf) == 3.0f);
}
