// Mirrors include/dsv4/core/quant.hpp. Quantisation is exact: everything is compared bit for bit.
#include <dsv4/core/quant.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/typed.hpp"
#include "tests/support/ulp.hpp"

#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

using namespace dsv4;
namespace oracle = test::oracle;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

unsigned fp8_byte(float amax) { return quant::fp8_scale(test::bits_of(amax)).bits; }
unsigned fp4_byte(float amax) { return quant::fp4_scale(test::bits_of(amax)).bits; }

oracle::Block oracle_block(const std::vector<float>& x, std::size_t begin, std::size_t end, bool fp8) {
  const std::vector<double> block(x.begin() + static_cast<std::ptrdiff_t>(begin),
                                  x.begin() + static_cast<std::ptrdiff_t>(end));
  return fp8 ? oracle::fp8_block(block) : oracle::fp4_block(block);
}

// Data whose blocks have scales of every kind: each run of 16 values has its own magnitude.
std::vector<float> varied(int n, std::uint64_t seed) {
  auto x = test::normal_bf16(n, seed);
  test::Random random(seed + 1000);
  float factor = 1;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i % 16 == 0) factor = std::exp2f(static_cast<float>(random.integer(-20, 20)));
    x[i] *= factor;
  }
  return x;
}

}  // namespace

TEST_CASE("block scales are the exact ceiling, at every exponent and mantissa edge", "[core][quant]") {
  for (std::uint32_t exponent = 0; exponent < 255; ++exponent) {
    std::vector<std::uint32_t> mantissas{0,        1,        2,        0x3fffff, 0x400000, 0x400001,
                                         0x5fffff, 0x600000, 0x600001, 0x7ffffe, 0x7fffff};
    test::Random random(exponent);
    for (int i = 0; i < 20; ++i) mantissas.push_back(random.bits() >> 9);
    for (const std::uint32_t mantissa : mantissas) {
      const float amax = test::float_of(exponent << 23 | mantissa);
      CAPTURE(exponent, mantissa, amax);
      REQUIRE(fp8_byte(amax) == oracle::fp8_scale_byte(amax));
      REQUIRE(fp4_byte(amax) == oracle::fp4_scale_byte(amax));
    }
  }
}

TEST_CASE("a block that just fits its scale keeps it, the next float above does not", "[core][quant]") {
  for (int k = -22; k <= 119; ++k) {  // below, the floor of 1e-4 rules; above, 448 * 2^k is no float
    const float fits = std::ldexp(448.0f, k);
    CAPTURE(k);
    REQUIRE(fp8_byte(fits) == static_cast<unsigned>(127 + k));
    REQUIRE(fp8_byte(std::nextafterf(fits, kInf)) == static_cast<unsigned>(128 + k));
    REQUIRE(fp8_byte(std::nextafterf(fits, 0.0f)) == static_cast<unsigned>(127 + k));
  }
  for (int k = -126; k <= 125; ++k) {
    const float fits = std::ldexp(6.0f, k);
    CAPTURE(k);
    REQUIRE(fp4_byte(fits) == static_cast<unsigned>(127 + k));
    REQUIRE(fp4_byte(std::nextafterf(fits, kInf)) == static_cast<unsigned>(128 + k));
    REQUIRE(fp4_byte(std::nextafterf(fits, 0.0f)) == static_cast<unsigned>(127 + k));
  }
}

TEST_CASE("scales have floors, and 255 for what is not finite", "[core][quant]") {
  for (const float amax : {0.0f, FLT_TRUE_MIN, FLT_MIN, 1e-30f, 5e-5f, 1e-4f}) {
    CAPTURE(amax);
    REQUIRE(fp8_byte(amax) == 105);  // 2^-22, the power of two above 1e-4 / 448
  }
  REQUIRE(fp8_byte(0x1.bp-14f) == 105);
  REQUIRE(fp8_byte(0x1.cp-14f) == 105);  // 448 * 2^-22
  REQUIRE(fp8_byte(0x1.c00002p-14f) == 106);
  for (const float amax : {0.0f, FLT_TRUE_MIN, FLT_MIN, 0x1.8p-124f}) {
    CAPTURE(amax);
    REQUIRE(fp4_byte(amax) == 1);  // 2^-126
  }
  REQUIRE(fp4_byte(0x1.800002p-124f) == 2);
  REQUIRE(fp8_byte(FLT_MAX) == 127 + 120);
  REQUIRE(fp4_byte(FLT_MAX) == 127 + 126);
  for (const float amax : {kInf, kNan, test::float_of(0x7f800001u), test::float_of(0x7fffffffu)}) {
    CAPTURE(test::bits_of(amax));
    REQUIRE(fp8_byte(amax) == 255);
    REQUIRE(fp4_byte(amax) == 255);
  }
}

