// Arithmetic of one instruction, and the conversions that are made of it, bit for bit; a NaN counts as a NaN.
#include <dsv4/arch/arithmetic.cuh>
#include <dsv4/arch/convert.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/core/types.hpp>

#include "tests/arch/conformance/case.hpp"

#include <cstdint>
#include <vector>

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 256;

// Word i of a sweep over all bits.
DSV4_DEVICE std::uint32_t word(int i) { return scratch_word(static_cast<std::uint32_t>(i)); }

// fp32: both zeros, infinities, NaNs, subnormals, and what lies between.
constexpr int kSpecials = 12;
DSV4_DEVICE std::uint32_t special(int i) {
  switch (i) {
    case 0:
      return 0x00000000u;
    case 1:
      return 0x80000000u;
    case 2:
      return 0x7f800000u;
    case 3:
      return 0xff800000u;
    case 4:
      return 0x7fc00000u;
    case 5:
      return 0xffc12345u;
    case 6:
      return 0x7f800001u;  // signalling
    case 7:
      return 0x00000001u;
    case 8:
      return 0x80000002u;
    default:
      return word(i);
  }
}

// Every pair of special operands, but for the zeros of two signs: which of them is the larger is open.
DSV4_KERNEL(kThreads) max_nan(std::uint32_t* out) {
  const int i = static_cast<int>(arch::thread_idx().x);
  if (i >= kSpecials * kSpecials) return;
  const std::uint32_t a = special(i / kSpecials), b = special(i % kSpecials);
  const float y = arch::max_nan(bits_as<float>(a), bits_as<float>(b));
  const bool zeros = ((a | b) & 0x7fffffffu) == 0 && a != b;
  out[i] = zeros ? 0 : y == y ? bits_as<std::uint32_t>(y) : 0x7fc00000u;
}

// bf16 that are NaNs, to one of them.
DSV4_DEVICE std::uint32_t one_nan(std::uint32_t pair) {
  if ((pair & 0x7fffu) > 0x7f80u) pair = (pair & 0xffff0000u) | 0x7fc0u;
  if ((pair >> 16 & 0x7fffu) > 0x7f80u) pair = (pair & 0xffffu) | 0x7fc00000u;
  return pair;
}

// Words [0, n): operands of any bits; then exponents whose products lie around the smallest normal number;
// then the special ones, against any.
DSV4_KERNEL(kThreads) mul_bf16x2(std::uint32_t* out) {
  for (int i = static_cast<int>(arch::thread_idx().x); i < 2048; i += kThreads) {
    const std::uint32_t a = word(2 * i), b = word(2 * i + 1);
    out[i] = one_nan(arch::mul_bf16x2(a, b));
    const std::uint32_t small = (a & 0x87ff87ffu) | 0x18001800u, large = (b & 0x87ff87ffu) | 0x20002000u;
    out[2048 + i] =
        one_nan(i < 1024 ? arch::mul_bf16x2(small, large)
                         : arch::mul_bf16x2((special(i % kSpecials) & 0xffff0000u) | (a & 0xffffu), b));
  }
}

// Every e4m3 code in every place.
DSV4_DEVICE std::uint32_t four_codes(int i) {
  const auto u = static_cast<std::uint32_t>(i);
  return u | (u * 7 + 1) % 256 << 8 | (u * 13 + 5) % 256 << 16 | (u * 31 + 9) % 256 << 24;
}
DSV4_KERNEL(kThreads) e4m3x4_to_bf16(std::uint32_t* out) {
  const int i = static_cast<int>(arch::thread_idx().x);
  std::uint32_t pair[2];
  arch::e4m3x4_to_bf16(pair, four_codes(i));
  out[2 * i] = pair[0], out[2 * i + 1] = pair[1];
}
DSV4_KERNEL(kThreads) e4m3_odd_even(std::uint32_t* out) {
  const int i = static_cast<int>(arch::thread_idx().x);
  out[2 * i] = arch::e4m3_odd_to_bf16(four_codes(i));
  out[2 * i + 1] = arch::e4m3_even_to_bf16(four_codes(i));
}
DSV4_KERNEL(kThreads) e4m3_nans(std::uint32_t* out) {
  const int i = static_cast<int>(arch::thread_idx().x);
  const std::uint32_t codes[2] = {four_codes(i), four_codes(i ^ 0x55)};
  out[i] = arch::e4m3_nans(codes);
}

// Any eight codes, times powers of two of every exponent (products that underflow too), then times any bf16.
DSV4_KERNEL(kThreads) e2m1x8_to_bf16(std::uint32_t* out) {
  for (int i = static_cast<int>(arch::thread_idx().x); i < 512; i += kThreads) {
    const std::uint32_t mantissa = i < 256 ? 0 : word(1000 + i) & 0x807fu;
    const std::uint32_t factor = mantissa | static_cast<std::uint32_t>(i % 255) << 7;
    std::uint32_t pair[4];
    arch::e2m1x8_to_bf16(pair, word(i), factor | factor << 16);
    for (int j = 0; j < 4; ++j) out[4 * i + j] = pair[j];
  }
}

Status one_block(const char* name, void (*kernel)(std::uint32_t*), Buffers b, Stream stream) noexcept {
  return arch::launch(name, kernel, {.grid = {1, 1, 1}, .block = {kThreads, 1, 1}}, stream, b.out);
}

}  // namespace

std::vector<Case> arithmetic_cases() {
#define DSV4_CASE(kernel, words)                                                                        \
  Case {                                                                                                \
    "arithmetic/" #kernel, Compare::kBits, 80, false, words, 0, [](Buffers b, Stream stream) noexcept { \
      return one_block("arithmetic/" #kernel, kernel, b, stream);                                       \
    }                                                                                                   \
  }
  return {DSV4_CASE(max_nan, kSpecials * kSpecials),
          DSV4_CASE(mul_bf16x2, 4096),
          DSV4_CASE(e4m3x4_to_bf16, 2 * kThreads),
          DSV4_CASE(e4m3_odd_even, 2 * kThreads),
          DSV4_CASE(e4m3_nans, kThreads),
          DSV4_CASE(e2m1x8_to_bf16, 2048)};
#undef DSV4_CASE
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
