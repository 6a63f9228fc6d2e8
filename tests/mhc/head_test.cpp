// Mirrors include/dsv4/mhc/head.hpp.
#include <dsv4/mhc/head.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_mhc.hpp"
#include "tests/support/random.hpp"

#include <limits>
#include <vector>

namespace dsv4 {
namespace {

namespace oracle = test::oracle;

template <int kMult>
void check(std::uint64_t seed, double sigma, float scale, float eps) {
  const auto mixes = test::normal(kMult, seed, sigma), base = test::normal(kMult, seed + 1);
  std::vector<float> pre(kMult + 1, -7);
  mhc::head<kMult>(pre.data(), mixes.data(), &scale, base.data(), eps);
  CAPTURE(kMult, seed, sigma, scale, eps);
  for (int i = 0; i < kMult; ++i) {
    const double argument = double{mixes[i]} * scale + base[i];
    const double want = oracle::sigmoid(argument) + eps;
    CAPTURE(i, argument);
    REQUIRE(test::within(pre[i], want, oracle::sigmoid_bound(argument) + test::kUnit * want));
  }
  REQUIRE(pre[kMult] == -7);
}

TEST_CASE("mhc::head computes its equation", "[mhc][head]") {
  for (const std::uint64_t seed : {1u, 2u, 3u})
    for (const double sigma : {1.0, 8.0})
      for (const float scale : {0.8f, -1.7f})
        for (const float eps : {1e-6f, 1e-2f}) {
          check<1>(seed, sigma, scale, eps);
          check<3>(seed, sigma, scale, eps);
          check<4>(seed, sigma, scale, eps);
        }
}

TEST_CASE("mhc::head: eps at one end, 1 and no factor 2 at the other, NaN stays", "[mhc][head]") {
  const float scale = 1;
  const std::vector<float> mixes = {-100, 100, std::numeric_limits<float>::quiet_NaN(), 0};
  const std::vector<float> base = {0, 0, 0, 0};
  float pre[4];
  mhc::head<4>(pre, mixes.data(), &scale, base.data(), 1e-6f);
  REQUIRE(pre[0] == 1e-6f);  // sigmoid(-100) is 4e-44: below half an ulp of 1e-6
  REQUIRE(test::within(pre[1], 1 + 1e-6, 2 * test::kUnit));
  REQUIRE(std::isnan(pre[2]));
  REQUIRE(test::within(pre[3], 0.5 + 1e-6, 2 * test::kUnit));
}

}  // namespace
}  // namespace dsv4
