// mma.sync, ldmatrix and stmatrix of the SIMT machine, against layouts written down element by element as the
// PTX ISA tabulates them.
#include <dsv4/arch/barrier.cuh>
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

#include "tests/simt/policies.hpp"
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
    simt::LaunchShape shape;
    shape.block.x = 32;
    simt::launch("mma", mma_kernel<F>, shape, a.data(), b.data(), c.data(), d.data());
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) {
        float chain = c[i * 8 + j];
        double exact = c[i * 8 + j], magnitude = std::fabs(exact);
        for (int k = 0; k < F::kDepth; ++k) {
          const float x = F::decode(F::encode(a[i * F::kDepth + k])), y = F::decode(F::encode(b[k * 8 + j]));
          chain += x * y;
          exact += double{x} * y;
          magnitude += std::fabs(double{x} * y);
        }
        const float got = d[i * 8 + j];
        if (integers)
          REQUIRE(double{got} == exact);
        else if (simt::options().rounding == simt::Rounding::kChain)
          REQUIRE(bits_as<std::uint32_t>(got) == bits_as<std::uint32_t>(chain));
        else  // rounding_test.cpp has the bits
          REQUIRE(std::fabs(got - exact) <= 0x1p-12 * magnitude);
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

TEST_CASE("to_tf32 rounds to nearest, ties away from zero", "[simt][mma]") {
  CHECK(arch::to_tf32(1.0f) == 0x3f800000u);
  CHECK(arch::to_tf32(1.0f + 0x1p-11f) == 0x3f802000u);
  CHECK(arch::to_tf32(-1.0f - 0x1p-11f) == 0xbf802000u);
  CHECK(arch::to_tf32(1.0f + 0x1.fp-12f) == 0x3f800000u);
  CHECK(arch::to_tf32(INFINITY) == 0x7f800000u);
  CHECK(arch::to_tf32(0x1.fffffep127f) == 0x7f800000u);
  CHECK(std::isnan(bits_as<float>(arch::to_tf32(NAN))));
}

// ---- ldmatrix and stmatrix
// ---------------------------------------------------------------------------------
namespace {

constexpr int kStride = 24;  // elements: 48 bytes, an odd multiple of 16

struct Matrices {
  alignas(16) std::uint16_t row[32][kStride];
};

// Row i of matrix m is row (5 (8 m + i) + 3) % 32 of the 32 in shared memory; columns are 8 to 15.
constexpr int kFirstColumn = 8;
int row_of(int m, int i) { return (5 * (8 * m + i) + 3) % 32; }

// r[lane * N + m]
template <int N, bool kTranspose>
void load_kernel(const std::uint16_t* in, std::uint32_t* r) {
  DSV4_SHARED(Matrices, s);
  const int lane = arch::lane_id();
  for (int j = 0; j < 16; ++j) s.row[lane][j] = in[lane * 16 + j];
  arch::sync_warp();
  std::uint32_t fragment[N];
  // Lanes beyond the matrices name no address.
  const void* row = lane < 8 * N ? &s.row[row_of(lane / 8, lane % 8)][kFirstColumn] : nullptr;
  if constexpr (kTranspose)
    arch::ldmatrix_trans(fragment, row);
  else
    arch::ldmatrix(fragment, row);
  for (int m = 0; m < N; ++m) r[lane * N + m] = fragment[m];
}

template <int N, bool kTranspose>
void store_kernel(const std::uint32_t* r, std::uint16_t* out) {
  DSV4_SHARED(Matrices, s);
  const int lane = arch::lane_id();
  for (int j = 0; j < 16; ++j) s.row[lane][j] = 0xeeee;
  arch::sync_warp();
  std::uint32_t fragment[N];
  for (int m = 0; m < N; ++m) fragment[m] = r[lane * N + m];
  void* row = lane < 8 * N ? &s.row[row_of(lane / 8, lane % 8)][kFirstColumn] : nullptr;
  if constexpr (kTranspose)
    arch::stmatrix_trans(row, fragment);
  else
    arch::stmatrix(row, fragment);
  arch::sync_warp();
  for (int j = 0; j < 16; ++j) out[lane * 16 + j] = s.row[lane][j];
}

simt::LaunchShape one_warp() {
  simt::LaunchShape shape;
  shape.block.x = 32;
  return shape;
}

template <int N, bool kTranspose>
void check_matrices() {
  CAPTURE(N, kTranspose);
  std::vector<std::uint16_t> memory(32 * 16);
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::uint16_t>(i * 77 + 5);
  const auto element = [&](int m, int i, int j) {
    return memory[static_cast<std::size_t>(row_of(m, i) * 16 + kFirstColumn + j)];
  };
  std::vector<std::uint32_t> expected(32 * N), r(32 * N);
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < N; ++m) {
      const int i = lane / 4, j = lane % 4 * 2;
      const std::uint32_t low = kTranspose ? element(m, j, i) : element(m, i, j);
      const std::uint32_t high = kTranspose ? element(m, j + 1, i) : element(m, i, j + 1);
      expected[static_cast<std::size_t>(lane * N + m)] = low | high << 16;
    }
  simt::launch("ldmatrix", load_kernel<N, kTranspose>, one_warp(), memory.data(), r.data());
  CHECK(r == expected);

  std::vector<std::uint16_t> stored(memory.size()), expected_memory(memory.size(), 0xeeee);
  for (int m = 0; m < N; ++m)
    for (int i = 0; i < 8; ++i)
      for (int j = 0; j < 8; ++j)
        expected_memory[static_cast<std::size_t>(row_of(m, i) * 16 + kFirstColumn + j)] = element(m, i, j);
  simt::launch("stmatrix", store_kernel<N, kTranspose>, one_warp(), expected.data(), stored.data());
  CHECK(stored == expected_memory);
}

// Rows `stride` bytes apart, the first `offset` bytes into shared memory; `same` = all lanes name row 0.
void conflict_kernel(int stride, int offset, bool same) {
  DSV4_DYN_SMEM(char, s);
  std::uint32_t r[1];
  arch::ldmatrix(r, s + offset + (same ? 0 : arch::lane_id() % 8 * stride));
}

void divergent_kernel(bool two_shapes) {
  DSV4_DYN_SMEM(char, s);
  std::uint32_t one[1], two[2];
  char* row = s + arch::lane_id() % 16 * 16;
  if (arch::lane_id() < 16)
    arch::ldmatrix(one, row);
  else if (two_shapes)
    arch::ldmatrix(two, row);
}

std::uint64_t conflicts(int stride, bool same = false) {
  simt::LaunchShape shape = one_warp();
  shape.shared_bytes = 8192;
  simt::reset_counters();
  simt::launch("conflict", conflict_kernel, shape, stride, 0, same);
  return simt::counters().matrix_bank_conflicts;
}

}  // namespace

