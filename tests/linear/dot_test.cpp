// Mirrors include/dsv4/linear/dot.hpp. Bit for bit against the canonical sum, within a derived bound of fp64.
#include <dsv4/linear/dot.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/ulp.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace dsv4;
using linear::RowsF32;

namespace {

constexpr int kMaxRows = 7, kMaxCols = 9;

// Wide range and both signs, so that another order gives other bits.
std::vector<float> rows(int count, int n, std::uint64_t seed) {
  auto x = test::normal(std::int64_t{count} * n, seed);
  test::Random random(seed + 99);
  for (float& v : x) v *= std::exp2f(static_cast<float>(random.integer(-10, 10)));
  return x;
}

// The canonical sum, written out: lane k % 32 takes term k, then a butterfly.
float canonical_dot(const float* x, const float* w, int n) {
  float lane[32] = {};
  for (int k = 0; k < n; ++k) lane[k % 32] = std::fmaf(x[k], w[k], lane[k % 32]);
  for (int distance = 16; distance > 0; distance /= 2) {
    float next[32];
    for (int l = 0; l < 32; ++l) next[l] = lane[l] + lane[l ^ distance];
    for (int l = 0; l < 32; ++l) lane[l] = next[l];
  }
  return lane[0];
}

// Every pair of dot_tile, with a count of how often each was stored.
struct Tile {
  std::vector<float> value = std::vector<float>(kMaxRows * kMaxCols, std::nanf(""));
  std::vector<int> stored = std::vector<int>(kMaxRows * kMaxCols, 0);

  auto store() {
    return [this](int r, int c, float v) {
      value.at(index(r, c)) = v;
      ++stored.at(index(r, c));
    };
  }
  static std::size_t index(int r, int c) { return static_cast<std::size_t>(r * kMaxCols + c); }
};

}  // namespace

TEST_CASE("dot_tile is the canonical dot of every pair, at every shape", "[linear][dot]") {
  const int n = GENERATE(0, 1, 8, 31, 32, 33, 64, 100, 127, 512, 4099);
  const auto x = rows(kMaxRows, n, 1), w = rows(kMaxCols, n, 2);
  float want[kMaxRows][kMaxCols];
  for (int r = 0; r < kMaxRows; ++r)
    for (int c = 0; c < kMaxCols; ++c) {
      const float *xr = x.data() + r * n, *wc = w.data() + c * n;
      want[r][c] = canonical_dot(xr, wc, n);
      double exact = 0, magnitude = 0;
      for (int k = 0; k < n; ++k) {
        exact += double(xr[k]) * wc[k];
        magnitude += std::abs(double(xr[k]) * wc[k]);
      }
      // A term passes ceil(n/32) fma and five additions.
      CAPTURE(n, r, c);
      REQUIRE(test::within(want[r][c], exact, (std::ceil(n / 32.0) + 5) * test::kUnit * magnitude));
      REQUIRE(test::identical(linear::dot(SerialCoop{}, xr, wc, n), want[r][c]));
      REQUIRE(test::identical(
          SerialCoop::reduce_sum(n, [=](float acc, int k) { return math::fma(xr[k], wc[k], acc); }),
          want[r][c]));
    }
  for (int x_count = 0; x_count <= kMaxRows; ++x_count)
    for (int w_count = 0; w_count <= kMaxCols; ++w_count) {
      Tile tile;
      linear::dot_tile(SerialCoop{}, RowsF32{x.data(), n}, x_count, RowsF32{w.data(), n}, w_count, n,
                       tile.store());
      for (int r = 0; r < kMaxRows; ++r)
        for (int c = 0; c < kMaxCols; ++c) {
          const bool inside = r < x_count && c < w_count;
          CAPTURE(n, x_count, w_count, r, c);
          REQUIRE(tile.stored[Tile::index(r, c)] == (inside ? 1 : 0));
          if (inside) REQUIRE(test::identical(tile.value[Tile::index(r, c)], want[r][c]));
        }
    }
}

TEST_CASE("dot_tile does not depend on the neighbours in its tile", "[linear][dot]") {
  const int n = GENERATE(33, 127, 1024);
  const auto x = rows(1, n, 3), w = rows(1, n, 4);
  const float alone = linear::dot(SerialCoop{}, x.data(), w.data(), n);
  for (std::uint64_t seed = 10; seed < 14; ++seed) {
    const auto others_x = rows(kMaxRows, n, seed), others_w = rows(kMaxCols, n, seed + 100);
    for (int at_r = 0; at_r < kMaxRows; ++at_r)
      for (int at_c = 0; at_c < kMaxCols; ++at_c) {
        const auto x_of = [&](int r) { return r == at_r ? x.data() : others_x.data() + r * n; };
        const auto w_of = [&](int c) { return c == at_c ? w.data() : others_w.data() + c * n; };
        Tile tile;
        linear::dot_tile(SerialCoop{}, x_of, kMaxRows, w_of, kMaxCols, n, tile.store());
        CAPTURE(n, seed, at_r, at_c);
        REQUIRE(test::identical(tile.value[Tile::index(at_r, at_c)], alone));
      }
  }
}

