// The special function unit: approximate elementary functions of fp32, one instruction each. ".ftz":
// subnormal operands and results count as zeros of their sign. Errors are the PTX ISA's bounds; the machine's
// results are correct to about 1 ulp, so that tests should allow for the bounds. PTX ISA, "Floating Point
// Instructions": https://docs.nvidia.com/cuda/parallel-thread-execution/#floating-point-instructions
#pragma once

#include <dsv4/arch/config.cuh>

#if defined(DSV4_SIMT_EMULATION)
#include <cmath>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

#if defined(DSV4_SIMT_EMULATION)
namespace detail {
inline float flush_subnormal(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
}  // namespace detail
#define DSV4_ARCH_APPROX(instruction, exact)                        \
  const auto f = [](float v) { return static_cast<float>(exact); }; \
  return detail::flush_subnormal(f(detail::flush_subnormal(x)))
#else
#define DSV4_ARCH_APPROX(instruction, exact)          \
  float y;                                            \
  asm(instruction ".f32 %0, %1;" : "=f"(y) : "f"(x)); \
  return y
#endif

/// 2^x: within 2^-22, relative. -inf gives 0, inf gives inf, NaN a NaN. ex2.approx.ftz.
DSV4_DEVICE float exp2_approx(float x) { DSV4_ARCH_APPROX("ex2.approx.ftz", std::exp2(v)); }

/// log2(x): within 2^-22, absolute for x in (0.5, 2), relative elsewhere. +-0 and subnormals give -inf, x < 0
/// a NaN, inf gives inf. lg2.approx.ftz.
DSV4_DEVICE float log2_approx(float x) { DSV4_ARCH_APPROX("lg2.approx.ftz", std::log2(v)); }

/// 1 / x: within 1 ulp. +-0 and subnormals give +-inf, +-inf gives +-0. rcp.approx.ftz.
DSV4_DEVICE float rcp_approx(float x) { DSV4_ARCH_APPROX("rcp.approx.ftz", 1.0f / v); }

/// 1 / sqrt(x): within 2^-22.9, relative. +-0 and subnormals give +-inf, x < 0 a NaN, inf gives 0.
/// rsqrt.approx.ftz.
DSV4_DEVICE float rsqrt_approx(float x) {
  DSV4_ARCH_APPROX("rsqrt.approx.ftz",
                   v == 0 ? std::copysign(HUGE_VAL, double{v}) : 1.0 / std::sqrt(double{v}));
}

/// sin(x), x in radians: within 2^-20.5, absolute, for |x| <= 2 pi, and worse beyond. +-inf gives a NaN.
/// sin.approx.ftz.
DSV4_DEVICE float sin_approx(float x) { DSV4_ARCH_APPROX("sin.approx.ftz", std::sin(v)); }

/// cos(x), with sin_approx's bounds. cos.approx.ftz.
DSV4_DEVICE float cos_approx(float x) { DSV4_ARCH_APPROX("cos.approx.ftz", std::cos(v)); }

#undef DSV4_ARCH_APPROX

/// tanh(x): within 2^-11, relative; subnormals are kept. tanh.approx.
DSV4_DEVICE float tanh_approx(float x) {
#if defined(DSV4_SIMT_EMULATION)
  return std::tanh(x);
#else
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
