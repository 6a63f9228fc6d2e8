// Mirrors include/dsv4/core/math.hpp. The oracle is libm in double, whose own error is 1e-9 of an fp32 ulp.
// The sweeps take every 1009th of all 2^32 floats (a prime, so that every exponent and every low bit occurs)
// and a dense stretch around each place where an algorithm switches. The limits are the largest errors that
// trying ALL floats once has shown, rounded up; the header documents them.
#include <dsv4/core/math.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <cfloat>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <vector>

using namespace dsv4;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

// Floats in [low, high] of the sweep, and 2000 neighbours of every switch.
template <class Visit>
void sweep(float low, float high, std::initializer_list<float> switches, Visit visit) {
  for (std::uint64_t u = 0; u < (std::uint64_t{1} << 32); u += 1009) {
    const float x = test::float_of(static_cast<std::uint32_t>(u));
    if (x >= low && x <= high) visit(x);
  }
  for (const float s : switches) {
    float x = s;
    for (int i = 0; i < 1000; ++i) x = std::nextafterf(x, -kInf);
    for (int i = 0; i < 2000; ++i, x = std::nextafterf(x, kInf))
      if (x >= low && x <= high) visit(x);
  }
  visit(low);
  visit(high);
}

struct Worst {
  double error = 0;
  float at = 0;

  void take(double e, float x) {
    if (!(e <= error)) error = e, at = x;
  }
};

// Largest error in ulps of f against want over the sweep.
template <class F, class Want>
Worst worst_ulp(F f, Want want, float low, float high, std::initializer_list<float> switches) {
  Worst worst;
  sweep(low, high, switches, [&](float x) { worst.take(test::ulp_error(f(x), want(double(x))), x); });
  return worst;
}

double sigmoid_double(double x) { return 1 / (1 + std::exp(-x)); }
double softplus_double(double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::abs(x))); }

}  // namespace

TEST_CASE("fma rounds once", "[core][math]") {
  REQUIRE(math::fma(0x1.000002p0f, 0x1.000002p0f, -0x1.000004p0f) == 0x1p-46f);
  test::Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const float a = test::float_of(random.bits()), b = test::float_of(random.bits()),
                c = test::float_of(random.bits());
    if (test::identical(math::fma(a, b, c), std::fmaf(a, b, c))) continue;
    CAPTURE(a, b, c);
    FAIL("not the fused result");
  }
}

TEST_CASE("abs, max, min and is_nan", "[core][math]") {
  REQUIRE(test::bits_of(math::abs(-0.0f)) == 0u);
  REQUIRE(math::abs(-kInf) == kInf);
  REQUIRE(math::abs(-1.5f) == 1.5f);
  REQUIRE(std::isnan(math::abs(kNan)));
  REQUIRE(math::max(1.0f, 2.0f) == 2.0f);
  REQUIRE(math::max(2.0f, 1.0f) == 2.0f);
  REQUIRE(math::max(-kInf, -3.0f) == -3.0f);
  REQUIRE(math::min(1.0f, 2.0f) == 1.0f);
  REQUIRE(math::min(2.0f, 1.0f) == 1.0f);
  REQUIRE(math::min(kInf, 3.0f) == 3.0f);
  REQUIRE(std::isnan(math::max(kNan, 1.0f)));  // clamping keeps a NaN in the first place
  REQUIRE(std::isnan(math::min(kNan, 1.0f)));
  for (const std::uint32_t bits : {0x7f800001u, 0x7fc00000u, 0xff800001u, 0xffffffffu})
    REQUIRE(math::is_nan(test::float_of(bits)));
  for (const float x : {0.0f, -0.0f, kInf, -kInf, FLT_MAX, FLT_TRUE_MIN}) REQUIRE(!math::is_nan(x));
}

TEST_CASE("exp2i is a power of two over its whole range", "[core][math]") {
  for (int n = -126; n <= 127; ++n) REQUIRE(math::exp2i(n) == std::ldexp(1.0, n));
}

