// Mirrors include/dsv4/attention/compressor.hpp.
#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/visibility.hpp>
#include <dsv4/core/rope.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

using namespace dsv4;
using attention::CompressorShape;
using test::Interval;
namespace oracle = test::oracle;

namespace {
constexpr float kEps = 1e-6f;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Projections of consecutive tokens, the first at `first`: per token a [width], then b [width].
struct Tokens {
  int width;
  std::int64_t first;
  std::vector<float> data;

  std::int64_t end() const { return first + static_cast<std::int64_t>(data.size()) / (2 * width); }
  const float* operator()(std::int64_t position) const {
    if (position < first || position >= end()) throw std::out_of_range("no such position");
    return data.data() + (position - first) * 2 * width;
  }
};

Tokens tokens(int width, std::int64_t first, std::int64_t count, std::uint64_t seed,
              double logit_sigma = 2.0) {
  Tokens t{width, first, test::normal(count * 2 * width, seed)};
  for (std::size_t i = 0; i < t.data.size(); ++i)
    if (i / static_cast<std::size_t>(width) % 2 == 1) t.data[i] *= static_cast<float>(logit_sigma);
  return t;
}

// out[c] = sum p a / sum p over the predecessor's first half at ratio 4, then the block's tokens, in double.
// Bound: the exponent is off by the roundings of b + ape (both of this term and of the maximum) and of the
// differences, which add up to the distance from the maximum; e^x by 3 ulp, once for the term and once for
// each new maximum, by which all terms before it are scaled; sums of n terms by n roundings; the quotient by
// one.
std::vector<Interval> pooled(const Tokens& rows, std::int64_t entry, const std::vector<float>& ape, int ratio,
                             int dim) {
  const int width = rows.width;
  std::vector<Interval> out;
  for (int c = 0; c < dim; ++c) {
    std::vector<double> logit, a;
    const auto add = [&](std::int64_t position, int token, int column) {
      logit.push_back(double{rows(position)[width + column]} + ape[std::size_t(token * width + column)]);
      a.push_back(rows(position)[column]);
    };
    if (ratio == 4 && entry > 0)
      for (int j = 0; j < ratio; ++j) add(entry * ratio - ratio + j, j, c);
    for (int j = 0; j < ratio; ++j) add(entry * ratio + j, j, ratio == 4 ? dim + c : c);
    double max = -std::numeric_limits<double>::infinity();
    int rises = 0;
    for (const double s : logit)
      if (s > max) max = s, ++rises;
    const double n = static_cast<double>(logit.size());
    double sum = 0, sum_error = 0, acc = 0, acc_error = 0;
    for (std::size_t j = 0; j < logit.size(); ++j) {
      const double p = std::exp(logit[j] - max);
      const double e =
          (std::abs(logit[j]) + std::abs(max) + std::abs(logit[j] - max) + 3 * rises + n) * test::kUnit;
      sum += p, sum_error += p * e;
      acc += p * a[j], acc_error += p * std::abs(a[j]) * e;
    }
    const double want = acc / sum;
    out.push_back(test::around(
        want, (acc_error + std::abs(want) * sum_error) / sum + 2 * test::kUnit * std::abs(want)));
  }
  return out;
}

std::vector<float> run_pool(const Tokens& rows, std::int64_t entry, const std::vector<float>& ape,
                            CompressorShape shape) {
  std::vector<float> out(static_cast<std::size_t>(shape.dim), kNan);
  attention::pool(SerialCoop{}, out.data(), rows, entry, ape.data(), shape);
  return out;
}

std::vector<float> position_bias(CompressorShape shape, std::uint64_t seed) {
  return test::normal(std::int64_t{shape.ratio} * shape.width(), seed, 1.5);
}
}  // namespace

TEST_CASE("attention::CompressorShape", "[attention][compressor]") {
  constexpr CompressorShape csa{4, 512}, index{4, 128}, hca{128, 512};
  REQUIRE(csa.overlaps());
  REQUIRE(csa.width() == 1024);
  REQUIRE(csa.row_floats() == 2048);
  REQUIRE(csa.span() == 8);
  REQUIRE(index.width() == 256);
  REQUIRE(index.row_floats() == 512);
  REQUIRE(!hca.overlaps());
  REQUIRE(hca.width() == 512);
  REQUIRE(hca.row_floats() == 1024);
  REQUIRE(hca.span() == 128);
}

