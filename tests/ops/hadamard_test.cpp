// Op hadamard on the SIMT machine against its primitive, bit for bit.
#include <dsv4/core/hadamard.hpp>
#include <dsv4/ops/hadamard.hpp>

#include "tests/ops/row_ops.hpp"

using namespace dsv4;
using test::RowLayout;
using test::Rows;

namespace {

constexpr int kN = 128;

template <class T>
std::vector<T> expected(std::vector<T> x) {
  float scratch[kN];
  for (std::size_t r = 0; r < x.size(); r += kN) dsv4::hadamard<kN>(SerialCoop{}, x.data() + r, scratch);
  return x;
}

template <class T>
void check(std::int64_t rows, RowLayout in, RowLayout to, bool in_place) {
  CAPTURE(rows, sizeof(T), in.stride, in.align, to.stride, to.align, in_place);
  const auto values = test::row_of<T>(test::normal(rows * kN, 1, 2.0));
  Rows<T> x(rows, kN, values, in), out(rows, kN, to);
  REQUIRE_OK(ops::hadamard({.out = in_place ? x.data() : out.data(),
                            .x = x.data(),
                            .rows = rows,
                            .n = kN,
                            .dtype = test::kDType<T>,
                            .out_stride = in_place ? in.stride : to.stride,
                            .x_stride = in.stride},
                           nullptr));
  REQUIRE_ROWS(in_place ? x : out, expected(values));
  if (!in_place) REQUIRE_ROWS(x, values);
}

}  // namespace

TEMPLATE_TEST_CASE("hadamard equals its primitive", "[ops][hadamard]", bf16, float) {
  const std::int64_t rows = GENERATE(0, 1, 2, 63, 64, 65, 257);
  for (const RowLayout& in : test::layouts<TestType>(kN)) {
    check<TestType>(rows, in, in, true);
    for (const RowLayout& to : test::layouts<TestType>(kN)) check<TestType>(rows, in, to, false);
  }
}

TEST_CASE("hadamard of a unit vector is a row of the matrix", "[ops][hadamard]") {
  for (const int j : {0, 1, 5, 8, 64, 127}) {
    std::vector<float> unit(kN, 0.0f);
    unit[static_cast<std::size_t>(j)] = 1.0f;
    Rows<float> x(1, kN, unit);
    REQUIRE_OK(ops::hadamard({.out = x.data(), .x = x.data(), .rows = 1, .n = kN, .dtype = ops::DType::kF32},
                             nullptr));
    for (int i = 0; i < kN; ++i)
      REQUIRE(x.data()[i] == (__builtin_popcount(static_cast<unsigned>(i & j)) % 2 ? -1.0f : 1.0f) *
                                 (1.0f / std::sqrt(128.0f)));
  }
}

TEST_CASE("a row's hadamard does not depend on the batch around it", "[ops][hadamard]") {
  const std::int64_t rows = 65;
  Rows<bf16> x(rows, kN, test::row_of<bf16>(test::normal(rows * kN, 2))), all(rows, kN), one(1, kN);
  REQUIRE_OK(ops::hadamard({.out = all.data(), .x = x.data(), .rows = rows, .n = kN}, nullptr));
  for (const std::int64_t r : {0, 1, 64}) {
    REQUIRE_OK(ops::hadamard({.out = one.data(), .x = x.row(r), .rows = 1, .n = kN}, nullptr));
    REQUIRE_ROWS(one, test::slice(all.values(), kN, r, 1));
  }
}

TEST_CASE("hadamard under every policy of the machine", "[ops][hadamard]") {
  test::under_all_policies([] {
    check<bf16>(5, {}, {}, false);
    check<float>(5, {131, 4}, {}, true);
  });
}
