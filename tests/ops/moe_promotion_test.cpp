// What promotion is for: sums of a published model's length, as moe_experts adds them and as one chain in a
// tensor core's accumulator.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/linear/mma_fp4.cuh>
#include <dsv4/simt/launch.hpp>

#include "tests/simt/policies.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

using namespace dsv4;

namespace {

constexpr std::int64_t kCols = 7168;

struct LongSum {
  float* y;  // [8, 16]
  linear::MmaFp4Matrix w;
  const bf16* x;  // [8, cols]
  bool promote;
};

// One warp's 16 rows: promoted as the op does it, or as one chain in the tensor core's accumulator.
void long_sum_kernel(LongSum s) {
  using Chunk = linear::ScaledChunk<linear::Fp4Weights, arch::Cache::kDefault>;
  const int lane = arch::lane_id();
  arch::Vec<float, 4> total = {};
  float chain[4] = {};
  for (std::int64_t chunk = 0; chunk * linear::kMmaChunk < s.w.cols; ++chunk) {
    Chunk w[1];
    for (int group = 0; group < Chunk::kGroups; ++group) w[0].load(group, s.w, 0, chunk);
    w[0].load_scales(s.w, 0, chunk);
    w[0].step();
    const auto x = [&](int, int channel) {
      return arch::load(reinterpret_cast<const linear::MmaWords*>(s.x + lane / 4 * s.w.cols +
                                                                  chunk * linear::kMmaChunk + channel));
    };
    if (s.promote) {
      linear::chunk_sums<false, 1>(
          w, 1, x, [](int) { return arch::Vec<float, 2>{}; }, [](int) {},
          [&](int, int, const arch::Vec<float, 4>& v) {
            for (int i = 0; i < 4; ++i) total[i] += v[i];
          });
      continue;
    }
    for (int group = 0; group < Chunk::kGroups; ++group)
      for (int eight = 0; eight < 2; ++eight) {
        std::uint32_t rows[2][4];
        w[0].operands(rows, group, eight, w[0].plan());
        const linear::MmaWords v = x(0, group * Chunk::kGroupChannels + lane % 4 * Chunk::kLoad + eight * 8);
        for (int j = 0; j < 4; j += 2) {
          const std::uint32_t a[4] = {rows[0][j], rows[1][j], rows[0][j + 1], rows[1][j + 1]};
          const std::uint32_t b[2] = {v[j], v[j + 1]};
          arch::mma_m16n8k16_bf16(chain, a, b, chain);
        }
      }
  }
  for (int i = 0; i < 4; ++i)
    s.y[(lane % 4 * 2 + i % 2) * linear::kMmaRows + lane / 4 * 2 + i / 2] = s.promote ? total[i] : chain[i];
}

}  // namespace

TEST_CASE("promotion keeps long sums of FP4 weights accurate", "[ops][moe]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  test::Random random(45);
  alignas(16) static e2m1x2 codes[16 * kCols / 2];
  alignas(16) static e8m0 scales[16 * kCols / 32];
  alignas(16) static bf16 x[8 * kCols];
  for (e2m1x2& c : codes) c = {static_cast<std::uint8_t>(random.integer(1, 7) | random.integer(1, 7) << 4)};
  // Sums of many exponents, relative to one that each chunk of a row has.
  for (std::size_t i = 0; i < std::size(scales); ++i)
    scales[i] = {static_cast<std::uint8_t>(i % 4 == 0 ? 127 : random.integer(105, 127))};
  for (bf16& v : x) v = {static_cast<std::uint16_t>(random.integer(0x3f00, 0x3f80))};
  const auto error = [&](bool promote) {
    std::vector<float> y(8 * 16);
    const LongSum s{y.data(), {codes, scales, 16, kCols, true}, x, promote};
    simt::launch("sums", long_sum_kernel, test::threads(32), s);
    double largest = 0;
    for (std::size_t t = 0; t < 8; ++t)
      for (std::size_t r = 0; r < 16; ++r) {
        double want = 0;
        for (std::size_t k = 0; k < kCols; ++k)
          want += test::oracle::bf16_value(x[t * kCols + k].bits) *
                  test::oracle::e2m1_value(codes[(r * kCols + k) / 2].bits >> (4 * (k % 2)) & 15u) *
                  test::oracle::e8m0_value(scales[(r * kCols + k) / 32].bits);
        largest = std::max(largest, std::abs(y[t * 16 + r] - want) / want);
      }
    return largest;
  };
  const double promoted = error(true), chained = error(false);
  CAPTURE(static_cast<int>(rounding), promoted, chained);
  REQUIRE(promoted < 3e-6);
  REQUIRE(chained > 10 * promoted);
}

namespace {

struct E4m3Sum {
  float* y;              // [16, 8]
  const e4m3 *w, *x;     // [16, kCols], [8, kCols]
  std::int64_t promote;  // every so many channels
};

void e4m3_sum_kernel(E4m3Sum s) {
  const int g = arch::lane_id() / 4, t = arch::lane_id() % 4;
  const auto word = [&](const e4m3* rows, int row, std::int64_t channel) {
    return arch::load(reinterpret_cast<const std::uint32_t*>(rows + row * kCols + channel + 4 * t));
  };
  float total[4] = {}, part[4] = {};
  for (std::int64_t c = 0; c < kCols; c += 32) {
    const std::uint32_t a[4] = {word(s.w, g, c), word(s.w, g + 8, c), word(s.w, g, c + 16),
                                word(s.w, g + 8, c + 16)};
    const std::uint32_t b[2] = {word(s.x, g, c), word(s.x, g, c + 16)};
    arch::mma_m16n8k32_e4m3(part, a, b, part);
    if ((c + 32) % s.promote != 0) continue;
    for (int i = 0; i < 4; ++i) total[i] += part[i], part[i] = 0;
  }
  for (int i = 0; i < 4; ++i) s.y[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = total[i];
}

}  // namespace

TEST_CASE("e4m3 products in sums of 13 bits need promotion every 128 channels", "[ops][moe]") {
  // Ada's mma of e4m3 and Hopper's wgmma keep 13 bits of a sum; the ops multiply bf16 instead, whose sums
  // keep 24 (above), and promote as often.
  simt::Options o = simt::options();
  o.rounding = simt::Rounding::kAmpere;
  const simt::ScopedOptions scope(o);
  test::Random random(46);
  alignas(16) static e4m3 w[16 * kCols], x[8 * kCols];
  const auto code = [&] {
    return e4m3{static_cast<std::uint8_t>(test::oracle::e4m3_nearest(100 * random.normal()))};
  };
  std::generate(std::begin(w), std::end(w), code);
  std::generate(std::begin(x), std::end(x), code);
  const auto error = [&](std::int64_t promote) {  // in units of the sums themselves, root mean square
    float y[16 * 8];
    simt::launch("sums", e4m3_sum_kernel, test::threads(32), E4m3Sum{y, w, x, promote});
    double squares = 0, norm = 0;
    for (std::size_t r = 0; r < 16; ++r)
      for (std::size_t t = 0; t < 8; ++t) {
        double want = 0;
        for (std::size_t k = 0; k < kCols; ++k)
          want += test::oracle::e4m3_value(w[r * kCols + k].bits) *
                  test::oracle::e4m3_value(x[t * kCols + k].bits);
        squares += std::pow(y[r * 8 + t] - want, 2), norm += want * want;
      }
    return std::sqrt(squares / norm);
  };
  const double promoted = error(128), chained = error(kCols);
  CAPTURE(promoted, chained);
  REQUIRE(promoted <= 2e-4);
  REQUIRE(chained > 1e-3);
}
