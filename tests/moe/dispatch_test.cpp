// Mirrors include/dsv4/moe/dispatch.hpp.
#include <dsv4/moe/dispatch.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

#include <algorithm>
#include <vector>

namespace dsv4 {
namespace {

using Ints = std::vector<std::int32_t>;
constexpr std::int32_t kUntouched = -77;

struct Plan {
  Ints counts, offsets, pair_of, row_of;
  bool operator==(const Plan&) const = default;
};

template <class Run>
Plan make_plan(std::size_t pairs, int experts, Run run) {
  const std::size_t n = static_cast<std::size_t>(experts);
  Plan p{Ints(n + 1, kUntouched), Ints(n + 2, kUntouched), Ints(pairs + 1, kUntouched),
         Ints(pairs + 1, kUntouched)};
  run(p);
  return p;
}

Plan dispatch(const Ints& idx, int first_expert, int experts) {
  return make_plan(idx.size(), experts, [&](Plan& p) {
    moe::dispatch(SerialCoop{}, p.counts.data(), p.offsets.data(), p.pair_of.data(), p.row_of.data(),
                  idx.data(), static_cast<int>(idx.size()), first_expert, experts);
  });
}

// The plan from the library's stable sort; what must not be written keeps its mark.
Plan expected(const Ints& idx, int first_expert, int experts) {
  return make_plan(idx.size(), experts, [&](Plan& p) {
    const std::int64_t last = std::int64_t{first_expert} + experts;
    Ints pairs;
    for (std::size_t i = 0; i < idx.size(); ++i)
      if (idx[i] >= first_expert && idx[i] < last) pairs.push_back(static_cast<std::int32_t>(i));
    std::stable_sort(pairs.begin(), pairs.end(),
                     [&](std::int32_t a, std::int32_t b) { return idx[a] < idx[b]; });
    std::fill(p.row_of.begin(), p.row_of.end() - 1, -1);
    for (std::size_t row = 0; row < pairs.size(); ++row) {
      p.pair_of[row] = pairs[row];
      p.row_of[pairs[row]] = static_cast<std::int32_t>(row);
    }
    for (int e = 0; e < experts; ++e) {
      p.counts[e] = static_cast<std::int32_t>(std::count(idx.begin(), idx.end(), first_expert + e));
      p.offsets[e] = static_cast<std::int32_t>(std::count_if(
          pairs.begin(), pairs.end(), [&](std::int32_t pair) { return idx[pair] < first_expert + e; }));
    }
    p.offsets[experts] = static_cast<std::int32_t>(pairs.size());
  });
}

// Plan against the sort, piece by piece, so that a failure says which.
void check(const Ints& idx, int first_expert, int experts) {
  const Plan got = dispatch(idx, first_expert, experts), want = expected(idx, first_expert, experts);
  CAPTURE(idx.size(), first_expert, experts);
  REQUIRE(got.counts == want.counts);
  REQUIRE(got.offsets == want.offsets);
  REQUIRE(got.pair_of == want.pair_of);
  REQUIRE(got.row_of == want.row_of);

  // And what users of a plan rely on, said directly.
  const std::int32_t rows = got.offsets[experts];
  for (std::int32_t row = 0; row < rows; ++row) REQUIRE(got.row_of[got.pair_of[row]] == row);
  for (std::size_t pair = 0; pair < idx.size(); ++pair) {
    const std::int32_t row = got.row_of[pair];
    if (row < 0) continue;
    const int e = idx[pair] - first_expert;
    REQUIRE((got.offsets[e] <= row && row < got.offsets[e + 1]));
    REQUIRE(got.pair_of[row] == static_cast<std::int32_t>(pair));
  }
  for (int e = 0; e < experts; ++e) {
    REQUIRE(got.counts[e] == got.offsets[e + 1] - got.offsets[e]);
    for (std::int32_t row = got.offsets[e] + 1; row < got.offsets[e + 1]; ++row)
      REQUIRE(got.pair_of[row - 1] < got.pair_of[row]);  // stable: tokens stay in order
  }
}

TEST_CASE("moe::dispatch sorts pairs by expert, stably", "[moe][dispatch]") {
  const int experts = GENERATE(1, 8, 31, 256, 384);
  for (const int tokens : {1, 2, 7, 65, 400})
    check(test::integers(tokens * 6, 1, 0, experts - 1), 0, experts);
}

TEST_CASE("moe::dispatch: pairs that are in order, in reverse, or all on one expert", "[moe][dispatch]") {
  const int experts = 8;
  Ints ascending, descending;
  for (int i = 0; i < 48; ++i) ascending.push_back(i % experts), descending.push_back(experts - 1 - i / 6);
  check(ascending, 0, experts);
  check(descending, 0, experts);
  for (const int e : {0, 3, 7}) check(Ints(100, e), 0, experts);
  check({5}, 0, experts);
  check({5, 5, 5, 2, 2, 5}, 0, experts);  // a token that names an expert twice; most experts empty
}

TEST_CASE("moe::dispatch leaves out dropped slots", "[moe][dispatch]") {
  check(test::integers(300, 2, -1, 7), 0, 8);
  check(Ints(12, -1), 0, 8);
  check({-1, 3, -1, -1, 0, 3}, 0, 8);
  check({-1, 0, -1}, 0, 1);
}

TEST_CASE("moe::dispatch keeps the experts of a range and counts from its first", "[moe][dispatch]") {
  const auto idx = test::integers(600, 3, -1, 383);
  check(idx, 0, 96);
  check(idx, 96, 96);
  check(idx, 288, 96);
  check(idx, 383, 1);
  check(idx, 100, 7);
  check(idx, 384, 8);  // none of them
  check(Ints(5, 2147483647), 2147483640, 5);
  check({2147483647, -1}, 0, 8);
}

TEST_CASE("moe::dispatch of no pair is an empty plan", "[moe][dispatch]") {
  for (const int experts : {1, 8, 384}) {
    check({}, 0, experts);
    const Plan p = dispatch({}, 0, experts);
    REQUIRE(std::count(p.counts.begin(), p.counts.end(), 0) == experts);
    REQUIRE(std::count(p.offsets.begin(), p.offsets.end(), 0) == experts + 1);
  }
}

TEST_CASE("moe::dispatch forgets what its outputs held before", "[moe][dispatch]") {
  const auto idx = test::integers(60, 4, -1, 7);
  Plan p = dispatch(test::integers(60, 5, 0, 7), 0, 8);
  moe::dispatch(SerialCoop{}, p.counts.data(), p.offsets.data(), p.pair_of.data(), p.row_of.data(),
                idx.data(), 60, 0, 8);
  const Plan want = expected(idx, 0, 8);
  const std::size_t rows = want.offsets[8];
  REQUIRE(p.counts == want.counts);
  REQUIRE(p.offsets == want.offsets);
  REQUIRE(p.row_of == want.row_of);
  REQUIRE(std::equal(p.pair_of.begin(), p.pair_of.begin() + rows, want.pair_of.begin()));
}

TEST_CASE("moe::dispatch is the same for any number of threads", "[moe][dispatch]") {
  const int pairs = GENERATE(0, 1, 60, 600);
  const auto idx = test::integers(pairs, 6, -1, 39);
  const Plan group = make_plan(idx.size(), 16, [&](Plan& p) {
    test::run_group<5>([&](auto coop) {
      moe::dispatch(coop, p.counts.data(), p.offsets.data(), p.pair_of.data(), p.row_of.data(), idx.data(),
                    pairs, 8, 16);
    });
  });
  REQUIRE(group == dispatch(idx, 8, 16));
}

}  // namespace
}  // namespace dsv4
