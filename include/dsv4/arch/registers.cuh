// Registers move from the threads of one warpgroup to those of another. PTX ISA, "setmaxnreg":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#miscellaneous-instructions-setmaxnreg
#pragma once

#include <dsv4/arch/config.cuh>

#include <type_traits>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/registers.hpp>
#endif

// The instruction belongs to architecture-specific targets (sm_90a, sm_100a, ...).
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(__CUDA_ARCH_SPECIFIC__) || \
    defined(__CUDA_ARCH_FAMILY_SPECIFIC__)
#define DSV4_ARCH_HAS_SETMAXNREG 1
#else
#define DSV4_ARCH_HAS_SETMAXNREG 0
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// Gives up registers: at most kCount, a multiple of 8 from 24 to 256, a thread from now on. All warps of a
/// warpgroup call, with the same count, and synchronise before they change it again; the kernel is a
/// DSV4_KERNEL_RESIDENT. Nothing on targets without the instruction: it changes speed alone.
template <int kCount>
DSV4_DEVICE void decrease_registers(DSV4_LOC_ONLY) {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0, "a multiple of 8 from 24 to 256");
#if defined(DSV4_SIMT_EMULATION)
  simt::set_max_registers(kCount, false, loc);
#elif DSV4_ARCH_HAS_SETMAXNREG
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

/// Takes registers, waiting until others have given up enough; otherwise as decrease_registers.
template <int kCount>
DSV4_DEVICE void increase_registers(DSV4_LOC_ONLY) {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0, "a multiple of 8 from 24 to 256");
#if defined(DSV4_SIMT_EMULATION)
  simt::set_max_registers(kCount, true, loc);
#elif DSV4_ARCH_HAS_SETMAXNREG
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

/// x, of which the compiler no longer knows where it came from: what is computed from it is computed after
/// this, and not kept in registers from before.
template <class T>
DSV4_DEVICE T opaque(T x) {
  static_assert(std::is_integral_v<T> && sizeof x == 4, "one register");
#if !defined(DSV4_SIMT_EMULATION)
  asm volatile("" : "+r"(x));
#endif
  return x;
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR

#undef DSV4_ARCH_HAS_SETMAXNREG
