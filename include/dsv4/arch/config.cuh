// The only header that knows whether a kernel is compiled for a GPU (nvcc) or for the SIMT machine (any host
// compiler with DSV4_SIMT_EMULATION).
#pragma once

#include <dsv4/core/config.hpp>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/device.hpp>
#elif !defined(__CUDACC__)
#error "device code of dsv4 (.cuh) needs nvcc, or DSV4_SIMT_EMULATION and a host compiler"
#endif

// DSV4_DEVICE        a device function
// DSV4_KERNEL(n)     a kernel of at most n threads a block
// DSV4_KERNEL_RESIDENT(n, m)
//                    the same, m of whose blocks are to fit an SM: it bounds the registers, and ptxas ignores
//                    setmaxnreg (registers.cuh) in kernels without it
// DSV4_GRID_CONSTANT a kernel parameter that is read in place
// DSV4_DYN_SMEM      T* name = the block's dynamic shared memory, 1024-byte aligned
// DSV4_SHARED        T& name = a shared variable of the block
// DSV4_LOC           last parameter of a wrapper that may wait or fail: the caller's source position, which
// the
//                    machine reports; nothing for nvcc. DSV4_LOC_ONLY where it is the only parameter.
// DSV4_LOC_OF        DSV4_LOC's argument, handed on
#if defined(DSV4_SIMT_EMULATION)
#define DSV4_DEVICE inline
#define DSV4_KERNEL(threads) void
#define DSV4_KERNEL_RESIDENT(threads, blocks) void
#define DSV4_GRID_CONSTANT
#define DSV4_DYN_SMEM(T, name) T* name = static_cast<T*>(::dsv4::simt::dynamic_shared())
#define DSV4_SHARED(T, name)                      \
  using name##_type = T;                          \
  static constexpr char name##_key = 0;           \
  name##_type& name = *static_cast<name##_type*>( \
      ::dsv4::simt::static_shared(&name##_key, sizeof(name##_type), alignof(name##_type)))
#define DSV4_LOC_ONLY ::dsv4::simt::Loc loc = ::dsv4::simt::Loc::current()
#define DSV4_LOC , DSV4_LOC_ONLY
#define DSV4_LOC_OF , loc
#else
#define DSV4_DEVICE __device__ __forceinline__
#define DSV4_KERNEL(threads) __global__ void __launch_bounds__(threads)
#define DSV4_KERNEL_RESIDENT(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define DSV4_GRID_CONSTANT __grid_constant__
#define DSV4_DYN_SMEM(T, name)                                           \
  extern __shared__ __align__(1024) unsigned char dsv4_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(dsv4_dynamic_shared)
#define DSV4_SHARED(T, name)             \
  using name##_type = T;                 \
  __shared__ name##_type name##_storage; \
  name##_type& name = name##_storage
#define DSV4_LOC_ONLY
#define DSV4_LOC
#define DSV4_LOC_OF
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// True where kernels run on the SIMT machine.
#if defined(DSV4_SIMT_EMULATION)
inline constexpr bool kSimt = true;
#else
inline constexpr bool kSimt = false;
#endif

inline constexpr int kWarpThreads = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