TEST_CASE("attention::pool computes its equation", "[attention][compressor]") {
  const CompressorShape shape =
      GENERATE(CompressorShape{4, 512}, CompressorShape{4, 128}, CompressorShape{4, 32},
               CompressorShape{128, 512}, CompressorShape{128, 32});
  const std::int64_t entry = GENERATE(0, 1, 2, 5, (1 << 18) - 1);
  // Only the tokens that the entry is pooled from: asking for another throws. Entry 0 has no predecessor, so
  // there is no position -1 to ask for.
  const std::int64_t last = (entry + 1) * shape.ratio;
  const std::int64_t first = std::max<std::int64_t>(0, last - (shape.ratio == 4 ? 8 : 128));
  const Tokens rows = tokens(shape.width(), first, last - first, static_cast<std::uint64_t>(101 + entry));
  const auto ape = position_bias(shape, 102);
  CAPTURE(shape.ratio, shape.dim, entry);
  REQUIRE(test::outside(run_pool(rows, entry, ape, shape),
                        pooled(rows, entry, ape, shape.ratio, shape.dim)) == "");
}

TEST_CASE("attention::pool: entry 0 of an overlapping compressor has four terms", "[attention][compressor]") {
  // Equal logits far below zero: four weights of 1/4. Terms of weight e^0 for a predecessor that does not
  // exist would take everything; terms of weight e^-30 would halve the result.
  const CompressorShape shape{4, 64};
  Tokens rows = tokens(shape.width(), 0, 8, 103);
  const std::vector<float> ape(static_cast<std::size_t>(4 * shape.width()), 0.0f);
  for (std::int64_t position = 0; position < 8; ++position)
    for (int c = 0; c < shape.width(); ++c)
      rows.data[std::size_t((position * 2 + 1) * shape.width() + c)] = -30;
  const auto first = run_pool(rows, 0, ape, shape), second = run_pool(rows, 1, ape, shape);
  for (int c = 0; c < 64; ++c) {
    double own = 0, both = 0, magnitude = 0;
    for (int j = 0; j < 4; ++j) own += rows(j)[64 + c];
    for (int j = 0; j < 4; ++j) both += double{rows(4 + j)[64 + c]} + rows(j)[c];
    for (int j = 0; j < 8; ++j) magnitude += std::abs(rows(j)[c]) + std::abs(rows(j)[64 + c]);
    CAPTURE(c);
    REQUIRE(std::abs(first[std::size_t(c)] - own / 4) <= 5 * test::kUnit * magnitude / 4);
    REQUIRE(std::abs(second[std::size_t(c)] - both / 8) <= 9 * test::kUnit * magnitude / 8);
  }
}

TEST_CASE("attention::pool: halves, tokens and bias reach the entry they belong to",
          "[attention][compressor]") {
  // One token at a time gets a logit that outweighs all others; its a is then the result.
  const CompressorShape shape{4, 32};
  const int width = shape.width();
  const int token = GENERATE(range(0, 8));
  const bool second_half = GENERATE(false, true);
  const bool by_ape = GENERATE(false, true);
  Tokens rows = tokens(width, 0, 8, 104, 0.0);  // all logits 0
  std::vector<float> ape(static_cast<std::size_t>(4 * width), 0.0f);
  for (int c = 0; c < 32; ++c) {
    const int column = c + (second_half ? 32 : 0);
    if (by_ape)
      ape[std::size_t(token % 4 * width + column)] = 200;
    else
      rows.data[std::size_t((token * 2 + 1) * width + column)] = 200;
  }
  const auto entry1 = run_pool(rows, 1, ape, shape);
  const bool counts_now = by_ape ? true : (token >= 4) == second_half;
  CAPTURE(token, second_half, by_ape);
  if (!counts_now) return;  // covered by the equation above: the token does not outweigh anything
  const int source = by_ape ? token % 4 + (second_half ? 4 : 0) : token;
  for (int c = 0; c < 32; ++c) REQUIRE(entry1[std::size_t(c)] == rows(source)[c + (second_half ? 32 : 0)]);
}

