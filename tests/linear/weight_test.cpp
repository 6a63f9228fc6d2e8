// Mirrors include/dsv4/linear/weight.hpp.
#include <dsv4/linear/weight.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <type_traits>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

using namespace dsv4;
using linear::WeightType;
using linear::WeightView;

namespace {

// Which matrix type `visit` chose.
template <class M>
constexpr WeightType type_of(const M&) {
  if constexpr (std::is_same_v<M, linear::PlainMatrix<float>>) return WeightType::kF32;
  if constexpr (std::is_same_v<M, linear::PlainMatrix<bf16>>) return WeightType::kBf16;
  if constexpr (std::is_same_v<M, linear::Fp8Matrix>) return WeightType::kFp8;
  if constexpr (std::is_same_v<M, linear::Fp4Matrix>) return WeightType::kFp4;
}

}  // namespace

TEST_CASE("visit hands over the matrix of the view's type, with its sizes and pointers", "[linear][weight]") {
  alignas(16) const std::uint8_t data[64] = {};
  const e8m0 scale[4] = {};
  for (const WeightType type : {WeightType::kF32, WeightType::kBf16, WeightType::kFp8, WeightType::kFp4}) {
    const WeightView view{type, data, scale, 2, 6};
    int calls = 0;
    const std::int64_t area = linear::visit(view, [&](const auto& m) {
      ++calls;
      REQUIRE(type_of(m) == type);
      REQUIRE(static_cast<const void*>(m.data) == data);
      REQUIRE(m.rows == 2);
      REQUIRE(m.cols == 6);
      if constexpr (requires { m.scale; }) REQUIRE(m.scale == scale);
      return m.rows * m.cols;
    });
    REQUIRE(calls == 1);
    REQUIRE(area == 12);
  }
}

TEST_CASE("a view reads the same bytes as each type says", "[linear][weight]") {
  // 0x3f80 is 1 in bf16; as e4m3 its bytes are 0x80 (-0) and 0x3f (1.875); as e2m1 0, -0, -6, 1.5.
  const std::uint16_t data[] = {0x3f80, 0x3f80};
  const e8m0 scale[] = {{128}};  // 2
  const auto at = [&](WeightType type, std::int64_t cols, std::int64_t col) {
    return linear::visit(WeightView{type, data, scale, 1, cols}, [&](const auto& m) { return m.at(0, col); });
  };
  REQUIRE(at(WeightType::kF32, 1, 0) == test::float_of(0x3f803f80u));
  REQUIRE(at(WeightType::kBf16, 2, 1) == 1.0f);
  REQUIRE(test::identical(at(WeightType::kFp8, 4, 0), -0.0f));
  REQUIRE(at(WeightType::kFp8, 4, 1) == 3.75f);
  REQUIRE(test::identical(at(WeightType::kFp4, 8, 0), 0.0f));
  REQUIRE(test::identical(at(WeightType::kFp4, 8, 1), -0.0f));
  REQUIRE(at(WeightType::kFp4, 8, 2) == -12.0f);
  REQUIRE(at(WeightType::kFp4, 8, 3) == 3.0f);
}

TEST_CASE("only FP8 and FP4 linears quantise their activations", "[linear][weight]") {
  REQUIRE(!linear::quantises_activations(WeightType::kF32));
  REQUIRE(!linear::quantises_activations(WeightType::kBf16));
  REQUIRE(linear::quantises_activations(WeightType::kFp8));
  REQUIRE(linear::quantises_activations(WeightType::kFp4));
}

TEST_CASE("views are equal when every field is", "[linear][weight]") {
  const float data[4] = {};
  const e8m0 scale[1] = {};
  const WeightView view{WeightType::kFp8, data, scale, 2, 2};
  REQUIRE(view == WeightView{WeightType::kFp8, data, scale, 2, 2});
  REQUIRE(view != WeightView{WeightType::kFp4, data, scale, 2, 2});
  REQUIRE(view != WeightView{WeightType::kFp8, data + 1, scale, 2, 2});
  REQUIRE(view != WeightView{WeightType::kFp8, data, nullptr, 2, 2});
  REQUIRE(view != WeightView{WeightType::kFp8, data, scale, 1, 2});
  REQUIRE(view != WeightView{WeightType::kFp8, data, scale, 2, 1});
  REQUIRE(WeightView{}.data == nullptr);
}

#if defined(__linux__)
TEST_CASE("matrices of more than 2^32 elements are indexed in 64 bits", "[linear][weight]") {
  // Address space alone: only the pages of the last row and its scales are ever touched.
  constexpr std::int64_t kRows = 70000, kCols = 65536;
  constexpr std::size_t kBytes = std::size_t{kRows} * kCols * 4,
                        kScaleBytes = std::size_t{kRows} * (kCols / 32);
  const auto map = [](std::size_t bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  };
  void* const data = map(kBytes);
  void* const scale = map(kScaleBytes);
  if (data == MAP_FAILED || scale == MAP_FAILED) {
    WARN("skipped: the system does not lend " << kBytes + kScaleBytes << " bytes of address space");
  } else {
    constexpr std::int64_t kRow = kRows - 1, kCol = kCols - 3;
    constexpr std::int64_t kIndex = kRow * kCols + kCol;
    const auto expect = [&](WeightType type, float want) {
      linear::visit(WeightView{type, data, static_cast<const e8m0*>(scale), kRows, kCols},
                    [&](const auto& m) {
                      float out[4] = {};
                      m.decode(out, kRow, kCol - 1, 4);
                      CAPTURE(static_cast<int>(type));
                      REQUIRE(m.at(kRow, kCol) == want);
                      REQUIRE(out[1] == want);
                    });
    };
    static_cast<float*>(data)[kIndex] = 3.25f;
    expect(WeightType::kF32, 3.25f);
    static_cast<std::uint16_t*>(data)[kIndex] = 0x4000;
    expect(WeightType::kBf16, 2.0f);
    static_cast<std::uint8_t*>(data)[kIndex] = 0x38;  // 1
    static_cast<std::uint8_t*>(scale)[kRow / 128 * (kCols / 128) + kCol / 128] = 130;
    expect(WeightType::kFp8, 8.0f);
    static_cast<std::uint8_t*>(data)[kIndex / 2] = 0x50;  // 3 in the high nibble
    static_cast<std::uint8_t*>(scale)[kRow * (kCols / 32) + kCol / 32] = 129;
    expect(WeightType::kFp4, 12.0f);
  }
  if (data != MAP_FAILED) munmap(data, kBytes);
  if (scale != MAP_FAILED) munmap(scale, kScaleBytes);
}
#endif
