// Op moe_combine on the SIMT machine against its primitive.
#include <dsv4/moe/combine.hpp>
#include <dsv4/ops/moe_route.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/shapes.hpp"

#include <algorithm>
#include <limits>
#include <string>

using namespace dsv4;
using test::RowLayout;
using test::Rows;

namespace {

struct Case {
  std::int64_t tokens, rows, hidden;
  std::int32_t k;
  bool shared = true, in_place = false;
};

// Slots that name each row of y at most a few times, and rows that there are none of.
std::vector<std::int32_t> some_rows(const Case& c) {
  auto row_of = test::integers(c.tokens * c.k, 3, -1, c.rows - 1);
  if (row_of.size() > 2) row_of[1] = std::numeric_limits<std::int32_t>::min();
  return row_of;
}

template <class T>
void check(const Case& c, RowLayout out_layout, RowLayout y_layout) {
  CAPTURE(c.tokens, c.rows, c.hidden, c.k, c.shared, c.in_place, sizeof(T), out_layout.stride,
          out_layout.align, y_layout.stride, y_layout.align);
  const auto row_of = some_rows(c);
  const auto values = test::row_of<T>(test::normal(c.rows * c.hidden, 1));
  const auto shared_values = test::row_of<T>(test::normal(c.tokens * c.hidden, 2));
  const std::vector<T> zeros(static_cast<std::size_t>(c.hidden), from_float<T>(0.0f));
  Rows<T> y(c.rows, c.hidden, values, y_layout);
  Rows<T> shared(c.tokens, c.hidden, shared_values, out_layout), out(c.tokens, c.hidden, out_layout);
  Rows<T>& to = c.in_place ? shared : out;

  std::vector<T> want(static_cast<std::size_t>(c.tokens * c.hidden));
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    moe::combine(SerialCoop{}, want.data() + t * c.hidden, values.data(), row_of.data() + t * c.k, c.k,
                 c.shared ? shared_values.data() + t * c.hidden : zeros.data(), static_cast<int>(c.hidden));
  }
  REQUIRE_OK(ops::moe_combine({.out = to.data(),
                               .y = y.data(),
                               .shared = c.shared ? shared.data() : nullptr,
                               .row_of = row_of.data(),
                               .tokens = c.tokens,
                               .rows = c.rows,
                               .hidden = c.hidden,
                               .k = c.k,
                               .dtype = test::kDType<T>,
                               .out_stride = out_layout.stride,
                               .y_stride = y_layout.stride,
                               .shared_stride = out_layout.stride},
                              nullptr));
  REQUIRE_ROWS(to, want);
  REQUIRE_ROWS(y, values);
}

// A batch that is run as it is and in parts.
struct Batch {
  std::int64_t tokens = 11, rows = 40, hidden = 2056;
  std::int32_t k = 6;
  std::vector<bf16> y = test::row_of<bf16>(test::normal(rows * hidden, 4)),
                    shared = test::row_of<bf16>(test::normal(tokens * hidden, 5));
  std::vector<std::int32_t> row_of = test::integers(tokens * k, 6, -1, rows - 1);

  /// `count` tokens from `first` on.
  std::vector<bf16> run(std::int64_t first, std::int64_t count) const {
    Rows<bf16> out(count, hidden);
    REQUIRE_OK(ops::moe_combine({.out = out.data(),
                                 .y = y.data(),
                                 .shared = shared.data() + first * hidden,
                                 .row_of = row_of.data() + first * k,
                                 .tokens = count,
                                 .rows = rows,
                                 .hidden = hidden,
                                 .k = k},
                                nullptr));
    REQUIRE(out.intact() == "");
    return out.values();
  }
};

bool same_bits(const std::vector<bf16>& a, const std::vector<bf16>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](bf16 x, bf16 y) { return x.bits == y.bits; });
}

template <class T>
void check_layouts(const Case& c) {
  const auto layouts = test::layouts<T>(c.hidden);
  for (std::size_t i = 0; i < layouts.size(); ++i) check<T>(c, layouts[i], layouts[layouts.size() - 1 - i]);
}

}  // namespace

