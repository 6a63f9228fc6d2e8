// Op act_quant on the SIMT machine against its primitives, bit for bit.
#include <dsv4/core/quant.hpp>
#include <dsv4/ops/act_quant.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/shapes.hpp"

#include <limits>

using namespace dsv4;
using ops::QuantFormat;
using ops::ScaleLayout;
using ops::ScaleType;
using test::RowLayout;
using test::Rows;

namespace {

struct Format {
  QuantFormat format;
  int block;
};
constexpr Format kFormats[] = {{QuantFormat::kE4m3, 64}, {QuantFormat::kE4m3, 128}, {QuantFormat::kE2m1, 32}};

struct Expected {
  std::vector<std::uint8_t> codes;
  std::vector<e8m0> scales;  // [rows, blocks]
};

template <class T>
Expected expected(const std::vector<T>& x, std::int64_t rows, std::int64_t n, Format f) {
  Expected e;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t begin = 0; begin < n; begin += f.block) {
      const int count = static_cast<int>(std::min<std::int64_t>(f.block, n - begin));
      const T* from = x.data() + r * n + begin;
      std::vector<e4m3> fp8(static_cast<std::size_t>(count));
      std::vector<e2m1x2> fp4(static_cast<std::size_t>(count / 2));
      if (f.format == QuantFormat::kE4m3) {
        e.scales.push_back(quant::fp8_block(SerialCoop{}, fp8.data(), from, count));
        for (const e4m3 c : fp8) e.codes.push_back(c.bits);
      } else {
        e.scales.push_back(quant::fp4_block(SerialCoop{}, fp4.data(), from, count));
        for (const e2m1x2 c : fp4) e.codes.push_back(c.bits);
      }
    }
  return e;
}

// Rows whose blocks differ widely in scale; a block of zeros, one below every floor.
template <class T>
std::vector<T> inputs(std::int64_t rows, std::int64_t n, std::uint64_t seed) {
  auto v = test::normal(rows * n, seed);
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] *= std::ldexp(1.0f, static_cast<int>(i / 32 % 24) - 14) * (i / 32 % 11 == 3 ? 0.0f : 1.0f);
  return test::row_of<T>(v);
}

template <class T>
void check(std::int64_t rows, std::int64_t n, Format f, RowLayout layout) {
  CAPTURE(rows, n, static_cast<int>(f.format), f.block, sizeof(T), layout.stride, layout.align);
  const auto values = inputs<T>(rows, n, 1);
  const auto want = expected(values, rows, n, f);
  const bool odd = layout.align == sizeof(T);
  const std::int64_t bytes = f.format == QuantFormat::kE4m3 ? n : n / 2;
  const std::int64_t blocks = (n + f.block - 1) / f.block;
  Rows<T> x(rows, n, values, layout);
  Rows<std::uint8_t> codes(
      rows, bytes, RowLayout{layout.stride == 0 ? 0 : bytes + (odd ? 1 : 16), odd ? std::size_t{1} : 16});
  Rows<e8m0> scales(rows, blocks, RowLayout{blocks + (odd ? 2 : 0), 1});
  REQUIRE_OK(ops::act_quant({.codes = codes.data(),
                             .scales = scales.data(),
                             .x = x.data(),
                             .rows = rows,
                             .n = n,
                             .block = f.block,
                             .format = f.format,
                             .dtype = test::kDType<T>,
                             .codes_stride = codes.stride(),
                             .scales_stride = scales.stride(),
                             .x_stride = layout.stride},
                            nullptr));
  REQUIRE_ROWS(codes, want.codes);
  REQUIRE_ROWS(scales, want.scales);
  REQUIRE_ROWS(x, values);
}

template <class T>
void check_all(std::int64_t rows, std::int64_t n) {
  for (const Format f : kFormats)
    for (const RowLayout& layout : test::layouts<T>(n)) check<T>(rows, n, f, layout);
}

}  // namespace

TEMPLATE_TEST_CASE("act_quant equals its primitives", "[ops][act_quant]", bf16, float) {
  const std::int64_t rows = GENERATE(0, 1, 2, 63, 64, 65, 257);
  for (const std::int64_t n : {2, 72, 128, 134, 256, 448}) check_all<TestType>(rows, n);
}

