// Ops linear_bf16, linear_fp8 and linear_multi on the SIMT machine: bit for bit the documented order, which
// does not know the batch, and within a derived bound of the exact product however tensor cores round.
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

constexpr float kEps = 1e-6f;

struct Kind {
  WeightFormat format;
  bool quantise, norm;
};
const std::vector<Kind> kKinds = {{WeightFormat::kBf16, false, false}, {WeightFormat::kBf16, false, true},
                                  {WeightFormat::kFp8, false, false},  {WeightFormat::kFp8, true, false},
                                  {WeightFormat::kFp8, false, true},   {WeightFormat::kFp8, true, true}};

// What the products of a kind multiply the weights with.
Factor factor_of(const std::vector<float>& x, std::int64_t k, const Kind& kind, const float* weight) {
  const std::vector<float> rows = kind.norm ? test::normed(x, k, weight, kEps) : x;
  return kind.quantise ? test::quantised(rows, k) : Factor{rows, {}};
}

template <class Y>
void check(std::int64_t tokens, std::int64_t n, std::int64_t k, const Kind& kind, std::int64_t pad = 0) {
  CAPTURE(tokens, n, k, static_cast<int>(kind.format), kind.quantise, kind.norm, pad);
  const auto values = test::normal_bf16(tokens * k, 1, 2.0);
  const auto weight = test::uniform(k, 2, 0.5, 1.5);
  const Rows<bf16> x(tokens, k, test::row_of<bf16>(values), {k + 8 * pad, 16});
  const TestMatrix w = test::random_matrix(kind.format, n, k, 3, pad);
  Rows<Y> y(tokens, n, RowLayout{n + 3 * pad, 16});
  const Factor factor = factor_of(values, k, kind, weight.data());
  ops::LinearMultiParams p{.count = 1,
                           .input = {.x = x.data(),
                                     .norm_weight = kind.norm ? weight.data() : nullptr,
                                     .norm_eps = kEps,
                                     .x_stride = x.stride()},
                           .tokens = tokens,
                           .k = k};
  p.parts[0] = {.y = y.data(),
                .weight = w.weight(),
                .n = n,
                .y_stride = y.stride(),
                .y_type = test::kDType<Y>,
                .quantise = kind.quantise};
  test::run_linear(p);
  REQUIRE_ROWS(y, test::rounded_to<Y>(test::ordered(factor, w, tokens)));
}

}  // namespace

TEST_CASE("linear sums in one order for any number of tokens", "[ops][linear]") {
  const Kind kind = GENERATE(from_range(kKinds));
  const std::int64_t tokens = GENERATE(0, 1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65);
  if (test::reduced() && tokens > 9 && tokens != 33) return;
  check<bf16>(tokens, 37, 208, kind, 1);
  check<float>(tokens, 18, 128, kind);
}

TEST_CASE("linear at the edges of its tiles", "[ops][linear]") {
  const Kind kind = GENERATE(from_range(kKinds));
  for (const std::int64_t k : {16, 112, 144, 1168}) check<float>(3, 20, k, kind);
  for (const std::int64_t n : {1, 2, 15, 16, 17, 127, 128, 129, 257}) check<bf16>(3, n, 144, kind, 1);
  if (test::reduced()) return;
  check<float>(257, 19, 144, kind);
  check<bf16>(9, 16400, 16, kind);  // so many rows that few tokens take the tiles of many
}

TEST_CASE("linear with a row that a block's shared memory does not hold", "[ops][linear]") {
  check<float>(7, 17, 7168, {WeightFormat::kFp8, true, false});
  if (test::reduced()) return;
  check<float>(8, 17, 7168, {WeightFormat::kFp8, true, true});
}

TEST_CASE("linear at the widths of the models", "[ops][linear]") {
  if (test::reduced()) return check<bf16>(1, 64, 4096, {WeightFormat::kFp8, true, true});
  check<bf16>(1, 1024, 4096, {WeightFormat::kFp8, true, true});
  check<bf16>(1, 512, 7168, {WeightFormat::kFp8, true, false});
  check<float>(2, 256, 7168, {WeightFormat::kBf16, false, false});
  check<bf16>(1, 9000, 1536, {WeightFormat::kFp8, true, false});  // several row groups a block
}