TEST_CASE("the inverse of a scale is exact", "[core][quant]") {
  for (unsigned byte = 1; byte <= 253; ++byte) {
    CAPTURE(byte);
    REQUIRE(quant::inverse_scale({static_cast<std::uint8_t>(byte)}) == 1.0 / oracle::e8m0_value(byte));
  }
  REQUIRE(quant::inverse_scale({255}) == 0.0f);
  REQUIRE(test::identical(quant::scaled(3.0f, 0.5f), 1.5f));
  REQUIRE(test::identical(quant::scaled(kNan, 0.0f), 0.0f));
  REQUIRE(test::identical(quant::scaled(kInf, 0.0f), 0.0f));
}

TEMPLATE_TEST_CASE("fp8_block and fp4_block give the oracle's codes and scale", "[core][quant]", float,
                   bf16) {
  const int n = GENERATE(1, 2, 17, 31, 32, 33, 63, 64, 127, 128);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    auto x = test::normal_bf16(n, seed, std::ldexp(1.0, static_cast<int>(seed) - 20));
    if (seed == 0) x.assign(x.size(), 0.0f), x[0] = -0.0f;
    CAPTURE(n, seed);
    const auto in = test::row_of<TestType>(x);
    {
      const auto want = oracle_block(x, 0, x.size(), true);
      std::vector<e4m3> code(x.size() + 1, e4m3{0x55});
      REQUIRE(quant::fp8_block(SerialCoop{}, code.data(), in.data(), n).bits == want.scale);
      for (std::size_t i = 0; i < x.size(); ++i) REQUIRE(unsigned{code[i].bits} == want.codes[i]);
      REQUIRE(code.back().bits == 0x55);
    }
    if (n % 2 == 0) {
      const auto want = oracle_block(x, 0, x.size(), false);
      std::vector<e2m1x2> code(x.size() / 2 + 1, e2m1x2{0x55});
      REQUIRE(quant::fp4_block(SerialCoop{}, code.data(), in.data(), n).bits == want.scale);
      for (std::size_t i = 0; i < x.size(); i += 2) {  // the even element in the low nibble
        REQUIRE((code[i / 2].bits & 15u) == want.codes[i]);
        REQUIRE((code[i / 2].bits >> 4u) == want.codes[i + 1]);
      }
      REQUIRE(code.back().bits == 0x55);
    }
  }
}

TEMPLATE_TEST_CASE("round trips of rows, blocks of every size, a partial one last, in place", "[core][quant]",
                   float, bf16) {
  struct Shape {
    int n, block;
  };
  const Shape shape =
      GENERATE(Shape{1, 128}, Shape{448, 64}, Shape{128, 128}, Shape{127, 128}, Shape{129, 128},
               Shape{1536, 128}, Shape{200, 64}, Shape{128, 32}, Shape{131, 32});
  const int n = shape.n, block = shape.block;  // clang 14 captures no structured binding
  const auto x = varied(n, 7);
  const auto in = test::row_of<TestType>(x);
  for (const bool fp8 : {true, false}) {
    std::vector<TestType> out(x.size() + 1, in[0]), in_place = in;
    std::vector<float> wide(x.size());
    const auto run = [&](auto* to, const TestType* from) {
      if (fp8)
        quant::fp8_round_trip(SerialCoop{}, to, from, n, block);
      else if (block == 32)
        quant::fp4_round_trip(SerialCoop{}, to, from, n);  // the default block
      else
        quant::fp4_round_trip(SerialCoop{}, to, from, n, block);
    };
    run(out.data(), in.data());
    run(in_place.data(), in_place.data());
    run(wide.data(), in.data());
    for (int begin = 0; begin < n; begin += block) {
      const int end = std::min(n, begin + block);
      const auto want = oracle_block(x, static_cast<std::size_t>(begin), static_cast<std::size_t>(end), fp8);
      for (int i = begin; i < end; ++i) {
        const auto u = static_cast<std::size_t>(i);
        const auto value = static_cast<float>(want.values[u - static_cast<std::size_t>(begin)]);
        CAPTURE(n, block, fp8, i, x[u], value);
        REQUIRE(test::identical(test::value(out[u]), value));
        REQUIRE(test::identical(test::value(in_place[u]), value));
        REQUIRE(test::identical(wide[u], value));
      }
    }
    REQUIRE(
        test::identical(test::value(out.back()), test::value(in[0])));  // nothing beyond the row is written
  }
}

