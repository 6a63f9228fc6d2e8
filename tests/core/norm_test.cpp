// Mirrors include/dsv4/core/norm.hpp.
#include <dsv4/core/norm.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/typed.hpp"
#include "tests/support/ulp.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace dsv4;

namespace {

constexpr float kEps = 1e-6f;

double oracle_rho(const std::vector<float>& x, double eps) {
  double squares = 0;
  for (const float v : x) squares += double(v) * v;
  return 1 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
}

// Relative error of inverse_rms. A term passes ceil(n/32) fma and 5 additions of the tree, all of one sign;
// the division by n and the addition of eps round once each; the root halves all that and rounds, the
// reciprocal rounds.
double rho_bound(int n) { return ((std::ceil(n / 32.0) + 5 + 2) / 2 + 2) * test::kUnit; }

}  // namespace

TEST_CASE("inverse_rms is 1 / sqrt(mean of squares + eps)", "[core][norm]") {
  const int n = GENERATE(1, 31, 32, 33, 127, 512, 1024, 1536, 4096, 4099, 7168);
  for (const double sigma : {1e-5, 1e-3, 1.0, 300.0})  // below sqrt(eps), about it, far above it
    for (const float eps : {0.0f, kEps, 0.5f}) {
      const auto x = test::normal_bf16(n, 3, sigma);
      const double want = oracle_rho(x, eps);
      CAPTURE(n, sigma, eps);
      REQUIRE(test::within(inverse_rms(SerialCoop{}, x.data(), n, eps), want, rho_bound(n) * want));
      const auto y = test::row_of<bf16>(x);
      REQUIRE(test::within(inverse_rms(SerialCoop{}, y.data(), n, eps), want, rho_bound(n) * want));
    }
}

TEST_CASE("inverse_rms sums in the canonical order", "[core][norm]") {
  const int n = GENERATE(5, 33, 100, 512, 4099);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {  // 1/sqrt halves a difference: one seed may hide it
    const auto x = test::normal(n, seed);
    float lane[32] = {};
    for (int k = 0; k < n; ++k)
      lane[k % 32] = std::fmaf(x[static_cast<std::size_t>(k)], x[static_cast<std::size_t>(k)], lane[k % 32]);
    for (int distance = 16; distance > 0; distance /= 2)
      for (int l = 0; l < distance; ++l) lane[l] = lane[l] + lane[l + distance];
    const float mean = lane[0] / static_cast<float>(n);
    CAPTURE(n, seed);
    REQUIRE(inverse_rms(SerialCoop{}, x.data(), n, kEps) == 1.0f / std::sqrt(mean + kEps));
  }
}

TEMPLATE_TEST_CASE("rms_norm scales each channel by weight and inverse_rms", "[core][norm]", float, bf16) {
  const int n = GENERATE(1, 31, 32, 33, 128, 509, 512, 1024, 7168);
  const auto x = test::normal_bf16(n, 5, 3.0), weight = test::normal(n, 6);
  const auto in = test::row_of<TestType>(x);
  for (const bool weighted : {true, false}) {
    std::vector<TestType> out(x.size() + 1, in[0]), in_place = in;
    const float* w = weighted ? weight.data() : nullptr;
    rms_norm(SerialCoop{}, out.data(), in.data(), w, n, kEps);
    rms_norm(SerialCoop{}, in_place.data(), in_place.data(), w, n, kEps);
    const double rho = oracle_rho(x, kEps);
    // Two products in fp32, then one rounding to T (none more for float).
    const double relative = rho_bound(n) + 2 * test::kUnit;
    const double bound = relative + (std::is_same_v<TestType, float> ? 0 : test::kUnitBf16 * (1 + relative));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double want = (weighted ? double(weight[i]) : 1.0) * x[i] * rho;
      CAPTURE(n, weighted, i);
      REQUIRE(test::within(test::value(out[i]), want, bound * std::abs(want)));
      REQUIRE(test::identical(test::value(out[i]), test::value(in_place[i])));
    }
    REQUIRE(test::identical(test::value(out.back()), test::value(in[0])));
  }
}

TEST_CASE("rms_norm multiplies by the weight last, in fp32", "[core][norm]") {
  const auto x = test::normal(64, 7), weight = test::normal(64, 8);
  std::vector<float> out(64);
  rms_norm(SerialCoop{}, out.data(), x.data(), weight.data(), 64, kEps);
  const float rho = inverse_rms(SerialCoop{}, x.data(), 64, kEps);
  for (std::size_t i = 0; i < 64; ++i) {
    const float normed = x[i] * rho;
    CAPTURE(i);
    REQUIRE(test::identical(out[i], weight[i] * normed));
  }
}

TEST_CASE("rms_norm of zeros is zero, with and without eps deciding", "[core][norm]") {
  std::vector<float> x(40, 0.0f), out(40, 1.0f);
  REQUIRE(inverse_rms(SerialCoop{}, x.data(), 40, kEps) == 1.0f / std::sqrt(kEps));
  rms_norm(SerialCoop{}, out.data(), x.data(), nullptr, 40, kEps);
  for (const float v : out) REQUIRE(v == 0.0f);
}

TEST_CASE("rms_norm lets a NaN reach every channel and an inf kill the rest", "[core][norm]") {
  const std::size_t where = GENERATE(0u, 31u, 32u, 99u);
  auto x = test::normal(100, 9), y = x;
  std::vector<float> out(100);
  x[where] = std::nanf("");
  rms_norm(SerialCoop{}, out.data(), x.data(), nullptr, 100, kEps);
  for (const float v : out) REQUIRE(std::isnan(v));
  y[where] = -std::numeric_limits<float>::infinity();
  rms_norm(SerialCoop{}, out.data(), y.data(), nullptr, 100, kEps);
  for (std::size_t i = 0; i < 100; ++i) {
    CAPTURE(where, i);
    if (i == where)
      REQUIRE(std::isnan(out[i]));  // inf * 0
    else
      REQUIRE(out[i] == 0.0f);
  }
}

TEST_CASE("a group of threads normalises as one thread does", "[core][norm][group]") {
  const auto x = test::row_of<bf16>(test::normal_bf16(1003, 10));
  const auto weight = test::normal(1003, 11);
  auto one = x, many = x;
  rms_norm(SerialCoop{}, one.data(), one.data(), weight.data(), 1003, kEps);
  test::run_group<3>([&](auto coop) { rms_norm(coop, many.data(), many.data(), weight.data(), 1003, kEps); });
  for (std::size_t i = 0; i < one.size(); ++i) {
    CAPTURE(i);
    REQUIRE(one[i].bits == many[i].bits);
  }
}
