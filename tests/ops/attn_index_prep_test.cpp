// Op attn_index_prep on the SIMT machine: bit for bit its primitives in every format; within the oracle's
// intervals; nothing else touched.
#include "tests/ops/attn_prep.hpp"
#include "tests/support/shapes.hpp"

#include <array>
#include <cmath>
#include <limits>

using namespace dsv4;
using ops::CacheFormat;
using test::kIndexDim;
using test::kRopeDim;
using test::RowLayout;
using test::Rows;
namespace oracle = test::oracle;

namespace {

// What the op gives in one format: codes as bytes.
struct Prepared {
  std::vector<std::uint8_t> codes, scales;
  std::vector<float> weights;
};

template <class T>
std::int64_t code_bytes(CacheFormat format) {
  return format == CacheFormat::kIndexFp4   ? kIndexDim / 2
         : format == CacheFormat::kIndexFp8 ? kIndexDim
                                            : kIndexDim * static_cast<std::int64_t>(sizeof(T));
}

// By the primitives, one head at a time.
template <class T>
Prepared expected(const std::vector<T>& q, const std::vector<T>& weights,
                  const std::vector<std::int32_t>& positions, std::int64_t heads, CacheFormat format) {
  const auto rows = test::finished_index_queries(q, positions, heads);
  const float factor = attention::index_weight_factor(kIndexDim, static_cast<int>(heads));
  Prepared out;
  for (std::size_t r = 0; r < weights.size(); ++r) {
    const T* row = rows.data() + r * kIndexDim;
    alignas(16) std::uint8_t key[kIndexDim * sizeof(float)];
    float weight = to_float(weights[r]) * factor;
    if (format == CacheFormat::kIndexFp4) {
      attention::IndexFp4Pool{key, 68, 1, 1}.write(SerialCoop{}, 0, row);
      out.scales.insert(out.scales.end(), key + 64, key + 68);
    } else if (format == CacheFormat::kIndexFp8) {
      attention::IndexFp8Pool{key, 132, 1, 1}.write(SerialCoop{}, 0, row);
      float scale;
      std::memcpy(&scale, key + 128, sizeof scale);
      weight *= scale;
    } else {
      std::memcpy(key, row, kIndexDim * sizeof(T));
    }
    out.codes.insert(out.codes.end(), key, key + code_bytes<T>(format));
    out.weights.push_back(weight);
  }
  return out;
}

template <class T>
struct Inputs {
  std::int64_t tokens, heads, padding;
  std::vector<T> values = test::prep_values<T>(tokens * heads * kIndexDim, 11, 2.0);
  std::vector<T> weight_values = test::prep_values<T>(tokens * heads, 12);
  std::vector<std::int32_t> positions = test::prep_positions(tokens);
  std::vector<float> freq = test::prep_frequencies();
  Rows<T> q = Rows<T>(tokens, heads* kIndexDim, values, RowLayout{heads * kIndexDim + padding, 16});
  Rows<T> weights = Rows<T>(tokens, heads, weight_values, RowLayout{heads + padding, sizeof(T)});

  Inputs(std::int64_t t, std::int64_t h, std::int64_t p) : tokens(t), heads(h), padding(p) {}

  ops::AttnIndexPrepParams params(CacheFormat format, void* codes, void* scales, float* weights_out) {
    return {.codes = codes,
            .scales = format == CacheFormat::kIndexFp4 ? scales : nullptr,
            .weights_out = weights_out,
            .q = q.data(),
            .weights = weights.data(),
            .positions = positions.data(),
            .rope = {.freq = freq.data()},
            .tokens = tokens,
            .heads = static_cast<std::int32_t>(heads),
            .dim = kIndexDim,
            .rope_dim = kRopeDim,
            .format = format,
            .dtype = test::kDType<T>,
            .q_stride = q.stride(),
            .weights_stride = weights.stride()};
  }
};

// Bit for bit, any NaN equal to any.
void require_weights(const Rows<float>& got, const std::vector<float>& want) {
  REQUIRE(got.intact() == "");
  const auto values = got.values();
  REQUIRE(values.size() == want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    REQUIRE(test::identical(values[i], want[i]));
  }
}

template <class T>
void check(Inputs<T>& in, CacheFormat format) {
  CAPTURE(in.tokens, in.heads, in.padding, static_cast<int>(format), sizeof(T));
  const std::int64_t rows = in.tokens * in.heads;
  Rows<std::uint8_t> codes(rows, code_bytes<T>(format)), scales(rows, 4, RowLayout{4, 4});
  Rows<float> weights(rows, 1, RowLayout{1, 4});
  REQUIRE_OK(ops::attn_index_prep(in.params(format, codes.data(), scales.data(), weights.data()), nullptr));
  const Prepared want = expected(in.values, in.weight_values, in.positions, in.heads, format);
  REQUIRE_ROWS(codes, want.codes);
  if (format == CacheFormat::kIndexFp4) REQUIRE_ROWS(scales, want.scales);
  require_weights(weights, want.weights);
  REQUIRE_ROWS(in.q, in.values);
}

constexpr std::array kFormats = {CacheFormat::kIndexFp4, CacheFormat::kIndexFp8, CacheFormat::kRows};

}  // namespace

TEMPLATE_TEST_CASE("attn_index_prep equals its primitives", "[ops][attn_index_prep]", bf16, float) {
  const std::int64_t heads = GENERATE(1, 2, 3, 8, 17, 64);
  for (const std::int64_t tokens : {0, 1, 3})
    for (const CacheFormat format : kFormats) {
      Inputs<TestType> in(tokens, heads, tokens == 1 ? 0 : 24);
      check(in, format);
    }
}

