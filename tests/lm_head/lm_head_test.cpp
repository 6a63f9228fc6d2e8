// Mirrors include/dsv4/lm_head/lm_head.hpp.
#include <dsv4/lm_head/lm_head.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/rounded.hpp"
#include "tests/support/thread_coop.hpp"

#include <limits>
#include <vector>

namespace dsv4 {
namespace {

using test::stored;
using test::value;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kUntouched = -77;

linear::WeightView view(const std::vector<float>& w, std::int64_t hidden) {
  return {linear::WeightType::kF32, w.data(), nullptr, static_cast<std::int64_t>(w.size()) / hidden, hidden};
}
linear::WeightView view(const std::vector<bf16>& w, std::int64_t hidden) {
  return {linear::WeightType::kBf16, w.data(), nullptr, static_cast<std::int64_t>(w.size()) / hidden, hidden};
}

// Logits [begin, end) of tokens that lie `x_stride` apart, written `stride` apart.
template <class T>
std::vector<float> logits(const std::vector<float>& x, std::int64_t x_stride, int tokens,
                          const std::vector<T>& head, int hidden, std::int64_t stride, std::int64_t begin,
                          std::int64_t end) {
  std::vector<float> out(static_cast<std::size_t>(tokens * stride), kUntouched);
  std::vector<float> scratch(std::size_t{linear::kDecodeRows} * hidden + 1, kUntouched);
  lm_head::logits(SerialCoop{}, out.data(), stride, linear::RowsF32{x.data(), x_stride}, tokens,
                  view(head, hidden), begin, end, scratch.data());
  REQUIRE(scratch.back() == kUntouched);
  return out;
}

template <class T>
void check(int hidden, int vocab, int tokens) {
  const std::int64_t x_stride = hidden + 2, stride = vocab + 3;
  auto x = test::normal(tokens * x_stride, 1);
  for (int t = 0; t < tokens; ++t) x[t * x_stride + hidden] = x[t * x_stride + hidden + 1] = kNan;
  const auto head = stored<T>(test::normal(std::int64_t{vocab} * hidden, 2));
  const auto got = logits(x, x_stride, tokens, head, hidden, stride, 0, vocab);
  CAPTURE(hidden, vocab, tokens, sizeof(T));
  double error_squares = 0, want_squares = 0;
  for (int t = 0; t < tokens; ++t) {
    for (int v = 0; v < vocab; ++v) {
      double want = 0, scale = 0;
      for (int d = 0; d < hidden; ++d) {
        const double term = double{x[t * x_stride + d]} * value(head[std::int64_t{v} * hidden + d]);
        want += term, scale += std::abs(term);
      }
      CAPTURE(t, v);
      // A product passes through at most hidden / 32 + 1 roundings in its lane and 5 in the tree.
      REQUIRE(test::within(got[t * stride + v], want, (hidden / 32 + 6) * test::kUnit * scale));
      error_squares += std::pow(got[t * stride + v] - want, 2), want_squares += want * want;
    }
    for (int v = vocab; v < stride; ++v) REQUIRE(got[t * stride + v] == kUntouched);
  }
  // In the mean square the roundings of partial sums that grow like a random walk come to 0.41 *
  // sqrt(hidden / 32) units; a result rounded to bf16 would be off by 2^-10 or so.
  if (tokens * vocab >= 24)
    REQUIRE(std::sqrt(error_squares / want_squares) <= test::kUnit * (0.6 * std::sqrt(hidden / 32.0) + 4));
}

TEMPLATE_TEST_CASE("lm_head::logits computes its equation in fp32", "[lm_head]", float, bf16) {
  const int hidden = GENERATE(1, 3, 31, 32, 33, 257, 4096, 7168);
  check<TestType>(hidden, 24, 1);
  check<TestType>(hidden, 13, 4);
  check<TestType>(hidden, 1, 2);
}

TEMPLATE_TEST_CASE("lm_head::logits: a slice of the vocabulary is that slice of the whole", "[lm_head]",
                   float, bf16) {
  const int hidden = 67, vocab = 29, tokens = 5;
  const auto x = test::normal(tokens * hidden, 3);
  const auto head = stored<TestType>(test::normal(vocab * hidden, 4));
  const auto whole = logits(x, hidden, tokens, head, hidden, vocab, 0, vocab);
  for (int begin = 0; begin <= vocab; ++begin)
    for (int end = begin; end <= vocab; ++end) {
      const auto part = logits(x, hidden, tokens, head, hidden, vocab, begin, end);
      bool same = true;
      for (int i = 0; i < tokens * vocab; ++i)
        same = same && part[i] == (i % vocab >= begin && i % vocab < end ? whole[i] : kUntouched);
      CAPTURE(begin, end);
      REQUIRE(same);
    }
}

TEST_CASE("lm_head::logits of a token depend on that token alone", "[lm_head]") {
  const int hidden = GENERATE(3, 257, 4096), vocab = 11;
  const auto x = test::normal(std::int64_t{9} * hidden, 5);
  const auto head = stored<bf16>(test::normal(std::int64_t{vocab} * hidden, 6));
  std::vector<float> alone;
  for (int t = 0; t < 9; ++t) {
    const std::vector<float> row(x.begin() + std::int64_t{t} * hidden,
                                 x.begin() + std::int64_t{t + 1} * hidden);
    const auto one = logits(row, hidden, 1, head, hidden, vocab, 0, vocab);
    alone.insert(alone.end(), one.begin(), one.end());
  }
  for (int batch = 1; batch <= 9; ++batch) {
    const auto got = logits(x, hidden, batch, head, hidden, vocab, 0, vocab);
    CAPTURE(hidden, batch);
    REQUIRE(std::equal(got.begin(), got.end(), alone.begin()));
  }
  REQUIRE(logits(x, hidden, 0, head, hidden, vocab, 0, vocab).empty());
}

TEST_CASE("lm_head::logits is the same for any number of threads", "[lm_head]") {
  const int hidden = GENERATE(1, 33, 257), vocab = 13;
  const auto x = test::normal(std::int64_t{4} * hidden, 7);
  const auto head = stored<bf16>(test::normal(std::int64_t{vocab} * hidden, 8));
  std::vector<float> group(4 * vocab), scratch(std::size_t{linear::kDecodeRows} * hidden);
  test::run_group<5>([&](auto coop) {
    lm_head::logits(coop, group.data(), vocab, linear::RowsF32{x.data(), hidden}, 4, view(head, hidden), 0,
                    vocab, scratch.data());
  });
  REQUIRE(group == logits(x, hidden, 4, head, hidden, vocab, 0, vocab));
}

std::int32_t greedy(const std::vector<float>& logits) {
  return lm_head::greedy(logits.data(), static_cast<int>(logits.size()));
}

TEST_CASE("lm_head::greedy takes the largest logit, the lowest id among equals", "[lm_head]") {
  REQUIRE(greedy({5}) == 0);
  REQUIRE(greedy({1, 3, 2}) == 1);
  REQUIRE(greedy({-1, -3, -2}) == 0);
  REQUIRE(greedy({-3, -2, -1}) == 2);
  REQUIRE(greedy({1, 3, 2, 3, 3}) == 1);
  REQUIRE(greedy({7, 7, 7}) == 0);
  REQUIRE(greedy({-1, -0.0f, 0.0f, -0.0f}) == 1);  // -0 and +0 are equal
  REQUIRE(greedy({-1, 0.0f, -0.0f}) == 1);
  REQUIRE(greedy({-1e-45f, -0.0f, -1}) == 1);
  REQUIRE(greedy({1, std::nextafter(1.0f, 2.0f), 1}) == 1);
  REQUIRE(greedy({1, kInf, 3e38f, kInf}) == 1);
  REQUIRE(greedy({-kInf, -kInf}) == 0);
  REQUIRE(greedy({-kInf, -3.4e38f}) == 1);
}

TEST_CASE("lm_head::greedy never takes NaN", "[lm_head]") {
  REQUIRE(greedy({kNan, 1, kNan, 2, kNan}) == 3);
  REQUIRE(greedy({-kNan, -5, kNan}) == 1);
  REQUIRE(greedy({kNan, -kInf}) == 1);
  REQUIRE(greedy({kNan}) == -1);
  REQUIRE(greedy({kNan, -kNan, kNan}) == -1);
  REQUIRE(greedy({}) == -1);
}

TEST_CASE("lm_head::greedy over a real vocabulary", "[lm_head]") {
  auto logits = test::normal(129280, 9);
  for (const int where : {129279, 70000, 1, 0}) {  // each equal to the ones behind it
    logits[where] = 9;
    REQUIRE(greedy(logits) == where);
  }
}

}  // namespace
}  // namespace dsv4
