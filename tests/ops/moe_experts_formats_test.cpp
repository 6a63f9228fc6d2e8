// Op moe_experts: scales at the ends of their range, integers, however tensor cores round; activations that
// come as codes; the f32 instance.
#include <dsv4/linear/linear.hpp>
#include <dsv4/ops/act_quant.hpp>

#include "tests/ops/moe_down_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::at;
using test::DownCase;
using test::ExpertCase;
using test::ExpertShape;
using test::Factor;
using test::Rows;

TEST_CASE("FP4 scales at the ends of their range, side by side in one row", "[ops][moe]") {
  // Every pair of the bytes meets in one chunk; where they lie far apart the larger block's codes are zeros
  // in half of the rows, so that the smaller one is all that is left of the sum.
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const std::int32_t tile_rows = GENERATE(8, 32);
  const double magnitude = GENERATE(1.0, 0x1p-90, 0x1p90);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const std::int64_t tokens = 3, hidden = 64, inner = 256;
  DownCase d(WeightFormat::kFp4, tokens, hidden, inner, magnitude);
  const std::uint8_t ends[] = {0, 1, 127, 254, 255};
  test::Random random(22);
  for (std::int64_t r = 0; r < hidden; ++r)
    for (std::int64_t b = 0; b < inner / 32; ++b) {
      // Rows beyond the 50th have scales near one another; NaNs stand in every 16th row alone.
      std::uint8_t s = ends[random.integer(0, r % 16 == 5 ? 4 : 3)];
      if (r >= 50) s = static_cast<std::uint8_t>(100 + random.integer(0, 50));
      d.c.w2.scales->row(0)[r * (inner / 32) + b] = s;
      if (s == 254 && r % 2 == 0)
        for (std::int64_t i = 0; i < 16; ++i) d.c.w2.data->row(0)[(r * inner + b * 32) / 2 + i] = 0x80;
    }
  const Factor f = test::quantised(d.h, inner);
  const simt::ScopedOptions scope(o);
  const auto y = test::run_experts(d.c, tile_rows);
  int small = 0, large = 0, nans = 0;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t r = 0; r < hidden; ++r) {
      const test::Exact want = test::exact_of(d.c.w2, f, t, r);
      const double got = to_float(y[at(t * hidden + r)]);
      CAPTURE(static_cast<int>(rounding), tile_rows, magnitude, t, r, got, want.value, want.magnitude);
      if (std::isnan(want.value)) {
        REQUIRE(std::isnan(got));
        ++nans;
      } else if (want.magnitude > 0x1p126) {  // some partial sum may leave the range of fp32
        REQUIRE((std::isinf(got) || std::isnan(got) ||
                 std::abs(got - want.value) <= (test::product_bound(inner) + 0x1p-9) * want.magnitude));
        ++large;
      } else {
        // The last bit of a subnormal, once for each of at most 8 promotions and their scalings.
        const double bound = test::product_bound(inner) * want.magnitude + 0x1p-145;
        REQUIRE(std::abs(got - want.value) <= bound + std::abs(want.value) * 0x1p-8 + 0x1p-133);
        small += want.magnitude < 0x1p-60;
      }
    }
  REQUIRE(nans > 0);
  if (magnitude == 0x1p90) REQUIRE(large > 0);
  if (magnitude == 0x1p-90) REQUIRE(small > 0);
}