TEST_CASE("rsqrt is within 1.5 ulp", "[core][math]") {
  const Worst worst =
      worst_ulp([](float x) { return math::rsqrt(x); }, [](double x) { return 1 / std::sqrt(x); },
                FLT_TRUE_MIN, FLT_MAX, {1.0f, 4.0f});
  CAPTURE(worst.at);
  REQUIRE(worst.error <= 1.5);
  REQUIRE(math::rsqrt(0.0f) == kInf);
  REQUIRE(math::rsqrt(kInf) == 0.0f);
  REQUIRE(std::isnan(math::rsqrt(-1.0f)));
  REQUIRE(std::isnan(math::rsqrt(kNan)));
  REQUIRE(math::rsqrt(0.25f) == 2.0f);
}

TEST_CASE("exp is within 1.3 ulp, subnormal results included", "[core][math]") {
  const Worst worst =
      worst_ulp([](float x) { return math::exp(x); }, [](double x) { return std::exp(x); }, -FLT_MAX, FLT_MAX,
                {0.0f, -0.34657359f, 0.34657359f, -87.336545f, 88.722839f, -103.97208f, -104.0f, 89.0f});
  CAPTURE(worst.at);
  REQUIRE(worst.error <= 1.27);
  REQUIRE(math::exp(0.0f) == 1.0f);
  REQUIRE(math::exp(-0.0f) == 1.0f);
  REQUIRE(math::exp(kInf) == kInf);
  REQUIRE(math::exp(-kInf) == 0.0f);
  REQUIRE(math::exp(FLT_MAX) == kInf);
  REQUIRE(math::exp(-FLT_MAX) == 0.0f);
  REQUIRE(std::isnan(math::exp(kNan)));
  REQUIRE(std::isnan(math::exp(-kNan)));
}

TEST_CASE("log is within 1 ulp, subnormal arguments included", "[core][math]") {
  const Worst worst = worst_ulp([](float x) { return math::log(x); }, [](double x) { return std::log(x); },
                                FLT_TRUE_MIN, FLT_MAX, {1.0f, 0.70710678f, 1.41421356f, 2.0f, FLT_MIN});
  CAPTURE(worst.at);
  REQUIRE(worst.error <= 0.96);
  REQUIRE(test::bits_of(math::log(1.0f)) == 0u);
  REQUIRE(math::log(0.0f) == -kInf);
  REQUIRE(math::log(-0.0f) == -kInf);
  REQUIRE(math::log(kInf) == kInf);
  REQUIRE(std::isnan(math::log(-FLT_TRUE_MIN)));
  REQUIRE(std::isnan(math::log(-1.0f)));
  REQUIRE(std::isnan(math::log(-kInf)));
  REQUIRE(std::isnan(math::log(kNan)));
}

TEST_CASE("log1p_unit is within 1.6 ulp, however small its argument", "[core][math]") {
  const Worst worst =
      worst_ulp([](float x) { return math::log1p_unit(x); }, [](double x) { return std::log1p(x); }, 0.0f,
                1.0f, {0.41421356f, 1.0f, FLT_MIN});
  CAPTURE(worst.at);
  REQUIRE(worst.error <= 1.57);
  REQUIRE(math::log1p_unit(0.0f) == 0.0f);
  REQUIRE(math::log1p_unit(FLT_TRUE_MIN) == FLT_TRUE_MIN);
  REQUIRE(std::isnan(math::log1p_unit(kNan)));
}