TEMPLATE_TEST_CASE("moe_combine adds slots in order, then the shared expert", "[ops][moe_combine]", bf16,
                   float) {
  const std::int64_t tokens = GENERATE(as<std::int64_t>{}, 6, from_range(test::token_counts()));
  check_layouts<TestType>({tokens, 40, 136, 6});
  check_layouts<TestType>({tokens, 3, 130, 1, false});
}

TEST_CASE("moe_combine at the sizes of the models, in place, without a shared expert", "[ops][moe_combine]") {
  check_layouts<bf16>({2, 12, 4096, 6});
  check_layouts<bf16>({1, 6, 7168, 16, true, true});
  check_layouts<bf16>({3, 9, 4096, 6, false});
}

TEST_CASE("moe_combine: a token's output depends neither on its batch nor on its place",
          "[ops][moe_combine]") {
  const Batch b;
  const std::vector<bf16> all = b.run(0, b.tokens);
  for (const std::int64_t count : {1, 2, 5})
    for (const std::int64_t first : {std::int64_t{0}, std::int64_t{3}, b.tokens - count}) {
      CAPTURE(first, count);
      REQUIRE(same_bits(b.run(first, count), test::slice(all, b.hidden, first, count)));
    }
}

TEST_CASE("moe_combine under every policy of the machine, and again", "[ops][moe_combine]") {
  const Batch b;
  const std::vector<bf16> want = b.run(0, b.tokens);
  test::under_all_policies([&] { REQUIRE(same_bits(b.run(0, b.tokens), want)); });
  for (int i = 0; i < (test::reduced() ? 3 : 20); ++i) REQUIRE(same_bits(b.run(0, b.tokens), want));
}

TEST_CASE("moe_combine never touches a row that no slot names", "[ops][moe_combine]") {
  const std::int64_t hidden = 64;
  std::vector<bf16> y(static_cast<std::size_t>(3 * hidden), from_float<bf16>(1.0f));
  for (std::int64_t d = 0; d < hidden; ++d) y[static_cast<std::size_t>(hidden + d)].bits = 0x7fc0;  // NaN
  const std::vector<std::int32_t> row_of = {0, -1, 2, 3, std::numeric_limits<std::int32_t>::max(), -7};
  Rows<bf16> out(1, hidden);
  REQUIRE_OK(ops::moe_combine({.out = out.data(),
                               .y = y.data(),
                               .row_of = row_of.data(),
                               .tokens = 1,
                               .rows = 3,
                               .hidden = hidden,
                               .k = 6},
                              nullptr));
  REQUIRE(out.intact() == "");
  for (std::int64_t d = 0; d < hidden; ++d) REQUIRE(to_float(out.row(0)[d]) == 2.0f);
}

TEST_CASE("moe_combine refuses what it cannot do, by name", "[ops][moe_combine][errors]") {
  std::vector<bf16> y(64), out(64);
  const std::vector<std::int32_t> row_of = {0};
  const ops::MoeCombineParams good = {.out = out.data(),
                                      .y = y.data(),
                                      .row_of = row_of.data(),
                                      .tokens = 1,
                                      .rows = 1,
                                      .hidden = 64,
                                      .k = 1};
  REQUIRE_OK(ops::moe_combine(good, nullptr));
  const auto refuse = [&](auto change, const char* argument) {
    ops::MoeCombineParams p = good;
    change(p);
    const Status s = ops::moe_combine(p, nullptr);
    CAPTURE(argument, s.what);
    REQUIRE(s.code == Code::kInvalidArgument);
    REQUIRE(std::string(s.what).find(std::string("moe_combine: ") + argument) == 0);
  };
  refuse([](auto& p) { p.tokens = -1; }, "tokens");
  refuse([](auto& p) { p.rows = -1; }, "rows");
  refuse([](auto& p) { p.hidden = 0; }, "hidden");
  refuse([](auto& p) { p.k = 17; }, "k");
  refuse([](auto& p) { p.out_stride = 63; }, "out_stride");
  refuse([](auto& p) { p.y_stride = 1; }, "y_stride");
  refuse([](auto& p) { p.out = nullptr; }, "out");
  refuse([](auto& p) { p.row_of = nullptr; }, "row_of");
  refuse([](auto& p) { p.y = nullptr; }, "y");
  refuse([](auto& p) { p.shared = p.out, p.out_stride = 128; }, "out_stride");
  refuse([](auto& p) { p.shared = p.out, p.out_f32 = true; }, "out must not be shared");
}