TEST_CASE("FP4 weights give the bits of an FP8 matrix that holds the same values", "[ops][moe]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const std::int32_t tile_rows = GENERATE(8, 32);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const ExpertShape s{.tokens = 11, .hidden = 256, .inner = 160, .experts = 3};
  ExpertCase fp4(s, test::random_experts(11, 2, 3, 23), 24);
  ExpertShape s8 = s;
  s8.up = s8.down = WeightFormat::kFp8;
  ExpertCase fp8(s8, fp4.idx, 24);
  int changed = 0;
  for (auto [a, b] : {std::pair{&fp4.w1, &fp8.w1}, {&fp4.w3, &fp8.w3}, {&fp4.w2, &fp8.w2}})
    for (std::int64_t e = 0; e < s.experts; ++e) {
      std::fill_n(b->scales->row(e), b->scales->cols(), std::uint8_t{121});
      for (std::int64_t r = 0; r < a->n; ++r)
        for (std::int64_t c = 0; c < a->k; ++c) {  // e2m1 * 2^-4 .. 2^1 is e4m3, subnormals included
          const auto value = static_cast<float>(a->value(e, r, c));
          b->data->row(e)[r * a->k + c] = to_e4m3(value * 0x1p6f).bits;
          changed += b->value(e, r, c) != double{value};
        }
    }
  REQUIRE(changed == 0);
  REQUIRE(test::difference_of(test::run_experts(fp4, tile_rows), test::run_experts(fp8, tile_rows)) == "");
}

TEST_CASE("moe_experts keeps its bound however tensor cores round", "[ops][moe]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  simt::Options o = simt::options();
  o.rounding = rounding;
  SECTION("of W2") {
    DownCase d(format, 3, 64, 2048, 1.0);
    const Factor f = test::is_quantising(format) ? test::quantised(d.h, 2048) : Factor{d.h, {}};
    const simt::ScopedOptions scope(o);
    for (const std::int32_t tile_rows : {8, 32}) {
      const auto y = test::run_experts(d.c, tile_rows);
      for (std::int64_t t = 0; t < 3; ++t)
        for (std::int64_t r = 0; r < 64; ++r) {
          const test::Exact want = test::exact_of(d.c.w2, f, t, r);
          const double got = to_float(y[at(t * 64 + r)]);
          CAPTURE(static_cast<int>(format), t, r, got, want.value);
          REQUIRE(test::within(got, want.value,
                               test::product_bound(2048) * want.magnitude + std::abs(want.value) * 0x1p-8));
        }
    }
  }
  SECTION("of W1 and W3") {
    // W2 = identity in bf16: y = h. |dh| <= |u| w 1.1 |dg| + |silu(g)| w |du|, and a rounding of each.
    const ExpertShape s{.up = format,
                        .down = WeightFormat::kBf16,
                        .tokens = 3,
                        .hidden = 2048,
                        .inner = 32,
                        .k = 1,
                        .experts = 1,
                        .limit = 1.0f};
    ExpertShape square = s;
    ExpertCase c(square, {0, 0, 0}, 25);
    for (std::int64_t r = 0; r < s.hidden; ++r)
      for (std::int64_t i = 0; i < s.inner; ++i) c.w2.put(0, r, i, r == i ? 1.0f : 0.0f);
    const Factor f = test::is_quantising(format) ? test::quantised(c.x, s.hidden) : Factor{c.x, {}};
    const simt::ScopedOptions scope(o);
    for (const std::int32_t tile_rows : {8, 32}) {
      const auto y = test::run_experts(c, tile_rows);
      for (std::int64_t t = 0; t < s.tokens; ++t)
        for (std::int64_t r = 0; r < s.inner; ++r) {
          double sums[2] = {}, error[2] = {};
          for (int m = 0; m < 2; ++m) {
            const test::Exact sum = test::exact_of(m == 0 ? c.w1 : c.w3, f, t, r);
            sums[m] = sum.value;
            error[m] = test::product_bound(s.hidden) * sum.magnitude + std::abs(sum.value) * 0x1p-8;
          }
          const double weight = c.routing[at(t)];
          const double g = std::min(sums[0], 1.0), u = std::clamp(sums[1], -1.0, 1.0);
          const double silu = g / (1 + std::exp(-g)), want = silu * u * weight;
          const double bound = (std::abs(u) + error[1]) * 1.1 * error[0] * weight +
                               std::abs(silu) * error[1] * weight + std::abs(want) * 0x1p-7;
          const double got = to_float(y[at(t * s.hidden + r)]);
          CAPTURE(static_cast<int>(format), tile_rows, t, r, got, want, bound);
          REQUIRE(test::within(got, want, bound));
        }
    }
  }
}

