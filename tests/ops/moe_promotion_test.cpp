// What promotion is for: sums of a published model's length, as the ops add them and as one chain in a tensor
// core's accumulator.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/linear/mma_fp4.cuh>
#include <dsv4/simt/launch.hpp>

#include "tests/ops/moe_down_case.hpp"
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

namespace {

simt::Options hopper() {
  simt::Options o = simt::options();
  o.rounding = simt::Rounding::kHopper;
  return o;
}

// Root mean square of got - want, in units of that of want.
template <class T>
double relative_rms(const std::vector<T>& got, const std::vector<double>& want) {
  REQUIRE(got.size() == want.size());
  double squares = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i)
    squares += std::pow(to_float(got[i]) - want[i], 2), norm += want[i] * want[i];
  return std::sqrt(squares / norm);
}

}  // namespace

TEST_CASE("linear_fp8 keeps sums of 7168 channels accurate on a tensor core that truncates", "[ops][moe]") {
  // Terms of one sign, whose truncations add up, as in the first test above.
  const std::int64_t tokens = 2, n = 32;
  test::Random random(47);
  std::vector<std::uint8_t> codes(test::at(n * kCols)), scales(test::at(kCols / 128));
  for (std::uint8_t& c : codes) c = static_cast<std::uint8_t>(random.integer(0x30, 0x3f));
  for (std::uint8_t& s : scales) s = static_cast<std::uint8_t>(random.integer(118, 122));
  const test::TestMatrix w = test::fp8_matrix(n, kCols, codes, scales);
  const auto x = test::normal_bf16(tokens * kCols, 48);
  std::vector<bf16> input;
  for (const float v : x) input.push_back(from_float<bf16>(std::abs(v)));
  std::vector<float> magnitudes;
  for (const bf16 v : input) magnitudes.push_back(to_float(v));
  const test::Factor f = test::quantised(magnitudes, kCols);
  std::vector<double> want;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t r = 0; r < n; ++r) want.push_back(test::exact_product(f, w, t, r).value);

  const test::Rows<bf16> rows(tokens, kCols, input, test::RowLayout{kCols, 16});
  std::vector<float> y(test::at(tokens * n));
  const simt::ScopedOptions scope(hopper());
  REQUIRE_OK(ops::linear_fp8({.y = y.data(),
                              .input = {.x = rows.data()},
                              .weight = w.weight(),
                              .tokens = tokens,
                              .n = n,
                              .k = kCols,
                              .y_type = ops::DType::kF32},
                             nullptr));
  const double error = relative_rms(y, want);
  CAPTURE(error);
  REQUIRE(error <= 3e-6);
}

TEST_CASE("moe_experts keeps sums of 7168 channels accurate on a tensor core that truncates", "[ops][moe]") {
  // Beside fp64 that rounds to bf16 where the op does: what is left is where a sum fell to the other side.
  const auto format = GENERATE(ops::WeightFormat::kFp4, ops::WeightFormat::kFp8);
  const auto round = [](double v) { return test::oracle::bf16_round(v); };
  const auto check = [](const test::ExpertCase& c, const std::vector<double>& want) {
    const simt::ScopedOptions scope(hopper());
    for (const std::int32_t tile_rows : {8, 32}) {
      const double error = relative_rms(test::run_experts(c, tile_rows), want);
      CAPTURE(tile_rows, error);
      REQUIRE(error <= 2e-4);
    }
  };
  const std::int64_t tokens = 2;
  SECTION("of W2") {
    const std::int64_t hidden = 64;
    const test::DownCase d(format, tokens, hidden, kCols, 1.0);
    const test::Factor f = test::quantised(d.h, kCols);
    std::vector<double> want;
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t r = 0; r < hidden; ++r) want.push_back(round(test::exact_of(d.c.w2, f, t, r).value));
    check(d.c, want);
  }
  SECTION("of W1 and W3") {  // W2 = identity: y = h, and zeros behind it
    const std::int64_t inner = 16;
    test::ExpertCase c({.up = format,
                        .down = ops::WeightFormat::kBf16,
                        .tokens = tokens,
                        .hidden = kCols,
                        .inner = inner,
                        .k = 1,
                        .experts = 1,
                        .limit = 0.0f},
                       {0, 0}, 49);
    for (std::int64_t r = 0; r < kCols; ++r)
      for (std::int64_t i = 0; i < inner; ++i) c.w2.put(0, r, i, r == i ? 1.0f : 0.0f);
    const test::Factor f = test::quantised(c.x, kCols);
    std::vector<double> want(test::at(tokens * kCols));
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t r = 0; r < inner; ++r) {
        const double g = round(test::exact_of(c.w1, f, t, r).value);
        const double u = round(test::exact_of(c.w3, f, t, r).value);
        want[test::at(t * kCols + r)] = round(g / (1 + std::exp(-g)) * u * c.routing[test::at(t)]);
      }
    check(c, want);
  }
}
