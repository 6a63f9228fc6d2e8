// Mirrors include/dsv4/linear/bf16.hpp. Decoding is exact: bit for bit.
#include <dsv4/linear/bf16.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <vector>

using namespace dsv4;
using linear::PlainMatrix;

TEST_CASE("a bf16 weight is its value, for every code", "[linear][bf16]") {
  constexpr std::int64_t kRows = 512, kCols = 128;  // not square: rows and columns cannot be exchanged
  std::vector<bf16> data(65536);
  for (std::size_t i = 0; i < data.size(); ++i) data[i].bits = static_cast<std::uint16_t>(i);
  const PlainMatrix<bf16> m{data.data(), kRows, kCols};
  for (std::int64_t row = 0; row < kRows; ++row) {
    std::vector<float> out(kCols);
    m.decode(out.data(), row, 0, kCols);
    for (std::int64_t col = 0; col < kCols; ++col) {
      const auto want =
          static_cast<float>(test::oracle::bf16_value(static_cast<unsigned>(row * kCols + col)));
      if (test::identical(m.at(row, col), want) && test::identical(out[static_cast<std::size_t>(col)], want))
        continue;
      CAPTURE(row, col, want, m.at(row, col));
      FAIL("another value");
    }
  }
  SUCCEED();
}

TEST_CASE("plain matrices decode any stretch of a row", "[linear][bf16]") {
  const auto values = test::normal(7 * 37, 1);
  const PlainMatrix<float> m{values.data(), 7, 37};
  for (std::int64_t row = 0; row < 7; ++row)
    for (std::int64_t col = 0; col <= 37; ++col)
      for (int count = 0; col + count <= 37; ++count) {
        std::vector<float> out(static_cast<std::size_t>(count) + 1, 1e9f);
        m.decode(out.data(), row, col, count);
        std::size_t wrong = out.back() != 1e9f;
        for (int i = 0; i < count; ++i) {
          wrong += out[static_cast<std::size_t>(i)] != values[static_cast<std::size_t>(row * 37 + col + i)];
          wrong += m.at(row, col + i) != values[static_cast<std::size_t>(row * 37 + col + i)];
        }
        CAPTURE(row, col, count);
        REQUIRE(wrong == 0);
      }
}
