// Mirrors include/dsv4/attention/out_proj.hpp.
#include <dsv4/attention/out_proj.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

using namespace dsv4;
using test::Interval;
namespace oracle = test::oracle;

TEMPLATE_TEST_CASE("attention::rotate_back turns the last channels by the negative angle",
                   "[attention][out_proj]", float, bf16) {
  using T = TestType;
  const int head_dim = GENERATE(64, 96, 512);
  const std::int64_t position = GENERATE(0, 1, 127, 4099, (1 << 20) - 1);
  const auto start = test::stored<T>(test::normal(head_dim, 81));
  const auto table = oracle::turns(position);
  std::vector<Interval> want;
  for (const double v : test::values(start)) want.push_back({v, v});  // what does not turn keeps its bits
  oracle::rotate(want, std::size_t(head_dim - 64), table, -1);
  std::vector<T> o = start;
  attention::rotate_back(SerialCoop{}, o.data(), table.data(), head_dim, 64);
  CAPTURE(head_dim, position);
  REQUIRE(test::outside(o, test::rounded<T>(want)) == "");
}

TEMPLATE_TEST_CASE("attention::rotate_back undoes the rotation of a key", "[attention][out_proj]", float,
                   bf16) {
  using T = TestType;
  const double unit = std::is_same_v<T, float> ? 3 * test::kUnit : test::kUnitBf16 + 3 * test::kUnit;
  const std::int64_t position = GENERATE(1, 131, (1 << 20) - 1);
  const auto start = test::stored<T>(test::normal(512, 82));
  const auto table = oracle::turns(position);
  std::vector<T> o = start;
  rope::rotate(SerialCoop{}, o.data() + 448, table.data(), 32, rope::Direction::kForward);
  attention::rotate_back(SerialCoop{}, o.data(), table.data(), 512, 64);
  for (std::size_t d = 0; d < 512; ++d) {
    const double x = test::value(start[d]), other = d < 448 ? 0 : test::value(start[d ^ 1]);
    CAPTURE(position, d);
    if (d < 448)
      REQUIRE(test::value(o[d]) == x);
    else  // each of the two rotations rounds both of a pair, whose radius is at most |a| + |b|
      REQUIRE(std::abs(test::value(o[d]) - x) <= 4 * unit * (std::abs(x) + std::abs(other)));
  }
}

namespace {
// The oracle of grouped_linear for all tokens and rows.
template <class T>
std::vector<Interval> grouped(const std::vector<float>& o, std::int64_t o_stride, int tokens,
                              const std::vector<double>& wo_a, int rows, int cols, int o_lora_rank) {
  std::vector<Interval> y;
  for (int t = 0; t < tokens; ++t)
    for (int n = 0; n < rows; ++n) {
      const int group = n / o_lora_rank;
      double sum = 0, magnitude = 0;
      for (int k = 0; k < cols; ++k) {
        const double term =
            double{o[std::size_t(t * o_stride + group * cols + k)]} * wo_a[std::size_t(n * cols + k)];
        sum += term, magnitude += std::abs(term);
      }
      y.push_back(test::rounded<T>(test::around(sum, oracle::sum_bound(cols) * magnitude)));
    }
  return y;
}
}  // namespace

TEMPLATE_TEST_CASE("attention::grouped_linear computes its equation", "[attention][out_proj]", float, bf16) {
  using T = TestType;
  const int heads = 8, head_dim = 64, groups = GENERATE(1, 2, 8), o_lora_rank = GENERATE(3, 16);
  const int tokens = GENERATE(1, 2, 7);
  const int cols = heads * head_dim / groups, rows = groups * o_lora_rank;
  const std::int64_t o_stride = heads * head_dim + 8, y_stride = rows + 5;
  const auto o = test::normal_bf16(tokens * o_stride, 83);
  const auto w = test::stored<T>(test::normal(std::int64_t{rows} * cols, 84));
  const linear::WeightView wo_a{
      std::is_same_v<T, float> ? linear::WeightType::kF32 : linear::WeightType::kBf16, w.data(), nullptr,
      rows, cols};
  const auto want = grouped<T>(o, o_stride, tokens, test::values(w), rows, cols, o_lora_rank);
  const T untouched = test::stored<T>(12345);
  std::vector<float> scratch(static_cast<std::size_t>(linear::kDecodeRows) * static_cast<std::size_t>(cols));
  CAPTURE(groups, o_lora_rank, tokens);

  // Pieces of a group of any length, each group with other cuts; an empty piece writes nothing.
  std::vector<T> y(static_cast<std::size_t>(tokens * y_stride), untouched), whole = y;
  for (int g = 0; g < groups; ++g) {
    const int cut = (g * 5 + 1) % o_lora_rank;
    for (const auto& [begin, end] : {std::pair{0, cut}, std::pair{cut, cut}, std::pair{cut, o_lora_rank}})
      attention::grouped_linear(SerialCoop{}, y.data(), y_stride, linear::RowsF32{o.data(), o_stride}, tokens,
                                wo_a, o_lora_rank, g * o_lora_rank + begin, g * o_lora_rank + end,
                                scratch.data());
    attention::grouped_linear(SerialCoop{}, whole.data(), y_stride, linear::RowsF32{o.data(), o_stride},
                              tokens, wo_a, o_lora_rank, g * o_lora_rank, (g + 1) * o_lora_rank,
                              scratch.data());
  }
  REQUIRE(test::differing(y, whole) == "");  // a row's bits do not depend on the cut
  std::vector<T> inside, between;
  for (int t = 0; t < tokens; ++t)
    for (int n = 0; n < y_stride; ++n)
      (n < rows ? inside : between).push_back(y[std::size_t(t * y_stride + n)]);
  REQUIRE(test::outside(inside, want) == "");
  REQUIRE(test::differing(between, std::vector<T>(between.size(), untouched)) == "");
}

