// Mirrors include/dsv4/core/hadamard.hpp.
#include <dsv4/core/hadamard.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/typed.hpp"
#include "tests/support/ulp.hpp"

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

using namespace dsv4;

namespace {

double sign(int i, int j) { return std::popcount(static_cast<unsigned>(i & j)) % 2 == 0 ? 1 : -1; }

template <int kN>
void compare_with_the_sum(std::uint64_t seed) {
  const auto x = test::normal_bf16(kN, seed);
  auto plain = x;
  auto rounded = test::row_of<bf16>(x);
  std::vector<float> scratch(kN + 1, 77.0f);
  hadamard<kN>(SerialCoop{}, plain.data(), scratch.data());
  hadamard<kN>(SerialCoop{}, rounded.data(), scratch.data());
  REQUIRE(scratch.back() == 77.0f);
  const double norm = 1 / std::sqrt(double{kN});
  double magnitude = 0;
  for (const float v : x) magnitude += std::abs(v) * norm;
  for (int i = 0; i < kN; ++i) {
    double want = 0;
    for (int j = 0; j < kN; ++j) want += sign(i, j) * x[static_cast<std::size_t>(j)] * norm;
    // log2(n) additions on the way of each term, the rounded norm (two operations) and the product with it.
    const double bound = (std::log2(kN) + 3) * test::kUnit * magnitude;
    CAPTURE(kN, i);
    REQUIRE(test::within(plain[static_cast<std::size_t>(i)], want, bound));
    // The same, and ONE rounding to bf16.
    const double got = test::value(rounded[static_cast<std::size_t>(i)]);
    REQUIRE(test::within(got, want, bound + test::kUnitBf16 * (std::abs(want) + bound)));
  }
}

}  // namespace

TEST_CASE("hadamard is the signed sum", "[core][hadamard]") {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    compare_with_the_sum<2>(seed);
    compare_with_the_sum<4>(seed);
    compare_with_the_sum<32>(seed);
    compare_with_the_sum<128>(seed);  // the indexer's
    compare_with_the_sum<256>(seed);
  }
}

TEST_CASE("hadamard of integers is exact where the norm is a power of two", "[core][hadamard]") {
  const auto in = test::integers(64, 3, -100, 100);
  std::vector<float> x(in.begin(), in.end()), scratch(64);
  hadamard<64>(SerialCoop{}, x.data(), scratch.data());
  for (int i = 0; i < 64; ++i) {
    double want = 0;
    for (int j = 0; j < 64; ++j) want += sign(i, j) * in[static_cast<std::size_t>(j)];
    CAPTURE(i);
    REQUIRE(x[static_cast<std::size_t>(i)] == want / 8);
  }
}

TEST_CASE("hadamard of a unit vector shows the sign of every entry", "[core][hadamard]") {
  const float norm = 1.0f / std::sqrt(128.0f);
  for (int j = 0; j < 128; ++j) {
    std::vector<float> x(128, 0.0f), scratch(128);
    x[static_cast<std::size_t>(j)] = 1.0f;
    hadamard<128>(SerialCoop{}, x.data(), scratch.data());
    for (int i = 0; i < 128; ++i) {
      CAPTURE(i, j);
      REQUIRE(x[static_cast<std::size_t>(i)] == static_cast<float>(sign(i, j)) * norm);
    }
  }
}

TEST_CASE("hadamard keeps NaN and inf visible in every channel", "[core][hadamard]") {
  const std::size_t j = GENERATE(0u, 37u, 127u);
  auto x = test::normal(128, 5), y = x;
  std::vector<float> scratch(128);
  x[j] = std::nanf("");
  y[j] = std::numeric_limits<float>::infinity();
  hadamard<128>(SerialCoop{}, x.data(), scratch.data());
  hadamard<128>(SerialCoop{}, y.data(), scratch.data());
  for (int i = 0; i < 128; ++i) {
    CAPTURE(i, j);
    REQUIRE(std::isnan(x[static_cast<std::size_t>(i)]));
    REQUIRE(y[static_cast<std::size_t>(i)] ==
            sign(i, static_cast<int>(j)) * std::numeric_limits<double>::infinity());
  }
}

TEST_CASE("a group of threads transforms as one thread does", "[core][hadamard][group]") {
  const auto in = test::normal_bf16(128, 6);
  auto one = test::row_of<bf16>(in);
  std::vector<float> scratch(128);
  hadamard<128>(SerialCoop{}, one.data(), scratch.data());
  for (int repeat = 0; repeat < 5; ++repeat) {
    auto many = test::row_of<bf16>(in);
    std::vector<float> shared(128);
    test::run_group<3>([&](auto coop) { hadamard<128>(coop, many.data(), shared.data()); });
    for (std::size_t i = 0; i < one.size(); ++i) {
      CAPTURE(i, repeat);
      REQUIRE(one[i].bits == many[i].bits);
    }
  }
}
