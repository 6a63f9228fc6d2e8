// Mirrors include/dsv4/core/coop.hpp.
#include <dsv4/core/coop.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/ulp.hpp"

#include <cmath>
#include <vector>

using namespace dsv4;

namespace {

// The documented order, written out: lane l takes the terms k % 32 == l in ascending order, then a butterfly.
template <class Fold>
float canonical_sum(int n, Fold fold) {
  std::vector<float> lane(32, 0.0f);
  for (int k = 0; k < n; ++k)
    lane[static_cast<std::size_t>(k % 32)] = fold(lane[static_cast<std::size_t>(k % 32)], k);
  for (std::size_t distance = 16; distance > 0; distance /= 2) {
    auto next = lane;
    for (std::size_t l = 0; l < 32; ++l) next[l] = lane[l] + lane[l ^ distance];
    lane = next;
  }
  return lane[0];
}

// Wide range and both signs, so that another order gives other bits.
std::vector<float> terms(int n, std::uint64_t seed) {
  auto x = test::normal(n, seed);
  test::Random random(seed + 99);
  for (float& v : x) v *= std::exp2f(static_cast<float>(random.integer(-12, 12)));
  return x;
}

struct NoSync {
  enum : bool { kSerial = true };
  int rank() const { return 0; }
  int size() const { return 1; }
};
static_assert(Coop<SerialCoop> && Coop<test::ThreadCoop<4>>);
static_assert(!Coop<int> && !Coop<NoSync>);
static_assert(SerialCoop::rank() == 0 && SerialCoop::size() == 1 && SerialCoop::kSerial);

}  // namespace

TEST_CASE("reduce_sum is the canonical sum, bit for bit", "[core][coop]") {
  const int n = GENERATE(0, 1, 2, 31, 32, 33, 63, 64, 65, 100, 127, 128, 512, 4099, 7168);
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const auto x = terms(n, seed), w = terms(n, seed + 50);
    const auto dot = [&](float acc, int k) {
      return std::fmaf(x[static_cast<std::size_t>(k)], w[static_cast<std::size_t>(k)], acc);
    };
    const auto add = [&](float acc, int k) { return acc + x[static_cast<std::size_t>(k)]; };
    CAPTURE(n, seed);
    REQUIRE(test::identical(SerialCoop::reduce_sum(n, dot), canonical_sum(n, dot)));
    REQUIRE(test::identical(SerialCoop::reduce_sum(n, add), canonical_sum(n, add)));
  }
}

TEST_CASE("reduce_sum of nothing is +0, and folds every term once", "[core][coop]") {
  REQUIRE(test::bits_of(SerialCoop::reduce_sum(0, [](float acc, int) { return acc + 1; })) == 0u);
  for (const int n : {1, 31, 32, 33, 95, 96, 97, 1000}) {
    std::vector<int> seen(static_cast<std::size_t>(n), 0);
    const float sum = SerialCoop::reduce_sum(n, [&](float acc, int k) {
      ++seen.at(static_cast<std::size_t>(k));
      return acc + 1.0f;
    });
    CAPTURE(n);
    REQUIRE(sum == static_cast<float>(n));
    REQUIRE(seen == std::vector<int>(static_cast<std::size_t>(n), 1));
  }
}

TEST_CASE("reduce_max compares unsigned integers", "[core][coop]") {
  REQUIRE(SerialCoop::reduce_max(0, [](int) { return 5u; }) == 0u);
  REQUIRE(SerialCoop::reduce_max(3, [](int) { return 0u; }) == 0u);
  const std::vector<std::uint32_t> v{3, 0x80000001u, 0x7fffffffu, 0x80000000u};
  REQUIRE(SerialCoop::reduce_max(4, [&](int k) { return v[static_cast<std::size_t>(k)]; }) == 0x80000001u);
  REQUIRE(SerialCoop::reduce_max(1, [&](int k) { return v[static_cast<std::size_t>(k)]; }) == 3u);
  for (int where = 0; where < 70; ++where)
    REQUIRE(SerialCoop::reduce_max(70, [=](int k) { return k == where ? 0xffffffffu : 7u; }) == 0xffffffffu);
}

TEST_CASE("reduce_count counts", "[core][coop]") {
  REQUIRE(SerialCoop::reduce_count(0, [](int) { return true; }) == 0);
  REQUIRE(SerialCoop::reduce_count(100, [](int k) { return k % 3 == 0; }) == 34);
  REQUIRE(SerialCoop::reduce_count(33, [](int) { return true; }) == 33);
  REQUIRE(SerialCoop::reduce_count(5, [](int k) { return k & 4; }) == 1);  // any true value counts once
}

TEST_CASE("the threads of a group receive what one thread computes", "[core][coop][group]") {
  const auto x = terms(1003, 4);
  const auto add = [&](float acc, int k) { return acc + x[static_cast<std::size_t>(k)]; };
  const auto bits = [&](int k) { return test::bits_of(x[static_cast<std::size_t>(k)]); };
  const auto positive = [&](int k) { return x[static_cast<std::size_t>(k)] > 0; };
  float sums[3];
  std::uint32_t maxima[3];
  int counts[3];
  test::run_group<3>([&](auto coop) {
    sums[coop.rank()] = coop.reduce_sum(1003, add);
    maxima[coop.rank()] = coop.reduce_max(1003, bits);
    counts[coop.rank()] = coop.reduce_count(1003, positive);
  });
  for (int r = 0; r < 3; ++r) {
    REQUIRE(test::identical(sums[r], SerialCoop::reduce_sum(1003, add)));
    REQUIRE(maxima[r] == SerialCoop::reduce_max(1003, bits));
    REQUIRE(counts[r] == SerialCoop::reduce_count(1003, positive));
  }
}
