// Mirrors include/dsv4/core/types.hpp. Every conversion is compared with the oracle bit for bit.
#include <dsv4/core/types.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

#include <cfloat>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

using namespace dsv4;
namespace oracle = test::oracle;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// x and its two fp32 neighbours, each with both signs.
void push_with_neighbours(std::vector<float>& out, float x) {
  for (const float v : {std::nextafterf(x, -kInf), x, std::nextafterf(x, kInf)}) {
    out.push_back(v);
    out.push_back(-v);
  }
}

// What every encoder must get right: all bf16 values, the codes' values, their halfway points and neighbours
// of both, fp32 subnormals, the ends of the fp32 range, and random bits.
template <class Value>
std::vector<float> encoder_inputs(unsigned codes, Value value, float beyond) {
  std::vector<float> x;
  for (unsigned code = 0; code < 65536; ++code) x.push_back(static_cast<float>(oracle::bf16_value(code)));
  for (unsigned code = 0; code < codes; ++code) {
    const double next = code + 1 < codes ? value(code + 1) : beyond;
    push_with_neighbours(x, static_cast<float>(value(code)));
    push_with_neighbours(x, static_cast<float>((value(code) + next) / 2));  // exact in fp32
  }
  for (const float edge : {FLT_TRUE_MIN, FLT_MIN, FLT_MAX, 1e-40f, beyond}) push_with_neighbours(x, edge);
  test::Random random(1);
  for (int i = 0; i < 200000; ++i) x.push_back(test::float_of(random.bits()));
  for (int i = 0; i < 200000; ++i)  // random values around the codes
    x.push_back(static_cast<float>(random.normal() * value(codes - 1) / std::exp2(random.integer(0, 12))));
  return x;
}

static_assert(sizeof(bf16) == 2 && sizeof(e4m3) == 1 && sizeof(e2m1x2) == 1 && sizeof(e8m0) == 1);
static_assert(std::is_trivially_copyable_v<bf16> && std::is_trivially_copyable_v<e4m3> &&
              std::is_trivially_copyable_v<e2m1x2> && std::is_trivially_copyable_v<e8m0>);

}  // namespace

TEST_CASE("bits_as keeps every bit", "[core][types]") {
  REQUIRE(bits_as<std::uint32_t>(1.0f) == 0x3f800000u);
  REQUIRE(bits_as<std::uint32_t>(-0.0f) == 0x80000000u);
  REQUIRE(bits_as<float>(0x40490fdbu) == 0x1.921fb6p+1f);
}

TEST_CASE("every e4m3 code decodes exactly", "[core][types]") {
  for (unsigned code = 0; code < 256; ++code) {
    const float got = to_float(e4m3{static_cast<std::uint8_t>(code)});
    CAPTURE(code, got);
    REQUIRE(test::identical(got, static_cast<float>(oracle::e4m3_value(code))));
    REQUIRE(std::isnan(got) == (code == 0x7f || code == 0xff));
  }
}

TEST_CASE("every e2m1 nibble decodes exactly", "[core][types]") {
  const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};  // spelled out: the oracle could share a mistake
  for (unsigned nibble = 0; nibble < 16; ++nibble) {
    const float got = e2m1_to_float(nibble);
    CAPTURE(nibble, got);
    REQUIRE(test::identical(got, nibble < 8 ? values[nibble] : -values[nibble - 8]));
    REQUIRE(test::identical(got, static_cast<float>(oracle::e2m1_value(nibble))));
  }
  for (unsigned byte = 0; byte < 256; ++byte) {  // bits above the nibble are ignored
    CAPTURE(byte);
    REQUIRE(test::identical(e2m1_to_float(byte & 15), static_cast<float>(oracle::e2m1_value(byte & 15))));
    REQUIRE(test::identical(e2m1_to_float(byte >> 4), static_cast<float>(oracle::e2m1_value(byte >> 4))));
  }
}

