// The vectors' own functions and formats against the machine's libm and the headers' types; bounds of sums.
#include <dsv4/core/types.hpp>

#include "reference/vectors/formats.hpp"
#include "reference/vectors/num.hpp"
#include "reference/vectors/random.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

using namespace dsv4::reference::vectors;

TEST_CASE("vectors: exp, log, sin and cos agree with libm", "[vectors]") {
  Random random(1, "functions");
  for (int i = 0; i < 5000; ++i) {
    const double x = 1400 * random.unit() - 700, a = 0x1p22 * (2 * random.unit() - 1);
    const double y = std::ldexp(1 + random.unit(), static_cast<int>(random.integer(-1000, 1000)));
    CAPTURE(x, a, y);
    REQUIRE(std::abs(exp_of(x) / std::exp(x) - 1) <= 8 * 0x1p-53);
    REQUIRE(std::abs(log_of(y) - std::log(y)) <= 8 * 0x1p-53 * std::max(1.0, std::abs(std::log(y))));
    REQUIRE(std::abs(turn_of(a).sin - std::sin(a)) <= 4e-16);
    REQUIRE(std::abs(turn_of(a).cos - std::cos(a)) <= 4e-16);
  }
  REQUIRE(exp_of(0) == 1);
  REQUIRE(exp_of(-1e30) == 0);
  REQUIRE(std::isinf(exp_of(1e30)));
  REQUIRE(std::isnan(exp_of(std::numeric_limits<double>::quiet_NaN())));
  REQUIRE(log_of(1) == 0);
  REQUIRE(turn_of(0).cos == 1);
}

TEST_CASE("vectors: formats agree with the headers' types", "[vectors]") {
  for (unsigned code = 0; code < 256; ++code) {
    const auto byte = static_cast<std::uint8_t>(code);
    const double fp8 = dsv4::to_float(dsv4::e4m3{byte}), scale = dsv4::to_float(dsv4::e8m0{byte});
    CAPTURE(code);
    REQUIRE((e4m3_value(byte) == fp8 || (std::isnan(fp8) && std::isnan(e4m3_value(byte)))));
    REQUIRE((e8m0_value(byte) == scale || (std::isnan(scale) && std::isnan(e8m0_value(byte)))));
    REQUIRE(e2m1_value(code & 15u) == dsv4::e2m1_to_float(code & 15u));
  }
  for (unsigned code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const double x = dsv4::to_float(dsv4::bf16{bits});
    CAPTURE(code);
    if (std::isnan(x)) {
      REQUIRE(std::isnan(bf16_value(bits)));
      continue;
    }
    REQUIRE(bf16_value(bits) == x);
    REQUIRE(bf16_code(x) == bits);
  }
  Random random(2, "formats");
  for (int i = 0; i < 20000; ++i) {  // floats of every size, and between the codes
    const auto f =
        static_cast<float>(std::ldexp(2 * random.unit() - 1, static_cast<int>(random.integer(-140, 128))));
    const auto g = static_cast<float>(random.integer(-4096, 4096)) / 512.0f;
    CAPTURE(f, g);
    REQUIRE(bf16_code(f) == dsv4::from_float<dsv4::bf16>(f).bits);
    REQUIRE(e4m3_code(f) == dsv4::to_e4m3(f).bits);
    REQUIRE(e4m3_code(g) == dsv4::to_e4m3(g).bits);
    REQUIRE(e2m1_code(f) == dsv4::to_e2m1(f));
    REQUIRE(e2m1_code(g) == dsv4::to_e2m1(g));
  }
}

TEST_CASE("vectors: mistaken roundings of codes", "[vectors]") {
  REQUIRE(e2m1_value(e2m1_code(2.5)) == 2);
  REQUIRE(e2m1_value(e2m1_code(2.5, Rounding::kHalfAway)) == 3);
  REQUIRE(e2m1_value(e2m1_code(-2.9, Rounding::kTowardZero)) == -2);
  REQUIRE(e4m3_value(e4m3_code(17, Rounding::kNearestEven)) == 16);
  REQUIRE(e4m3_value(e4m3_code(17, Rounding::kHalfAway)) == 18);
  REQUIRE(e4m3_value(e4m3_code(17.9, Rounding::kTowardZero)) == 16);
  REQUIRE(e4m3_value(e4m3_code(1e9)) == 448);
}

TEST_CASE("vectors: intervals hold what fp32 gives, and are not wider than they need be", "[vectors]") {
  Random random(3, "intervals");
  for (int i = 0; i < 200; ++i) {
    Sum sum, squares;
    float serial = 0, lanes[32] = {};
    const int n = static_cast<int>(random.integer(1, 3000));
    for (int k = 0; k < n; ++k) {
      const auto a = static_cast<float>(bf16_round(random.normal())),
                 b = static_cast<float>(bf16_round(random.normal()));
      sum.add(Num(double{a} * b));
      squares.add(Num(double{a} * a));
      serial += a * b;
      lanes[k % 32] += a * b;
    }
    float by_lanes = 0;
    for (const float lane : lanes) by_lanes += lane;
    const Num x = sum.value();
    CAPTURE(n, x.lo, x.hi, serial, by_lanes);
    REQUIRE((x.lo <= by_lanes && by_lanes <= x.hi));
    REQUIRE((x.lo <= serial && serial <= x.hi));
    REQUIRE(x.hi - x.lo <= 2 * (n / 32 + 8) * kUlp * squares.value().hi * 3);
    const Num y = exp(Num(3 * random.normal())) / (Num(1) + Num(random.unit()));
    const Num r = bf16(y);
    REQUIRE((y.lo < y.v && y.v < y.hi && y.hi - y.lo < 64 * kUlp * y.v));
    REQUIRE((r.lo <= r.v && r.v <= r.hi && r.hi - r.lo <= y.v * 0x1p-6));
  }
  REQUIRE(std::isnan((Num(std::numeric_limits<double>::quiet_NaN()) + Num(1)).v));
  REQUIRE(std::isinf((Num(3e38) * Num(10)).v));
  REQUIRE((Num(0) * Num(5)).exact());
}