TEST_CASE("sigmoid is within 2.5 ulp and ends in 0 and 1", "[core][math]") {
  const auto f = [](float x) { return math::sigmoid(x); };
  const Worst worst = worst_ulp(f, sigmoid_double, -87.0f, FLT_MAX, {0.0f, -17.0f, 17.0f});
  CAPTURE(worst.at);
  REQUIRE(worst.error <= 2.49);
  // Below, e^-x overflows and the result is 0 instead of less than 2^-128.
  Worst tail;
  sweep(-FLT_MAX, -87.0f, {-88.722839f}, [&](float x) { tail.take(std::abs(f(x) - sigmoid_double(x)), x); });
  CAPTURE(tail.at);
  REQUIRE(tail.error <= 0x1p-128);
  REQUIRE(f(0.0f) == 0.5f);
  REQUIRE(f(kInf) == 1.0f);
  REQUIRE(f(-kInf) == 0.0f);
  REQUIRE(f(1e4f) == 1.0f);
  REQUIRE(f(-1e4f) == 0.0f);
  REQUIRE(std::isnan(f(kNan)));
}

TEST_CASE("silu is within 2.9 ulp", "[core][math]") {
  const auto f = [](float x) { return math::silu(x); };
  const Worst worst =
      worst_ulp(f, [](double x) { return x * sigmoid_double(x); }, -87.0f, FLT_MAX, {0.0f, -17.0f, 17.0f});
  CAPTURE(worst.at);
  REQUIRE(worst.error <= 2.87);
  Worst tail;
  sweep(-FLT_MAX, -87.0f, {-88.722839f},
        [&](float x) { tail.take(std::abs(f(x) - x * sigmoid_double(x)), x); });
  CAPTURE(tail.at);
  REQUIRE(tail.error <= 89 * 0x1p-128);
  REQUIRE(f(0.0f) == 0.0f);
  REQUIRE(f(1e4f) == 1e4f);
  REQUIRE(f(kInf) == kInf);
  REQUIRE(std::isnan(f(-kInf)));  // -inf * 0
  REQUIRE(std::isnan(f(kNan)));
}

TEST_CASE("softplus is within 1.9 ulp and never overflows", "[core][math]") {
  const auto f = [](float x) { return math::softplus(x); };
  const Worst worst = worst_ulp(f, softplus_double, -FLT_MAX, FLT_MAX,
                                {0.0f, 0.88137359f, -0.88137359f, 20.0f, -87.3f, -103.97f});
  CAPTURE(worst.at);
  REQUIRE(worst.error <= 1.84);
  REQUIRE(f(1e4f) == 1e4f);
  REQUIRE(f(-1e4f) == 0.0f);
  REQUIRE(f(FLT_MAX) == FLT_MAX);
  REQUIRE(f(kInf) == kInf);
  REQUIRE(f(-kInf) == 0.0f);
  REQUIRE(f(20.0f) == static_cast<float>(softplus_double(20.0)));
  REQUIRE(std::isnan(f(kNan)));
  REQUIRE(std::isnan(f(-kNan)));
  // sqrt must not see a negative.
  std::size_t negative = 0;
  sweep(-FLT_MAX, FLT_MAX, {0.0f}, [&](float x) { negative += f(x) < 0.0f; });
  REQUIRE(negative == 0);
}

TEST_CASE("sincos is within 1e-7 up to 2^22 radians", "[core][math]") {
  Worst sine, cosine;
  const auto take = [&](float x) {
    const math::SinCos got = math::sincos(x);
    sine.take(std::abs(got.sin - std::sin(double(x))), x);
    cosine.take(std::abs(got.cos - std::cos(double(x))), x);
  };
  sweep(-0x1p22f, 0x1p22f, {0.0f, 0.78539816f, -0.78539816f, 1.57079633f, 3.14159265f, 0x1p20f, 0x1p22f},
        take);
  // The floats nearest to multiples of pi/2, where a reduction that loses bits shows.
  for (int k = -2670176; k <= 2670176; k += 7) take(static_cast<float>(k * 1.5707963267948966));
  CAPTURE(sine.at, cosine.at);
  REQUIRE(sine.error <= 0.95e-7);
  REQUIRE(cosine.error <= 0.95e-7);
  const math::SinCos zero = math::sincos(0.0f), nan = math::sincos(kNan);
  REQUIRE(zero.sin == 0.0f);
  REQUIRE(zero.cos == 1.0f);
  REQUIRE(std::isnan(nan.sin));
  REQUIRE(std::isnan(nan.cos));
  // Small angles keep their relative accuracy.
  const Worst small = worst_ulp([](float x) { return math::sincos(x).sin; },
                                [](double x) { return std::sin(x); }, 0x1p-100f, 0.78f, {});
  CAPTURE(small.at);
  REQUIRE(small.error <= 1.0);
}