TEST_CASE("a NaN or inf makes its whole block NaN, and no other", "[core][quant]") {
  const float bad = std::vector<float>{kInf, -kInf, kNan, -kNan}[GENERATE(0u, 1u, 2u, 3u)];
  const int where = GENERATE(0, 1, 63, 64, 127, 128, 199);
  auto x = varied(200, 9);
  x[static_cast<std::size_t>(where)] = bad;
  std::vector<float> fp8(x.size()), fp4(x.size());
  quant::fp8_round_trip(SerialCoop{}, fp8.data(), x.data(), 200, 64);
  quant::fp4_round_trip(SerialCoop{}, fp4.data(), x.data(), 200, 32);
  for (int i = 0; i < 200; ++i) {
    CAPTURE(bad, where, i);
    REQUIRE(std::isnan(fp8[static_cast<std::size_t>(i)]) == (i / 64 == where / 64));
    REQUIRE(std::isnan(fp4[static_cast<std::size_t>(i)]) == (i / 32 == where / 32));
  }
  e4m3 code[64];
  e2m1x2 nibbles[16];
  const float* block = x.data() + where / 64 * 64;
  const int n = std::min(64, 200 - where / 64 * 64);
  REQUIRE(quant::fp8_block(SerialCoop{}, code, block, n).bits == 255);
  for (int i = 0; i < n; ++i) REQUIRE(code[i].bits == 0);
  block = x.data() + where / 32 * 32;
  const int half = std::min(32, 200 - where / 32 * 32);
  REQUIRE(quant::fp4_block(SerialCoop{}, nibbles, block, half).bits == 255);
  for (int i = 0; i < half / 2; ++i) REQUIRE(nibbles[i].bits == 0);
}

TEST_CASE("zero blocks stay zero and keep the sign of -0", "[core][quant]") {
  std::vector<float> x(64, 0.0f), fp8(64), fp4(64);
  x[5] = -0.0f;
  quant::fp8_round_trip(SerialCoop{}, fp8.data(), x.data(), 64, 64);
  quant::fp4_round_trip(SerialCoop{}, fp4.data(), x.data(), 64);
  for (std::size_t i = 0; i < x.size(); ++i) {
    CAPTURE(i);
    REQUIRE(test::bits_of(fp8[i]) == test::bits_of(x[i]));
    REQUIRE(test::bits_of(fp4[i]) == test::bits_of(x[i]));
  }
}

TEST_CASE("quantisation uses the rounded scale, not the largest magnitude itself", "[core][quant]") {
  // 300 needs scale 1; dividing by 300/448 instead would give 448 * 1 = 448 and other codes for the rest.
  const std::vector<float> x{300.0f, 100.0f, -3.0f, 0.001f};
  std::vector<float> out(x.size());
  quant::fp8_round_trip(SerialCoop{}, out.data(), x.data(), 4, 64);
  REQUIRE(out == std::vector<float>{288.0f, 96.0f, -3.0f, 0x1p-9f * 1});  // 300: 288 or 320, 288 nearer
  const std::vector<float> y{5.0f, 1.1f, -0.3f, 0.2f};
  quant::fp4_round_trip(SerialCoop{}, out.data(), y.data(), 4);
  REQUIRE(out == std::vector<float>{4.0f, 1.0f, -0.5f, 0.0f});  // 5 ties to 4, the even code
}

