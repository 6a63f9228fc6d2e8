// Ops linear_*: scales and codes at the ends of their ranges, activations that come as codes, the f32
// instance, schedules.
#include <dsv4/linear/linear.hpp>

#include "tests/ops/linear_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::at;
using test::Factor;
using test::RowLayout;
using test::Rows;
using test::TestMatrix;

namespace {

// Equal bit for bit, NaNs where they should be.
void require_identical(const Rows<float>& got, const std::vector<float>& want) {
  REQUIRE(got.intact() == "");
  for (std::int64_t t = 0; t < got.rows(); ++t)
    for (std::int64_t r = 0; r < got.cols(); ++r) {
      CAPTURE(t, r, got.row(t)[r], want[at(t * got.cols() + r)]);
      REQUIRE(test::identical(got.row(t)[r], want[at(t * got.cols() + r)]));
    }
}

ops::LinearFp8Params fp8_params(Rows<float>& y, const TestMatrix& w, std::int64_t tokens) {
  return {.y = y.data(),
          .weight = w.weight(),
          .tokens = tokens,
          .n = w.n,
          .k = w.k,
          .y_stride = y.stride(),
          .y_type = ops::DType::kF32};
}

void run_fp8(ops::LinearFp8Params p) {
  test::TestWorkspace w(ops::linear_fp8_workspace_bytes(p));
  p.workspace = w.data(), p.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::linear_fp8(p, nullptr));
  REQUIRE(w.intact() == "");
}

// Codes and scales as ops write them.
struct Codes {
  Rows<e4m3> codes;
  Rows<e8m0> bytes;
  Rows<float> floats;
  Factor factor;

  // column_major: rows of scales are those of blocks. `extra` lies between rows.
  Codes(std::int64_t tokens, std::int64_t k, const std::vector<std::uint8_t>& code_bytes,
        const std::vector<std::uint8_t>& scale_bytes, bool column_major, std::int64_t extra)
      : codes(tokens, k, RowLayout{k + 16 * extra, 16}),
        bytes(column_major ? test::chunks_of(k) : tokens, column_major ? tokens : test::chunks_of(k),
              RowLayout{(column_major ? tokens : test::chunks_of(k)) + extra, 1}),
        floats(bytes.rows(), bytes.cols(), RowLayout{bytes.stride(), 4}) {
    std::vector<e4m3> c;
    for (const std::uint8_t b : code_bytes) {
      c.push_back({b});
      factor.values.push_back(static_cast<float>(test::oracle::e4m3_value(b)));
    }
    codes.set(c);
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t b = 0; b < test::chunks_of(k); ++b) {
        const std::uint8_t s = scale_bytes[at(t * test::chunks_of(k) + b)];
        const auto value = static_cast<float>(test::oracle::e8m0_value(s));
        (column_major ? bytes.row(b)[t] : bytes.row(t)[b]) = {s};
        (column_major ? floats.row(b)[t] : floats.row(t)[b]) = value;
        factor.scales.push_back(value);
      }
  }
};

std::vector<std::uint8_t> finite_codes(std::int64_t n, std::uint64_t seed) {
  std::vector<std::uint8_t> codes = test::bytes(n, seed);
  for (std::uint8_t& c : codes)
    if ((c & 0x7f) == 0x7f) c = 0x7e;
  return codes;
}

}  // namespace

TEST_CASE("linear_fp8 with weight scales at the ends of their range", "[ops][linear]") {
  const std::int64_t tokens = GENERATE(2, 12, 40), n = 300, k = 256;
  // Tiles of 128 rows by 2 chunks: the smallest powers, the largest, NaN in one chunk of the last rows.
  const TestMatrix w = test::fp8_matrix(n, k, finite_codes(n * k, 1), {0, 1, 254, 253, 127, 255});
  for (const double magnitude : {0x1p100, 1.0, 0x1p-100}) {
    std::vector<float> values = test::normal_bf16(tokens * k, 2);
    for (float& v : values) v *= static_cast<float>(magnitude);
    const Rows<bf16> x(tokens, k, test::row_of<bf16>(values));
    Rows<float> y(tokens, n);
    ops::LinearFp8Params p = fp8_params(y, w, tokens);
    p.input.x = x.data(), p.quantise = false;
    run_fp8(p);
    require_identical(y, test::ordered({values, {}}, w, tokens));
    for (std::int64_t r = 256; r < n; ++r) REQUIRE(std::isnan(y.row(0)[r]));
  }
}

