// Tensor-core products of one warpgroup (four warps, the first a multiple of 4), sm_90a alone; code for other
// chips traps. D (64 x N, fp32, in registers) = A (64 x K) B (K x N), + D if `accumulate`; B lies in shared
// memory, A there or in registers. They run asynchronously:
//
//   wgmma_fence();                        // before the first, and again after every wgmma_wait
//   wgmma_bf16<N>(d, a, b, accumulate);   // any number of them
//   wgmma_commit();                       // closes them into a group
//   wgmma_wait<0>();                      // d, and registers of A, must not be touched before
//
// All threads of the four warps execute the same. PTX ISA, "wgmma.mma_async":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-instructions-wgmma-mma-async
//
// Fragments, with w = the warp in its warpgroup, g = 16 w + lane / 4 and t = lane % 4:
//   d[4 j], d[4 j + 1]   D[g][8 j + 2 t], D[g][8 j + 2 t + 1]     d[4 j + 2], d[4 j + 3]   the same of row g
//   + 8 a[0]  A[g][k0 ..]    a[1]  A[g + 8][k0 ..]    a[2]  A[g][k1 ..]    a[3]  A[g + 8][k1 ..]
// where a register holds E = 2 (bf16) or 4 (e4m3) neighbours along k, k0 = E t and k1 = E t + K / 2.
//
// Order and rounding of the sums are the hardware's. For e4m3 it keeps 13 fraction bits of a sum: long sums
// are split, and the parts added in fp32. The machine's are Options::rounding.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/shared.cuh>
#include <dsv4/arch/swizzle.hpp>

#include <cstdint>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/wgmma.hpp>
#else
#include <dsv4/arch/wgmma_shapes.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

// ---- operands in shared memory ---------------------------------------------------------------------------
/// Which index is contiguous: k, or that of the row of A or column of B.
enum class Major : std::uint8_t { kK, kMN };

/// A 64-bit descriptor of an operand's tile; for bf16 and e4m3 alike, lengths being in bytes (multiples of
/// 16). PTX ISA, "Matrix Descriptor Format":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-shared-memory-layout-matrix-descriptor
///
/// K-major: 8 rows of swizzle_row_bytes each lie densely, as TMA leaves them; the next 8 rows are `stride`
/// bytes on. `leading` is the distance of the two 16-byte halves of K without swizzle, else ignored.
/// MN-major (bf16, swizzled): 8 values of k, each a row of swizzle_row_bytes along m or n, lie densely; the
/// next 8 values of k are `stride` bytes on, the next swizzle_row_bytes of m or n `leading` bytes.
///
/// A swizzled tile begins where the swizzle's pattern of 8 rows does; wgmma_advance moves on inside a row.
template <Swizzle kSwizzle>
DSV4_DEVICE std::uint64_t wgmma_tile(const void* tile, std::uint32_t leading, std::uint32_t stride DSV4_LOC) {
  constexpr std::uint64_t kMode = kSwizzle == Swizzle::k128  ? 1
                                  : kSwizzle == Swizzle::k64 ? 2
                                  : kSwizzle == Swizzle::k32 ? 3
                                                             : 0;
  return std::uint64_t{(shared_address(tile DSV4_LOC_OF) & 0x3ffff) >> 4} |
         std::uint64_t{(leading >> 4) & 0x3fff} << 16 | std::uint64_t{(stride >> 4) & 0x3fff} << 32 |
         kMode << 62;
}

/// K-major tile of rows that follow each other densely.
template <Swizzle kSwizzle>
DSV4_DEVICE std::uint64_t wgmma_rows(const void* tile DSV4_LOC) {
  static_assert(kSwizzle != Swizzle::kNone, "wgmma_rows: unswizzled tiles need wgmma_tile");
  return wgmma_tile<kSwizzle>(tile, 16, 8 * swizzle_row_bytes(kSwizzle) DSV4_LOC_OF);
}

/// The tile `bytes` (a multiple of 16) further on: K-major, the next K of the same rows is 32 bytes on.
DSV4_DEVICE constexpr std::uint64_t wgmma_advance(std::uint64_t tile, std::uint32_t bytes) {
  return tile + (bytes >> 4);
}

// ---- order -----------------------------------------------------------------------------------------------
/// Orders the registers' use so far before the wgmmas that follow. Shared memory that threads have written
/// needs fence_proxy_async() as well, and a barrier of the warpgroup. PTX ISA, "wgmma.fence":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-instructions-wgmma-fence
DSV4_DEVICE void wgmma_fence() {
#if defined(DSV4_SIMT_EMULATION)
  simt::wgmma_fence();
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}

/// Closes the wgmmas issued since the last commit into a group. PTX ISA, "wgmma.commit_group":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-instructions-wgmma-commit-group
DSV4_DEVICE void wgmma_commit(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::wgmma_commit(loc);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}

/// Waits until at most the kGroups newest groups of the calling warp are in flight. It says nothing about
/// other warps' rows. PTX ISA, "wgmma.wait_group":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#asynchronous-warpgroup-level-matrix-instructions-wgmma-wait-group
template <int kGroups>
DSV4_DEVICE void wgmma_wait(DSV4_LOC_ONLY) {
  static_assert(kGroups >= 0 && kGroups <= 7, "wgmma_wait: 0 to 7 groups");
#if defined(DSV4_SIMT_EMULATION)
  simt::wgmma_wait(kGroups, loc);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#else
  __trap();
#endif
}

