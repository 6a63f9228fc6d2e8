// Mirrors include/dsv4/core/simd.hpp.
#include <dsv4/core/simd.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <cmath>
#include <vector>

#if DSV4_HOST_SIMD

using namespace dsv4;
namespace oracle = test::oracle;

TEST_CASE("load, store and broadcast move eight lanes, unaligned", "[core][simd]") {
  static_assert(simd::kWidth == 8 && sizeof(simd::f32x8) == 32);
  const auto x = test::normal(20, 1);
  for (std::size_t offset = 0; offset < 4; ++offset) {
    std::vector<float> out(20, -1.0f);
    simd::store(out.data() + offset + 1, simd::load(x.data() + offset));
    for (std::size_t i = 0; i < 20; ++i) {
      CAPTURE(offset, i);
      REQUIRE(out[i] == (i >= offset + 1 && i < offset + 9 ? x[i - 1] : -1.0f));
    }
  }
  float lanes[8];
  simd::store(lanes, simd::broadcast(2.5f));
  for (const float v : lanes) REQUIRE(v == 2.5f);
}

TEST_CASE("simd fma rounds once in every lane", "[core][simd]") {
  test::Random random(2);
  for (int repeat = 0; repeat < 10000; ++repeat) {
    float a[8], b[8], c[8], got[8];
    for (int i = 0; i < 8; ++i) {
      a[i] = test::float_of(random.bits());
      b[i] = repeat % 2 == 0 ? test::float_of(random.bits()) : static_cast<float>(random.normal());
      // Half of the time close to -a*b, where an unfused product would lose everything.
      c[i] = repeat % 4 < 2 ? test::float_of(random.bits()) : -(a[i] * b[i]);
    }
    simd::store(got, simd::fma(simd::load(a), simd::load(b), simd::load(c)));
    for (int i = 0; i < 8; ++i) {
      if (test::identical(got[i], std::fmaf(a[i], b[i], c[i]))) continue;
      CAPTURE(a[i], b[i], c[i], got[i]);
      FAIL("not the fused result");
    }
  }
  SUCCEED();
}

TEST_CASE("simd tree_sum ends the canonical tree for four vectors", "[core][simd]") {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    auto x = test::normal(32, seed);
    test::Random random(seed + 500);
    for (float& v : x) v *= std::exp2f(static_cast<float>(random.integer(-12, 12)));
    const simd::f32x4 got = simd::tree_sum(simd::load(x.data()), simd::load(x.data() + 8),
                                           simd::load(x.data() + 16), simd::load(x.data() + 24));
    for (std::size_t i = 0; i < 4; ++i) {
      const float* v = x.data() + 8 * i;
      const float want = ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
      CAPTURE(seed, i);
      REQUIRE(test::identical(got[static_cast<int>(i)], want));
    }
  }
}

TEST_CASE("simd decoding of e4m3 and e2m1: every code in every lane", "[core][simd]") {
  for (unsigned first = 0; first < 256; ++first) {
    e4m3 fp8[16];
    e2m1x2 fp4[16];
    for (unsigned i = 0; i < 16; ++i) fp8[i] = {static_cast<std::uint8_t>(first + 37 * i)};
    for (unsigned i = 0; i < 16; ++i) fp4[i] = {static_cast<std::uint8_t>(first + 29 * i)};
    simd::f32x8 pair[2], quad[4];
    float a[16], b[32];
    simd::from_e4m3(pair, fp8);
    for (int v = 0; v < 2; ++v) simd::store(a + 8 * v, pair[v]);
    simd::from_e2m1(quad, fp4);
    for (int v = 0; v < 4; ++v) simd::store(b + 8 * v, quad[v]);
    CAPTURE(first);
    for (int i = 0; i < 16; ++i) {
      CAPTURE(i, fp8[i].bits);
      const double want = oracle::e4m3_value(fp8[i].bits);
      REQUIRE((std::isnan(want) ? std::isnan(a[i])
                                : test::bits_of(a[i]) == test::bits_of(static_cast<float>(want))));
    }
    for (int i = 0; i < 32; ++i) {
      CAPTURE(i, fp4[i / 2].bits);
      const double want = oracle::e2m1_value(i % 2 == 0 ? fp4[i / 2].bits & 15u : fp4[i / 2].bits >> 4u);
      REQUIRE(test::bits_of(b[i]) == test::bits_of(static_cast<float>(want)));
    }
  }
}

#else

TEST_CASE("host vectors are switched off", "[core][simd]") { REQUIRE(DSV4_HOST_SIMD == 0); }

#endif
