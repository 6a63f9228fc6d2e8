// Mirrors include/dsv4/mhc/project.hpp.
#include <dsv4/mhc/project.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/ulp.hpp"

#include <limits>
#include <vector>

namespace dsv4 {
namespace {

constexpr float kEps = 1e-6f;

std::vector<float> project(const std::vector<float>& f, std::int64_t stride, int tokens,
                           const std::vector<float>& fn, int rows, int n, float eps = kEps) {
  std::vector<float> mixes(static_cast<std::size_t>(tokens) * rows, -77);
  mhc::project(SerialCoop{}, mixes.data(), linear::RowsF32{f.data(), stride}, tokens, fn.data(), rows, n,
               eps);
  return mixes;
}

// Every mix against the equation, each within its rigorous bound, and all together within the expected one.
void check(int tokens, int rows, int n, double sigma, float eps) {
  const std::int64_t stride = n + 3;  // what lies between the rows may not matter
  auto f = test::normal(tokens * stride, 1, sigma);
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < 3; ++i) f[t * stride + n + i] = std::numeric_limits<float>::quiet_NaN();
  const auto fn = test::normal(std::int64_t{rows} * n, 2);
  const auto mixes = project(f, stride, tokens, fn, rows, n, eps);
  CAPTURE(tokens, rows, n, sigma, eps);

  // A sum of n products passes through at most n / 32 + 1 roundings in its lane and 5 in the tree. rho: the
  // same for the squares, halved by the root, and the roundings of the mean, eps, root, reciprocal; then the
  // product with rho.
  const double roundings = n / 32 + 6;  // NOLINT(bugprone-integer-division)
  double error_squares = 0, want_squares = 0;
  for (int t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int k = 0; k < n; ++k) squares += double{f[t * stride + k]} * f[t * stride + k];
    const double rho = 1 / std::sqrt(squares / n + double{eps});
    for (int m = 0; m < rows; ++m) {
      double sum = 0, scale = 0;
      for (int k = 0; k < n; ++k) {
        const double term = double{fn[std::int64_t{m} * n + k]} * f[t * stride + k];
        sum += term, scale += std::abs(term);
      }
      const double want = sum * rho, got = mixes[t * rows + m];
      CAPTURE(t, m);
      REQUIRE(test::within(got, want,
                           test::kUnit * (roundings * scale * rho + (roundings / 2 + 5) * std::abs(want))));
      error_squares += (got - want) * (got - want), want_squares += want * want;
    }
  }
  // In the mean square, independent roundings of partial sums that grow like a random walk come to
  // 0.41 * sqrt(n / 32) units (sum over the lane of step / 3, over 32 lanes, against n), + 4 for the rest.
  if (tokens * rows >= 24)
    REQUIRE(std::sqrt(error_squares / want_squares) <= test::kUnit * (0.6 * std::sqrt(n / 32.0) + 4));
}

TEST_CASE("mhc::project computes its equation", "[mhc][project]") {
  const int hidden = GENERATE(1, 3, 7, 8, 9, 257, 4096, 7168);
  check(hidden > 1000 ? 2 : 5, 24, 4 * hidden, 1.0, kEps);
  check(1, 4, 4 * hidden, 1.0, kEps);  // the head
}

TEST_CASE("mhc::project: any number of channels and rows", "[mhc][project]") {
  const int n = GENERATE(1, 2, 31, 32, 33, 63, 64, 65, 67);
  for (const int rows : {1, 3, 4, 5, 24}) check(4, rows, n, 1.0, kEps);
}

TEST_CASE("mhc::project adds norm_eps to the mean of the squares", "[mhc][project]") {
  // Streams of 1e-4 have a mean square of 1e-8: eps = 1e-6 divides the mixes by ten. At 1e-3 the two are
  // equal, which tells eps under the root from eps beside it. With a large eps every place shows.
  for (const double sigma : {1e-4, 1e-3, 1e-2}) check(3, 24, 4 * 257, sigma, kEps);
  check(3, 24, 4 * 257, 1.0, 0.5f);
  const auto zero = project(std::vector<float>(48, 0.0f), 16, 3, test::normal(4 * 16, 3), 4, 16);
  for (const float z : zero) REQUIRE(z == 0.0f);  // 0 * 1000, not 0 * inf
}

TEST_CASE("mhc::project: a token's mixes depend on that token alone", "[mhc][project]") {
  const int n = GENERATE(4, 4 * 257, 4 * 4096);
  const auto f = test::normal(std::int64_t{9} * n, 4), fn = test::normal(std::int64_t{24} * n, 5);
  std::vector<float> alone;
  for (int t = 0; t < 9; ++t) {
    const std::vector<float> row(f.begin() + std::int64_t{t} * n, f.begin() + std::int64_t{t + 1} * n);
    const auto z = project(row, n, 1, fn, 24, n);
    alone.insert(alone.end(), z.begin(), z.end());
  }
  for (int batch = 1; batch <= 9; ++batch)
    for (int first = 0; first + batch <= 9; ++first) {
      const std::vector<float> rows(f.begin() + std::int64_t{first} * n, f.end());
      const auto z = project(rows, n, batch, fn, 24, n);
      CAPTURE(n, batch, first);
      bool same = true;
      for (std::size_t i = 0; i < z.size(); ++i) same = same && test::identical(z[i], alone[first * 24 + i]);
      REQUIRE(same);
    }
}

TEST_CASE("mhc::project: a NaN token spoils its own mixes only; no token is legal", "[mhc][project]") {
  const int n = 132, bad = GENERATE(0, 1, 2, 3);
  const auto fn = test::normal(24 * n, 6);
  auto f = test::normal(4 * n, 7);
  const auto clean = project(f, n, 4, fn, 24, n);
  f[bad * n + 77] = std::numeric_limits<float>::quiet_NaN();
  const auto got = project(f, n, 4, fn, 24, n);
  for (int i = 0; i < 4 * 24; ++i) {
    CAPTURE(bad, i);
    REQUIRE(test::identical(got[i], i / 24 == bad ? f[bad * n + 77] : clean[i]));
  }
  float untouched = -77;
  mhc::project(SerialCoop{}, &untouched, linear::RowsF32{f.data(), n}, 0, fn.data(), 24, n, kEps);
  REQUIRE(untouched == -77);
}

TEST_CASE("mhc::project is the same for any number of threads", "[mhc][project]") {
  const int n = GENERATE(1, 33, 516);
  const auto f = test::normal(std::int64_t{7} * n, 8), fn = test::normal(std::int64_t{24} * n, 9);
  const auto alone = project(f, n, 7, fn, 24, n);
  std::vector<float> group(alone.size());
  test::run_group<5>([&](auto coop) {
    mhc::project(coop, group.data(), linear::RowsF32{f.data(), n}, 7, fn.data(), 24, n, kEps);
  });
  for (std::size_t i = 0; i < alone.size(); ++i) REQUIRE(test::identical(alone[i], group[i]));
}

}  // namespace
}  // namespace dsv4
