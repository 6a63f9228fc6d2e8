// Op rope on the SIMT machine against its primitives, bit for bit.
#include <dsv4/core/rope.hpp>
#include <dsv4/ops/rope.hpp>

#include "tests/ops/row_ops.hpp"

using namespace dsv4;
using ops::PositionType;
using ops::RopeDirection;
using test::RowLayout;
using test::Rows;

namespace {

constexpr int kDim = 64, kPairs = kDim / 2;

std::vector<float> frequencies() {
  const auto f = rope::frequencies<kDim>({160000.0, 16.0, 65536, 32.0, 1.0});
  return {f.begin(), f.end()};
}

// Distinct, unordered, up to the longest context.
std::vector<std::int32_t> positions(std::int64_t tokens) {
  std::vector<std::int32_t> p;
  for (std::int64_t t = 0; t < tokens; ++t) p.push_back(static_cast<std::int32_t>((t * 40503 + 7) % 1048576));
  return p;
}

template <class T>
std::vector<T> expected(std::vector<T> x, const std::vector<std::int32_t>& pos, std::int64_t heads,
                        std::int64_t head_dim, rope::Direction direction) {
  const auto freq = frequencies();
  for (std::size_t t = 0; t < pos.size(); ++t) {
    math::SinCos table[kPairs];
    rope::angles(SerialCoop{}, table, freq.data(), pos[t], kPairs);
    for (std::int64_t h = 0; h < heads; ++h) {
      T* head = x.data() + (static_cast<std::int64_t>(t) * heads + h) * head_dim;
      rope::rotate(SerialCoop{}, head + head_dim - kDim, table, kPairs, direction);
    }
  }
  return x;
}

// Heads as rows: token t, head h is row t * heads + h.
template <class T>
void check(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim, RowLayout layout,
           RopeDirection direction, bool in_place) {
  CAPTURE(tokens, heads, head_dim, sizeof(T), layout.stride, layout.align, static_cast<int>(direction),
          in_place);
  const auto values = test::row_of<T>(test::normal(tokens * heads * head_dim, 1));
  const auto pos = positions(tokens);
  const auto freq = frequencies();
  auto want =
      expected(values, pos, heads, head_dim,
               direction == RopeDirection::kForward ? rope::Direction::kForward : rope::Direction::kInverse);
  Rows<T> x(tokens * heads, head_dim, values, layout), out(tokens * heads, head_dim, layout);
  if (!in_place) {  // the channels before the last 64 stay as they were
    const std::vector<T> before = out.values();
    for (std::size_t i = 0; i < want.size(); ++i)
      if (static_cast<std::int64_t>(i) % head_dim < head_dim - kDim) want[i] = before[i];
  }
  REQUIRE_OK(ops::rope({.out = in_place ? x.data() : out.data(),
                        .x = x.data(),
                        .positions = pos.data(),
                        .table = {.freq = freq.data()},
                        .tokens = tokens,
                        .heads = heads,
                        .head_dim = head_dim,
                        .rope_dim = kDim,
                        .direction = direction,
                        .dtype = test::kDType<T>,
                        .out_head_stride = layout.stride,
                        .x_head_stride = layout.stride},
                       nullptr));
  REQUIRE_ROWS(in_place ? x : out, want);
  if (!in_place) REQUIRE_ROWS(x, values);
}

}  // namespace

TEMPLATE_TEST_CASE("rope equals its primitives", "[ops][rope]", bf16, float) {
  const std::int64_t tokens = GENERATE(0, 1, 2, 63, 64, 65, 257);
  for (const RowLayout& layout : test::layouts<TestType>(128))
    for (const auto direction : {RopeDirection::kForward, RopeDirection::kInverse}) {
      check<TestType>(tokens, 3, 128, layout, direction, true);
      check<TestType>(tokens, 1, 128, layout, direction, false);
    }
}

TEMPLATE_TEST_CASE("rope at the shapes of the models", "[ops][rope]", bf16, float) {
  const std::int64_t heads = GENERATE(1, 15, 16, 17, 64, 128);
  for (const RowLayout& layout : test::layouts<TestType>(512))
    check<TestType>(3, heads, 512, layout, RopeDirection::kForward, true);
  check<TestType>(2, heads, kDim, {}, RopeDirection::kInverse, false);
  check<TestType>(2, heads, kDim + 1, {}, RopeDirection::kForward, true);  // pairs at odd elements
}

