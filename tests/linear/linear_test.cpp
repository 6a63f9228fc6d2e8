// Mirrors include/dsv4/linear/linear.hpp. The oracle sums in double what the formats' definitions say.
#include <dsv4/linear/linear.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/typed.hpp"
#include "tests/support/ulp.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace dsv4;
using linear::RowsF32;
using linear::WeightType;
using linear::WeightView;
namespace oracle = test::oracle;

namespace {

// A random matrix of any stored type, and the value of each weight in double.
struct Weights {
  WeightType type;
  std::int64_t rows, cols;
  std::vector<std::uint8_t> bytes;
  std::vector<float> plain;
  std::vector<e8m0> scale;
  std::vector<double> values;

  Weights(WeightType t, std::int64_t r, std::int64_t c, std::uint64_t seed) : type(t), rows(r), cols(c) {
    test::Random random(seed);
    const auto scale_byte = [&] { return static_cast<std::uint8_t>(random.integer(115, 130)); };
    const std::int64_t tile_cols = (c + 127) / 128, block_cols = (c + 31) / 32;
    const auto add_scales = [&](std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i) scale.push_back({scale_byte()});
    };
    const auto scale_of = [&](std::int64_t i) {
      return oracle::e8m0_value(scale[static_cast<std::size_t>(i)].bits);
    };
    switch (t) {
      case WeightType::kF32:
        plain = test::normal(r * c, seed);
        values.assign(plain.begin(), plain.end());
        break;
      case WeightType::kBf16:
        for (const float v : test::normal_bf16(r * c, seed)) {
          const std::uint32_t u = test::bits_of(v);
          bytes.push_back(static_cast<std::uint8_t>(u >> 16));
          bytes.push_back(static_cast<std::uint8_t>(u >> 24));
          values.push_back(v);
        }
        break;
      case WeightType::kFp8:
        add_scales((r + 127) / 128 * tile_cols);
        for (std::int64_t i = 0; i < r * c; ++i) {
          bytes.push_back(static_cast<std::uint8_t>(random.integer(0, 1) << 7 | random.integer(0, 0x7e)));
          values.push_back(oracle::e4m3_value(bytes.back()) *
                           scale_of(i / c / 128 * tile_cols + i % c / 128));
        }
        break;
      case WeightType::kFp4:
        add_scales(r * block_cols);
        bytes = test::bytes(r * c / 2, seed + 1);
        for (std::int64_t i = 0; i < r * c; ++i) {
          const unsigned byte = bytes[static_cast<std::size_t>(i / 2)];
          values.push_back(oracle::e2m1_value(i % 2 == 0 ? byte & 15 : byte >> 4) *
                           scale_of(i / c * block_cols + i % c / 32));
        }
        break;
    }
  }
  WeightView view() const {
    const void* data = type == WeightType::kF32 ? static_cast<const void*>(plain.data()) : bytes.data();
    return {type, data, scale.empty() ? nullptr : scale.data(), rows, cols};
  }
  double at(std::int64_t n, std::int64_t k) const { return values[static_cast<std::size_t>(n * cols + k)]; }
};

// sum over k of x[k] w[n][k] in double, and the sum of magnitudes.
struct Exact {
  double sum = 0, magnitude = 0;
};
Exact exact_dot(const float* x, const Weights& w, std::int64_t n) {
  Exact e;
  for (std::int64_t k = 0; k < w.cols; ++k) {
    e.sum += x[k] * w.at(n, k);
    e.magnitude += std::abs(x[k] * w.at(n, k));
  }
  return e;
}

constexpr float kUntouched = 12345.0f;