TEST_CASE("attention::pool survives logits of +-1e4", "[attention][compressor]") {
  const CompressorShape shape = GENERATE(CompressorShape{4, 128}, CompressorShape{128, 32});
  const std::int64_t entry = GENERATE(0, 1);
  const float offset = GENERATE(-1e4f, 1e4f);
  const std::int64_t count = (entry + 1) * shape.ratio;
  Tokens rows = tokens(shape.width(), 0, count, 105);
  std::vector<float> ape = position_bias(shape, 106);
  // Multiples of 2^-9 below 2^14: b + ape and its distance from the maximum are exact in fp32, so the bound
  // is that of moderate logits.
  const auto to_grid = [](float x) { return std::floor(x * 512) / 512; };
  for (float& x : ape) x = to_grid(x);
  for (std::size_t i = 0; i < rows.data.size(); ++i)
    if (i / static_cast<std::size_t>(shape.width()) % 2 == 1) rows.data[i] = to_grid(rows.data[i]) + offset;
  Tokens centred = rows;
  for (std::size_t i = 0; i < rows.data.size(); ++i)
    if (i / static_cast<std::size_t>(shape.width()) % 2 == 1) centred.data[i] -= offset;
  CAPTURE(shape.ratio, entry, offset);
  REQUIRE(test::outside(run_pool(rows, entry, ape, shape),
                        pooled(centred, entry, ape, shape.ratio, shape.dim)) == "");
  // Half at +1e4 and half at -1e4: the losers vanish.
  for (std::size_t i = 0; i < rows.data.size(); ++i)
    if (i / static_cast<std::size_t>(shape.width()) % 4 == 1) rows.data[i] = -rows.data[i];
  for (const float v : run_pool(rows, entry, ape, shape)) REQUIRE(std::isfinite(v));
}

TEST_CASE("attention::pool: one bad channel stays one bad channel", "[attention][compressor]") {
  const CompressorShape shape{4, 64};
  Tokens rows = tokens(shape.width(), 0, 8, 107);
  const auto ape = position_bias(shape, 108);
  auto want = run_pool(rows, 1, ape, shape);
  const int which = GENERATE(0, 1);                                          // a or b
  rows.data[std::size_t((5 * 2 + which) * shape.width() + 64 + 17)] = kNan;  // own half, channel 17
  rows.data[std::size_t((2 * 2 + which) * shape.width() + 40)] = kNan;       // predecessor's half, channel 40
  rows.data[std::size_t((6 * 2 + which) * shape.width() + 3)] = kNan;       // the NEXT entry's half: not read
  rows.data[std::size_t((1 * 2 + which) * shape.width() + 64 + 4)] = kNan;  // the previous entry's: not read
  const auto got = run_pool(rows, 1, ape, shape);
  for (std::size_t c = 0; c < 64; ++c) {
    CAPTURE(which, c);
    if (c == 17 || c == 40)
      REQUIRE(std::isnan(got[c]));
    else
      REQUIRE(test::identical(got[c], want[c]));
  }
}

TEST_CASE("attention::PoolState: a state stored after any token goes on with the same bits",
          "[attention][compressor]") {
  const CompressorShape shape{128, 32};
  const Tokens rows = tokens(32, 0, 128, 113);
  const auto ape = position_bias(shape, 114);
  const auto want = run_pool(rows, 0, ape, shape);
  const int stop = GENERATE(0, 1, 2, 63, 64, 127, 128);
  for (int c = 0; c < 32; ++c) {
    const auto fold = [&](attention::PoolState& state, int begin, int end) {
      for (int j = begin; j < end; ++j)
        state.fold(rows(j)[32 + c] + ape[std::size_t(j * 32 + c)], rows(j)[c]);
    };
    attention::PoolState before;
    fold(before, 0, stop);
    attention::PoolState after{before.max, before.sum, before.acc};
    fold(after, stop, 128);
    CAPTURE(stop, c);
    REQUIRE(test::identical(after.value(), want[std::size_t(c)]));
  }
}

TEST_CASE("attention::PoolState: the greatest logit is counted exactly, whenever it comes",
          "[attention][compressor]") {
  // Powers of two apart, so that every step is exact but e^x, which is 1 at 0: two equal logits weigh the
  // same.
  for (const bool rising : {false, true}) {
    attention::PoolState state;
    if (!rising) state.fold(5, 3), state.fold(5, 1);
    state.fold(-200, 1e9f);  // e^-205 is 0
    if (rising) state.fold(5, 3), state.fold(5, 1);
    CAPTURE(rising);
    REQUIRE(state.max == 5);
    REQUIRE(state.sum == 2);
    REQUIRE(state.value() == 2);
  }
}