TEST_CASE("exp, log and softplus do not step back where their algorithms switch", "[core][math]") {
  struct Edge {
    float (*f)(float);
    float at;
  };
  for (const Edge& edge :
       {Edge{[](float x) { return math::exp(x); }, -104.0f},
        Edge{[](float x) { return math::exp(x); }, 89.0f},
        Edge{[](float x) { return math::exp(x); }, 88.722839f},
        Edge{[](float x) { return math::exp(x); }, -87.336545f},
        Edge{[](float x) { return math::log(x); }, 1.0f}, Edge{[](float x) { return math::log(x); }, FLT_MIN},
        Edge{[](float x) { return math::softplus(x); }, 20.0f},
        Edge{[](float x) { return math::softplus(x); }, 0.0f}}) {
    float x = edge.at;
    for (int i = 0; i < 2000; ++i) x = std::nextafterf(x, -kInf);
    float before = edge.f(x);
    for (int i = 0; i < 4000; ++i) {
      x = std::nextafterf(x, kInf);
      const float here = edge.f(x);
      CAPTURE(edge.at, x);
      // One ulp of play: the results are not correctly rounded.
      REQUIRE(here >= std::nextafterf(before, -kInf));
      before = here;
    }
  }
}

TEST_CASE("the elementary functions give the same bits on every compiler and machine", "[core][math]") {
  // A checksum of the results over the sweep. A better approximation changes it: then replace the number,
  // after trying all floats again.
  struct Function {
    const char* name;
    float (*f)(float);
    float low, high;
    std::uint64_t checksum;
  };
  for (const Function& function : {
           Function{"rsqrt", [](float x) { return math::rsqrt(x); }, FLT_TRUE_MIN, FLT_MAX,
                    0x1ba5ca1236f22cd0u},
           Function{"exp", [](float x) { return math::exp(x); }, -FLT_MAX, FLT_MAX, 0x56089f452a84c349u},
           Function{"log", [](float x) { return math::log(x); }, FLT_TRUE_MIN, FLT_MAX, 0xd5c6a4ea86bffecbu},
           Function{"log1p_unit", [](float x) { return math::log1p_unit(x); }, 0.0f, 1.0f,
                    0x494d1a0cf0022357u},
           Function{"sigmoid", [](float x) { return math::sigmoid(x); }, -FLT_MAX, FLT_MAX,
                    0x727a26630d2bc8ffu},
           Function{"silu", [](float x) { return math::silu(x); }, -FLT_MAX, FLT_MAX, 0x6df4032727ecc019u},
           Function{"softplus", [](float x) { return math::softplus(x); }, -FLT_MAX, FLT_MAX,
                    0xb432433b75ce9288u},
           Function{"sin", [](float x) { return math::sincos(x).sin; }, -0x1p22f, 0x1p22f,
                    0xfc1878dfd9a2f579u},
           Function{"cos", [](float x) { return math::sincos(x).cos; }, -0x1p22f, 0x1p22f,
                    0x259314012b0860ecu},
       }) {
    std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a, a word at a time
    sweep(function.low, function.high, {1.0f},
          [&](float x) { hash = (hash ^ test::bits_of(function.f(x))) * 0x100000001b3u; });
    CAPTURE(function.name);
    CHECK(hash == function.checksum);
  }
}
