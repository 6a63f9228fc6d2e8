// mma.sync, ldmatrix and stmatrix of the SIMT machine, against layouts written down element by element as the
// PTX ISA tabulates them.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/matrix.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/core/types.hpp>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"

namespace {

using namespace dsv4;

// ---- mma
// --------------------------------------------------------------------------------------------------- Element
// i of lane's A and B fragments.
struct Place {
  int row, column;
};
struct Bf16 {
  static constexpr int kDepth = 16, kPerRegister = 2;
  static Place a(int lane, int i) {
    return {lane / 4 + ((i < 2 || (4 <= i && i < 6)) ? 0 : 8), lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8)};
  }
  static Place b(int lane, int i) { return {lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8), lane / 4}; }
  static std::uint32_t encode(float x) { return from_float<bf16>(x).bits; }
  static float decode(std::uint32_t u) { return to_float(bf16{static_cast<std::uint16_t>(u)}); }
  static void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  const float (&c)[4]) {
    arch::mma_m16n8k16_bf16(d, a, b, c);
  }
};
struct E4m3 {
  static constexpr int kDepth = 32, kPerRegister = 4;
  static Place a(int lane, int i) {
    return {lane / 4 + ((i < 4 || (8 <= i && i < 12)) ? 0 : 8), lane % 4 * 4 + (i & 3) + (i < 8 ? 0 : 16)};
  }
  static Place b(int lane, int i) { return {lane % 4 * 4 + (i & 3) + (i < 4 ? 0 : 16), lane / 4}; }
  static std::uint32_t encode(float x) { return to_e4m3(x).bits; }
  static float decode(std::uint32_t u) { return to_float(e4m3{static_cast<std::uint8_t>(u)}); }
  static void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  const float (&c)[4]) {
    arch::mma_m16n8k32_e4m3(d, a, b, c);
  }
};
struct Tf32 {
  static constexpr int kDepth = 8, kPerRegister = 1;
  static Place a(int lane, int i) {
    return {lane / 4 + ((i == 0 || i == 2) ? 0 : 8), lane % 4 + (i < 2 ? 0 : 4)};
  }
  static Place b(int lane, int i) { return {lane % 4 + (i == 0 ? 0 : 4), lane / 4}; }
  static std::uint32_t encode(float x) { return arch::to_tf32(x); }
  static float decode(std::uint32_t u) { return bits_as<float>(u); }
  static void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  const float (&c)[4]) {
    arch::mma_m16n8k8_tf32(d, a, b, c);
  }
};

// d = a b + c over 16 x K, K x 8 and 16 x 8 row-major values.
template <class F>
void mma_kernel(const float* a, const float* b, const float* c, float* d) {
  const int lane = arch::lane_id();
  std::uint32_t fa[4] = {}, fb[2] = {};
  float fc[4];
  constexpr int kBits = 32 / F::kPerRegister;
  for (int i = 0; i < 4 * F::kPerRegister; ++i) {
    const Place p = F::a(lane, i);
    fa[i / F::kPerRegister] |= F::encode(a[p.row * F::kDepth + p.column]) << i % F::kPerRegister * kBits;
  }
  for (int i = 0; i < 2 * F::kPerRegister; ++i) {
    const Place p = F::b(lane, i);
    fb[i / F::kPerRegister] |= F::encode(b[p.row * 8 + p.column]) << i % F::kPerRegister * kBits;
  }
  const auto place = [lane](int i) { return (lane / 4 + (i < 2 ? 0 : 8)) * 8 + lane % 4 * 2 + (i & 1); };
  for (int i = 0; i < 4; ++i) fc[i] = c[place(i)];
  F::mma(fc, fa, fb, fc);  // in place
  for (int i = 0; i < 4; ++i) d[place(i)] = fc[i];
}

template <class F>
void check_product(float (*value)(test::Random&), bool integers) {
  test::Random random(7);
  for (int round = 0; round < 20; ++round) {
    std::vector<float> a(16 * F::kDepth), b(F::kDepth * 8), c(16 * 8), d(16 * 8);
    for (float& x : a) x = value(random);
    for (float& x : b) x = value(random);
    for (float& x : c) x = value(random);
    simt::launch("mma", mma_kernel<F>, {.grid = {}, .block = {32, 1, 1}, .cluster = {}}, a.data(), b.data(),
                 c.data(), d.data());
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) {
        float chain = c[i * 8 + j];
        double exact = c[i * 8 + j];
        for (int k = 0; k < F::kDepth; ++k) {
          const float x = F::decode(F::encode(a[i * F::kDepth + k])), y = F::decode(F::encode(b[k * 8 + j]));
          chain += x * y;
          exact += double{x} * y;
        }
        const float got = d[i * 8 + j];
        if (integers)
          REQUIRE(double{got} == exact);
        else if (simt::options().rounding == simt::Rounding::kChain)
          REQUIRE(bits_as<std::uint32_t>(got) == bits_as<std::uint32_t>(chain));
      }
  }
}

float small_integer(test::Random& r) { return static_cast<float>(r.integer(-8, 8)); }
float ordinary(test::Random& r) { return static_cast<float>(r.normal()); }

}  // namespace

TEMPLATE_TEST_CASE("mma multiplies the fragments of the PTX layouts", "[simt][mma]", Bf16, E4m3, Tf32) {
  for (const auto rounding : {simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper}) {
    simt::Options o = simt::options();
    o.rounding = rounding;
    const simt::ScopedOptions scope(o);
    check_product<TestType>(small_integer, true);
    check_product<TestType>(ordinary, false);
  }
}
