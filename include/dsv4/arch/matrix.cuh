// 8 x 8 matrices of 2-byte elements between shared memory and the registers of a warp. All 32 lanes call.
// PTX ISA, "ldmatrix" and "stmatrix":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-instructions-ldmatrix
//
// `row` of lane 8 m + i is row i of matrix m: 16 bytes, 16-byte aligned; that of lanes beyond the matrices is
// ignored. r[m] of lane l holds the elements [l / 4][2 (l % 4)] (low half)
// and [l / 4][2 (l % 4) + 1] of matrix m; with _trans those of its transpose. So a row-major 16 x 16 tile
// loaded as the matrices (rows 0-7, columns 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15) is the A fragment of
// mma.m16n8k16.
//
// The 8 rows of a matrix are one access of 128 bytes: free of bank conflicts if their addresses differ modulo
// 128, as with a row stride of an odd multiple of 16 bytes.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/shared.cuh>

#include <cstdint>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/tensor_core.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

#if !defined(DSV4_SIMT_EMULATION)
#define DSV4_ARCH_LDMATRIX(trans)                                                            \
  if constexpr (N == 1)                                                                      \
    asm volatile("ldmatrix.sync.aligned.m8n8.x1" trans ".shared.b16 {%0}, [%1];"             \
                 : "=r"(r[0])                                                                \
                 : "r"(shared_address(row))                                                  \
                 : "memory");                                                                \
  else if constexpr (N == 2)                                                                 \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2" trans ".shared.b16 {%0, %1}, [%2];"         \
                 : "=r"(r[0]), "=r"(r[1])                                                    \
                 : "r"(shared_address(row))                                                  \
                 : "memory");                                                                \
  else                                                                                       \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" trans ".shared.b16 {%0, %1, %2, %3}, [%4];" \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                            \
                 : "r"(shared_address(row))                                                  \
                 : "memory")
#define DSV4_ARCH_STMATRIX(trans)                                                                            \
  if constexpr (N == 1)                                                                                      \
    asm volatile("stmatrix.sync.aligned.m8n8.x1" trans ".shared.b16 [%0], {%1};" ::"r"(shared_address(row)), \
                 "r"(r[0])                                                                                   \
                 : "memory");                                                                                \
  else if constexpr (N == 2)                                                                                 \
    asm volatile("stmatrix.sync.aligned.m8n8.x2" trans                                                       \
                 ".shared.b16 [%0], {%1, %2};" ::"r"(shared_address(row)),                                   \
                 "r"(r[0]), "r"(r[1])                                                                        \
                 : "memory");                                                                                \
  else                                                                                                       \
    asm volatile("stmatrix.sync.aligned.m8n8.x4" trans                                                       \
                 ".shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),                           \
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])                                                  \
                 : "memory")
#endif

/// Loads N (1, 2 or 4) matrices. sm_80.
template <int N>
DSV4_DEVICE void ldmatrix(std::uint32_t (&r)[N], const void* row DSV4_LOC) {
  static_assert(N == 1 || N == 2 || N == 4, "ldmatrix: 1, 2 or 4 matrices");
#if defined(DSV4_SIMT_EMULATION)
  simt::load_matrices(r, N, false, row, loc);
#else
  DSV4_ARCH_LDMATRIX("");
#endif
}

/// Loads the transposes of N matrices. sm_80.
template <int N>
DSV4_DEVICE void ldmatrix_trans(std::uint32_t (&r)[N], const void* row DSV4_LOC) {
  static_assert(N == 1 || N == 2 || N == 4, "ldmatrix: 1, 2 or 4 matrices");
#if defined(DSV4_SIMT_EMULATION)
  simt::load_matrices(r, N, true, row, loc);
#else
  DSV4_ARCH_LDMATRIX(".trans");
#endif
}

/// Stores N matrices. sm_90; code for older chips traps.
template <int N>
DSV4_DEVICE void stmatrix(void* row, const std::uint32_t (&r)[N] DSV4_LOC) {
  static_assert(N == 1 || N == 2 || N == 4, "stmatrix: 1, 2 or 4 matrices");
#if defined(DSV4_SIMT_EMULATION)
  simt::store_matrices(row, N, false, r, loc);
#elif __CUDA_ARCH__ >= 900
  DSV4_ARCH_STMATRIX("");
#else
  static_cast<void>(row), static_cast<void>(r);
  __trap();
#endif
}

/// Stores N matrices whose registers hold the transposes. sm_90; code for older chips traps.
template <int N>
DSV4_DEVICE void stmatrix_trans(void* row, const std::uint32_t (&r)[N] DSV4_LOC) {
  static_assert(N == 1 || N == 2 || N == 4, "stmatrix: 1, 2 or 4 matrices");
#if defined(DSV4_SIMT_EMULATION)
  simt::store_matrices(row, N, true, r, loc);
#elif __CUDA_ARCH__ >= 900
  DSV4_ARCH_STMATRIX(".trans");
#else
  static_cast<void>(row), static_cast<void>(r);
  __trap();
#endif
}

#if !defined(DSV4_SIMT_EMULATION)
#undef DSV4_ARCH_LDMATRIX
#undef DSV4_ARCH_STMATRIX
#endif

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