TEST_CASE("rope takes strides between tokens, and int64 positions", "[ops][rope]") {
  const std::int64_t tokens = 5, heads = 2, head_dim = 96;
  const auto values = test::row_of<bf16>(test::normal(tokens * heads * head_dim, 2));
  const auto pos = positions(tokens);
  const std::vector<std::int64_t> pos64(pos.begin(), pos.end());
  const auto freq = frequencies();
  const auto want = expected(values, pos, heads, head_dim, rope::Direction::kForward);
  Rows<bf16> x(tokens, heads * head_dim, values, {heads * head_dim + 40, 16});
  REQUIRE_OK(ops::rope({.out = x.data(),
                        .x = x.data(),
                        .positions = pos64.data(),
                        .table = {.freq = freq.data()},
                        .tokens = tokens,
                        .heads = heads,
                        .head_dim = head_dim,
                        .rope_dim = kDim,
                        .position_type = PositionType::kInt64,
                        .out_stride = x.stride(),
                        .x_stride = x.stride()},
                       nullptr));
  REQUIRE_ROWS(x, want);
}

TEST_CASE("rope reads the caller's table", "[ops][rope]") {
  // Both halves of one row of 64, as engines keep them: cosines, then sines.
  const std::int64_t max_position = 9, tokens = 4;
  const auto freq = frequencies();
  Rows<float> table(max_position, kDim);
  for (std::int64_t p = 0; p < max_position; ++p) {
    math::SinCos angle[kPairs];
    rope::angles(SerialCoop{}, angle, freq.data(), p, kPairs);
    for (int i = 0; i < kPairs; ++i) {
      table.row(p)[i] = angle[i].cos;
      table.row(p)[kPairs + i] = angle[i].sin;
    }
  }
  const std::vector<std::int32_t> pos = {8, 3, 9, -1};  // the last two have no row
  const auto values = test::row_of<bf16>(test::normal(tokens * kDim, 3));
  Rows<bf16> x(tokens, kDim, values);
  REQUIRE_OK(ops::rope({.out = x.data(),
                        .x = x.data(),
                        .positions = pos.data(),
                        .table = {.cos = table.data(),
                                  .sin = table.data() + kPairs,
                                  .max_position = max_position,
                                  .table_stride = kDim},
                        .tokens = tokens,
                        .heads = 1,
                        .head_dim = kDim,
                        .rope_dim = kDim},
                       nullptr));
  const auto want = expected(test::slice(values, kDim, 0, 2), {8, 3}, 1, kDim, rope::Direction::kForward);
  REQUIRE(x.intact() == "");
  for (std::int64_t t = 0; t < tokens; ++t)
    for (int i = 0; i < kDim; ++i) {
      CAPTURE(t, i);
      if (t < 2)
        REQUIRE(x.row(t)[i].bits == want[static_cast<std::size_t>(t * kDim + i)].bits);
      else
        REQUIRE(std::isnan(to_float(x.row(t)[i])));
    }
}

TEST_CASE("a token's rope does not depend on the batch around it", "[ops][rope]") {
  const std::int64_t tokens = 65, heads = 5, row = heads * kDim;
  const auto pos = positions(tokens);
  const auto freq = frequencies();
  Rows<bf16> x(tokens, row, test::row_of<bf16>(test::normal(tokens * row, 4))), all(tokens, row), one(1, row);
  ops::RopeParams p{.out = all.data(),
                    .x = x.data(),
                    .positions = pos.data(),
                    .table = {.freq = freq.data()},
                    .tokens = tokens,
                    .heads = heads,
                    .head_dim = kDim,
                    .rope_dim = kDim};
  REQUIRE_OK(ops::rope(p, nullptr));
  for (const std::int64_t t : {0, 1, 64}) {
    p.out = one.data(), p.x = x.row(t), p.positions = pos.data() + t, p.tokens = 1;
    REQUIRE_OK(ops::rope(p, nullptr));
    REQUIRE_ROWS(one, test::slice(all.values(), row, t, 1));
  }
}

TEST_CASE("rope under every policy of the machine", "[ops][rope]") {
  test::under_all_policies([] {
    check<bf16>(2, 18, 72, {}, RopeDirection::kForward, true);
    check<float>(2, 3, 65, {}, RopeDirection::kInverse, false);
  });
}
