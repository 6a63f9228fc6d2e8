// A number of the oracles: its value in double, and the interval that fp32 arithmetic may put it in. Rounding
// to bf16 or to a code is monotone, so a chain of roundings maps intervals to intervals, nearly always to a
// single number: that is how tolerances are derived, none is chosen.
#pragma once

#include "reference/vectors/elementary.hpp"
#include "reference/vectors/formats.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace dsv4::reference::vectors {

/// Unit of the margins: an fp32 ulp, twice the error of a correctly rounded operation, so that adders which
/// truncate (tensor cores) stay inside.
inline constexpr double kUlp = 0x1p-23;

struct Num {
  double v = 0;   // computed in double, rounded to storage formats where the model rounds
  double lo = 0;  // fp32 in the documented steps gives something in [lo, hi]
  double hi = 0;

  Num() = default;
  Num(double x) : v(x), lo(x), hi(x) {}
  Num(double value, double low, double high) : v(value), lo(low), hi(high) {}

  bool exact() const { return lo == hi; }
  double magnitude() const { return std::max(std::abs(lo), std::abs(hi)); }
};

using Nums = std::vector<Num>;

/// Anything at all: what is not compared.
inline Num anything() {
  return {0, -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
}

namespace detail {
inline double in_f32_range(double x) {  // overflows as fp32 does
  return std::abs(x) >= 0x1.ffffffp127 ? std::copysign(std::numeric_limits<double>::infinity(), x) : x;
}
}  // namespace detail

/// x with `margin` on either side. A NaN value is a NaN whatever the interval; a NaN end leaves it open.
inline Num widened(Num x, double margin) {
  if (std::isnan(x.v)) return Num(x.v);
  const double lo = detail::in_f32_range(x.lo - margin), hi = detail::in_f32_range(x.hi + margin);
  const double infinity = std::numeric_limits<double>::infinity();
  return {detail::in_f32_range(x.v), std::isnan(lo) ? -infinity : lo, std::isnan(hi) ? infinity : hi};
}

/// x after an fp32 operation of `ulps` error. Subnormal results may be flushed to 0; a plain 0 is exact.
inline Num f32(Num x, double ulps = 1) {
  if (x.v == 0 && x.exact()) return x;
  const double m = x.magnitude();
  return widened(x, std::isinf(m) ? 0 : m * ulps * kUlp + 0x1p-126);
}

inline Num operator-(Num a) { return {-a.v, -a.hi, -a.lo}; }
inline Num operator+(Num a, Num b) { return f32({a.v + b.v, a.lo + b.lo, a.hi + b.hi}); }
inline Num operator-(Num a, Num b) { return a + -b; }

namespace detail {
inline Num hull(double v, double a, double b, double c, double d) {
  return {v, std::min(std::min(a, b), std::min(c, d)), std::max(std::max(a, b), std::max(c, d))};
}
}  // namespace detail

/// The exact product, as where one factor is a power of two or the result is summed before it is rounded.
inline Num product(Num a, Num b) {
  return detail::hull(a.v * b.v, a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi);
}
inline Num operator*(Num a, Num b) { return f32(product(a, b)); }

/// b must not contain 0 in its inside.
inline Num operator/(Num a, Num b) {
  return f32(detail::hull(a.v / b.v, a.lo / b.lo, a.lo / b.hi, a.hi / b.lo, a.hi / b.hi));
}

inline Num sqrt(Num x) {
  return f32({std::sqrt(x.v), std::sqrt(std::max(x.lo, 0.0)), std::sqrt(std::max(x.hi, 0.0))});
}
/// Hardware computes exp(x) as 2^(x log2 e): two ulps, and one of the exponent.
inline Num exp(Num x) {
  if (x.exact()) return f32(Num(exp_of(x.v)), 2 + std::min(x.magnitude(), 128.0));
  return f32({exp_of(x.v), exp_of(x.lo), exp_of(x.hi)}, 2 + std::min(x.magnitude(), 128.0));
}
inline Num log(Num x) {
  const auto of = [](double u) { return u > 0 ? log_of(u) : -std::numeric_limits<double>::infinity(); };
  const Num y = std::isinf(x.v) ? x : Num(of(x.v), of(x.lo), std::isinf(x.hi) ? x.hi : of(x.hi));
  return f32(y, 2);
}
inline Num sigmoid(Num x) { return Num(1) / (Num(1) + exp(-x)); }

inline Num min(Num a, Num b) { return {std::min(a.v, b.v), std::min(a.lo, b.lo), std::min(a.hi, b.hi)}; }
inline Num max(Num a, Num b) { return {std::max(a.v, b.v), std::max(a.lo, b.lo), std::max(a.hi, b.hi)}; }

/// Rounded to bf16.
inline Num bf16(Num x) { return {bf16_round(x.v), bf16_round(x.lo), bf16_round(x.hi)}; }
inline void round_to_bf16(Nums& row) {
  for (Num& x : row) x = bf16(x);
}

/// A sum of products in fp32, in any order that adds its n terms along chains of at most n/32 + 6: by lanes
/// of a warp, by tensor core instructions of 16 columns or more, or in fewer parts with the luck of sqrt(n).
class Sum {
 public:
  void add(Num term) {
    total_.v += term.v, total_.lo += term.lo, total_.hi += term.hi;
    magnitude_ += term.magnitude();
    ++terms_;
  }
  Num value() const {
    const double chain = static_cast<double>(std::min(terms_, terms_ / 32 + 6)) + 1;
    if (terms_ <= 1) return f32(total_);
    return widened(total_, std::isfinite(magnitude_) ? magnitude_ * chain * kUlp : 0);
  }

 private:
  Num total_;
  double magnitude_ = 0;
  std::int64_t terms_ = 0;
};

}  // namespace dsv4::reference::vectors
