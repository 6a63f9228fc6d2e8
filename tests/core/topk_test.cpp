// Mirrors include/dsv4/core/topk.hpp. The oracle is a stable sort of the numbers; everything is exact.
#include <dsv4/core/topk.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

using namespace dsv4;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");
constexpr std::int32_t kGuard = 0x5eed;

std::vector<std::int32_t> oracle_select(const std::vector<float>& scores, int k) {
  std::vector<std::int32_t> order;
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (!std::isnan(scores[i])) order.push_back(static_cast<std::int32_t>(i));
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];  // -0 == +0
  });
  order.resize(static_cast<std::size_t>(std::max(k, 0)), -1);
  return order;
}

std::vector<std::int32_t> select(const std::vector<float>& scores, int k) {
  const auto size = static_cast<std::size_t>(std::max(k, 0));
  std::vector<std::int32_t> idx(size + 1, kGuard), scratch(size + 1, kGuard);
  topk::select(SerialCoop{}, idx.data(), scores.data(), static_cast<int>(scores.size()), k, scratch.data());
  REQUIRE(idx.back() == kGuard);  // nothing beyond k is written
  REQUIRE(scratch.back() == kGuard);
  idx.pop_back();
  return idx;
}

void check(const std::vector<float>& scores, int k) {
  const auto got = select(scores, k), want = oracle_select(scores, k);
  CAPTURE(scores.size(), k);
  REQUIRE(got == want);
}

// Few distinct values, NaN of both signs, infinities and both zeros among them.
std::vector<float> tied(int n, std::uint64_t seed) {
  test::Random random(seed);
  const float specials[] = {kNan,  -kNan,   kInf,     -kInf,        0.0f,
                            -0.0f, FLT_MAX, -FLT_MAX, FLT_TRUE_MIN, -FLT_TRUE_MIN};
  std::vector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) {
    const std::int64_t r = random.integer(0, 19);
    x = r < 10 ? specials[r] : static_cast<float>(r - 15);
  }
  return v;
}

}  // namespace

TEST_CASE("topk key orders as the scores do", "[core][topk]") {
  std::vector<float> ascending{-kInf, -FLT_MAX};
  for (std::uint32_t code = 0xff7e; code > 0x8000; --code) ascending.push_back(test::float_of(code << 16));
  ascending.push_back(0.0f);
  for (std::uint32_t code = 1; code < 0x7f7f; ++code) ascending.push_back(test::float_of(code << 16));
  ascending.push_back(FLT_MAX);
  ascending.push_back(kInf);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i + 1 < ascending.size(); ++i)
    wrong += topk::key(ascending[i]) >= topk::key(ascending[i + 1]);
  REQUIRE(wrong == 0);
  REQUIRE(topk::key(-kInf) > 0);
  REQUIRE(topk::key(-0.0f) == topk::key(0.0f));
  REQUIRE(topk::key(FLT_TRUE_MIN) > topk::key(0.0f));
  REQUIRE(topk::key(-FLT_TRUE_MIN) < topk::key(0.0f));
  for (const std::uint32_t nan : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    CAPTURE(nan);
    REQUIRE(topk::key(test::float_of(nan)) == 0);
  }
}

TEST_CASE("topk select agrees with a stable sort, ties and all", "[core][topk]") {
  const int n = GENERATE(0, 1, 2, 3, 31, 32, 33, 127, 128, 1000);
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    for (const int k : {0, 1, 2, 5, 6, 17, 128, n - 1, n, n + 1, n + 100}) {
      check(test::normal(n, seed), k);
      check(tied(n, seed), k);
    }
  }
}

TEST_CASE("topk select at the real sizes", "[core][topk]") {
  for (const int k : {512, 1024, 4096}) {
    check(test::normal(5003, 5), k);
    check(tied(5003, 6), k);
  }
  auto million = test::integers(1 << 18, 7, -1000, 1000);  // about 131 equal scores each
  check({million.begin(), million.end()}, 4096);
}

TEST_CASE("topk select of equal scores takes the lowest indices in order", "[core][topk]") {
  const std::vector<float> scores(100, -2.5f);
  REQUIRE(select(scores, 5) == std::vector<std::int32_t>{0, 1, 2, 3, 4});
  // +0 and -0 tie; the best comes first, not the lowest index.
  REQUIRE(select({-0.0f, 0.0f, -1.0f, -0.0f, 1.0f}, 4) == std::vector<std::int32_t>{4, 0, 1, 3});
}

TEST_CASE("topk select never chooses a NaN and pads with -1", "[core][topk]") {
  REQUIRE(select({kNan, kNan, -kNan}, 2) == std::vector<std::int32_t>{-1, -1});
  REQUIRE(select({kNan, -kInf, kInf, kNan}, 3) == std::vector<std::int32_t>{2, 1, -1});
  REQUIRE(select({}, 3) == std::vector<std::int32_t>{-1, -1, -1});
  REQUIRE(select({-kInf, -kInf}, 4) == std::vector<std::int32_t>{0, 1, -1, -1});
  REQUIRE(select({1.0f, 2.0f}, 0).empty());
  REQUIRE(select({1.0f, 2.0f}, -1).empty());
}

TEST_CASE("a group of threads selects as one thread does", "[core][topk][group]") {
  for (const int k : {1, 6, 100, 512, 1200}) {
    const auto scores = tied(1000, 8);
    std::vector<std::int32_t> idx(static_cast<std::size_t>(k)), scratch(idx.size());
    test::run_group<3>(
        [&](auto coop) { topk::select(coop, idx.data(), scores.data(), 1000, k, scratch.data()); });
    CAPTURE(k);
    REQUIRE(idx == oracle_select(scores, k));
  }
}
