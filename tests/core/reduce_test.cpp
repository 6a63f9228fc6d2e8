// Mirrors include/dsv4/core/reduce.hpp.
#include <dsv4/core/reduce.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace dsv4;

namespace {

// Parenthesised sums, spelled recursively: the butterfly adds lane l and lane l + width/2 first.
float nested(const std::vector<float>& lane, std::size_t first, std::size_t step) {
  if (step == 32) return lane[first];
  return nested(lane, first, step * 2) + nested(lane, first + step, step * 2);
}

}  // namespace

TEST_CASE("tree_sum adds 32 lanes in the butterfly's order", "[core][reduce]") {
  static_assert(kReduceLanes == 32);
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    auto lane = test::normal(32, seed, seed % 2 == 0 ? 1.0 : 1e6);
    for (std::size_t i = 0; i < lane.size(); i += 3)
      lane[i] *= 1e-4f;  // magnitudes that make the order visible
    const float want = nested(lane, 0, 1);
    CAPTURE(seed);
    REQUIRE(test::identical(tree_sum(lane.data()), want));
  }
}

TEST_CASE("tree_sum counts every lane once", "[core][reduce]") {
  for (std::size_t l = 0; l < 32; ++l) {
    float lane[32] = {};
    lane[l] = 3.0f;
    REQUIRE(tree_sum(lane) == 3.0f);
    for (float& x : lane) x = 1.0f;
    lane[l] = std::numeric_limits<float>::infinity();
    REQUIRE(std::isinf(tree_sum(lane)));
    for (float& x : lane) x = 1.0f;
    lane[l] = std::nanf("");
    REQUIRE(std::isnan(tree_sum(lane)));
  }
  float powers[32];
  for (int l = 0; l < 32; ++l) powers[l] = std::ldexp(1.0f, l % 24);
  REQUIRE(tree_sum(powers) == std::ldexp(1.0, 24) - 1 + 255);  // exact: 2^24 + 254
}

TEST_CASE("tree_sum of negative zeros is negative zero", "[core][reduce]") {
  std::vector<float> lane(32, -0.0f);
  REQUIRE(test::bits_of(tree_sum(lane.data())) == 0x80000000u);
}
