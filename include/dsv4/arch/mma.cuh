// Tensor-core products of one warp: D = A B + C with fp32 accumulation. All 32 lanes call; none of these
// orders memory. d may be the same array as c. PTX ISA, "mma.sync":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-instructions-mma
//
// Fragments, with g = lane / 4 and t = lane % 4. A is 16 x K, B is K x 8, C and D are 16 x 8:
//   c[0], c[1]   C[g][2t], C[g][2t + 1]            c[2], c[3]   C[g + 8][2t], C[g + 8][2t + 1]
// A 4-byte register holds E = 2 (bf16), 4 (e4m3) or 1 (tf32) neighbours along k, the first in the low bits:
//   a[0]  A[g][k0 ..]      a[1]  A[g + 8][k0 ..]      a[2]  A[g][k1 ..]      a[3]  A[g + 8][k1 ..]
//   b[0]  B[k0 ..][g]      b[1]  B[k1 ..][g]          where k0 = E t and k1 = E t + K / 2
//
// The order and the rounding of the sum over k are the hardware's: PTX leaves both open. The machine's are
// Options::rounding.
#pragma once

#include <dsv4/arch/config.cuh>

#include <cstdint>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/tensor_core.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

#if !defined(DSV4_SIMT_EMULATION)
// volatile, lest the compiler sink a product into a branch that not all lanes take.
#define DSV4_ARCH_MMA(shape_and_types)                                                                   \
  asm volatile("mma.sync.aligned." shape_and_types                                                       \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                    \
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), \
                 "f"(c[2]), "f"(c[3]))
#endif

/// K = 16, bf16 operands. sm_80.
DSV4_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                   const float (&c)[4] DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mma(simt::Mma::kM16N8K16Bf16, d, a, b, c, loc);
#else
  DSV4_ARCH_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
#endif
}

/// K = 32, e4m3 operands. sm_89; code for sm_80 traps, so a kernel that also runs there branches on an
/// architecture tag and converts to bf16 instead. sm_90 has it in name only: the compiler converts to fp16,
/// and wgmma is the fast way there.
DSV4_DEVICE void mma_m16n8k32_e4m3(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                   const float (&c)[4] DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mma(simt::Mma::kM16N8K32E4m3, d, a, b, c, loc);
#elif __CUDA_ARCH__ >= 890
  DSV4_ARCH_MMA("m16n8k32.row.col.f32.e4m3.e4m3.f32");
#else
  static_cast<void>(a), static_cast<void>(b), static_cast<void>(c), static_cast<void>(d);
  __trap();
#endif
}

/// K = 8, tf32 operands: fp32 bits from to_tf32 (the hardware may read lower mantissa bits or ignore them).
/// sm_80.
DSV4_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                  const float (&c)[4] DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mma(simt::Mma::kM16N8K8Tf32, d, a, b, c, loc);
#else
  DSV4_ARCH_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
#endif
}

#if !defined(DSV4_SIMT_EMULATION)
#undef DSV4_ARCH_MMA
#endif

/// x rounded to tf32 (10 mantissa bits, to nearest, ties away from zero) as the operand of
/// mma_m16n8k8_tf32. NaN gives a NaN. PTX ISA, "cvt.rna.tf32.f32".
DSV4_DEVICE std::uint32_t to_tf32(float x) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::to_tf32(x);
#else
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
