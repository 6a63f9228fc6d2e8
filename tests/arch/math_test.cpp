// The host halves of the special functions: values, special operands, flushed subnormals.
#include <dsv4/arch/math.cuh>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"

#include <cmath>
#include <cstring>

namespace {

using namespace dsv4;

constexpr float kInfinity = HUGE_VALF, kSubnormal = 0x1p-140f;

// Equal, signs of zeros included.
bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

double relative_error(float got, double exact) { return std::fabs(got - exact) / std::fabs(exact); }

}  // namespace

TEST_CASE("approximate functions are well within the device's bounds", "[arch][math]") {
  test::Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const float x = static_cast<float>(random.normal() * 20);
    const float positive = static_cast<float>(std::exp2(random.normal() * 15));
    CAPTURE(x, positive);
    REQUIRE(relative_error(arch::exp2_approx(x), std::exp2(double{x})) <= 0x1p-23);
    REQUIRE(relative_error(arch::rcp_approx(x), 1.0 / x) <= 0x1p-23);
    REQUIRE(relative_error(arch::rsqrt_approx(positive), 1.0 / std::sqrt(double{positive})) <= 0x1p-23);
    REQUIRE(std::fabs(arch::log2_approx(positive) - std::log2(double{positive})) <=
            0x1p-23 * std::fabs(std::log2(double{positive})) + 0x1p-40);
    REQUIRE(std::fabs(arch::sin_approx(x) - std::sin(double{x})) <= 0x1p-23);
    REQUIRE(std::fabs(arch::cos_approx(x) - std::cos(double{x})) <= 0x1p-23);
    REQUIRE(relative_error(arch::tanh_approx(x), std::tanh(double{x})) <= 0x1p-22);
  }
}

TEST_CASE("special operands give what the PTX ISA tabulates", "[arch][math]") {
  CHECK(same(arch::exp2_approx(-kInfinity), 0.0f));
  CHECK(same(arch::exp2_approx(-0.0f), 1.0f));
  CHECK(same(arch::exp2_approx(kSubnormal), 1.0f));
  CHECK(same(arch::exp2_approx(kInfinity), kInfinity));
  CHECK(same(arch::exp2_approx(-126.0f), 0x1p-126f));
  CHECK(same(arch::exp2_approx(-130.0f), 0.0f));  // a subnormal result
  CHECK(same(arch::exp2_approx(128.0f), kInfinity));

  CHECK(same(arch::log2_approx(0.0f), -kInfinity));
  CHECK(same(arch::log2_approx(-0.0f), -kInfinity));
  CHECK(same(arch::log2_approx(kSubnormal), -kInfinity));
  CHECK(same(arch::log2_approx(1.0f), 0.0f));
  CHECK(same(arch::log2_approx(kInfinity), kInfinity));
  CHECK(std::isnan(arch::log2_approx(-1.0f)));
  CHECK(std::isnan(arch::log2_approx(-kInfinity)));

  CHECK(same(arch::rcp_approx(0.0f), kInfinity));
  CHECK(same(arch::rcp_approx(-0.0f), -kInfinity));
  CHECK(same(arch::rcp_approx(-kSubnormal), -kInfinity));
  CHECK(same(arch::rcp_approx(-kInfinity), -0.0f));
  CHECK(same(arch::rcp_approx(0x1p127f), 0.0f));  // 2^-127 is subnormal

  CHECK(same(arch::rsqrt_approx(0.0f), kInfinity));
  CHECK(same(arch::rsqrt_approx(-kSubnormal), -kInfinity));
  CHECK(same(arch::rsqrt_approx(kInfinity), 0.0f));
  CHECK(std::isnan(arch::rsqrt_approx(-1.0f)));

  CHECK(same(arch::sin_approx(-0.0f), -0.0f));
  CHECK(same(arch::sin_approx(-kSubnormal), -0.0f));
  CHECK(same(arch::cos_approx(kSubnormal), 1.0f));
  CHECK(std::isnan(arch::sin_approx(kInfinity)));
  CHECK(std::isnan(arch::cos_approx(-kInfinity)));

  CHECK(same(arch::tanh_approx(kInfinity), 1.0f));
  CHECK(same(arch::tanh_approx(-kInfinity), -1.0f));
  CHECK(same(arch::tanh_approx(-0.0f), -0.0f));
  CHECK(same(arch::tanh_approx(kSubnormal), kSubnormal));  // kept

  for (float (*f)(float) : {arch::exp2_approx, arch::log2_approx, arch::rcp_approx, arch::rsqrt_approx,
                            arch::sin_approx, arch::cos_approx, arch::tanh_approx})
    CHECK(std::isnan(f(NAN)));
}