TEST_CASE("moe_experts of integers is exact however tensor cores round", "[ops][moe]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  simt::Options o = simt::options();
  o.rounding = rounding;
  // Integers up to 4 in weights and x: g and u are exact in fp32, so all that rounds rounds once, and the
  // reference's chain gives its bits on any tensor core.
  const ExpertShape s{.up = format, .down = format, .tokens = 10, .experts = 2, .limit = 4.0f};
  ExpertCase c(s, test::random_experts(10, 2, 2, 26), 27);
  test::Random random(28);
  for (float& v : c.x) v = static_cast<float>(random.integer(-4, 4));
  for (auto* w : {&c.w1, &c.w3, &c.w2})
    for (std::int64_t e = 0; e < s.experts; ++e) {
      const std::int64_t n = w->n, k = w->k;
      if (test::is_quantising(format)) std::fill_n(w->scales->row(e), w->scales->cols(), std::uint8_t{127});
      for (std::int64_t r = 0; r < n; ++r)
        for (std::int64_t i = 0; i < k; ++i) {
          const auto v = static_cast<double>(w == &c.w2 ? (r + i) % 97 == 0 : random.integer(-4, 4));
          const std::int64_t at_code = r * k + i;
          if (format == WeightFormat::kBf16) {
            w->put(e, r, i, static_cast<float>(v));
          } else if (format == WeightFormat::kFp8) {
            w->data->row(e)[at_code] = to_e4m3(static_cast<float>(v)).bits;
          } else {
            std::uint8_t& byte = w->data->row(e)[at_code / 2];
            const auto code = static_cast<std::uint8_t>(to_e2m1(static_cast<float>(v)));
            byte = static_cast<std::uint8_t>(at_code % 2 == 0 ? (byte & 0xf0) | code
                                                              : (byte & 0x0f) | code << 4);
          }
        }
    }
  const auto want = c.want();
  const simt::ScopedOptions scope(o);
  for (const std::int32_t tile_rows : {8, 32})
    REQUIRE(test::difference_of(test::run_experts(c, tile_rows), want) == "");
}

TEST_CASE("moe_experts takes activations as codes of either scale type and layout", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8);
  const bool column_major = GENERATE(false, true), f32 = GENERATE(false, true);
  const ExpertShape s{.up = format, .down = format, .tokens = 9, .hidden = 160, .experts = 3};
  ExpertCase c(s, test::random_experts(9, 2, 3, 29), 30);
  const std::int64_t blocks = test::chunks_of(s.hidden);
  const Factor f = test::quantised(c.x, s.hidden);
  Rows<e4m3> codes(s.tokens, s.hidden, test::RowLayout{s.hidden + 16, 16});
  Rows<e8m0> bytes(column_major ? blocks : s.tokens, column_major ? s.tokens : blocks);
  Rows<float> floats(bytes.rows(), bytes.cols());
  for (std::int64_t t = 0; t < s.tokens; ++t) {
    for (std::int64_t i = 0; i < s.hidden; ++i) codes.row(t)[i] = to_e4m3(f.values[at(t * s.hidden + i)]);
    for (std::int64_t b = 0; b < blocks; ++b) {
      const float scale = f.scales[at(t * blocks + b)];
      (column_major ? floats.row(b)[t] : floats.row(t)[b]) = scale;
      (column_major ? bytes.row(b)[t]
                    : bytes.row(t)[b]) = {static_cast<std::uint8_t>(127 + std::lround(std::log2(scale)))};
    }
  }
  const auto run = [&](std::int32_t tile_rows) {
    return test::run_experts(c, tile_rows, [&](ops::MoeExpertsParams& p) {
      p.input = {.codes = codes.data(),
                 .scales = f32 ? static_cast<const void*>(floats.data()) : bytes.data(),
                 .codes_stride = codes.stride(),
                 .scale_type = f32 ? ops::ScaleType::kF32 : ops::ScaleType::kUe8m0,
                 .scale_layout = column_major ? ops::ScaleLayout::kColumnMajor : ops::ScaleLayout::kRowMajor};
    });
  };
  for (const std::int32_t tile_rows : {8, 32}) REQUIRE(test::difference_of(run(tile_rows), c.want()) == "");
  codes.row(4)[140] = {0x7f};  // a NaN whose block's scale is a number
  for (const std::int32_t tile_rows : {8, 32}) {
    const auto y = run(tile_rows);
    std::size_t i = 0;
    for (std::int32_t e = 0; e < s.experts; ++e)
      for (const std::int64_t pair : c.rows_of(e))
        for (std::int64_t n = 0; n < s.hidden; ++n)
          REQUIRE(std::isnan(to_float(y[i++])) == (pair / s.k == 4));
  }
}