TEST_CASE("linear_fp8 takes codes of either scale type and layout", "[ops][linear]") {
  const std::int64_t tokens = GENERATE(1, 8, 13, 40), n = 36, k = 272;
  const bool column_major = GENERATE(false, true), f32 = GENERATE(false, true);
  std::vector<std::uint8_t> scales = test::bytes(tokens * test::chunks_of(k), 3);
  for (std::uint8_t& s : scales) s = static_cast<std::uint8_t>(110 + s % 20);
  const std::uint8_t ends[] = {0, 1, 254, 255};
  for (std::size_t i = 0; i < 4 && i < scales.size(); ++i) scales[i] = ends[i];
  const Codes x(tokens, k, finite_codes(tokens * k, 4), scales, column_major, 1);
  const TestMatrix w = test::random_matrix(WeightFormat::kFp8, n, k, 5);
  Rows<float> y(tokens, n);
  ops::LinearFp8Params p = fp8_params(y, w, tokens);
  p.input = {.codes = x.codes.data(),
             .scales = f32 ? static_cast<const void*>(x.floats.data()) : x.bytes.data(),
             .codes_stride = x.codes.stride(),
             .scales_stride = x.bytes.stride(),
             .scale_type = f32 ? ops::ScaleType::kF32 : ops::ScaleType::kUe8m0,
             .scale_layout = column_major ? ops::ScaleLayout::kColumnMajor : ops::ScaleLayout::kRowMajor};
  CAPTURE(tokens, column_major, f32);
  run_fp8(p);
  require_identical(y, test::ordered(x.factor, w, tokens));
}

TEST_CASE("NaN codes, infinities and NaNs reach the products that they belong to", "[ops][linear]") {
  const std::int64_t tokens = GENERATE(3, 20, 40), n = 40, k = 256;
  std::vector<std::uint8_t> codes = finite_codes(n * k, 6);
  codes[at(7 * k + 130)] = 0x7f, codes[at(20 * k + 5)] = 0xff;  // rows 7 and 20
  const TestMatrix w = test::fp8_matrix(n, k, codes, {120, 121});
  std::vector<float> values = test::normal_bf16(tokens * k, 7);
  values[at(1 * k + 200)] = test::float_of(0x7f800000u);  // token 1, its second block
  values[at(2 * k + 3)] = test::float_of(0x7fc00000u);
  const Rows<bf16> x(tokens, k, test::row_of<bf16>(values));
  for (const bool quantise : {false, true}) {
    Rows<float> y(tokens, n);
    ops::LinearFp8Params p = fp8_params(y, w, tokens);
    p.input.x = x.data(), p.quantise = quantise;
    run_fp8(p);
    const Factor f = quantise ? test::quantised(values, k) : Factor{values, {}};
    require_identical(y, test::ordered(f, w, tokens));
    for (std::int64_t t = 0; t < tokens; ++t) REQUIRE((std::isnan(y.row(t)[7]) && std::isnan(y.row(t)[20])));
    for (std::int64_t r = 0; r < n; ++r) {
      REQUIRE(std::isnan(y.row(2)[r]));
      REQUIRE(!std::isfinite(y.row(1)[r]));
      if (r != 7 && r != 20) REQUIRE(std::isfinite(y.row(0)[r]));
    }
  }
}

TEST_CASE("linear cuts rows out of a larger matrix, and columns out of wider activations", "[ops][linear]") {
  const std::int64_t tokens = GENERATE(2, 9, 35), n = 96, k = 144, first = 80, column = 256;
  const TestMatrix whole = test::random_matrix(WeightFormat::kFp8, first + n, k, 8, 1);
  const auto values = test::normal_bf16(tokens * (column + k), 9);
  const Rows<bf16> x(tokens, column + k, test::row_of<bf16>(values));
  std::vector<float> cut;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t c = 0; c < k; ++c) cut.push_back(values[at(t * (column + k) + column + c)]);
  Rows<float> y(tokens, n);
  ops::LinearMultiParams p{.count = 1, .input = {.x = x.data()}, .tokens = tokens, .k = k};
  ops::LinearPart& part = p.parts[0];
  part = {.y = y.data(),
          .weight = whole.weight(),
          .n = n,
          .x_column = column,
          .y_type = ops::DType::kF32,
          .quantise = true};
  part.weight.data = whole.codes->row(first), part.weight.scales_row = first;
  test::run_linear(p);
  const auto all = test::ordered(test::quantised(cut, k), whole, tokens);
  std::vector<float> want;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t r = first; r < first + n; ++r) want.push_back(all[at(t * (first + n) + r)]);
  REQUIRE_ROWS(y, want);
}

