// Arithmetic that C++ has no operator for, one instruction each. PTX ISA, "max" and "Half Precision Floating
// Point Instructions: fma":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#half-precision-floating-point-instructions
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

#if defined(DSV4_SIMT_EMULATION)
#include <cmath>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// The larger of two, or a NaN if either is one (fmaxf would drop it). Which zero max_nan(-0, +0) gives is
/// open. sm_80.
DSV4_DEVICE float max_nan(float a, float b) {
#if defined(DSV4_SIMT_EMULATION)
  return a != a ? a : b < a ? a : b;
#else
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
#endif
}

/// Products of two pairs of bf16 (the first in the low half), rounded to nearest even, subnormals kept. A NaN
/// gives a NaN. sm_80.
DSV4_DEVICE std::uint32_t mul_bf16x2(std::uint32_t a, std::uint32_t b) {
#if defined(DSV4_SIMT_EMULATION)
  const auto product = [](std::uint32_t x, std::uint32_t y) -> std::uint32_t {
    const double p = double{bits_as<float>(x << 16)} * double{bits_as<float>(y << 16)};  // exact
    // Below the normal numbers the last bit is worth 2^-133 whatever the value: round there once, not twice.
    const double stored = std::fabs(p) < 0x1p-126 ? std::nearbyint(p * 0x1p133) * 0x1p-133 : p;
    return from_float<bf16>(static_cast<float>(stored)).bits;
  };
  return product(a & 0xffffu, b & 0xffffu) | product(a >> 16, b >> 16) << 16;
#else
  std::uint32_t y;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(0x80008000u));  // + -0 changes no bit
  return y;
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
