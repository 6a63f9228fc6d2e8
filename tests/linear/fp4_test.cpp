// Mirrors include/dsv4/linear/fp4.hpp. Decoding is exact: bit for bit.
#include <dsv4/linear/fp4.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

using namespace dsv4;
using linear::Fp4Matrix;
namespace oracle = test::oracle;

namespace {

struct Matrix {
  std::int64_t rows, cols, scale_cols;
  std::vector<std::uint8_t> bytes, scales;
  std::vector<e2m1x2> data;
  std::vector<e8m0> scale;

  Matrix(std::int64_t r, std::int64_t c, std::vector<std::uint8_t> packed,
         std::vector<std::uint8_t> scale_bytes)
      : rows(r),
        cols(c),
        scale_cols((c + 31) / 32),
        bytes(std::move(packed)),
        scales(std::move(scale_bytes)) {
    for (const std::uint8_t b : bytes) data.push_back({b});
    for (const std::uint8_t b : scales) scale.push_back({b});
  }
  Fp4Matrix view() const { return {data.data(), scale.data(), rows, cols}; }
  float want(std::int64_t row, std::int64_t col) const {
    const unsigned byte = bytes.at(static_cast<std::size_t>((row * cols + col) / 2));
    const unsigned nibble = col % 2 == 1 ? byte / 16 : byte % 16;
    const auto exponent = scales.at(static_cast<std::size_t>(row * scale_cols + col / 32));
    return static_cast<float>(oracle::e2m1_value(nibble) * oracle::e8m0_value(exponent));
  }
};

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  return {rows, cols, test::bytes(rows * cols / 2, seed), test::bytes(rows * ((cols + 31) / 32), seed + 1)};
}

}  // namespace

TEST_CASE("an FP4 weight is nibble times scale, for every byte and every scale", "[linear][fp4]") {
  // Sixteen rows of one block a scale byte: their 16 x 16 bytes are all bytes.
  std::vector<std::uint8_t> packed(16 * 256 * 16), scales(16 * 256);
  for (std::size_t row = 0; row < 16; ++row)
    for (std::size_t block = 0; block < 256; ++block) {
      scales[row * 256 + block] = static_cast<std::uint8_t>(block);
      for (std::size_t i = 0; i < 16; ++i)
        packed[(row * 256 + block) * 16 + i] = static_cast<std::uint8_t>(row * 16 + i);
    }
  const Matrix m(16, 256 * 32, packed, scales);
  const Fp4Matrix view = m.view();
  REQUIRE(view.scale_cols() == 256);
  std::vector<float> values(256 * 32);
  for (std::int64_t row = 0; row < 16; ++row) {
    view.decode(values.data(), row, 0, 256 * 32);
    for (std::int64_t col = 0; col < m.cols; ++col) {
      const float want = m.want(row, col), decoded = values[static_cast<std::size_t>(col)];
      if (test::identical(view.at(row, col), want) && test::identical(decoded, want)) continue;
      CAPTURE(row, col, want, decoded, view.at(row, col));
      FAIL("another value");
    }
  }
  REQUIRE(std::isnan(view.at(0, 255 * 32)));  // scale byte 255, even for code 0
  REQUIRE(view.at(0, 2) == 0x1p-128f);        // byte 1, low nibble 1: 0.5 at scale byte 0
}

TEST_CASE("the even column is in the low nibble", "[linear][fp4]") {
  const e2m1x2 data[] = {{0x72}, {0x0f}};
  const e8m0 scale[] = {{127}};
  const Fp4Matrix view{data, scale, 1, 4};
  float out[4];
  view.decode(out, 0, 0, 4);
  const float want[] = {1.0f, 6.0f, -6.0f, 0.0f};
  for (std::int64_t col = 0; col < 4; ++col) {
    CAPTURE(col);
    REQUIRE(view.at(0, col) == want[col]);
    REQUIRE(out[col] == want[col]);
  }
}

TEST_CASE("FP4 scales are per row and 32 columns, partial blocks at the edge", "[linear][fp4]") {
  struct Shape {
    std::int64_t rows, cols, scale_cols;
  };
  for (const Shape& s : {Shape{1, 2, 1}, Shape{2, 30, 1}, Shape{3, 32, 1}, Shape{3, 34, 2}, Shape{33, 64, 2},
                         Shape{5, 96, 3}, Shape{7, 100, 4}, Shape{130, 258, 9}}) {
    const Matrix m = random_matrix(s.rows, s.cols, static_cast<std::uint64_t>(s.rows * 1000 + s.cols));
    const Fp4Matrix view = m.view();
    REQUIRE(view.scale_cols() == s.scale_cols);
    for (std::int64_t row = 0; row < s.rows; ++row)
      for (std::int64_t col = 0; col < s.cols; ++col)
        if (!test::identical(view.at(row, col), m.want(row, col))) {
          CAPTURE(s.rows, s.cols, row, col);
          FAIL("another value");
        }
  }
  SUCCEED();
}

TEST_CASE("FP4 decode starts and ends at any even column", "[linear][fp4]") {
  const Matrix m = random_matrix(9, 150, 6);
  const Fp4Matrix view = m.view();
  for (std::int64_t row = 0; row < m.rows; ++row)
    for (std::int64_t col = 0; col < m.cols; col += 2)
      for (const int length : {0, 2, 4, 16, 30, 32, 34, 64, 66, 150}) {
        const int count = std::min(length, static_cast<int>(m.cols - col));
        std::vector<float> out(static_cast<std::size_t>(count) + 1, 7.0f);
        view.decode(out.data(), row, col, count);
        CAPTURE(row, col, count);
        std::size_t wrong = out.back() != 7.0f;
        for (int i = 0; i < count; ++i)
          wrong += !test::identical(out[static_cast<std::size_t>(i)], m.want(row, col + i));
        REQUIRE(wrong == 0);
      }
}
