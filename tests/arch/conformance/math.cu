// The special functions: values where 2 ulp bound the error, otherwise whether the PTX ISA's own bound holds,
// and the special operands.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/math.cuh>
#include <dsv4/core/types.hpp>

#include <cmath>

#include "tests/arch/conformance/case.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 256, kValues = 2048;

// Operand i of a sweep, uniform in [low, high).
DSV4_DEVICE float sweep(const std::uint32_t* scratch, int i, float low, float high) {
  return low + (high - low) * (static_cast<float>(scratch[i] >> 8) * 0x1p-24f);
}

// A positive float of any exponent from -100 to 100.
DSV4_DEVICE float any_exponent(const std::uint32_t* scratch, int i) {
  const std::uint32_t exponent = 27 + (scratch[i] >> 23) % 201;
  return bits_as<float>((scratch[i] & 0x7fffffu) | exponent << 23);
}

struct Exp2 {
  DSV4_DEVICE static float value(const std::uint32_t* scratch, int i) {
    return arch::exp2_approx(sweep(scratch, i, -120.0f, 120.0f));
  }
};
struct Rcp {
  DSV4_DEVICE static float value(const std::uint32_t* scratch, int i) {
    return arch::rcp_approx(any_exponent(scratch, i) * (i % 2 ? 1.0f : -1.0f));
  }
};
struct Rsqrt {
  DSV4_DEVICE static float value(const std::uint32_t* scratch, int i) {
    return arch::rsqrt_approx(any_exponent(scratch, i));
  }
};

// within(): whether |got - expected| is at most the bound.
struct Log2 {
  DSV4_DEVICE static bool within(const std::uint32_t* scratch, int i) {
    const float x = i % 2 ? any_exponent(scratch, i) : sweep(scratch, i, 0.5f, 2.0f);
    const double expected = std::log2(static_cast<double>(x));
    const double scale = x > 0.5f && x < 2.0f ? 1.0 : std::fabs(expected);
    return std::fabs(arch::log2_approx(x) - expected) <= 0x1p-22 * scale;
  }
};
struct Sin {
  DSV4_DEVICE static bool within(const std::uint32_t* scratch, int i) {
    const float x = sweep(scratch, i, -6.28f, 6.28f);
    return std::fabs(arch::sin_approx(x) - std::sin(static_cast<double>(x))) <= 6.75e-7;  // 2^-20.5
  }
};
struct Cos {
  DSV4_DEVICE static bool within(const std::uint32_t* scratch, int i) {
    const float x = sweep(scratch, i, -6.28f, 6.28f);
    return std::fabs(arch::cos_approx(x) - std::cos(static_cast<double>(x))) <= 6.75e-7;
  }
};
struct Tanh {
  DSV4_DEVICE static bool within(const std::uint32_t* scratch, int i) {
    const float x = sweep(scratch, i, -6.0f, 6.0f);
    const double expected = std::tanh(static_cast<double>(x));
    return std::fabs(arch::tanh_approx(x) - expected) <= 0x1p-11 * std::fabs(expected);
  }
};

template <class Function>
DSV4_KERNEL(kThreads)
value_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  for (int i = static_cast<int>(arch::thread_idx().x); i < kValues; i += kThreads)
    out[i] = bits_as<std::uint32_t>(Function::value(scratch, i));
}

template <class Function>
DSV4_KERNEL(kThreads)
bound_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  for (int i = static_cast<int>(arch::thread_idx().x); i < kValues; i += kThreads)
    out[i] = Function::within(scratch, i) ? 1 : 0;
}

constexpr int kSpecials = 10, kFunctions = 7;

DSV4_DEVICE float special(int i) {
  switch (i) {
    case 0:
      return 0.0f;
    case 1:
      return -0.0f;
    case 2:
      return bits_as<float>(0x7f800000u);
    case 3:
      return bits_as<float>(0xff800000u);
    case 4:
      return bits_as<float>(0x7fc00000u);
    case 5:
      return bits_as<float>(0x00000123u);  // subnormal
    case 6:
      return bits_as<float>(0x80000123u);
    case 7:
      return -4.0f;
    case 8:
      return bits_as<float>(0xc3020000u);  // -130: 2^-130 is subnormal
    default:
      return bits_as<float>(0x7f000000u);  // 2^127: its reciprocal is subnormal
  }
}

// Thread i: every function of special operand i. Not in the table: what is accurate to a bound only, and
// subnormal operands of tanh.
DSV4_KERNEL(32) special_kernel(std::uint32_t* out) {
  const int i = arch::lane_id();
  if (i >= kSpecials) return;
  const float x = special(i);
  const bool zero_or_not_finite = i <= 4, small = i <= 6;
  const float y[kFunctions] = {i == 9 || i == 7 ? 0.0f : arch::exp2_approx(x),
                               i >= 9 ? 0.0f : arch::log2_approx(x),
                               i == 8 ? 0.0f : arch::rcp_approx(x),
                               i == 9 ? 0.0f : arch::rsqrt_approx(x),
                               small ? arch::sin_approx(x) : 0.0f,
                               small ? arch::cos_approx(x) : 0.0f,
                               zero_or_not_finite ? arch::tanh_approx(x) : 0.0f};
  for (int f = 0; f < kFunctions; ++f)
    out[i * kFunctions + f] = y[f] == y[f] ? bits_as<std::uint32_t>(y[f]) : 0x7fc00000u;
}

template <class Function>
Status run_value(Buffers buffers, Stream stream) noexcept {
  return arch::launch("math", value_kernel<Function>, {.grid = {}, .block = {kThreads, 1, 1}}, stream,
                      buffers.out, buffers.scratch);
}

template <class Function>
Status run_bound(Buffers buffers, Stream stream) noexcept {
  return arch::launch("math_bound", bound_kernel<Function>, {.grid = {}, .block = {kThreads, 1, 1}}, stream,
                      buffers.out, buffers.scratch);
}

Status run_special(Buffers buffers, Stream stream) noexcept {
  return arch::launch("math_special", special_kernel, {.grid = {}, .block = {32, 1, 1}}, stream, buffers.out);
}

}  // namespace

std::vector<Case> math_cases() {
  return {{"math/exp2", Compare::kTwoUlp, 80, false, kValues, kValues, run_value<Exp2>},
          {"math/rcp", Compare::kTwoUlp, 80, false, kValues, kValues, run_value<Rcp>},
          {"math/rsqrt", Compare::kTwoUlp, 80, false, kValues, kValues, run_value<Rsqrt>},
          {"math/log2_bound", Compare::kBits, 80, false, kValues, kValues, run_bound<Log2>},
          {"math/sin_bound", Compare::kBits, 80, false, kValues, kValues, run_bound<Sin>},
          {"math/cos_bound", Compare::kBits, 80, false, kValues, kValues, run_bound<Cos>},
          {"math/tanh_bound", Compare::kBits, 80, false, kValues, kValues, run_bound<Tanh>},
          {"math/special", Compare::kBits, 80, false, kSpecials * kFunctions, 0, run_special}};
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