TEST_CASE("attn_index_prep of many tokens", "[ops][attn_index_prep]") {
  Inputs<bf16> in(test::reduced() ? 9 : 65, 5, 0);
  for (const CacheFormat format : kFormats) check(in, format);
}

TEMPLATE_TEST_CASE("attn_index_prep: rows in place, int64 positions", "[ops][attn_index_prep]", bf16, float) {
  Inputs<TestType> in(3, 7, 0);
  const std::vector<std::int64_t> wide(in.positions.begin(), in.positions.end());
  Rows<float> weights(21, 1);
  auto p = in.params(CacheFormat::kRows, in.q.data(), nullptr, weights.data());
  p.positions = wide.data(), p.position_type = ops::PositionType::kInt64;
  REQUIRE_OK(ops::attn_index_prep(p, nullptr));
  REQUIRE_ROWS(in.q, test::finished_index_queries(in.values, in.positions, 7));
}

TEMPLATE_TEST_CASE("attn_index_prep computes its equation", "[ops][attn_index_prep]", bf16, float) {
  using T = TestType;
  const std::int64_t heads = 3;
  Inputs<T> in(2, heads, 8);
  const std::vector<std::int64_t> turned = {65537, (1 << 20) - 1};
  std::vector<float> cos, sin;
  for (const std::int64_t position : turned)
    for (const auto& a : oracle::turns(position)) cos.push_back(a.cos), sin.push_back(a.sin);
  in.positions = {0, 1};
  Rows<T> rows(2 * heads, kIndexDim);
  Rows<std::uint8_t> fp4(2 * heads, 64), fp8(2 * heads, 128), scales(2 * heads, 4);
  Rows<float> plain_weights(2 * heads, 1), weights(2 * heads, 1);
  const auto run = [&](CacheFormat format, void* codes, Rows<float>& to) {
    auto p = in.params(format, codes, scales.data(), to.data());
    p.rope = {.cos = cos.data(), .sin = sin.data(), .max_position = 2};
    REQUIRE_OK(ops::attn_index_prep(p, nullptr));
  };
  run(CacheFormat::kIndexFp4, fp4.data(), weights);
  run(CacheFormat::kIndexFp8, fp8.data(), weights);
  run(CacheFormat::kRows, rows.data(), plain_weights);
  for (std::int64_t r = 0; r < 2 * heads; ++r) {
    CAPTURE(r);
    std::vector<test::Interval> want;
    for (int d = 0; d < kIndexDim; ++d)
      want.push_back(test::around(test::value(in.values[static_cast<std::size_t>(r * kIndexDim + d)]), 0));
    oracle::rotate(want, kIndexDim - kRopeDim, oracle::turns(turned[static_cast<std::size_t>(r / heads)]),
                   +1);
    want = test::rounded<T>(oracle::hadamard(test::rounded<T>(want)));
    const std::vector<T> row(rows.row(r), rows.row(r) + kIndexDim);
    REQUIRE(test::outside(row, want) == "");
    // The codes of that row by the descriptions of the formats.
    std::vector<std::uint8_t> key(68);
    oracle::put_index_key(key.data(), 1, 0, test::values(row));
    REQUIRE(std::memcmp(fp4.row(r), key.data(), 64) == 0);
    REQUIRE(std::memcmp(scales.row(r), key.data() + 64, 4) == 0);
    const auto block = oracle::fp8_block(test::values(row));
    for (int d = 0; d < kIndexDim; ++d) REQUIRE(fp8.row(r)[d] == block.codes[static_cast<std::size_t>(d)]);
    // dim^-1/2 heads^-1/2 takes five roundings, its product with the weight one, a power of two none.
    const double weight = test::value(in.weight_values[static_cast<std::size_t>(r)]) /
                          std::sqrt(double{kIndexDim} * static_cast<double>(heads));
    REQUIRE(test::around(weight, 6 * test::kUnit * std::abs(weight)).holds(plain_weights.row(r)[0]));
    REQUIRE(weights.row(r)[0] == plain_weights.row(r)[0] * oracle::e8m0_value(block.scale));
  }
}

TEST_CASE("attn_index_prep: heads of zeros, of NaN and of inf", "[ops][attn_index_prep]") {
  const CacheFormat format = GENERATE(CacheFormat::kIndexFp4, CacheFormat::kIndexFp8);
  const std::int64_t heads = 6;
  Inputs<bf16> in(1, heads, 0);
  for (int d = 0; d < kIndexDim; ++d) in.values[static_cast<std::size_t>(d)] = {0};         // head 0
  in.values[2 * kIndexDim + 7] = from_float<bf16>(std::numeric_limits<float>::infinity());  // head 2
  in.values[5 * kIndexDim + 99] = from_float<bf16>(std::numeric_limits<float>::quiet_NaN());
  in.q.set(in.values);
  check(in, format);
  Rows<std::uint8_t> codes(heads, code_bytes<bf16>(format)), scales(heads, 4);
  Rows<float> weights(heads, 1);
  REQUIRE_OK(ops::attn_index_prep(in.params(format, codes.data(), scales.data(), weights.data()), nullptr));
  for (std::int64_t h = 0; h < heads; ++h) {
    const bool bad = h == 2 || h == 5;  // the transform spreads it over the head
    CAPTURE(h);
    if (format == CacheFormat::kIndexFp4)
      for (int b = 0; b < 4; ++b) REQUIRE((scales.row(h)[b] == 255) == bad);
    else
      REQUIRE(std::isnan(weights.row(h)[0]) == bad);
  }
}