TEST_CASE("attention::PoolState: infinite logits and bad numbers", "[attention][compressor]") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const auto value = [](std::initializer_list<std::pair<float, float>> terms) {
    attention::PoolState state;
    for (const auto& [s, a] : terms) state.fold(s, a);
    return state.value();
  };
  // Weight 0 beside any other, wherever it stands.
  REQUIRE(value({{-kInf, 7}, {1, 3}}) == 3);
  REQUIRE(value({{1, 3}, {-kInf, 7}}) == 3);
  REQUIRE(value({{-kInf, 7}, {-kInf, 8}, {-1e30f, 3}, {-kInf, 9}}) == 3);
  REQUIRE(value({{-3e38f, 2}, {3e38f, 3}}) == 3);  // a distance that overflows
  REQUIRE(value({{3e38f, 3}, {-3e38f, 2}}) == 3);
  // Undefined, and said so.
  REQUIRE(std::isnan(value({})));
  REQUIRE(std::isnan(value({{-kInf, 7}, {-kInf, 7}})));
  for (const float bad : {kInf, kNan}) {
    CAPTURE(bad);
    REQUIRE(std::isnan(value({{bad, 1}})));
    REQUIRE(std::isnan(value({{bad, 1}, {2, 3}})));
    REQUIRE(std::isnan(value({{2, 3}, {bad, 1}})));
    REQUIRE(std::isnan(value({{2, 3}, {bad, 1}, {4, 5}})));
    REQUIRE(std::isnan(value({{-kInf, 3}, {bad, 1}, {-kInf, 3}})));
  }
  // A value that is no number stays visible even where its weight is 0.
  REQUIRE(std::isnan(value({{-kInf, kNan}, {2, 3}})));
  REQUIRE(std::isnan(value({{2, 3}, {-kInf, kNan}})));
  REQUIRE(std::isnan(value({{2, kNan}, {4, 5}})));
}

TEST_CASE("attention::pool: rows from a ring give the bits of rows in a line", "[attention][compressor]") {
  const CompressorShape shape =
      GENERATE(CompressorShape{4, 512}, CompressorShape{4, 128}, CompressorShape{128, 64});
  const int spare = GENERATE(0, 1, 3);
  const std::int64_t count = shape.ratio == 4 ? 45 : 400;
  const Tokens rows = tokens(shape.width(), 0, count, 109);
  const auto ape = position_bias(shape, 110);
  const std::int64_t capacity = shape.span() + spare, row_floats = shape.row_floats();
  std::vector<float> ring(static_cast<std::size_t>(capacity * row_floats), kNan);
  for (std::int64_t position = 0; position < count; ++position) {
    std::copy_n(rows(position), row_floats, ring.begin() + position % capacity * row_floats);
    if ((position + 1) % shape.ratio != 0) continue;
    const std::int64_t entry = position / shape.ratio;
    std::vector<float> out(static_cast<std::size_t>(shape.dim));
    attention::pool(
        SerialCoop{}, out.data(), [&](std::int64_t p) { return ring.data() + p % capacity * row_floats; },
        entry, ape.data(), shape);
    CAPTURE(shape.ratio, capacity, entry);
    REQUIRE(test::differing(out, run_pool(rows, entry, ape, shape)) == "");
  }
}

TEST_CASE("attention::pool: a group gives the bits of one thread", "[attention][compressor]") {
  const CompressorShape shape = GENERATE(CompressorShape{4, 128}, CompressorShape{128, 64});
  const Tokens rows = tokens(shape.width(), 0, 2 * shape.ratio, 111);
  const auto ape = position_bias(shape, 112);
  for (const std::int64_t entry : {0, 1}) {
    std::vector<float> together(static_cast<std::size_t>(shape.dim));
    test::run_group<3>(
        [&](const auto& coop) { attention::pool(coop, together.data(), rows, entry, ape.data(), shape); });
    REQUIRE(test::differing(together, run_pool(rows, entry, ape, shape)) == "");
  }
}

// ---- from the pooled sum to the entry ---------------------------------------------------------------------

namespace {
// Rounded, normed, rounded, turned, rounded.
template <class T>
std::vector<Interval> finished(const std::vector<float>& pooled_row, const std::vector<float>& norm,
                               const std::vector<math::SinCos>& table) {
  std::vector<Interval> x =
      test::rounded<T>(oracle::rms_norm(test::values(test::stored<T>(pooled_row)), test::values(norm), kEps));
  oracle::rotate(x, pooled_row.size() - 2 * table.size(), table, +1);
  return test::rounded<T>(x);
}
}  // namespace

