// Mirrors include/dsv4/mhc/sinkhorn.hpp.
#include <dsv4/mhc/sinkhorn.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_mhc.hpp"
#include "tests/support/random.hpp"

#include <limits>
#include <vector>

namespace dsv4 {
namespace {

namespace oracle = test::oracle;

std::vector<double> wide(const std::vector<float>& v) { return {v.begin(), v.end()}; }

template <int kMult>
std::vector<float> sinkhorn(std::vector<float> logits, int iterations, float eps) {
  mhc::sinkhorn<kMult>(logits.data(), iterations, eps);
  return logits;
}

// Logits whose normalisation converges slowly, the error after n steps going like 1/n: an (almost)
// triangular matrix has no doubly stochastic scaling but the limit in which the upper triangle vanishes.
// Rows and columns are permuted differently, so that neither symmetry nor order helps a wrong index.
std::vector<float> slow_logits(std::uint64_t seed) {
  const int row_of[4] = {2, 0, 3, 1}, column_of[4] = {1, 3, 0, 2};
  test::Random random(seed);
  std::vector<float> logits(16);
  for (int j = 0; j < 4; ++j)
    for (int k = 0; k < 4; ++k)
      logits[row_of[j] * 4 + column_of[k]] =
          static_cast<float>(k >= j ? 0.4 * random.normal() : -17 + random.normal());
  return logits;
}

template <int kMult>
void check_equation(std::uint64_t seed, double sigma, float eps) {
  for (const int iterations : {1, 2, 3, 5, 19, 20, 21}) {
    const auto logits = test::normal(kMult * kMult, seed, sigma);
    const auto got = sinkhorn<kMult>(logits, iterations, eps);
    const auto want = oracle::sinkhorn(wide(logits), kMult, iterations, double{eps});
    CAPTURE(kMult, seed, sigma, eps, iterations);
    REQUIRE(oracle::relative_distance(got, want) <=
            oracle::sinkhorn_bound(kMult, iterations, oracle::depth(logits, kMult)));
  }
}

TEST_CASE("mhc::sinkhorn computes its equation", "[mhc][sinkhorn]") {
  for (const std::uint64_t seed : {1u, 2u, 3u})
    for (const double sigma : {0.5, 2.0, 6.0})
      for (const float eps : {1e-6f, 1e-2f}) {
        check_equation<1>(seed, sigma, eps);
        check_equation<2>(seed, sigma, eps);
        check_equation<4>(seed, sigma, eps);
        check_equation<8>(seed, sigma, eps);
      }
}

TEST_CASE("mhc::sinkhorn takes as many column steps as asked, the last step on columns", "[mhc][sinkhorn]") {
  for (const std::uint64_t seed : {11u, 12u, 13u}) {
    const auto logits = slow_logits(seed);
    const auto want = [&](int steps) { return oracle::sinkhorn(wide(logits), 4, steps, 1e-6); };
    const double bound = oracle::sinkhorn_bound(4, 20, oracle::depth(logits, 4));
    // One step more or less shows, and so does one half-step: the last one moved the entries that far.
    REQUIRE(oracle::relative_distance(want(19), want(20)) > 10 * bound);
    REQUIRE(oracle::relative_distance(want(21), want(20)) > 10 * bound);
    const auto got = sinkhorn<4>(logits, 20, 1e-6f);
    CAPTURE(seed, bound);
    REQUIRE(oracle::relative_distance(got, want(20)) <= bound);

    // Columns sum to S / (S + eps) with S = 1 to first order. Seven roundings of the column step and of the
    // sum here: 1e-6 is far above them. Rows were normalised half a step earlier and are off by now.
    double farthest_row = 0;
    for (int k = 0; k < 4; ++k) {
      double column = 0, row = 0;
      for (int j = 0; j < 4; ++j) column += got[j * 4 + k], row += got[k * 4 + j];
      REQUIRE(std::abs(column - (1 - 1e-6)) <= 7 * test::kUnit);
      farthest_row = std::max(farthest_row, std::abs(row - 1));
    }
    REQUIRE(farthest_row > 1e-3);
  }
}

TEST_CASE("mhc::sinkhorn adds eps in the softmax and in both denominators", "[mhc][sinkhorn]") {
  // With an eps this large each of the three shows alone: without it the exact result is far outside the
  // bound. (The one of the rows cancels where all row sums are equal, so the slow matrix it is.)
  const auto [iterations, eps] =
      GENERATE(table<int, float>({{2, 1e-2f}, {3, 1e-2f}, {5, 1e-2f}, {20, 0.125f}}));
  const auto logits = slow_logits(21);
  const double e = eps, bound = oracle::sinkhorn_bound(4, iterations, oracle::depth(logits, 4));
  const auto want = oracle::sinkhorn(wide(logits), 4, iterations, e);
  CAPTURE(iterations, eps, bound);
  for (const oracle::SinkhornEps dropped : {oracle::SinkhornEps{0, e, e}, {e, 0, e}, {e, e, 0}})
    REQUIRE(oracle::relative_distance(oracle::sinkhorn(wide(logits), 4, iterations, dropped), want) >
            10 * bound);
  REQUIRE(oracle::relative_distance(sinkhorn<4>(logits, iterations, eps), want) <= bound);
}

TEST_CASE("mhc::sinkhorn keeps the model's eps visible in what the softmax nearly drops", "[mhc][sinkhorn]") {
  // exp(-30) is 1e-13: with eps = 1e-6 the entry is all eps.
  const std::vector<float> logits = {0,   -30,  0.5f, -0.5f, 1,    0.25f, -30,  0,  //
                                     -30, 0.1f, 0.2f, 0.3f,  0.7f, 0,     0.4f, -30};
  const auto want = oracle::sinkhorn(wide(logits), 4, 20, 1e-6);
  const double bound = oracle::sinkhorn_bound(4, 20, oracle::depth(logits, 4));
  REQUIRE(oracle::relative_distance(oracle::sinkhorn(wide(logits), 4, 20, {0, 1e-6, 1e-6}), want) > 0.9);
  REQUIRE(oracle::relative_distance(sinkhorn<4>(logits, 20, 1e-6f), want) <= bound);
}

TEST_CASE("mhc::sinkhorn: the roundings of 20 steps stay those of random signs", "[mhc][sinkhorn]") {
  // The rigorous bound is for conspiring roundings. Independent ones add in squares: an entry sees 39
  // divisions and 39 sums of four roundings, each u / sqrt(3) in the mean square at most, and the softmax's
  // ten or so: sqrt((39 * 5 + 10) / 3) = 8.3 units over many matrices.
  double squares = 0;
  std::int64_t count = 0;
  for (std::uint64_t seed = 100; seed < 600; ++seed) {
    const auto logits = test::normal(16, seed);
    const auto got = sinkhorn<4>(logits, 20, 1e-6f);
    const auto want = oracle::sinkhorn(wide(logits), 4, 20, double{1e-6f});
    for (int i = 0; i < 16; ++i, ++count) squares += std::pow((got[i] - want[i]) / want[i], 2);
  }
  REQUIRE(std::sqrt(squares / static_cast<double>(count)) <= 8.3 * test::kUnit);
}

TEST_CASE("mhc::sinkhorn does not overflow, and NaN stays visible", "[mhc][sinkhorn]") {
  const std::vector<float> huge = {1e4f,  0,     -1e4f, 5,     1e4f, 1e4f, 1e4f, 1e4f,  //
                                   -1e4f, -1e4f, -9990, -1e4f, 88,   89,   90,   -3e38f};
  const auto got = sinkhorn<4>(huge, 20, 1e-6f);
  const auto want = oracle::sinkhorn(wide(huge), 4, 20, double{1e-6f});
  // Entries that stand beside 1e4 are exact zeros before eps in both; no others carry the depth's rounding.
  REQUIRE(oracle::relative_distance(got, want) <= oracle::sinkhorn_bound(4, 20, 15));

  for (int bad = 0; bad < 16; ++bad) {
    auto logits = test::normal(16, 31);
    logits[bad] = std::numeric_limits<float>::quiet_NaN();
    for (const float x : sinkhorn<4>(logits, 20, 1e-6f)) REQUIRE(std::isnan(x));
  }
}

}  // namespace
}  // namespace dsv4
