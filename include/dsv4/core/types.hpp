// Storage number formats, bit for bit, without a CUDA toolkit: bf16, e4m3 (FP8), e2m1 (FP4), UE8M0.
// Every conversion is a fixed sequence of integer and correctly rounded fp32 operations, so that host and
// device agree on every bit. Source: spec section 2; OCP Microscaling Formats v1.0 for the encodings.
#pragma once

#include <dsv4/core/config.hpp>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace dsv4 {

/// Reinterprets the bits of one 4-byte value as another type (std::bit_cast on host and device).
template <class To, class From>
DSV4_HD inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits_as keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

/// bfloat16: the upper half of an fp32.
struct bf16 {
  std::uint16_t bits;
};

/// FP8 e4m3fn: 1 sign, 4 exponent (bias 7), 3 mantissa bits; finite only, max 448, 0x7f and 0xff are NaN.
struct e4m3 {
  std::uint8_t bits;
};

/// Two FP4 e2m1 values in a byte: the element with the EVEN index in the low nibble.
struct e2m1x2 {
  std::uint8_t bits;
};

/// Block scale 2^(bits-127); bits 0 is 2^-127 (a subnormal fp32), bits 255 is NaN.
struct e8m0 {
  std::uint8_t bits;
};

inline constexpr float kE4m3Max = 448.0f;
inline constexpr float kE2m1Max = 6.0f;
inline constexpr std::uint8_t kE8m0Nan = 255;

DSV4_HD inline float to_float(float x) { return x; }

DSV4_HD inline float to_float(bf16 x) { return bits_as<float>(std::uint32_t{x.bits} << 16); }

/// Exact. Subnormal codes take the difference of two normals, so that no subnormal fp32 is ever touched.
DSV4_HD inline float to_float(e4m3 x) {
  const std::uint32_t magnitude = x.bits & 0x7fu;
  const float normal = bits_as<float>((magnitude << 20) + (120u << 23));
  const float value = magnitude < 8 ? (normal + normal) - 0x1p-6f : normal;
  const std::uint32_t nan = magnitude == 0x7fu ? 0x7fc00000u : 0u;
  return bits_as<float>(bits_as<std::uint32_t>(value) | nan | (std::uint32_t{x.bits & 0x80u} << 24));
}

/// Exact value of one e2m1 nibble (bit 3 is the sign).
DSV4_HD inline float e2m1_to_float(std::uint32_t nibble) {
  const std::uint32_t magnitude = nibble & 7u;
  const float normal = bits_as<float>((magnitude << 22) + (126u << 23));
  const float value = magnitude < 2 ? (normal + normal) - 1.0f : normal;
  return bits_as<float>(bits_as<std::uint32_t>(value) | ((nibble & 8u) << 28));
}

/// Exact, byte 0 included: no flush to zero.
DSV4_HD inline float to_float(e8m0 x) {
  const std::uint32_t bits =
      x.bits == 0 ? 0x00400000u : (x.bits == kE8m0Nan ? 0x7fc00000u : std::uint32_t{x.bits} << 23);
  return bits_as<float>(bits);
}

/// Rounds fp32 to T (float or bf16), to nearest even; NaN stays NaN (quiet), +-inf stays.
template <class T>
DSV4_HD inline T from_float(float x);

template <>
DSV4_HD inline float from_float<float>(float x) {
  return x;
}

template <>
DSV4_HD inline bf16 from_float<bf16>(float x) {
  const std::uint32_t u = bits_as<std::uint32_t>(x);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const std::uint32_t quiet_nan = (u >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded)};
}

/// Value of x after a round trip through T.
template <class T>
DSV4_HD inline float round_to(float x) {
  return to_float(from_float<T>(x));
}

/// Rounds fp32 to e4m3: to nearest even, saturating at +-448 (inf too), NaN to 0x7f. -0 keeps its sign.
DSV4_HD inline e4m3 to_e4m3(float x) {
  const std::uint32_t u = bits_as<std::uint32_t>(x);
  const std::uint32_t sign = (u >> 24) & 0x80u;
  const std::uint32_t abs_bits = u & 0x7fffffffu;
  const float abs = bits_as<float>(abs_bits);
  const float clamped = abs > kE4m3Max ? kE4m3Max : abs;
  const std::uint32_t c = bits_as<std::uint32_t>(clamped);
  // Normal: round the fp32 mantissa to 3 bits and rebias. Subnormal (below 2^-6): adding 2^14 makes the
  // last fp32 bit worth 2^-9, so the addition itself rounds to nearest even.
  const std::uint32_t normal = ((c + 0x7ffffu + ((c >> 20) & 1u)) >> 20) - (120u << 3);
  const std::uint32_t subnormal = bits_as<std::uint32_t>(clamped + 0x1p14f) - bits_as<std::uint32_t>(0x1p14f);
  const std::uint32_t magnitude = clamped < 0x1p-6f ? subnormal : normal;
  const std::uint32_t code = abs_bits > 0x7f800000u ? 0x7fu : magnitude;
  return {static_cast<std::uint8_t>(code | sign)};
}

/// Rounds fp32 to an e2m1 nibble: to nearest even, saturating at +-6 (inf too). -0 keeps its sign.
/// e2m1 has no NaN: a NaN gives +-0 here, and the block's scale carries it (quant.hpp).
DSV4_HD inline std::uint32_t to_e2m1(float x) {
  const std::uint32_t u = bits_as<std::uint32_t>(x);
  const float a = bits_as<float>(u & 0x7fffffffu);
  // Halfway points round to the even code, hence the alternation of > and >=.
  const std::uint32_t code = std::uint32_t{a > 0.25f} + std::uint32_t{a >= 0.75f} + std::uint32_t{a > 1.25f} +
                             std::uint32_t{a >= 1.75f} + std::uint32_t{a > 2.5f} + std::uint32_t{a >= 3.5f} +
                             std::uint32_t{a > 5.0f};
  return code | ((u >> 28) & 8u);
}

}  // namespace dsv4