TEMPLATE_TEST_CASE("attention::finish_entry rounds, norms, and turns at the block's first position",
                   "[attention][compressor]", float, bf16) {
  using T = TestType;
  const int ratio = GENERATE(4, 128), dim = GENERATE(128, 512);
  const std::int64_t entry = GENERATE(0, 1, 3, 8191);
  const auto row = test::normal(dim, 121, 0.3), norm = test::uniform(dim, 122, -0.5, 2.0);
  // The table as the model makes it, for entry_position; the oracle's at entry * ratio.
  std::vector<float> freq;
  for (int i = 0; i < 32; ++i) freq.push_back(static_cast<float>(std::pow(160000.0, -i / 32.0)));
  std::vector<math::SinCos> table(32);
  rope::angles(SerialCoop{}, table.data(), freq.data(), attention::entry_position(entry, ratio), 32);
  const auto expected = oracle::turns(entry * ratio, 32, 160000);
  for (std::size_t i = 0; i < 32; ++i) {  // fp32 sine and cosine are within 1e-7 (core/math.hpp)
    REQUIRE(std::abs(table[i].sin - expected[i].sin) <= 2e-7);
    REQUIRE(std::abs(table[i].cos - expected[i].cos) <= 2e-7);
  }
  std::vector<T> out(static_cast<std::size_t>(dim), test::stored<T>(kNan));
  attention::finish_entry(SerialCoop{}, out.data(), row.data(), norm.data(), table.data(), dim, 64, kEps);
  CAPTURE(ratio, dim, entry);
  REQUIRE(test::outside(out, finished<T>(row, norm, table)) == "");
}

TEST_CASE("attention::finish_entry: the pooled sum is rounded before its norm", "[attention][compressor]") {
  // Values that bf16 cannot hold: the norm of the unrounded row lies outside the oracle.
  const auto row = test::normal(512, 123), norm = test::uniform(512, 124, 0.5, 2.0);
  const auto table = oracle::turns(12);
  std::vector<Interval> unrounded =
      test::rounded<bf16>(oracle::rms_norm(test::values(row), test::values(norm), kEps));
  oracle::rotate(unrounded, 448, table, +1);
  unrounded = test::rounded<bf16>(unrounded);
  const auto want = finished<bf16>(row, norm, table);
  int told_apart = 0;
  for (std::size_t d = 0; d < 512; ++d)
    told_apart += unrounded[d].hi < want[d].lo || unrounded[d].lo > want[d].hi;
  REQUIRE(told_apart > 50);
}

TEMPLATE_TEST_CASE("attention::finish_index_key adds the Hadamard transform", "[attention][compressor]",
                   float, bf16) {
  using T = TestType;
  const std::int64_t entry = GENERATE(0, 1, 77);
  const auto row = test::normal(128, 125), norm = test::uniform(128, 126, -0.5, 2.0);
  const auto table = oracle::turns(entry * 4, 32, 160000);
  const auto want = test::rounded<T>(oracle::hadamard(finished<T>(row, norm, table)));
  std::vector<T> out(128);
  std::vector<float> scratch(128);
  attention::finish_index_key<128>(SerialCoop{}, out.data(), row.data(), norm.data(), table.data(), 64, kEps,
                                   scratch.data());
  CAPTURE(entry);
  REQUIRE(test::outside(out, want) == "");

  std::vector<T> together(128);
  test::run_group<3>([&](const auto& coop) {
    attention::finish_index_key<128>(coop, together.data(), row.data(), norm.data(), table.data(), 64, kEps,
                                     scratch.data());
  });
  REQUIRE(test::differing(together, out) == "");
}

TEMPLATE_TEST_CASE("attention::finish_entry: a group gives the bits of one thread, bad numbers stay visible",
                   "[attention][compressor]", float, bf16) {
  using T = TestType;
  auto row = test::normal(512, 127);
  const auto norm = test::normal(512, 128);
  const auto table = oracle::turns(4);
  std::vector<T> alone(512), together(512);
  attention::finish_entry(SerialCoop{}, alone.data(), row.data(), norm.data(), table.data(), 512, 64, kEps);
  test::run_group<3>([&](const auto& coop) {
    attention::finish_entry(coop, together.data(), row.data(), norm.data(), table.data(), 512, 64, kEps);
  });
  REQUIRE(test::differing(together, alone) == "");
  row[9] = kNan;
  attention::finish_entry(SerialCoop{}, alone.data(), row.data(), norm.data(), table.data(), 512, 64, kEps);
  for (const T v : alone) REQUIRE(std::isnan(test::value(v)));
}
