// Mirrors include/dsv4/mtp/input.hpp.
#include <dsv4/mtp/input.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/rounded.hpp"
#include "tests/support/thread_coop.hpp"

#include <vector>

namespace dsv4 {
namespace {

using test::stored;
using test::value;

template <int kMult, class T>
void check(int hidden) {
  const auto e = stored<T>(test::normal(hidden, 1));
  const auto h = stored<T>(test::normal(std::int64_t{kMult} * hidden, 2));
  std::vector<T> out(h.size() + 1, stored<T>(-77.0));
  mtp::input<kMult>(SerialCoop{}, out.data(), e.data(), h.data(), hidden);
  test::Comparison<T> comparison;
  for (int s = 0; s < kMult; ++s)
    for (int d = 0; d < hidden; ++d) {
      const double want = value(e[d]) + value(h[s * hidden + d]);
      // One rounding to fp32, of which the error is known; most sums of bf16 numbers are exact.
      comparison.add(out[s * hidden + d], want, std::abs(static_cast<float>(want) - want));
    }
  CAPTURE(kMult, hidden, sizeof(T), comparison.near());
  REQUIRE(comparison.failure() == "");
  REQUIRE(value(out.back()) == -77);

  auto in_place = h;  // the documented aliasing
  mtp::input<kMult>(SerialCoop{}, in_place.data(), e.data(), in_place.data(), hidden);
  out.pop_back();
  REQUIRE(test::identical(in_place, out));
}

TEMPLATE_TEST_CASE("mtp::input adds the token's row to every stream", "[mtp]", float, bf16) {
  const int hidden = GENERATE(1, 3, 257, 4096, 7168);
  check<1, TestType>(hidden);
  check<4, TestType>(hidden);
}

TEST_CASE("mtp::input rounds to nearest even; NaN and inf show where they are", "[mtp]") {
  const auto e = stored<bf16>(std::vector<float>{1, 1, -1, 3});
  auto h = stored<bf16>(std::vector<float>{0x1p-8f, 0x3p-8f, 0x1p-9f, 5, 0, 0, 0, 0});
  h[7] = {0x7fc0};
  h[6] = {0xff80};
  std::vector<bf16> out(8);
  mtp::input<2>(SerialCoop{}, out.data(), e.data(), h.data(), 4);
  const std::vector<double> want = {1, 1 + 0x1p-6, -1, 8, 1, 1};
  for (int i = 0; i < 6; ++i) REQUIRE(value(out[i]) == want[i]);
  REQUIRE(out[6].bits == 0xff80);
  REQUIRE(std::isnan(value(out[7])));
}

TEST_CASE("mtp::input is the same for any number of threads", "[mtp]") {
  const int hidden = GENERATE(1, 4, 257);
  const auto e = test::normal(hidden, 3), h = test::normal(std::int64_t{4} * hidden, 4);
  std::vector<float> alone(h.size()), group = h;
  mtp::input<4>(SerialCoop{}, alone.data(), e.data(), h.data(), hidden);
  test::run_group<5>([&](auto coop) { mtp::input<4>(coop, group.data(), e.data(), group.data(), hidden); });
  REQUIRE(test::identical(alone, group));
}

}  // namespace
}  // namespace dsv4
