// Mirrors include/dsv4/mhc/pre.hpp.
#include <dsv4/mhc/pre.hpp>

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

template <int kMult, class T>
void check(int hidden) {
  const auto streams = stored<T>(test::normal(std::int64_t{kMult} * hidden, 1));
  const auto pre = test::uniform(kMult, 2);
  std::vector<T> x(static_cast<std::size_t>(hidden) + 1, stored<T>(-77.0));
  mhc::pre<kMult>(SerialCoop{}, x.data(), streams.data(), pre.data(), hidden);
  test::Comparison<T> comparison;
  for (int d = 0; d < hidden; ++d) {
    double want = 0, scale = 0;
    for (int i = 0; i < kMult; ++i) {
      const double term = double{pre[i]} * value(streams[i * hidden + d]);
      want += term, scale += std::abs(term);
    }
    comparison.add(x[d], want, kMult * test::kUnit * scale);  // kMult roundings of partial sums
  }
  CAPTURE(kMult, hidden, sizeof(T), comparison.near());
  REQUIRE(comparison.failure() == "");
  REQUIRE(value(x[hidden]) == -77);
}

TEMPLATE_TEST_CASE("mhc::pre computes its equation", "[mhc][pre]", float, bf16) {
  const int hidden = GENERATE(1, 3, 257, 4096, 7168);
  check<1, TestType>(hidden);
  check<2, TestType>(hidden);
  check<4, TestType>(hidden);
}

TEST_CASE("mhc::pre keeps the sum in fp32 and rounds it once", "[mhc][pre]") {
  // 1 + 2^-8 + 2^-8 is 1 + 2^-7; rounded to bf16 after every term it would stay 1 (ties to even).
  const std::vector<bf16> streams = stored<bf16>(std::vector<float>{1, 0x1p-8f, 0x1p-8f, 0});
  const std::vector<float> pre = {1, 1, 1, 1};
  bf16 x;
  mhc::pre<4>(SerialCoop{}, &x, streams.data(), pre.data(), 1);
  REQUIRE(value(x) == 1 + 0x1p-7);
}

TEST_CASE("mhc::pre: a NaN shows in its channel and in no other", "[mhc][pre]") {
  const int hidden = 37;
  const auto pre = test::uniform(4, 3);
  auto streams = stored<bf16>(test::normal(4 * hidden, 4));
  std::vector<bf16> clean(hidden), got(hidden);
  mhc::pre<4>(SerialCoop{}, clean.data(), streams.data(), pre.data(), hidden);
  const int stream = GENERATE(0, 1, 2, 3);
  streams[stream * hidden + 11] = {0x7fc0};
  mhc::pre<4>(SerialCoop{}, got.data(), streams.data(), pre.data(), hidden);
  for (int d = 0; d < hidden; ++d) {
    CAPTURE(stream, d);
    REQUIRE(test::identical(got[d], d == 11 ? bf16{0x7fc0} : clean[d]));
  }
}

TEST_CASE("mhc::pre is the same for any number of threads", "[mhc][pre]") {
  const int hidden = GENERATE(1, 4, 257);
  const auto streams = test::normal(std::int64_t{4} * hidden, 5), pre = test::uniform(4, 6);
  std::vector<float> alone(hidden), group(hidden);
  mhc::pre<4>(SerialCoop{}, alone.data(), streams.data(), pre.data(), hidden);
  test::run_group<5>([&](auto coop) { mhc::pre<4>(coop, group.data(), streams.data(), pre.data(), hidden); });
  REQUIRE(test::identical(alone, group));
}

}  // namespace
}  // namespace dsv4