TEMPLATE_TEST_CASE("act_quant at the sizes of the models", "[ops][act_quant]", bf16, float) {
  check_all<TestType>(5, 4096);
  for (const auto& [rows, n] : test::model_shapes())
    for (const Format f : kFormats) check<TestType>(rows, n, f, {});
}

TEST_CASE("act_quant of an odd number of channels", "[ops][act_quant]") {
  for (const std::int64_t n : {1, 63, 129}) check<bf16>(3, n, kFormats[0], {});
}

TEST_CASE("act_quant writes scales as fp32 and by columns", "[ops][act_quant]") {
  const std::int64_t rows = 19, n = 200;
  for (const Format f : kFormats) {
    const std::int64_t blocks = (n + f.block - 1) / f.block;
    const auto values = inputs<bf16>(rows, n, 2);
    const auto want = expected(values, rows, n, f);
    Rows<bf16> x(rows, n, values);
    Rows<std::uint8_t> codes(rows, f.format == QuantFormat::kE4m3 ? n : n / 2);
    ops::ActQuantParams p{
        .codes = codes.data(), .x = x.data(), .rows = rows, .n = n, .block = f.block, .format = f.format};
    std::vector<float> by_rows, by_columns;
    std::vector<e8m0> bytes_by_columns;
    for (std::int64_t i = 0; i < rows * blocks; ++i) {
      const auto at = static_cast<std::size_t>(i % rows * blocks + i / rows);
      by_rows.push_back(to_float(want.scales[static_cast<std::size_t>(i)]));
      by_columns.push_back(to_float(want.scales[at]));
      bytes_by_columns.push_back(want.scales[at]);
    }
    Rows<float> f32(rows, blocks, RowLayout{blocks + 1, 4}),
        f32_columns(blocks, rows, RowLayout{rows + 1, 4});
    Rows<e8m0> columns(blocks, rows);  // default stride
    p.scales = f32.data(), p.scales_stride = f32.stride(), p.scale_type = ScaleType::kF32;
    REQUIRE_OK(ops::act_quant(p, nullptr));
    REQUIRE_ROWS(f32, by_rows);
    p.scales = f32_columns.data(), p.scales_stride = f32_columns.stride();
    p.scale_layout = ScaleLayout::kColumnMajor;
    REQUIRE_OK(ops::act_quant(p, nullptr));
    REQUIRE_ROWS(f32_columns, by_columns);
    p.scales = columns.data(), p.scales_stride = 0, p.scale_type = ScaleType::kUe8m0;
    REQUIRE_OK(ops::act_quant(p, nullptr));
    REQUIRE_ROWS(columns, bytes_by_columns);
    REQUIRE_ROWS(codes, want.codes);
  }
}

TEST_CASE("act_quant marks blocks that hold a NaN or an infinity", "[ops][act_quant]") {
  const std::int64_t n = 256;
  for (const Format f : kFormats)
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      auto v = test::normal(n, 3);
      v[131] = bad;
      const auto values = test::row_of<bf16>(v);
      const auto want = expected(values, 1, n, f);
      Rows<bf16> x(1, n, values);
      Rows<std::uint8_t> codes(1, static_cast<std::int64_t>(want.codes.size()));
      Rows<e8m0> scales(1, n / f.block);
      REQUIRE_OK(ops::act_quant({.codes = codes.data(),
                                 .scales = scales.data(),
                                 .x = x.data(),
                                 .rows = 1,
                                 .n = n,
                                 .block = f.block,
                                 .format = f.format},
                                nullptr));
      REQUIRE_ROWS(codes, want.codes);
      REQUIRE_ROWS(scales, want.scales);
      for (std::int64_t b = 0; b < n / f.block; ++b)
        REQUIRE((scales.data()[b].bits == kE8m0Nan) == (b == 131 / f.block));
    }
}

TEST_CASE("act_quant under every policy of the machine", "[ops][act_quant]") {
  test::under_all_policies([] { check_all<bf16>(3, 136); });
}
