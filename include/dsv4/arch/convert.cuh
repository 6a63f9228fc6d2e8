// Conversions that the hardware has no instruction for. PTX ISA, "prmt":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-prmt
#pragma once

#include <dsv4/arch/arithmetic.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// The codes in bytes 1 and 3 of a word of e4m3 codes, to two bf16. Exact, subnormal codes too; except that a
/// NaN code (0x7f, 0xff) gives +-480, the number its bits would mean: see e4m3_nans.
///
/// A code's exponent and mantissa, moved into those of a bf16, are its value times 2^-120.
DSV4_DEVICE std::uint32_t e4m3_odd_to_bf16(std::uint32_t codes) {
  return mul_bf16x2((codes & 0x80008000u) | ((codes >> 4) & 0x07f007f0u), 0x7b807b80u);  // 2^120
}
/// The same of bytes 0 and 2.
DSV4_DEVICE std::uint32_t e4m3_even_to_bf16(std::uint32_t codes) {
  return mul_bf16x2(((codes << 8) & 0x80008000u) | ((codes << 4) & 0x07f007f0u), 0x7b807b80u);
}

/// Four e4m3 codes (the first in the low byte) to two registers of two bf16 each, in order; otherwise as
/// e4m3_odd_to_bf16.
DSV4_DEVICE void e4m3x4_to_bf16(std::uint32_t (&pair)[2], std::uint32_t codes) {
#if defined(DSV4_SIMT_EMULATION)
  const std::uint32_t high[2] = {(codes & 0xffu) << 8 | (codes & 0xff00u) << 16,
                                 (codes >> 16 & 0xffu) << 8 | (codes & 0xff000000u)};
#else
  const std::uint32_t high[2] = {__byte_perm(codes, 0, 0x1404), __byte_perm(codes, 0, 0x3424)};
#endif
  DSV4_UNROLL
  for (int i = 0; i < 2; ++i) pair[i] = e4m3_odd_to_bf16(high[i]);
}

/// Of several words of four e4m3 codes: bits 0x80 of the bytes (of all words together) where a NaN stands.
template <int N>
DSV4_DEVICE std::uint32_t e4m3_nans(const std::uint32_t (&codes)[N]) {
  std::uint32_t carry = 0;
  DSV4_UNROLL
  for (int i = 0; i < N; ++i) carry |= (codes[i] & 0x7f7f7f7fu) + 0x01010101u;
  return carry & 0x80808080u;
}

/// Eight e2m1 codes (the first in the low nibble) times `factor` (twice the same bf16) * 2^-126, to four
/// registers of two bf16 each, in order; each product rounded once.
///
/// A code's exponent and mantissa, moved into those of a bf16, are its value times 2^-126.
DSV4_DEVICE void e2m1x8_to_bf16(std::uint32_t (&pair)[4], std::uint32_t codes, std::uint32_t factor) {
  const std::uint32_t even = codes << 4;  // codes 0, 2, 4, 6 in the high nibbles; as it was: 1, 3, 5, 7
  DSV4_UNROLL
  for (int i = 0; i < 4; ++i) {
#if defined(DSV4_SIMT_EMULATION)
    const std::uint32_t high = (even >> (8 * i) & 0xf0u) << 8 | (codes >> (8 * i) & 0xf0u) << 24;
#else
    const std::uint32_t high = __byte_perm(even, codes, static_cast<unsigned>((4 + i) << 12 | i << 4));
#endif
    pair[i] = mul_bf16x2((high & 0x80008000u) | ((high >> 6) & 0x01c001c0u), factor);
  }
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
