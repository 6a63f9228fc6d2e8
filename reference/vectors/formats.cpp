// Number formats of the vectors: see formats.hpp.
#include "reference/vectors/formats.hpp"

#include "reference/vectors/elementary.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace dsv4::reference::vectors {

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double whole(double x, Rounding rounding) {
  switch (rounding) {
    case Rounding::kTowardZero:
      return std::trunc(x);
    case Rounding::kHalfAway:
      return std::round(x);
    case Rounding::kNearestEven:
      break;
  }
  return std::rint(x);
}

// floor(log2(x)) of a normal x > 0; less than that of any format for a subnormal one or 0.
int exponent_of(double x) { return static_cast<int>(std::bit_cast<std::uint64_t>(x) >> 52) - 1023; }

// x >= 0 rounded to a multiple of 2^(e - bits), 2^e <= x < 2^(e+1); e is not taken below `least`.
double rounded(double x, int least, int bits, Rounding rounding) {
  const int exponent = std::max(exponent_of(x), least);
  return whole(x * power_of_two(bits - exponent), rounding) * power_of_two(exponent - bits);
}

// Code of x >= 0, which the format holds: exponent field above `bits` mantissa bits.
unsigned code_of(double x, int least, int bits) {
  const int exponent = exponent_of(x);
  if (exponent < least) return static_cast<unsigned>(x * power_of_two(bits - least));
  const auto mantissa = static_cast<unsigned>(x * power_of_two(bits - exponent)) - (1u << bits);
  return (static_cast<unsigned>(exponent - least + 1) << bits) + mantissa;
}

double value_of(unsigned code, int least, int bits) {
  const unsigned exponent = code >> bits, mantissa = code & ((1u << bits) - 1);
  if (exponent == 0) return mantissa * power_of_two(least - bits);
  return ((1u << bits) + mantissa) * power_of_two(least - bits + static_cast<int>(exponent) - 1);
}

}  // namespace

double bf16_round(double x) {
  if (!std::isfinite(x)) return x;
  const double r = rounded(std::abs(x), -126, 7, Rounding::kNearestEven);
  return std::copysign(r >= 0x1p128 ? kInfinity : r, x);
}

std::uint16_t bf16_code(double x) {
  const unsigned sign = std::signbit(x) ? 0x8000u : 0u;
  if (std::isnan(x)) return static_cast<std::uint16_t>(0x7fc0u | sign);
  const double r = std::abs(bf16_round(x));
  return static_cast<std::uint16_t>((std::isinf(r) ? 0x7f80u : code_of(r, -126, 7)) | sign);
}

double bf16_value(std::uint16_t code) {
  const unsigned magnitude = code & 0x7fffu;
  const double value = magnitude > 0x7f80u    ? kNan
                       : magnitude == 0x7f80u ? kInfinity
                                              : value_of(magnitude, -126, 7);
  return (code & 0x8000u) != 0 ? -value : value;
}

double e4m3_value(std::uint8_t code) {
  const double value = (code & 0x7fu) == 0x7fu ? kNan : value_of(code & 0x7fu, -6, 3);
  return (code & 0x80u) != 0 ? -value : value;
}

std::uint8_t e4m3_code(double x, Rounding rounding) {
  const unsigned sign = std::signbit(x) ? 0x80u : 0u;
  if (std::isnan(x)) return static_cast<std::uint8_t>(0x7fu | sign);
  const double r = rounded(std::min(std::abs(x), 448.0), -6, 3, rounding);
  return static_cast<std::uint8_t>(code_of(r, -6, 3) | sign);
}

double e2m1_value(unsigned nibble) {
  const double value = value_of(nibble & 7u, 0, 1);
  return (nibble & 8u) != 0 ? -value : value;
}

unsigned e2m1_code(double x, Rounding rounding) {
  if (std::isnan(x)) return 0;
  const double r = rounded(std::min(std::abs(x), 6.0), 0, 1, rounding);
  return code_of(r, 0, 1) | (std::signbit(x) ? 8u : 0u);
}

double e8m0_value(std::uint8_t byte) { return byte == 255 ? kNan : power_of_two(int{byte} - 127); }

}  // namespace dsv4::reference::vectors