TEST_CASE("every UE8M0 byte decodes exactly", "[core][types]") {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const float got = to_float(e8m0{static_cast<std::uint8_t>(byte)});
    CAPTURE(byte, got);
    REQUIRE(test::identical(got, static_cast<float>(oracle::e8m0_value(byte))));
  }
  REQUIRE(test::bits_of(to_float(e8m0{0})) == 0x00400000u);  // 2^-127, a subnormal
  REQUIRE(std::isnan(to_float(e8m0{255})));
}

TEST_CASE("every bf16 decodes exactly, and comes back", "[core][types]") {
  for (unsigned code = 0; code < 65536; ++code) {
    const float got = to_float(bf16{static_cast<std::uint16_t>(code)});
    if (!test::identical(got, static_cast<float>(oracle::bf16_value(code)))) {
      CAPTURE(code, got);
      FAIL("decodes to another value");
    }
    const unsigned quiet = std::isnan(got) ? code | 0x40u : code;
    if (from_float<bf16>(test::float_of(code << 16)).bits != quiet) {
      CAPTURE(code, quiet);
      FAIL("does not come back");
    }
  }
  SUCCEED();
}

TEST_CASE("fp32 to bf16 rounds to nearest even", "[core][types]") {
  const auto check = [](float x) {
    const unsigned want = oracle::bf16_nearest(x), got = from_float<bf16>(x).bits;
    if (std::isnan(x) ? std::isnan(to_float(from_float<bf16>(x))) && (got & 0x40u) != 0 : got == want) return;
    CAPTURE(test::bits_of(x), x, got, want);
    FAIL("not the nearest");
  };
  // Between every two neighbours: the halfway point and the fp32 numbers on both sides. 0x7f7f reaches to
  // inf.
  for (std::uint32_t code = 0; code < 0x7f80; ++code)
    for (const std::uint32_t low : {0u, 1u, 0x4000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      check(test::float_of(code << 16 | low));
      check(test::float_of(code << 16 | low | 0x80000000u));
    }
  test::Random random(2);
  for (int i = 0; i < 1000000; ++i) check(test::float_of(random.bits()));

  REQUIRE(from_float<bf16>(0x1.01p0f).bits == 0x3f80);  // a tie goes down to the even code
  REQUIRE(from_float<bf16>(0x1.03p0f).bits == 0x3f82);  // and up
  REQUIRE(from_float<bf16>(test::float_of(0x7f7f7fff)).bits == 0x7f7f);
  REQUIRE(from_float<bf16>(test::float_of(0x7f7f8000)).bits == 0x7f80);  // overflow to inf at the tie
  REQUIRE(from_float<bf16>(FLT_MAX).bits == 0x7f80);
  REQUIRE(from_float<bf16>(-FLT_MAX).bits == 0xff80);
  REQUIRE(from_float<bf16>(kInf).bits == 0x7f80);
  REQUIRE(from_float<bf16>(-kInf).bits == 0xff80);
  REQUIRE(from_float<bf16>(-0.0f).bits == 0x8000);
  REQUIRE(from_float<bf16>(FLT_TRUE_MIN).bits == 0);
  REQUIRE(from_float<bf16>(0x1p-133f).bits == 1);  // the smallest subnormal bf16
  // A NaN whose payload lies in the lost half stays a NaN, and becomes quiet.
  for (const std::uint32_t nan :
       {0x7f800001u, 0xff800001u, 0x7fa00000u, 0x7fc00000u, 0x7fffffffu, 0xffffffffu}) {
    CAPTURE(nan);
    const unsigned got = from_float<bf16>(test::float_of(nan)).bits;
    REQUIRE((got & 0x7fc0u) == 0x7fc0u);
    REQUIRE((got & 0x8000u) == (nan >> 16 & 0x8000u));
  }
}

TEST_CASE("from_float, to_float and round_to of float change nothing", "[core][types]") {
  for (const float x : {0.0f, -0.0f, 0x1.234568p3f, FLT_TRUE_MIN, kInf, -kInf}) {
    REQUIRE(test::identical(from_float<float>(x), x));
    REQUIRE(test::identical(to_float(x), x));
    REQUIRE(test::identical(round_to<float>(x), x));
  }
  REQUIRE(round_to<bf16>(0x1.02fffep0f) == 0x1.02p0f);
  REQUIRE(round_to<bf16>(0x1.030002p0f) == 0x1.04p0f);
}

TEST_CASE("fp32 to e4m3 rounds to nearest even and saturates", "[core][types]") {
  for (const float x : encoder_inputs(0x7f, oracle::e4m3_value, 480.0f)) {
    const unsigned got = to_e4m3(x).bits, want = oracle::e4m3_nearest(x);
    // NaN: the sign is kept as well.
    if (got == (std::isnan(x) ? 0x7fu | (test::bits_of(x) >> 24 & 0x80u) : want)) continue;
    CAPTURE(test::bits_of(x), x, got, want);
    FAIL("not the nearest");
  }
  REQUIRE(to_e4m3(kInf).bits == 0x7e);
  REQUIRE(to_e4m3(-kInf).bits == 0xfe);
  REQUIRE(to_e4m3(464.0f).bits == 0x7e);  // halfway to the 480 that does not exist: saturates, no NaN
  REQUIRE(to_e4m3(-0.0f).bits == 0x80);
  REQUIRE(to_e4m3(0x1p-10f).bits == 0);  // half the smallest subnormal: the even code is 0
  REQUIRE(to_e4m3(0x1.000002p-10f).bits == 1);
  REQUIRE(to_e4m3(std::nanf("")).bits == 0x7f);
  for (unsigned code = 0; code < 256; ++code) {
    CAPTURE(code);
    REQUIRE(to_e4m3(to_float(e4m3{static_cast<std::uint8_t>(code)})).bits == code);
  }
}

TEST_CASE("fp32 to e2m1 rounds to nearest even and saturates", "[core][types]") {
  for (const float x : encoder_inputs(8, oracle::e2m1_value, 8.0f)) {
    const unsigned got = to_e2m1(x);
    const unsigned want = std::isnan(x) ? test::bits_of(x) >> 28 & 8u : oracle::e2m1_nearest(x);
    if (got == want) continue;
    CAPTURE(test::bits_of(x), x, got, want);
    FAIL("not the nearest");
  }
  REQUIRE(to_e2m1(kInf) == 7);
  REQUIRE(to_e2m1(-kInf) == 15);
  REQUIRE(to_e2m1(7.0f) == 7);
  REQUIRE(to_e2m1(-0.0f) == 8);
  REQUIRE((to_e2m1(std::nanf("")) & 7) == 0);
  for (unsigned nibble = 0; nibble < 16; ++nibble) {
    CAPTURE(nibble);
    REQUIRE(to_e2m1(e2m1_to_float(nibble)) == nibble);
  }
}

#if defined(__SSE__)
namespace {
// Not inlined, so that the arithmetic stays between the two changes of the control register.
__attribute__((noinline)) void decode_all(float* out) {
  for (unsigned code = 0; code < 256; ++code) out[code] = to_float(e4m3{static_cast<std::uint8_t>(code)});
  for (unsigned byte = 0; byte < 256; ++byte)
    out[256 + byte] = to_float(e8m0{static_cast<std::uint8_t>(byte)});
}
}  // namespace

TEST_CASE("decoding does not depend on flush-to-zero", "[core][types]") {
  std::vector<float> plain(512), flushed(512);
  decode_all(plain.data());
  const unsigned control = _mm_getcsr();
  _mm_setcsr(control | 0x8040u);  // flush to zero, denormals are zero
  decode_all(flushed.data());
  _mm_setcsr(control);
  for (std::size_t i = 0; i < plain.size(); ++i) {
    CAPTURE(i);
    REQUIRE(test::identical(plain[i], flushed[i]));
  }
}
#endif