TEST_CASE("linear of f32 activations is the primitive, bit for bit", "[ops][linear]") {
  const auto format = GENERATE(WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8);
  const bool norm = GENERATE(false, true);
  const std::int64_t tokens = GENERATE(0, 1, 3, 4, 9);
  for (const std::int64_t k : {1, 33, 300})
    for (const std::int64_t n : {1, 17}) {
      CAPTURE(static_cast<int>(format), norm, tokens, k, n);
      TestMatrix w = test::random_matrix(format, n, k, 10);
      auto values = test::normal(tokens * k, 11);
      const auto weight = test::uniform(k, 12, 0.5, 1.5);
      const Rows<float> x(tokens, k, values, RowLayout{k + 1, 4});
      Rows<float> y(tokens, n);
      ops::LinearMultiParams p{.count = 1,
                               .input = {.x = x.data(),
                                         .norm_weight = norm ? weight.data() : nullptr,
                                         .norm_eps = 1e-6f,
                                         .x_stride = x.stride()},
                               .tokens = tokens,
                               .k = k,
                               .dtype = ops::DType::kF32};
      p.parts[0] = {
          .y = y.data(), .weight = w.weight(), .n = n, .y_type = ops::DType::kF32, .quantise = true};
      test::run_linear(p);
      for (std::int64_t t = 0; norm && t < tokens; ++t)
        rms_norm(SerialCoop{}, values.data() + t * k, values.data() + t * k, weight.data(),
                 static_cast<int>(k), 1e-6f);
      std::vector<float> plain, want(at(tokens * n)), scratch(at(linear::kDecodeRows * k));
      for (std::int64_t r = 0; r < n; ++r)
        for (std::int64_t c = 0; c < k; ++c) plain.push_back(static_cast<float>(w.value(r, c)));
      linear::tile(SerialCoop{}, want.data(), n, linear::RowsF32{values.data(), k}, static_cast<int>(tokens),
                   linear::WeightView{linear::WeightType::kF32, plain.data(), nullptr, n, k}, 0, n,
                   scratch.data());
      REQUIRE_ROWS(y, want);
    }
}

TEST_CASE("linear under every policy of the machine, and again", "[ops][linear]") {
  const std::int64_t tokens = GENERATE(2, 12, 34), n = 40, k = 400;
  const auto values = test::normal_bf16(tokens * k, 13);
  const auto weight = test::uniform(k, 14, 0.5, 1.5);
  const Rows<bf16> x(tokens, k, test::row_of<bf16>(values));
  const TestMatrix fp8 = test::random_matrix(WeightFormat::kFp8, n, k, 15),
                   plain = test::random_matrix(WeightFormat::kBf16, n, k, 16);
  const auto normed = test::normed(values, k, weight.data(), 1e-6f);
  const auto want_fp8 = test::ordered(test::quantised(normed, k), fp8, tokens);
  const auto want_plain = test::rounded_to<bf16>(test::ordered({normed, {}}, plain, tokens));
  const auto run = [&] {
    Rows<float> a(tokens, n);
    Rows<bf16> b(tokens, n);
    ops::LinearMultiParams p{.count = 2,
                             .input = {.x = x.data(), .norm_weight = weight.data(), .norm_eps = 1e-6f},
                             .tokens = tokens,
                             .k = k};
    p.parts[0] = {
        .y = a.data(), .weight = fp8.weight(), .n = n, .y_type = ops::DType::kF32, .quantise = true};
    p.parts[1] = {.y = b.data(), .weight = plain.weight(), .n = n};
    test::run_linear(p);
    REQUIRE_ROWS(a, want_fp8);
    REQUIRE_ROWS(b, want_plain);
  };
  test::under_all_policies(run);
  for (int i = 0; i < (test::reduced() ? 3 : 20); ++i) run();
}