TEST_CASE("attention::grouped_linear writes the rows asked for and no other", "[attention][out_proj]") {
  const auto o = test::normal(2 * 128, 85), w = test::normal(32 * 64, 86);
  const linear::WeightView wo_a{linear::WeightType::kF32, w.data(), nullptr, 32, 64};
  std::vector<float> y(2 * 32, 7.0f), scratch(linear::kDecodeRows * 64);
  attention::grouped_linear(SerialCoop{}, y.data(), 32, linear::RowsF32{o.data(), 128}, 2, wo_a, 16, 19, 25,
                            scratch.data());
  for (int t = 0; t < 2; ++t)
    for (int n = 0; n < 32; ++n) {
      CAPTURE(t, n);
      REQUIRE((y[std::size_t(t * 32 + n)] == 7.0f) == (n < 19 || n >= 25));
    }
}

TEST_CASE("attention::grouped_linear reads FP8 weights with their block scales", "[attention][out_proj]") {
  // 2 groups of 128 rows, 256 columns: scales differ between groups and between column blocks.
  const int rows = 256, cols = 256, tokens = 2, o_lora_rank = 128;
  std::vector<std::uint8_t> codes = test::bytes(rows * cols, 87);
  for (auto& c : codes)
    if ((c & 0x7f) == 0x7f) c = 0;  // no NaN
  const std::vector<e4m3> w = [&] {
    std::vector<e4m3> v;
    for (const std::uint8_t c : codes) v.push_back({c});
    return v;
  }();
  const std::vector<e8m0> scale = {{120}, {121}, {118}, {125}};
  const linear::WeightView wo_a{linear::WeightType::kFp8, w.data(), scale.data(), rows, cols};
  const auto o = test::normal_bf16(tokens * 512, 88);
  std::vector<double> decoded;
  for (int n = 0; n < rows; ++n)
    for (int k = 0; k < cols; ++k)
      decoded.push_back(oracle::e4m3_value(codes[std::size_t(n * cols + k)]) *
                        oracle::e8m0_value(scale[std::size_t(n / 128 * 2 + k / 128)].bits));
  std::vector<bf16> y(tokens * rows);
  std::vector<float> scratch(linear::kDecodeRows * cols);
  for (int g = 0; g < 2; ++g)
    attention::grouped_linear(SerialCoop{}, y.data(), rows, linear::RowsF32{o.data(), 512}, tokens, wo_a,
                              o_lora_rank, g * 128, g * 128 + 128, scratch.data());
  REQUIRE(test::outside(y, grouped<bf16>(o, 512, tokens, decoded, rows, cols, o_lora_rank)) == "");
}

TEST_CASE("attention::rotate_back, grouped_linear: a group gives the bits of one thread",
          "[attention][out_proj]") {
  const auto start = test::stored<bf16>(test::normal(512, 89));
  const auto table = oracle::turns(999);
  const auto o = test::normal(3 * 128, 90), w = test::normal(10 * 64, 91);
  const linear::WeightView wo_a{linear::WeightType::kF32, w.data(), nullptr, 10, 64};
  const linear::RowsF32 rows{o.data(), 128};
  std::vector<bf16> alone = start, together = start;
  std::vector<float> y_alone(30), y_together(30), scratch(linear::kDecodeRows * 64);
  attention::rotate_back(SerialCoop{}, alone.data(), table.data(), 512, 64);
  for (const int g : {0, 1})
    attention::grouped_linear(SerialCoop{}, y_alone.data(), 10, rows, 3, wo_a, 5, g * 5, g * 5 + 5,
                              scratch.data());
  test::run_group<3>([&](const auto& coop) {
    attention::rotate_back(coop, together.data(), table.data(), 512, 64);
    for (const int g : {0, 1})
      attention::grouped_linear(coop, y_together.data(), 10, rows, 3, wo_a, 5, g * 5, g * 5 + 5,
                                scratch.data());
  });
  REQUIRE(test::differing(together, alone) == "");
  REQUIRE(test::differing(y_together, y_alone) == "");
}
