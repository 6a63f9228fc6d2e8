// Op rms_norm on the SIMT machine against its primitives, bit for bit.
#include <dsv4/core/norm.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/rms_norm.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::ScaleLayout;
using ops::ScaleType;
using test::RowLayout;
using test::Rows;

namespace {

constexpr float kEps = 1e-6f;

template <class T>
struct Expected {
  std::vector<T> out;
  std::vector<e4m3> codes;
  std::vector<e8m0> scales;  // [rows, blocks]
};

template <class T>
Expected<T> expected(const std::vector<T>& x, const float* weight, std::int64_t rows, int n) {
  const std::int64_t blocks = (n + 127) / 128;
  Expected<T> e{x, std::vector<e4m3>(x.size()), std::vector<e8m0>(static_cast<std::size_t>(rows * blocks))};
  for (std::int64_t r = 0; r < rows; ++r) {
    T* y = e.out.data() + r * n;
    dsv4::rms_norm(SerialCoop{}, y, y, weight, n, kEps);
    for (std::int64_t b = 0; b < blocks; ++b)
      e.scales[static_cast<std::size_t>(r * blocks + b)] =
          quant::fp8_block(SerialCoop{}, e.codes.data() + r * n + b * 128, y + b * 128,
                           static_cast<int>(std::min<std::int64_t>(128, n - b * 128)));
  }
  return e;
}

std::vector<float> decoded(const std::vector<e8m0>& s) {
  std::vector<float> f;
  for (const e8m0 x : s) f.push_back(to_float(x));
  return f;
}

enum class Outputs { kOut, kCodes, kBoth, kInPlace };

template <class T>
void check(std::int64_t rows, int n, bool weighted, Outputs outputs, RowLayout layout) {
  CAPTURE(rows, n, weighted, static_cast<int>(outputs), sizeof(T), layout.stride, layout.align);
  const auto values = test::row_of<T>(test::normal(rows * n, 1, 3.0));
  Rows<T> x(rows, n, values, layout), out(rows, n, layout);
  Rows<float> weight(1, n, test::uniform(n, 2, 0.5, 1.5),
                     {0, layout.align == sizeof(T) ? sizeof(float) : std::size_t{16}});
  const auto want = expected(values, weighted ? weight.data() : nullptr, rows, n);
  const std::int64_t blocks = (n + 127) / 128;
  const bool odd = layout.align == sizeof(T);
  Rows<e4m3> codes(rows, n, RowLayout{layout.stride, odd ? std::size_t{1} : std::size_t{16}});
  Rows<e8m0> scales(rows, blocks, RowLayout{blocks + (odd ? 1 : 0), 1});
  const bool in_place = outputs == Outputs::kInPlace;
  const bool wants_out = outputs != Outputs::kCodes, wants_codes = outputs != Outputs::kOut;
  ops::RmsNormParams p{.out = !wants_out ? nullptr
                              : in_place ? x.data()
                                         : out.data(),
                       .x = x.data(),
                       .weight = weighted ? weight.data() : nullptr,
                       .rows = rows,
                       .n = n,
                       .eps = kEps,
                       .dtype = test::kDType<T>,
                       .out_stride = layout.stride,
                       .x_stride = layout.stride};
  if (wants_codes)
    p.quantised = {.codes = codes.data(),
                   .scales = scales.data(),
                   .codes_stride = codes.stride(),
                   .scales_stride = scales.stride()};
  REQUIRE_OK(ops::rms_norm(p, nullptr));
  if (wants_out) REQUIRE_ROWS(in_place ? x : out, want.out);
  if (wants_codes) {
    REQUIRE_ROWS(codes, want.codes);
    REQUIRE_ROWS(scales, want.scales);
  }
  if (!in_place) REQUIRE_ROWS(x, values);
}

template <class T>
void check_layouts(std::int64_t rows, int n, bool weighted, Outputs outputs) {
  for (const RowLayout& layout : test::layouts<T>(n)) check<T>(rows, n, weighted, outputs, layout);
}

}  // namespace

TEMPLATE_TEST_CASE("rms_norm equals its primitive", "[ops][rms_norm]", bf16, float) {
  const std::int64_t rows = GENERATE(0, 1, 2, 63, 64, 65, 257);
  for (const int n : {1, 7, 128, 130, 256}) check_layouts<TestType>(rows, n, true, Outputs::kOut);
  check_layouts<TestType>(rows, 256, false, Outputs::kInPlace);
  check_layouts<TestType>(rows, 136, true, Outputs::kBoth);
}

TEMPLATE_TEST_CASE("rms_norm at the sizes of the models", "[ops][rms_norm]", bf16, float) {
  check_layouts<TestType>(2, 4096, true, Outputs::kBoth);
  check_layouts<TestType>(131, 4096, true, Outputs::kOut);  // a warp a row
  for (const auto& [rows, n] : test::model_shapes())
    check<TestType>(rows, static_cast<int>(n), true, Outputs::kBoth, {});
  for (const int n : {512, 1024, 1536}) check_layouts<TestType>(3, n, true, Outputs::kCodes);
}