template <class T>
void check_tile(WeightType type, std::int64_t rows, int cols, int tokens, std::int64_t begin,
                std::int64_t end) {
  const Weights w(type, rows, cols, static_cast<std::uint64_t>(rows * 31 + cols));
  const std::int64_t x_stride = cols + 5, y_stride = rows + 3;
  const auto x = test::normal_bf16(tokens * x_stride, 17);
  std::vector<T> y(static_cast<std::size_t>(tokens * y_stride), test::cast_to<T>(kUntouched));
  std::vector<float> scratch(static_cast<std::size_t>(linear::kDecodeRows * cols + 1), kUntouched);
  linear::tile(SerialCoop{}, y.data(), y_stride, RowsF32{x.data(), x_stride}, tokens, w.view(), begin, end,
               scratch.data());
  CAPTURE(static_cast<int>(type), rows, cols, tokens, begin, end);
  REQUIRE(scratch.back() == kUntouched);
  for (int t = 0; t < tokens; ++t)
    for (std::int64_t n = 0; n < y_stride; ++n) {
      const float got = test::value(y[static_cast<std::size_t>(t * y_stride + n)]);
      CAPTURE(t, n, got);
      if (n < begin || n >= end) {
        REQUIRE(got == test::value(test::cast_to<T>(kUntouched)));
        continue;
      }
      const Exact want = exact_dot(x.data() + t * x_stride, w, n);
      // A term passes ceil(cols/32) fma and five additions; then one rounding to T.
      const double sum_bound = (std::ceil(cols / 32.0) + 5) * test::kUnit * want.magnitude;
      const double bound =
          sum_bound + (std::is_same_v<T, float> ? 0 : test::kUnitBf16 * (std::abs(want.sum) + sum_bound));
      REQUIRE(test::within(got, want.sum, bound));
    }
}

constexpr WeightType kTypes[] = {WeightType::kF32, WeightType::kBf16, WeightType::kFp8, WeightType::kFp4};

}  // namespace

TEMPLATE_TEST_CASE("tile multiplies rows with weights of every type", "[linear][tile]", float, bf16) {
  const int which = GENERATE(0, 1, 2, 3);
  const int tokens = GENERATE(0, 1, 2, 3, 4, 5);
  const WeightType type = kTypes[which];
  check_tile<TestType>(type, 7, 2, tokens, 0, 7);
  check_tile<TestType>(type, 9, 96, tokens, 0, 9);
  check_tile<TestType>(type, 5, 100, tokens, 0, 5);      // neither a multiple of 32 nor of 128
  check_tile<TestType>(type, 131, 258, tokens, 0, 131);  // partial FP8 tiles both ways
}

TEST_CASE("tile writes the rows from begin to end and no others", "[linear][tile]") {
  const WeightType type = kTypes[GENERATE(0, 1, 2, 3)];
  for (const std::int64_t begin : {0, 1, 3, 4, 126, 128, 129})
    for (const std::int64_t length : {0, 1, 2, 4, 5, 9})
      check_tile<float>(type, 140, 130, 3, begin, begin + length);
}

TEST_CASE("tile at a real width", "[linear][tile]") {
  const WeightType type = kTypes[GENERATE(0, 1, 2, 3)];
  check_tile<bf16>(type, 6, 7168, 2, 0, 6);
  check_tile<float>(type, 3, 4096, 4, 0, 3);
}

TEST_CASE("a token's row does not depend on the batch or on the range", "[linear][tile]") {
  const WeightType type = kTypes[GENERATE(0, 1, 2, 3)];
  const Weights w(type, 37, 326, 3);
  const auto x = test::normal_bf16(5 * 326, 4);
  std::vector<float> all(5 * 37), part(5 * 37), scratch(4 * 326);
  linear::tile(SerialCoop{}, all.data(), 37, RowsF32{x.data(), 326}, 5, w.view(), 0, 37, scratch.data());
  for (int t = 0; t < 5; ++t)
    for (std::int64_t n = 0; n < 37; n += 3) {
      const std::int64_t end = std::min<std::int64_t>(n + 3, 37);
      linear::tile(SerialCoop{}, part.data() + t * 37, 37, RowsF32{x.data() + t * 326, 326}, 1, w.view(), n,
                   end, scratch.data());
    }
  for (std::size_t i = 0; i < all.size(); ++i) {
    CAPTURE(static_cast<int>(type), i);
    REQUIRE(test::identical(all[i], part[i]));
  }
}

