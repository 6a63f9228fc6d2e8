// Mirrors include/dsv4/moe/combine.hpp.
#include <dsv4/moe/combine.hpp>

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
using Ints = std::vector<std::int32_t>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <class T>
std::vector<T> combine(const std::vector<T>& y, const Ints& row_of, const std::vector<T>& shared) {
  const int hidden = static_cast<int>(shared.size());
  std::vector<T> out(shared.size() + 1, stored<T>(-77.0));
  moe::combine(SerialCoop{}, out.data(), y.data(), row_of.data(), static_cast<int>(row_of.size()),
               shared.data(), hidden);
  REQUIRE(value(out.back()) == -77);
  out.pop_back();
  return out;
}

template <class T>
void check(int hidden, int rows, const Ints& row_of) {
  const auto y = stored<T>(test::normal(std::int64_t{rows} * hidden, 1));
  const auto shared = stored<T>(test::normal(hidden, 2));
  const auto out = combine(y, row_of, shared);
  test::Comparison<T> comparison;
  for (int d = 0; d < hidden; ++d) {
    // Sums of bf16 numbers are often exact in fp32; from the first one that is not, every sum rounds.
    double want = 0, bound = 0;
    const auto add = [&](double term) {
      want += term;
      if (bound > 0 || static_cast<float>(want) != want) bound += test::kUnit * std::abs(want);
    };
    for (const std::int32_t row : row_of)
      if (row >= 0) add(value(y[std::int64_t{row} * hidden + d]));
    add(value(shared[d]));
    comparison.add(out[d], want, bound * (1 + 0x1p-20));  // the fp32 partial sums are a little off want
  }
  CAPTURE(hidden, rows, row_of, sizeof(T), comparison.near());
  REQUIRE(comparison.failure() == "");
}

TEMPLATE_TEST_CASE("moe::combine adds a token's rows and the shared output", "[moe][combine]", float, bf16) {
  const int hidden = GENERATE(1, 3, 257, 4096, 7168);
  check<TestType>(hidden, 13, {4, 0, 12, 7, 3, 9});
  check<TestType>(hidden, 13, {4, -1, 12, -1, 3, 9});  // slots of other ranks, or dropped
  check<TestType>(hidden, 13, {-1, -1, -1, -1, -1, -1});
  check<TestType>(hidden, 3, {2});
  check<TestType>(hidden, 1, {0});
  check<TestType>(hidden, 5, {3, 3, 1, 3});  // the same row as often as it is named
  check<TestType>(hidden, 1, {});
  check<TestType>(hidden, 40, {31, 2, 17, 39, 0, 8, 5, 21, 30, 11, 24, 3, 38, 6, 14, 27});
}

TEST_CASE("moe::combine adds in slot order, the shared output last", "[moe][combine]") {
  const float big = 0x1p25f;  // big + 1 rounds to big
  const std::vector<float> y = {big, 1, -big, 3};
  REQUIRE(combine(y, {0, 1, 2}, {0.5f}) == std::vector<float>{0.5f});
  REQUIRE(combine(y, {0, 2, 1}, {0.5f}) == std::vector<float>{1.5f});
  REQUIRE(combine(y, {1, 0, 2}, {0.5f}) == std::vector<float>{0.5f});
  REQUIRE(combine(y, {2, 3, 0}, {0.5f}) == std::vector<float>{4.5f});  // -big + 3 ties to -big + 4
  REQUIRE(combine(y, {1, 3}, {big}) == std::vector<float>{big + 4});  // shared first would give big + 4 + ...
  REQUIRE(combine(y, {1, 1}, {0x1p24f}) == std::vector<float>{0x1p24f + 2});  // ... and here 2^24
}

TEST_CASE("moe::combine keeps the sum in fp32 and rounds it once", "[moe][combine]") {
  // 1 and six times 2^-9: 1 + 6/512. Rounded to bf16 after every term it would stay 1; with the routed sum
  // rounded before the shared output, 1 + 2^-8 + 2^-8 loses its last term the same way.
  const float small = 0x1p-9f;
  const auto y = stored<bf16>(std::vector<float>{1, small, small, small, small, small, 0x1p-8f});
  const auto zero = stored<bf16>(std::vector<float>{0}), tiny = stored<bf16>(std::vector<float>{0x1p-8f});
  REQUIRE(value(combine(y, {0, 1, 2, 3, 4, 5}, zero)[0]) == 1 + 0x1p-7);  // 1 + 2.5 * 2^-8: nearest 1 + 2^-7
  REQUIRE(value(combine(y, {0, 6}, tiny)[0]) == 1 + 0x1p-7);
}

TEST_CASE("moe::combine never reads a row for -1", "[moe][combine]") {
  // NaN in the row before the first, where -1 would point, and in every row that is not named.
  const int hidden = 5;
  std::vector<float> y(6 * hidden, kNan), shared = test::normal(hidden, 3), out(hidden);
  const auto good = test::normal(hidden, 4);
  for (int d = 0; d < hidden; ++d) y[3 * hidden + d] = good[d];  // row 2 of what follows the first
  const Ints row_of = {-1, 2, -1};
  moe::combine(SerialCoop{}, out.data(), y.data() + hidden, row_of.data(), 3, shared.data(), hidden);
  for (int d = 0; d < hidden; ++d) REQUIRE(out[d] == good[d] + shared[d]);
  const Ints none = {-1, -1, -1};
  moe::combine(SerialCoop{}, out.data(), y.data() + hidden, none.data(), 3, shared.data(), hidden);
  REQUIRE(test::identical(out, shared));
}

TEST_CASE("moe::combine: a NaN shows in its channel and in no other", "[moe][combine]") {
  const int hidden = 37, bad = GENERATE(0, 1, 2, 3);  // 3: in shared
  auto y = test::normal(3 * hidden, 5), shared = test::normal(hidden, 6);
  const auto clean = combine(y, {2, 0, 1}, shared);
  (bad < 3 ? y[bad * hidden + 11] : shared[11]) = kNan;
  const auto got = combine(y, {2, 0, 1}, shared);
  for (int d = 0; d < hidden; ++d) REQUIRE(test::identical(got[d], d == 11 ? kNan : clean[d]));
}

TEST_CASE("moe::combine is the same for any number of threads", "[moe][combine]") {
  const int hidden = GENERATE(1, 4, 257);
  const auto y = test::normal(std::int64_t{6} * hidden, 7), shared = test::normal(hidden, 8);
  const Ints row_of = {5, -1, 0, 3, 1, 2};
  std::vector<float> group(hidden);
  test::run_group<5>([&](auto coop) {
    moe::combine(coop, group.data(), y.data(), row_of.data(), 6, shared.data(), hidden);
  });
  REQUIRE(test::identical(group, combine(y, row_of, shared)));
}

}  // namespace
}  // namespace dsv4