TEMPLATE_TEST_CASE("rms_norm of rows that shared memory does not hold", "[ops][rms_norm]", bf16, float) {
  const int n = static_cast<int>(48 * 1024 / sizeof(TestType)) + 8;
  check<TestType>(2, n, true, Outputs::kInPlace, {});
  check<TestType>(130, n, true, Outputs::kInPlace, {n + 3, sizeof(TestType)});
  check<TestType>(129, n, false, Outputs::kBoth, {});
  check<TestType>(1, n - 8, true, Outputs::kBoth, {});  // the last that is staged
}

TEMPLATE_TEST_CASE("rms_norm quantises what act_quant would", "[ops][rms_norm]", bf16, float) {
  const std::int64_t rows = GENERATE(3, 200);
  const int n = 392;  // a short last block
  for (const auto layout : {ScaleLayout::kRowMajor, ScaleLayout::kColumnMajor}) {
    const auto values = test::row_of<TestType>(test::normal(rows * n, 3, 100.0));
    Rows<TestType> x(rows, n, values), y(rows, n);
    Rows<e4m3> codes(rows, n), want_codes(rows, n);
    const std::int64_t blocks = 4;
    const bool by_rows = layout == ScaleLayout::kRowMajor;
    const std::int64_t outer = by_rows ? rows : blocks, inner = by_rows ? blocks : rows;
    Rows<float> scales(outer, inner, RowLayout{inner + 3, 4}), want_scales(outer, inner);
    REQUIRE_OK(ops::rms_norm({.out = y.data(),
                              .quantised = {.codes = codes.data(),
                                            .scales = scales.data(),
                                            .scales_stride = inner + 3,
                                            .scale_type = ScaleType::kF32,
                                            .scale_layout = layout},
                              .x = x.data(),
                              .rows = rows,
                              .n = n,
                              .eps = kEps,
                              .dtype = test::kDType<TestType>},
                             nullptr));
    REQUIRE_OK(ops::act_quant({.codes = want_codes.data(),
                               .scales = want_scales.data(),
                               .x = y.data(),
                               .rows = rows,
                               .n = n,
                               .block = 128,
                               .scale_type = ScaleType::kF32,
                               .scale_layout = layout,
                               .dtype = test::kDType<TestType>},
                              nullptr));
    REQUIRE_ROWS(codes, want_codes.values());
    REQUIRE_ROWS(scales, want_scales.values());
    const auto e = expected(values, nullptr, rows, n);
    REQUIRE_ROWS(codes, e.codes);
    if (by_rows) REQUIRE_ROWS(scales, decoded(e.scales));
  }
}

TEST_CASE("rms_norm keeps bad numbers visible and in their rows", "[ops][rms_norm]") {
  const int n = 200;
  const std::int64_t rows = 3;
  auto v = test::normal(rows * n, 5);
  v[n + 150] = std::numeric_limits<float>::infinity();
  const auto values = test::row_of<bf16>(v);
  for (const RowLayout& layout : test::layouts<bf16>(n)) {
    Rows<bf16> x(rows, n, values, layout), out(rows, n);
    Rows<e4m3> codes(rows, n);
    Rows<e8m0> scales(rows, 2);
    REQUIRE_OK(ops::rms_norm({.out = out.data(),
                              .quantised = {.codes = codes.data(), .scales = scales.data()},
                              .x = x.data(),
                              .rows = rows,
                              .n = n,
                              .eps = kEps,
                              .x_stride = layout.stride},
                             nullptr));
    const auto want = expected(values, nullptr, rows, n);
    for (std::int64_t i = 0; i < rows * n; ++i) {
      const float got = to_float(out.row(i / n)[i % n]);
      REQUIRE(test::identical(got, to_float(want.out[static_cast<std::size_t>(i)])));
    }
    REQUIRE_ROWS(scales, want.scales);
    REQUIRE(scales.row(1)[1].bits == kE8m0Nan);
    REQUIRE(scales.row(1)[0].bits != kE8m0Nan);  // x * 0 = 0: the other block holds zeros
  }
}

TEST_CASE("a row's rms_norm does not depend on the batch around it", "[ops][rms_norm]") {
  const int n = 1536;
  const std::int64_t rows = 257;
  const auto values = test::row_of<bf16>(test::normal(rows * n, 6));
  Rows<bf16> x(rows, n, values), all(rows, n);
  REQUIRE_OK(ops::rms_norm({.out = all.data(), .x = x.data(), .rows = rows, .n = n, .eps = kEps}, nullptr));
  for (const std::int64_t r : {0, 1, 100, 256}) {
    Rows<bf16> one(1, n);
    REQUIRE_OK(ops::rms_norm({.out = one.data(), .x = x.row(r), .rows = 1, .n = n, .eps = kEps}, nullptr));
    REQUIRE_ROWS(one, test::slice(all.values(), n, r, 1));
  }
}

TEST_CASE("rms_norm under every policy of the machine", "[ops][rms_norm]") {
  test::under_all_policies([] {
    check<bf16>(3, 264, true, Outputs::kBoth, {});
    check<bf16>(130, 130, true, Outputs::kInPlace, {133, 2});
  });
}