TEST_CASE("a group of threads quantises as one thread does", "[core][quant][group]") {
  const auto x = test::row_of<bf16>(varied(450, 11));
  std::vector<bf16> one = x, many = x;
  std::vector<float> one4(450), many4(450);
  std::vector<e4m3> code1(128), code4(128);
  std::vector<e2m1x2> nibble1(16), nibble4(16);
  quant::fp8_round_trip(SerialCoop{}, one.data(), one.data(), 450, 64);
  quant::fp4_round_trip(SerialCoop{}, one4.data(), x.data(), 450);
  const e8m0 s8 = quant::fp8_block(SerialCoop{}, code1.data(), x.data(), 128);
  const e8m0 s4 = quant::fp4_block(SerialCoop{}, nibble1.data(), x.data(), 32);
  unsigned scale8[3], scale4[3];
  test::run_group<3>([&](auto coop) {
    quant::fp8_round_trip(coop, many.data(), many.data(), 450, 64);
    quant::fp4_round_trip(coop, many4.data(), x.data(), 450);
    scale8[coop.rank()] = quant::fp8_block(coop, code4.data(), x.data(), 128).bits;
    scale4[coop.rank()] = quant::fp4_block(coop, nibble4.data(), x.data(), 32).bits;
  });
  for (int r = 0; r < 3; ++r) {
    REQUIRE(scale8[r] == s8.bits);
    REQUIRE(scale4[r] == s4.bits);
  }
  for (std::size_t i = 0; i < 450; ++i) {
    CAPTURE(i);
    REQUIRE(one[i].bits == many[i].bits);
    REQUIRE(test::identical(one4[i], many4[i]));
  }
  for (std::size_t i = 0; i < 128; ++i) REQUIRE(code1[i].bits == code4[i].bits);
  for (std::size_t i = 0; i < 16; ++i) REQUIRE(nibble1[i].bits == nibble4[i].bits);
}

TEST_CASE("fp8_decode and fp4_decode: every code, scale and length", "[core][quant]") {
  for (const unsigned scale_byte : {0u, 1u, 100u, 127u, 140u, 250u, 254u, 255u}) {
    const float scale = to_float(e8m0{static_cast<std::uint8_t>(scale_byte)});
    const double exact = oracle::e8m0_value(scale_byte);
    for (unsigned first = 0; first < 256; ++first) {
      const int n = static_cast<int>(first % 37);  // vectors, and tails of every length
      std::vector<e4m3> fp8(static_cast<std::size_t>(n));
      std::vector<e2m1x2> fp4(static_cast<std::size_t>(n));
      for (std::size_t i = 0; i < fp8.size(); ++i) {
        fp8[i] = {static_cast<std::uint8_t>(first + 7 * i)};
        fp4[i] = {static_cast<std::uint8_t>(first + 11 * i)};
      }
      constexpr float kUntouched = -3.25f;
      std::vector<float> a(fp8.size() + 1, kUntouched), b(2 * fp4.size() + 1, kUntouched);
      quant::fp8_decode(a.data(), fp8.data(), n, scale);
      quant::fp4_decode(b.data(), fp4.data(), 2 * n, scale);
      CAPTURE(scale_byte, first, n);
      REQUIRE((a.back() == kUntouched && b.back() == kUntouched));
      const auto same = [](float got, double want) {
        return std::isnan(want) ? std::isnan(got)
                                : test::bits_of(got) == test::bits_of(static_cast<float>(want));
      };
      for (std::size_t i = 0; i < fp8.size(); ++i) {
        CAPTURE(i);
        REQUIRE(same(a[i], oracle::e4m3_value(fp8[i].bits) * exact));
        REQUIRE(same(b[2 * i], oracle::e2m1_value(fp4[i].bits & 15u) * exact));
        REQUIRE(same(b[2 * i + 1], oracle::e2m1_value(fp4[i].bits >> 4u) * exact));
      }
    }
  }
}
