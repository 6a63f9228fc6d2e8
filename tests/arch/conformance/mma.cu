// mma.sync: fragments of small integers, each named by its lane and register, so that every layout gives
// other bits and none is rounded.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/core/types.hpp>

#include "tests/arch/conformance/case.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

// The element `e` of register `r` of a lane, in [-4, 4].
DSV4_DEVICE float element(int lane, int r, int e) {
  return static_cast<float>((lane * 5 + r * 7 + e * 3 + lane * r) % 9 - 4);
}

template <int kElements, class Encode>
DSV4_DEVICE std::uint32_t pack(int lane, int r, Encode encode) {
  std::uint32_t bits = 0;
  for (int e = 0; e < kElements; ++e)
    bits |= std::uint32_t{encode(element(lane, r, e))} << (32 / kElements * e);
  return bits;
}

struct Bf16 {
  DSV4_DEVICE static std::uint32_t operand(int lane, int r) {
    return pack<2>(lane, r, [](float x) { return from_float<bf16>(x).bits; });
  }
  DSV4_DEVICE static void multiply(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    arch::mma_m16n8k16_bf16(d, a, b, d);
  }
};
struct E4m3 {
  DSV4_DEVICE static std::uint32_t operand(int lane, int r) {
    return pack<4>(lane, r, [](float x) { return to_e4m3(x).bits; });
  }
  DSV4_DEVICE static void multiply(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    arch::mma_m16n8k32_e4m3(d, a, b, d);
  }
};
struct Tf32 {
  DSV4_DEVICE static std::uint32_t operand(int lane, int r) { return arch::to_tf32(element(lane, r, 0)); }
  DSV4_DEVICE static void multiply(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    arch::mma_m16n8k8_tf32(d, a, b, d);
  }
};

template <class Format>
DSV4_KERNEL(32)
mma_kernel(std::uint32_t* out) {
  const int lane = arch::lane_id();
  std::uint32_t a[4], b[2];
  float d[4];
  for (int r = 0; r < 4; ++r) a[r] = Format::operand(lane, r);
  for (int r = 0; r < 2; ++r) b[r] = Format::operand(lane, 4 + r);
  for (int r = 0; r < 4; ++r) d[r] = element(lane, 6 + r, 0);
  Format::multiply(d, a, b);
  for (int r = 0; r < 4; ++r) out[lane * 4 + r] = bits_as<std::uint32_t>(d[r]);
}

// Every rounding case of cvt.rna: ties, both signs, the largest finite value.
DSV4_KERNEL(32) to_tf32_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  const int lane = arch::lane_id();
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t tie = (scratch[lane] & 0xbfffe000u) | static_cast<std::uint32_t>(0x1000 + i - 4);
    out[lane * 8 + i] = arch::to_tf32(bits_as<float>(tie)) & 0xffffe000u;
  }
}

template <class Format>
Status run(Buffers buffers, Stream stream) noexcept {
  return arch::launch("mma", mma_kernel<Format>, {.grid = {}, .block = {32, 1, 1}}, stream, buffers.out);
}

Status run_to_tf32(Buffers buffers, Stream stream) noexcept {
  return arch::launch("to_tf32", to_tf32_kernel, {.grid = {}, .block = {32, 1, 1}}, stream, buffers.out,
                      buffers.scratch);
}

}  // namespace

std::vector<Case> mma_cases() {
  return {{"mma/bf16_m16n8k16", Compare::kBits, 80, false, 128, 0, run<Bf16>},
          {"mma/e4m3_m16n8k32", Compare::kBits, 89, false, 128, 0, run<E4m3>},
          {"mma/tf32_m16n8k8", Compare::kBits, 80, false, 128, 0, run<Tf32>},
          {"mma/to_tf32", Compare::kBits, 80, false, 256, 32, run_to_tf32}};
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
