// Mirrors include/dsv4/linear/mma_weights.cuh and arch/convert.cuh: decoding, and what promotion is for.
#include <dsv4/arch/convert.cuh>
#include <dsv4/linear/mma_weights.cuh>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/simt/policies.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

using namespace dsv4;

TEST_CASE("e4m3x4_to_bf16 is exact for every code in every place", "[linear][mma]") {
  for (unsigned code = 0; code < 256; ++code)
    for (int place = 0; place < 4; ++place) {
      // The other places hold codes that would show if bits strayed.
      std::uint32_t word = 0xfe01fe01u ^ (place % 2 == 0 ? 0u : 0xffffffffu);
      word = (word & ~(0xffu << 8 * place)) | code << 8 * place;
      std::uint32_t pair[2];
      arch::e4m3x4_to_bf16(pair, word);
      for (int i = 0; i < 4; ++i) {
        const unsigned expected = word >> 8 * i & 0xffu, got = pair[i / 2] >> 16 * (i % 2) & 0xffffu;
        CAPTURE(code, place, i);
        if ((expected & 0x7fu) == 0x7fu)
          REQUIRE(std::abs(test::oracle::bf16_value(got)) == 480.0);
        else
          REQUIRE(got == test::oracle::bf16_nearest(test::oracle::e4m3_value(expected)));
      }
    }
}

TEST_CASE("e4m3_nans finds NaN codes and nothing else", "[linear][mma]") {
  for (unsigned code = 0; code < 256; ++code)
    for (int place = 0; place < 4; ++place) {
      const std::uint32_t words[2] = {0x7efe7efeu, (0xfe7efe7eu & ~(0xffu << 8 * place)) | code << 8 * place};
      CAPTURE(code, place);
      REQUIRE(arch::e4m3_nans(words) == ((code & 0x7fu) == 0x7fu ? 0x80u << 8 * place : 0u));
    }
}

namespace {

struct Sums {
  float* y;  // [8 tokens, 16 rows]
  linear::MmaMatrix<e4m3> w;
  const bf16* x;  // [8, cols]
  bool promote;
};

void sum_kernel(Sums s) {
  const int lane = arch::lane_id();
  arch::Vec<float, 4> total = {};
  float part[1][4] = {};
  for (std::int64_t chunk = 0; chunk * linear::kMmaChunk < s.w.cols; ++chunk) {
    linear::WeightChunk<linear::Fp8Weights, arch::Cache::kDefault> weights;
    weights.load_all(s.w, 0, chunk);
    linear::multiply_chunk(
        part, weights,
        [&](int, int channel) {
          return arch::load(reinterpret_cast<const linear::MmaWords*>(s.x + lane / 4 * s.w.cols +
                                                                      chunk * linear::kMmaChunk + channel));
        },
        [](int) {});
    if (!s.promote) continue;
    for (int i = 0; i < 4; ++i) total[i] += part[0][i], part[0][i] = 0;
  }
  if (!s.promote)
    for (int i = 0; i < 4; ++i) total[i] = part[0][i];
  linear::MmaOutput{s.y, linear::kMmaRows, linear::kMmaTokens, linear::kMmaRows, true, true}.store(total, 0,
                                                                                                   0);
}

}  // namespace

// Relative errors (root mean square) of sums of 7168 positive products: with promotion 1.3e-7; as one chain
// 8.9e-6 where additions truncate as Ampere's do, 4.7e-6 with Hopper's.
TEST_CASE("promotion keeps long sums accurate", "[linear][mma]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  constexpr std::int64_t kCols = 7168;
  test::Random random(1);
  alignas(16) static e4m3 code_rows[16 * kCols];
  alignas(16) static bf16 x_rows[8 * kCols];
  for (e4m3& c : code_rows) c = {static_cast<std::uint8_t>(random.integer(0x28, 0x40))};
  for (bf16& v : x_rows) v = {static_cast<std::uint16_t>(random.integer(0x3f00, 0x3f80))};
  const auto error = [&](bool promote) {
    std::vector<float> y(8 * 16);
    const Sums s{y.data(), {code_rows, nullptr, 16, kCols, kCols, 0, 0}, x_rows, promote};
    simt::launch("sums", sum_kernel, test::threads(32), s);
    double squares = 0;
    for (std::size_t t = 0; t < 8; ++t)
      for (std::size_t r = 0; r < 16; ++r) {
        double want = 0;
        for (std::size_t k = 0; k < kCols; ++k)
          want += test::oracle::bf16_value(x_rows[t * kCols + k].bits) *
                  test::oracle::e4m3_value(code_rows[r * kCols + k].bits);
        squares += std::pow((y[t * 16 + r] - want) / want, 2);
      }
    return std::sqrt(squares / (8 * 16));
  };
  const double promoted = error(true), chained = error(false);
  CAPTURE(static_cast<int>(rounding), promoted, chained);
  REQUIRE(promoted < 2e-7);
  REQUIRE(chained > 30 * promoted);
}