TEST_CASE("quantised activations times quantised weights: scales apply per block", "[linear][tile]") {
  // y = sum over K-blocks of 128 of (xq . wq) * s_x[block] * s_w, from codes and scales in double.
  const bool fp8 = GENERATE(true, false);
  constexpr int kCols = 300, kRows = 133, kTokens = 3;
  const Weights w(fp8 ? WeightType::kFp8 : WeightType::kFp4, kRows, kCols, 5);
  auto raw = test::normal_bf16(kTokens * kCols, 6);
  for (std::size_t i = 0; i < raw.size(); ++i)
    raw[i] *= std::exp2f(static_cast<float>(i / 50 % 7) - 3);  // scales differ
  auto x = raw;
  for (std::size_t t = 0; t < kTokens; ++t)
    quant::fp8_round_trip(SerialCoop{}, x.data() + t * kCols, raw.data() + t * kCols, kCols,
                          quant::kFp8LinearBlock);
  std::vector<float> y(kTokens * kRows), scratch(linear::kDecodeRows * kCols);
  linear::tile(SerialCoop{}, y.data(), kRows, RowsF32{x.data(), kCols}, kTokens, w.view(), 0, kRows,
               scratch.data());
  for (std::size_t t = 0; t < kTokens; ++t)
    for (std::size_t n = 0; n < kRows; ++n) {
      double want = 0, magnitude = 0;
      for (std::size_t begin = 0; begin < kCols; begin += 128) {
        const std::size_t end = std::min<std::size_t>(begin + 128, kCols);
        const auto row = raw.begin() + static_cast<std::ptrdiff_t>(t * kCols);
        const auto block = oracle::fp8_block(
            {row + static_cast<std::ptrdiff_t>(begin), row + static_cast<std::ptrdiff_t>(end)});
        double part = 0, part_magnitude = 0;
        for (std::size_t k = begin; k < end; ++k) {
          const double term = oracle::e4m3_value(block.codes[k - begin]) * w.values[n * kCols + k];
          part += term;
          part_magnitude += std::abs(term);
        }
        want += part * oracle::e8m0_value(block.scale);
        magnitude += part_magnitude * oracle::e8m0_value(block.scale);
      }
      CAPTURE(fp8, t, n);
      REQUIRE(test::within(y[t * kRows + n], want, (std::ceil(kCols / 32.0) + 5) * test::kUnit * magnitude));
    }
}

TEST_CASE("a NaN token, row or scale stays in its own results", "[linear][tile]") {
  Weights w(WeightType::kFp4, 6, 64, 7);
  w.scale[4 * 2 + 1] = {255};  // row 4, second block
  auto x = test::normal_bf16(3 * 64, 8);
  x[64 + 40] = std::nanf("");                           // token 1
  x[128 + 3] = std::numeric_limits<float>::infinity();  // token 2
  std::vector<bf16> y(3 * 6);
  std::vector<float> scratch(4 * 64);
  linear::tile(SerialCoop{}, y.data(), 6, RowsF32{x.data(), 64}, 3, w.view(), 0, 6, scratch.data());
  for (std::size_t t = 0; t < 3; ++t)
    for (std::size_t n = 0; n < 6; ++n) {
      const float got = test::value(y[t * 6 + n]);
      const bool zero_weight = w.at(static_cast<std::int64_t>(n), 3) == 0;
      CAPTURE(t, n, got);
      REQUIRE(std::isnan(got) == (n == 4 || t == 1 || (t == 2 && zero_weight)));
      REQUIRE(std::isinf(got) == (n != 4 && t == 2 && !zero_weight));
    }
}

TEST_CASE("the typed and the run-time tile are one", "[linear][tile]") {
  const Weights w(WeightType::kFp8, 10, 140, 9);
  const auto x = test::normal_bf16(140, 10);
  std::vector<float> a(10), b(10), scratch(4 * 140);
  linear::tile(SerialCoop{}, a.data(), 10, RowsF32{x.data(), 140}, 1, w.view(), 0, 10, scratch.data());
  linear::visit(w.view(), [&](const auto& m) {
    linear::tile(SerialCoop{}, b.data(), 10, RowsF32{x.data(), 140}, 1, m, 0, 10, scratch.data());
  });
  REQUIRE(a == b);
}

TEST_CASE("a group of threads computes a tile as one thread does", "[linear][tile][group]") {
  const WeightType type = kTypes[GENERATE(0, 1, 2, 3)];
  const Weights w(type, 23, 258, 11);
  const auto x = test::normal_bf16(4 * 258, 12);
  std::vector<bf16> one(4 * 23), many(4 * 23);
  std::vector<float> scratch(4 * 258), shared(4 * 258);
  linear::tile(SerialCoop{}, one.data(), 23, RowsF32{x.data(), 258}, 4, w.view(), 1, 23, scratch.data());
  test::run_group<3>([&](auto coop) {
    linear::tile(coop, many.data(), 23, RowsF32{x.data(), 258}, 4, w.view(), 1, 23, shared.data());
  });
  for (std::size_t i = 0; i < one.size(); ++i) {
    CAPTURE(static_cast<int>(type), i);
    REQUIRE(one[i].bits == many[i].bits);
  }
}