TEST_CASE("dot_tile keeps a NaN and an inf in their own row and column", "[linear][dot]") {
  const int n = GENERATE(5, 32, 77);
  for (const int k : {0, n / 2, n - 1}) {
    auto x = rows(kMaxRows, n, 5), w = rows(kMaxCols, n, 6);
    x[static_cast<std::size_t>(2 * n + k)] = std::nanf("");
    w[static_cast<std::size_t>(7 * n + k)] = std::numeric_limits<float>::infinity();
    Tile tile;
    linear::dot_tile(SerialCoop{}, RowsF32{x.data(), n}, kMaxRows, RowsF32{w.data(), n}, kMaxCols, n,
                     tile.store());
    for (int r = 0; r < kMaxRows; ++r)
      for (int c = 0; c < kMaxCols; ++c) {
        const float got = tile.value[Tile::index(r, c)];
        CAPTURE(n, k, r, c, got);
        REQUIRE(std::isnan(got) == (r == 2));
        REQUIRE(std::isinf(got) == (r != 2 && c == 7));
      }
  }
}

TEST_CASE("dot_tile keeps the sign of a zero sum", "[linear][dot]") {
  // Every product underflows to -0, so each of the 32 lanes ends as -0; a padded tail must not turn one to
  // +0.
  const int n = GENERATE(32, 33, 64, 95);
  const std::vector<float> x(static_cast<std::size_t>(4 * n), 1e-30f),
      w(static_cast<std::size_t>(5 * n), -1e-30f);
  const float want = canonical_dot(x.data(), w.data(), n);
  REQUIRE(test::bits_of(want) == 0x80000000u);
  Tile tile;
  linear::dot_tile(SerialCoop{}, RowsF32{x.data(), n}, 4, RowsF32{w.data(), n}, 5, n, tile.store());
  for (int r = 0; r < 4; ++r)
    for (int c = 0; c < 5; ++c) {
      CAPTURE(n, r, c);
      REQUIRE(test::bits_of(tile.value[Tile::index(r, c)]) == 0x80000000u);
    }
}

TEST_CASE("dot_tile reads rows at their stride, unaligned, and nothing between them", "[linear][dot]") {
  constexpr int n = 45, stride = 53;
  const auto x = rows(4, n, 7), w = rows(5, n, 8);
  std::vector<float> wide_x(4 * stride + 1, std::nanf("")), wide_w(5 * stride + 1, std::nanf(""));
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t k = 0; k < n; ++k) wide_x[1 + r * stride + k] = x[r * n + k];
  for (std::size_t c = 0; c < 5; ++c)
    for (std::size_t k = 0; k < n; ++k) wide_w[1 + c * stride + k] = w[c * n + k];
  Tile tile;
  linear::dot_tile(SerialCoop{}, RowsF32{wide_x.data() + 1, stride}, 4, RowsF32{wide_w.data() + 1, stride}, 5,
                   n, tile.store());
  for (int r = 0; r < 4; ++r)
    for (int c = 0; c < 5; ++c) {
      CAPTURE(r, c);
      REQUIRE(test::identical(tile.value[Tile::index(r, c)],
                              canonical_dot(x.data() + r * n, w.data() + c * n, n)));
    }
}

TEST_CASE("a group of threads multiplies as one thread does", "[linear][dot][group]") {
  const int n = GENERATE(31, 32, 100, 515);
  const auto x = rows(kMaxRows, n, 9), w = rows(kMaxCols, n, 10);
  std::vector<float> got(3 * kMaxRows * kMaxCols);
  std::vector<float> single(3);
  test::run_group<3>([&](auto coop) {
    const auto mine = static_cast<std::size_t>(coop.rank()) * kMaxRows * kMaxCols;
    linear::dot_tile(coop, RowsF32{x.data(), n}, kMaxRows, RowsF32{w.data(), n}, kMaxCols, n,
                     [&](int r, int c, float v) { got[mine + Tile::index(r, c)] = v; });
    single[static_cast<std::size_t>(coop.rank())] = linear::dot(coop, x.data(), w.data(), n);
  });
  for (std::size_t rank = 0; rank < 3; ++rank) {  // every thread holds every value
    for (int r = 0; r < kMaxRows; ++r)
      for (int c = 0; c < kMaxCols; ++c) {
        CAPTURE(n, rank, r, c);
        REQUIRE(test::identical(got[rank * kMaxRows * kMaxCols + Tile::index(r, c)],
                                canonical_dot(x.data() + r * n, w.data() + c * n, n)));
      }
    REQUIRE(test::identical(single[rank], got[0]));
  }
}
