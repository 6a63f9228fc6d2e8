// Mirrors include/dsv4/mhc/split.hpp.
#include <dsv4/mhc/split.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_mhc.hpp"
#include "tests/support/random.hpp"

#include <limits>
#include <vector>

namespace dsv4 {
namespace {

namespace oracle = test::oracle;

template <int kMult>
struct Coefficients {
  std::vector<float> pre = std::vector<float>(kMult), post = pre;
  std::vector<float> comb = std::vector<float>(kMult * kMult);
};

template <int kMult>
Coefficients<kMult> split(const std::vector<float>& mixes, const std::vector<float>& scale,
                          const std::vector<float>& base, int iterations, float eps) {
  Coefficients<kMult> c;
  mhc::split<kMult>(c.pre.data(), c.post.data(), c.comb.data(), mixes.data(), scale.data(), base.data(),
                    iterations, eps);
  return c;
}

// Every output against the equation, written with the indices of the spec.
template <int kMult>
void check(const std::vector<float>& z, const std::vector<float>& scale, const std::vector<float>& base,
           int iterations, float eps) {
  const auto got = split<kMult>(z, scale, base, iterations, eps);
  const auto argument = [&](int i, int which) { return double{z[i]} * scale[which] + base[i]; };
  CAPTURE(kMult, iterations, eps);
  for (int i = 0; i < kMult; ++i) {
    const double pre_argument = argument(i, 0), post_argument = argument(kMult + i, 1);
    const double pre = oracle::sigmoid(pre_argument) + eps, post = 2 * oracle::sigmoid(post_argument);
    CAPTURE(i, pre_argument, post_argument);
    // One more rounding: the addition of eps. The doubling is exact.
    REQUIRE(test::within(got.pre[i], pre, oracle::sigmoid_bound(pre_argument) + test::kUnit * pre));
    REQUIRE(test::within(got.post[i], post, 2 * oracle::sigmoid_bound(post_argument)));
  }
  std::vector<double> comb(kMult * kMult);
  double largest = 0;
  for (int j = 0; j < kMult; ++j)
    for (int k = 0; k < kMult; ++k) {
      comb[j * kMult + k] = argument(2 * kMult + kMult * j + k, 2);
      largest = std::max(largest, std::abs(comb[j * kMult + k]));
    }
  const double depth = oracle::depth(comb, kMult);
  comb = oracle::sinkhorn(comb, kMult, iterations, double{eps});
  // A logit and its row's maximum, each rounded once: 2 * largest units.
  const double bound = oracle::sinkhorn_bound(kMult, iterations, depth, 2 * largest);
  for (int i = 0; i < kMult * kMult; ++i) {
    CAPTURE(i);
    REQUIRE(test::within(got.comb[i], comb[i], bound * comb[i]));
  }
}

TEST_CASE("mhc::split computes its equations", "[mhc][split]") {
  // Three scales of different sign and size and 24 different mixes and bases: a swapped scale, a wrong
  // offset or a transposed comb gives other numbers everywhere.
  const std::vector<float> scale = {0.7f, -1.3f, 0.45f};
  for (const std::uint64_t seed : {1u, 2u, 3u, 4u})
    for (const float eps : {1e-6f, 1e-2f})
      for (const int iterations : {1, 2, 20}) {
        check<1>(test::normal(3, seed), scale, test::normal(3, seed + 10), iterations, eps);
        check<2>(test::normal(8, seed), scale, test::normal(8, seed + 10), iterations, eps);
        check<4>(test::normal(24, seed), scale, test::normal(24, seed + 10), iterations, eps);
        check<4>(test::normal(24, seed, 8.0), scale, test::normal(24, seed + 10), iterations, eps);
      }
}

TEST_CASE("mhc::split passes the number of Sinkhorn steps on", "[mhc][split]") {
  // Slow convergence: an almost triangular matrix, where one step more or less moves entries by 1e-3.
  std::vector<float> base = test::normal(24, 5, 0.3);
  for (int j = 0; j < 4; ++j)
    for (int k = 0; k < j; ++k) base[8 + 4 * j + k] -= 15;
  for (const int iterations : {19, 20, 21})
    check<4>(test::normal(24, 6, 0.3), {1, 1, 1}, base, iterations, 1e-6f);
}

TEST_CASE("mhc::split: at the ends of the sigmoid pre is eps, post is 0 and 2", "[mhc][split]") {
  const float far = GENERATE(18.0f, 30.0f, 80.0f, 100.0f, 1e4f, 3e38f);
  std::vector<float> base(24, -far);
  const auto low = split<4>(std::vector<float>(24, 0.0f), {1, 1, 1}, base, 20, 1e-6f);
  const auto high = split<4>(std::vector<float>(24, 0.0f), {1, 1, 1}, std::vector<float>(24, far), 20, 1e-6f);
  const double sigmoid = std::exp(-double{far});  // its tail, to 1e-8 relative
  CAPTURE(far);
  for (int i = 0; i < 4; ++i) {
    REQUIRE(test::within(low.pre[i], sigmoid + 1e-6, 8 * test::kUnit * (sigmoid + 1e-6)));
    REQUIRE(test::within(low.post[i], 2 * sigmoid, 8 * test::kUnit * 2 * sigmoid + 0x1p-126));  // no eps
    REQUIRE(test::within(high.pre[i], 1 + 1e-6, sigmoid + 2 * test::kUnit));
    REQUIRE(test::within(high.post[i], 2, 2 * sigmoid + 2 * test::kUnit));
  }
  // Equal logits, whatever their size: 1/4 each, then every step divides by 1 + 1e-6 or so.
  for (const float x : low.comb) REQUIRE(std::abs(x - 0.25) <= 1e-6);
  for (const float x : high.comb) REQUIRE(std::abs(x - 0.25) <= 1e-6);
}

TEST_CASE("mhc::split: a NaN mix shows in its coefficient and in no other", "[mhc][split]") {
  const std::vector<float> scale = {1, 1, 1}, base = test::normal(24, 7);
  const auto clean = test::normal(24, 8);
  const auto good = split<4>(clean, scale, base, 20, 1e-6f);
  for (int bad = 0; bad < 24; ++bad) {
    auto mixes = clean;
    mixes[bad] = std::numeric_limits<float>::quiet_NaN();
    const auto got = split<4>(mixes, scale, base, 20, 1e-6f);
    CAPTURE(bad);
    for (int i = 0; i < 4; ++i) {
      REQUIRE(test::identical(got.pre[i], bad == i ? mixes[bad] : good.pre[i]));
      REQUIRE(test::identical(got.post[i], bad == 4 + i ? mixes[bad] : good.post[i]));
    }
    for (int i = 0; i < 16; ++i) REQUIRE(test::identical(got.comb[i], bad >= 8 ? mixes[bad] : good.comb[i]));
  }
}

}  // namespace
}  // namespace dsv4
