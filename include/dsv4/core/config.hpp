// Compiler portability: the only macros of the library live here and in status.hpp (all DSV4_*).
#pragma once

#include <cassert>

// DSV4_HD marks a function that runs on the host and, when nvcc compiles it, on the device.
// DSV4_UNROLL asks nvcc's device pass to unroll the next loop; host compilers decide for themselves.
#if defined(__CUDACC__)
#define DSV4_HD __host__ __device__
#else
#define DSV4_HD
#endif

#if defined(__CUDA_ARCH__)
#define DSV4_UNROLL _Pragma("unroll")
#else
#define DSV4_UNROLL
#endif

// DSV4_ASSERT states a promise of the caller inside a primitive; it is checked in debug builds only.
#define DSV4_ASSERT(condition) assert(condition)

// 1 where SerialCoop may use 8-lane host vectors (core/simd.hpp): g++ and clang, on x86 with AVX. The scalar
// code beside every use computes the same bits, so this is a matter of speed alone. Define it as 0 to force
// that.
#ifndef DSV4_HOST_SIMD
#if defined(__GNUC__) && !defined(__CUDACC__) && \
    (defined(__AVX__) || !(defined(__x86_64__) || defined(__i386__)))
#define DSV4_HOST_SIMD 1
#else
#define DSV4_HOST_SIMD 0
#endif
#endif

// The flavour of device code: compiled for CUDA, or for the SIMT machine (DSV4_SIMT_EMULATION). Everything
// whose body depends on it lives in an inline namespace of this name, so that one binary can hold both.
#if defined(DSV4_SIMT_EMULATION)
#define DSV4_FLAVOUR simt_v0
#else
#define DSV4_FLAVOUR cuda_v0
#endif
