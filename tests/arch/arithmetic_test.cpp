// The host halves of single-instruction arithmetic.
#include <dsv4/arch/arithmetic.cuh>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

using namespace dsv4;

TEST_CASE("max_nan is the larger, and keeps NaNs on either side", "[arch][arithmetic]") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = HUGE_VALF;
  CHECK(arch::max_nan(1.0f, 2.0f) == 2.0f);
  CHECK(arch::max_nan(2.0f, 1.0f) == 2.0f);
  CHECK(arch::max_nan(-kInf, 0.0f) == 0.0f);
  CHECK(arch::max_nan(kInf, 0.0f) == kInf);
  CHECK(arch::max_nan(-0.0f, 0.0f) == 0.0f);
  CHECK(std::isnan(arch::max_nan(kNan, 0.0f)));
  CHECK(std::isnan(arch::max_nan(0.0f, kNan)));
  CHECK(std::isnan(arch::max_nan(kInf, -kNan)));
}

TEST_CASE("mul_bf16x2 rounds each exact product once", "[arch][arithmetic]") {
  const auto check = [](unsigned a, unsigned b, unsigned other_a, unsigned other_b) {
    const std::uint32_t got = arch::mul_bf16x2(a | other_a << 16, b | other_b << 16);
    CAPTURE(a, b, other_a, other_b);
    const auto half = [](unsigned x, unsigned y, unsigned product) {
      const double exact = test::oracle::bf16_value(x) * test::oracle::bf16_value(y);
      if (std::isnan(exact))
        REQUIRE(std::isnan(test::oracle::bf16_value(product)));
      else
        REQUIRE(product == test::oracle::bf16_nearest(exact));
    };
    half(a, b, got & 0xffffu);
    half(other_a, other_b, got >> 16);
  };
  test::Random random(1);
  const auto any = [&] { return random.bits() & 0xffffu; };
  // Of any size; and results around the smallest normal number, where subnormals round.
  for (int i = 0; i < 20000; ++i) check(any(), any(), any(), any());
  for (int i = 0; i < 20000; ++i) {
    const auto small = [&] { return (any() & 0x80ffu) | (50u + (any() & 15u)) << 7; };
    const auto large = [&] { return (any() & 0x80ffu) | (60u + (any() & 15u)) << 7; };
    check(small(), large(), any() & 0x80ffu, large());
  }
  for (const unsigned special : {0x0000u, 0x8000u, 0x7f80u, 0xff80u, 0x7fc0u, 0x0001u, 0x7f7fu, 0x0080u})
    for (int i = 0; i < 100; ++i) check(special, any(), any(), special);
}