/// Keeps the compiler from moving other uses of d across this point: after wgmma_wait, where d is read.
template <int kCount>
DSV4_DEVICE void wgmma_pin(float (&d)[kCount]) {
#if defined(DSV4_SIMT_EMULATION)
  static_cast<void>(d);
#else
  DSV4_UNROLL
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// ---- products --------------------------------------------------------------------------------------------
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DSV4_ARCH_WGMMA(n, instruction, operands, flag, ...)                                          \
  if constexpr (N == n)                                                                               \
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " flag                                         \
                 ", 0;\n\twgmma.mma_async.sync.aligned.m64n" #n instruction " {" DSV4_ARCH_WGMMA_D##n \
                 "}, " operands ";\n\t}"                                                              \
                 : DSV4_ARCH_WGMMA_R##n                                                               \
                 : __VA_ARGS__);
#endif

/// K = 16, bf16, A in shared memory. N is a multiple of 8 up to 256.
template <int N, Major kA = Major::kK, Major kB = Major::kK>
DSV4_DEVICE void wgmma_bf16(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool accumulate DSV4_LOC) {
  static_assert(N >= 8 && N <= 256 && N % 8 == 0, "wgmma: N is a multiple of 8 up to 256");
#if defined(DSV4_SIMT_EMULATION)
  simt::wgmma({.n = N,
               .a_mn_major = kA == Major::kMN,
               .b_mn_major = kB == Major::kMN,
               .accumulate = accumulate,
               .a_tile = a,
               .b_tile = b},
              d, nullptr, loc);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DSV4_ARCH_WGMMA_SHAPE(n, i0, i1, i2, i3, i4, i5, i6)                                       \
  DSV4_ARCH_WGMMA(n, "k16.f32.bf16.bf16", i0 ", " i1 ", p, 1, 1, " i3 ", " i4, i2, "l"(a), "l"(b), \
                  "r"(static_cast<int>(accumulate)), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)))
  DSV4_ARCH_WGMMA_SHAPES(DSV4_ARCH_WGMMA_SHAPE)
#undef DSV4_ARCH_WGMMA_SHAPE
#else
  __trap();
#endif
}

/// K = 16, bf16, A in registers.
template <int N, Major kB = Major::kK>
DSV4_DEVICE void wgmma_bf16(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t b,
                            bool accumulate DSV4_LOC) {
  static_assert(N >= 8 && N <= 256 && N % 8 == 0, "wgmma: N is a multiple of 8 up to 256");
#if defined(DSV4_SIMT_EMULATION)
  simt::wgmma(
      {.n = N, .a_in_registers = true, .b_mn_major = kB == Major::kMN, .accumulate = accumulate, .b_tile = b},
      d, a, loc);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DSV4_ARCH_WGMMA_SHAPE(n, i0, i1, i2, i3, i4, i5, i6)                                             \
  DSV4_ARCH_WGMMA(n, "k16.f32.bf16.bf16", "{" i0 ", " i1 ", " i2 ", " i3 "}, " i4 ", p, 1, 1, " i6, i5,  \
                  "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
                  "n"(static_cast<int>(kB)))
  DSV4_ARCH_WGMMA_SHAPES(DSV4_ARCH_WGMMA_SHAPE)
#undef DSV4_ARCH_WGMMA_SHAPE
#else
  __trap();
#endif
}

/// K = 32, e4m3, both operands K-major, A in shared memory.
template <int N>
DSV4_DEVICE void wgmma_e4m3(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool accumulate DSV4_LOC) {
  static_assert(N >= 8 && N <= 256 && N % 8 == 0, "wgmma: N is a multiple of 8 up to 256");
#if defined(DSV4_SIMT_EMULATION)
  simt::wgmma({.n = N, .e4m3 = true, .accumulate = accumulate, .a_tile = a, .b_tile = b}, d, nullptr, loc);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DSV4_ARCH_WGMMA_SHAPE(n, i0, i1, i2, i3, i4, i5, i6)                          \
  DSV4_ARCH_WGMMA(n, "k32.f32.e4m3.e4m3", i0 ", " i1 ", p, 1, 1", i2, "l"(a), "l"(b), \
                  "r"(static_cast<int>(accumulate)))
  DSV4_ARCH_WGMMA_SHAPES(DSV4_ARCH_WGMMA_SHAPE)
#undef DSV4_ARCH_WGMMA_SHAPE
#else
  __trap();
#endif
}

/// K = 32, e4m3, B K-major, A in registers.
template <int N>
DSV4_DEVICE void wgmma_e4m3(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t b,
                            bool accumulate DSV4_LOC) {
  static_assert(N >= 8 && N <= 256 && N % 8 == 0, "wgmma: N is a multiple of 8 up to 256");
#if defined(DSV4_SIMT_EMULATION)
  simt::wgmma({.n = N, .e4m3 = true, .a_in_registers = true, .accumulate = accumulate, .b_tile = b}, d, a,
              loc);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DSV4_ARCH_WGMMA_SHAPE(n, i0, i1, i2, i3, i4, i5, i6)                                       \
  DSV4_ARCH_WGMMA(n, "k32.f32.e4m3.e4m3", "{" i0 ", " i1 ", " i2 ", " i3 "}, " i4 ", p, 1, 1", i5, \
                  "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)))
  DSV4_ARCH_WGMMA_SHAPES(DSV4_ARCH_WGMMA_SHAPE)
#undef DSV4_ARCH_WGMMA_SHAPE
#else
  __trap();
#endif
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#undef DSV4_ARCH_WGMMA
#endif

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