TEST_CASE("linear of integers is exact however tensor cores round", "[ops][linear]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t n = 33, k = 272;
  for (const std::int64_t tokens : {1, 9, 40}) {
    test::Random random(5);
    std::vector<float> xs, ws;
    std::vector<std::uint8_t> codes;
    for (std::int64_t i = 0; i < tokens * k; ++i) xs.push_back(static_cast<float>(random.integer(-8, 8)));
    for (std::int64_t i = 0; i < n * k; ++i)
      codes.push_back(
          static_cast<std::uint8_t>(test::oracle::e4m3_nearest(static_cast<double>(random.integer(-8, 8)))));
    const TestMatrix w = test::fp8_matrix(n, k, codes, std::vector<std::uint8_t>(3, 127 + 2));
    const Rows<bf16> x(tokens, k, test::row_of<bf16>(xs));
    Rows<float> y(tokens, n);
    ops::LinearMultiParams p{.count = 1, .input = {.x = x.data()}, .tokens = tokens, .k = k};
    p.parts[0] = {.y = y.data(), .weight = w.weight(), .n = n, .y_type = ops::DType::kF32};
    for (const bool quantise : {false, true}) {
      p.parts[0].quantise = quantise;  // integers up to 8 survive it
      test::run_linear(p);
      for (std::int64_t t = 0; t < tokens; ++t)
        for (std::int64_t r = 0; r < n; ++r) {
          CAPTURE(static_cast<int>(rounding), tokens, quantise, t, r);
          REQUIRE(double{y.row(t)[r]} == test::exact_product({xs, {}}, w, t, r).value);
        }
    }
  }
}

TEST_CASE("linear keeps its bound however tensor cores round", "[ops][linear]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const Kind kind = GENERATE(from_range(kKinds));
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t tokens = 3, n = 20, k = 4096;
  const auto values = test::normal_bf16(tokens * k, 7);
  const auto weight = test::uniform(k, 8, 0.5, 1.5);
  const Rows<bf16> x(tokens, k, test::row_of<bf16>(values));
  const TestMatrix w = test::random_matrix(kind.format, n, k, 9);
  const Factor factor = factor_of(values, k, kind, weight.data());
  Rows<float> y(tokens, n);
  ops::LinearMultiParams p{
      .count = 1,
      .input = {.x = x.data(), .norm_weight = kind.norm ? weight.data() : nullptr, .norm_eps = kEps},
      .tokens = tokens,
      .k = k};
  p.parts[0] = {
      .y = y.data(), .weight = w.weight(), .n = n, .y_type = ops::DType::kF32, .quantise = kind.quantise};
  test::run_linear(p);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t r = 0; r < n; ++r) {
      const test::Exact want = test::exact_product(factor, w, t, r);
      CAPTURE(static_cast<int>(rounding), static_cast<int>(kind.format), t, r, want.value);
      REQUIRE(test::within(y.row(t)[r], want.value, test::product_bound(k) * want.magnitude));
    }
}

TEST_CASE("a row's products depend neither on the batch nor on the company", "[ops][linear]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const bool norm = GENERATE(false, true);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t tokens = 70, k = 528;
  const std::vector<std::int64_t> ns = {40, 21, 130};
  const auto weight = test::uniform(k, 12, 0.5, 1.5);
  const Rows<bf16> x(tokens, k, test::row_of<bf16>(test::normal_bf16(tokens * k, 13)));
  std::vector<TestMatrix> w;
  w.push_back(test::random_matrix(WeightFormat::kFp8, ns[0], k, 14));
  w.push_back(test::random_matrix(WeightFormat::kBf16, ns[1], k, 15));
  w.push_back(test::random_matrix(WeightFormat::kFp8, ns[2], k, 16));
  const ops::LinearInput input{
      .x = x.data(), .norm_weight = norm ? weight.data() : nullptr, .norm_eps = kEps};
  std::vector<std::unique_ptr<Rows<float>>> all;
  ops::LinearMultiParams p{.count = 3, .input = input, .tokens = tokens, .k = k};
  for (std::size_t i = 0; i < 3; ++i) {
    all.push_back(std::make_unique<Rows<float>>(tokens, ns[i]));
    p.parts[i] = {.y = all[i]->data(),
                  .weight = w[i].weight(),
                  .n = ns[i],
                  .y_type = ops::DType::kF32,
                  .quantise = i == 0};
  }
  test::run_linear(p);
  for (const std::int64_t count : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64}) {
    if (test::reduced() && count != 1 && count != 9 && count != 33) continue;
    const std::int64_t first = tokens - count;
    ops::LinearMultiParams q = p;
    q.tokens = count, q.input.x = x.row(first);
    std::vector<std::unique_ptr<Rows<float>>> some;
    for (std::size_t i = 0; i < 3; ++i) {
      some.push_back(std::make_unique<Rows<float>>(count, ns[i]));
      q.parts[i].y = some[i]->data();
    }
    test::run_linear(q);
    for (std::size_t i = 0; i < 3; ++i) {
      CAPTURE(static_cast<int>(rounding), norm, count, i);
      const auto want = test::slice(all[i]->values(), ns[i], first, count);
      REQUIRE_ROWS(*some[i], want);
      Rows<float> alone(count, ns[i]);
      ops::LinearMultiParams one = q;
      one.count = 1, one.parts[0] = q.parts[i], one.parts[0].y = alone.data();
      test::run_linear(one);
      REQUIRE_ROWS(alone, want);
    }
  }
}
