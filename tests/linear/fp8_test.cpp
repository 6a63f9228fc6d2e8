// Mirrors include/dsv4/linear/fp8.hpp. Decoding is exact: bit for bit.
#include <dsv4/linear/fp8.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

using namespace dsv4;
using linear::Fp8Matrix;
namespace oracle = test::oracle;

namespace {

struct Matrix {
  std::int64_t rows, cols, scale_cols;
  std::vector<std::uint8_t> codes, scales;
  std::vector<e4m3> data;
  std::vector<e8m0> scale;

  Matrix(std::int64_t r, std::int64_t c, std::vector<std::uint8_t> code, std::vector<std::uint8_t> bytes)
      : rows(r), cols(c), scale_cols((c + 127) / 128), codes(std::move(code)), scales(std::move(bytes)) {
    for (const std::uint8_t b : codes) data.push_back({b});
    for (const std::uint8_t b : scales) scale.push_back({b});
  }
  Fp8Matrix view() const { return {data.data(), scale.data(), rows, cols}; }
  float want(std::int64_t row, std::int64_t col) const {
    const auto code = codes.at(static_cast<std::size_t>(row * cols + col));
    const auto byte = scales.at(static_cast<std::size_t>(row / 128 * scale_cols + col / 128));
    return static_cast<float>(oracle::e4m3_value(code) * oracle::e8m0_value(byte));
  }
};

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  const std::int64_t tiles = (rows + 127) / 128 * ((cols + 127) / 128);
  return {rows, cols, test::bytes(rows * cols, seed), test::bytes(tiles, seed + 1)};
}

}  // namespace

TEST_CASE("an FP8 weight is code times scale, for every code and every scale", "[linear][fp8]") {
  // One tile a scale byte; its two rows hold all 256 codes.
  std::vector<std::uint8_t> codes(2 * 256 * 128), bytes(256);
  for (std::size_t col = 0; col < 256 * 128; ++col)
    for (std::size_t row = 0; row < 2; ++row)
      codes[row * 256 * 128 + col] = static_cast<std::uint8_t>(row * 128 + col % 128);
  for (std::size_t t = 0; t < 256; ++t) bytes[t] = static_cast<std::uint8_t>(t);
  const Matrix m(2, 256 * 128, codes, bytes);
  const Fp8Matrix view = m.view();
  REQUIRE(view.scale_cols() == 256);
  std::vector<float> row_values(256 * 128);
  for (std::int64_t row = 0; row < 2; ++row) {
    view.decode(row_values.data(), row, 0, 256 * 128);
    for (std::int64_t col = 0; col < m.cols; ++col) {
      const float want = m.want(row, col), decoded = row_values[static_cast<std::size_t>(col)];
      if (test::identical(view.at(row, col), want) && test::identical(decoded, want)) continue;
      CAPTURE(row, col, want, decoded, view.at(row, col));
      FAIL("another value");
    }
  }
  REQUIRE(view.at(0, 1) == 0x1p-136f);         // the smallest subnormal code at scale byte 0
  REQUIRE(std::isnan(view.at(0, 255 * 128)));  // scale byte 255, even for code 0
}

TEST_CASE("FP8 tiles are 128x128, partial ones at the edges", "[linear][fp8]") {
  struct Shape {
    std::int64_t rows, cols, scale_cols;
  };
  for (const Shape& s : {Shape{1, 1, 1}, Shape{1, 127, 1}, Shape{2, 128, 1}, Shape{3, 129, 2},
                         Shape{128, 256, 2}, Shape{129, 257, 3}, Shape{260, 300, 3}, Shape{511, 130, 2}}) {
    const Matrix m = random_matrix(s.rows, s.cols, static_cast<std::uint64_t>(s.rows * 1000 + s.cols));
    const Fp8Matrix view = m.view();
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

TEST_CASE("FP8 decode starts and ends at any column", "[linear][fp8]") {
  const Matrix m = random_matrix(131, 389, 5);
  const Fp8Matrix view = m.view();
  for (const std::int64_t row : {0, 1, 127, 128, 130})
    for (const std::int64_t col : {0, 1, 63, 126, 127, 128, 129, 255, 256, 257, 383, 388})
      for (const int length : {0, 1, 2, 64, 127, 128, 129, 130, 200, 255, 256, 257, 389}) {
        const int count = std::min(length, static_cast<int>(m.cols - col));
        std::vector<float> out(static_cast<std::size_t>(count) + 1, 7.0f);
        view.decode(out.data(), row, col, count);
        CAPTURE(row, col, count);
        for (int i = 0; i < count; ++i)
          REQUIRE(test::identical(out[static_cast<std::size_t>(i)], m.want(row, col + i)));
        REQUIRE(out.back() == 7.0f);
      }
}