TEST_CASE("ldmatrix and stmatrix move the fragments of the PTX layouts", "[simt][matrix]") {
  check_matrices<1, false>();
  check_matrices<2, false>();
  check_matrices<4, false>();
  check_matrices<1, true>();
  check_matrices<2, true>();
  check_matrices<4, true>();
}

TEST_CASE("ldmatrix counts phases whose rows collide in a bank", "[simt][matrix]") {
  CHECK(conflicts(16) == 0);   // 128 bytes side by side
  CHECK(conflicts(48) == 0);   // an odd multiple of 16
  CHECK(conflicts(144) == 0);  // 64 elements and 8 of padding
  CHECK(conflicts(32) == 1);
  CHECK(conflicts(128) == 1);
  CHECK(conflicts(1024, true) == 0);  // one row for all is a broadcast
}

TEST_CASE("ldmatrix refuses rows that a device would trap at", "[simt][matrix]") {
  simt::LaunchShape shape = one_warp();
  shape.shared_bytes = 1024;
  const auto with = [&](int stride, int offset) {
    return test::report_of([&] { simt::launch("rows", conflict_kernel, shape, stride, offset, false); });
  };
  CHECK(with(16, 8).find("not a multiple of 16") != std::string::npos);
  CHECK(with(16, 8).find("matrix_test.cpp") != std::string::npos);
  CHECK(with(16, 896).empty());  // the last 128 bytes
  CHECK(with(16, 912).find("shared memory out of bounds") != std::string::npos);
  CHECK(with(16, -16).find("not in this block's shared memory") != std::string::npos);
}

TEST_CASE("ldmatrix needs the whole warp at the same instruction", "[simt][matrix]") {
  simt::LaunchShape shape = one_warp();
  shape.shared_bytes = 1024;
  const auto report = [&](bool two_shapes) {
    return test::report_of([&] { simt::launch("divergent", divergent_kernel, shape, two_shapes); });
  };
  CHECK(report(true).find("WARP DIVERGENCE") != std::string::npos);
  CHECK(report(false).find("WARP DIVERGENCE") != std::string::npos);
}