TEST_CASE("moe_experts of f32 activations is the primitives' chain, bit for bit", "[ops][moe]") {
  const auto format =
      GENERATE(WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kFp4);
  const std::int64_t tokens = GENERATE(0, 1, 7, 20);
  if (test::reduced() && tokens != 0 && tokens != 7) return;
  const ExpertShape s{.up = format,
                      .down = format,
                      .tokens = tokens,
                      .hidden = 160,
                      .inner = 96,
                      .experts = 4,
                      .limit = 2.0f};
  const ExpertCase c(s, test::random_experts(tokens, 2, 4, 31), 32);
  const auto x = test::normal(tokens * s.hidden, 33);
  std::vector<float> want, scratch(at(linear::kDecodeRows * s.hidden));
  const auto product = [&](const std::vector<float>& rows, const test::ExpertBytes& w, std::int64_t e) {
    std::vector<float> plain, y(rows.size() / at(w.k) * at(w.n));
    for (std::int64_t r = 0; r < w.n; ++r)
      for (std::int64_t i = 0; i < w.k; ++i) plain.push_back(static_cast<float>(w.value(e, r, i)));
    linear::tile(SerialCoop{}, y.data(), w.n, linear::RowsF32{rows.data(), w.k},
                 static_cast<int>(rows.size() / at(w.k)),
                 linear::WeightView{linear::WeightType::kF32, plain.data(), nullptr, w.n, w.k}, 0, w.n,
                 scratch.data());
    return y;
  };
  for (std::int32_t e = 0; e < s.experts; ++e) {
    const auto pairs = c.rows_of(e);
    if (pairs.empty()) continue;
    std::vector<float> rows;
    for (const std::int64_t p : pairs)
      rows.insert(rows.end(), x.begin() + p / s.k * s.hidden, x.begin() + (p / s.k + 1) * s.hidden);
    auto h = product(rows, c.w1, e);
    const auto u = product(rows, c.w3, e);
    for (std::size_t i = 0; i < pairs.size(); ++i)
      moe::swiglu(SerialCoop{}, h.data() + i * at(s.inner), h.data() + i * at(s.inner),
                  u.data() + i * at(s.inner), static_cast<int>(s.inner), s.limit, c.routing[at(pairs[i])]);
    const auto y = product(h, c.w2, e);
    want.insert(want.end(), y.begin(), y.end());
  }
  for (const std::int32_t tile_rows : {1, 8, 32}) {
    if (test::reduced() && tile_rows != 8 && format != WeightFormat::kFp4) continue;  // the format's own code
    Rows<float> y(c.plan_rows(), s.hidden, test::RowLayout{s.hidden + 1, 4});
    CAPTURE(static_cast<int>(format), tokens, tile_rows);
    test::run_experts(c, tile_rows, [&](ops::MoeExpertsParams& p) {
      p.y = y.data(), p.y_stride = y.stride();
      p.input = {.x = x.data()};
      p.dtype = ops::DType::kF32;
    });
    REQUIRE_ROWS(y, want);
  }
}
