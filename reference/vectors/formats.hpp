// The storage number formats in double, from their definitions (OCP Microscaling Formats v1.0): values of
// codes, and rounding to the nearest code. Shares nothing with include/dsv4.
#pragma once

#include <cstdint>

namespace dsv4::reference::vectors {

/// How a number becomes a code. kNearestEven is the rule; the others are mistakes.
enum class Rounding { kNearestEven, kTowardZero, kHalfAway };

/// x to the nearest number of 8 significant bits: what a bf16 holds. Overflows to infinity; NaN stays.
double bf16_round(double x);
std::uint16_t bf16_code(double x);  // of bf16_round(x)
double bf16_value(std::uint16_t code);

/// E4M3: S.EEEE.MMM, bias 7, no infinity, S.1111.111 is NaN. Codes saturate at +-448.
double e4m3_value(std::uint8_t code);
std::uint8_t e4m3_code(double x, Rounding rounding = Rounding::kNearestEven);

/// E2M1: +-{0, 0.5, 1, 1.5, 2, 3, 4, 6}. Codes saturate at +-6; a NaN gives 0.
double e2m1_value(unsigned nibble);
unsigned e2m1_code(double x, Rounding rounding = Rounding::kNearestEven);

/// E8M0: 2^(byte - 127); 255 is NaN.
double e8m0_value(std::uint8_t byte);

}  // namespace dsv4::reference::vectors
