// Numbers stored as T (float or bf16) against exact ones, with a bound on the fp32 error before the rounding.
#pragma once

#include <dsv4/core/types.hpp>  // the type bf16 alone

#include "tests/support/oracle_formats.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

namespace dsv4::test {

inline double value(float x) { return x; }
inline double value(bf16 x) { return float_of(std::uint32_t{x.bits} << 16); }

template <class T>
T stored(double x);
template <>
inline float stored<float>(double x) {
  return static_cast<float>(x);
}
template <>
inline bf16 stored<bf16>(double x) {
  return {static_cast<std::uint16_t>(oracle::bf16_nearest(x))};
}

/// Every number rounded to T; the oracle reads them back with value().
template <class T>
std::vector<T> stored(const std::vector<float>& v) {
  std::vector<T> out;
  out.reserve(v.size());
  for (const float x : v) out.push_back(stored<T>(double{x}));
  return out;
}

inline bool identical(bf16 a, bf16 b) {
  return std::isnan(value(a)) || std::isnan(value(b)) ? std::isnan(value(a)) && std::isnan(value(b))
                                                      : a.bits == b.bits;
}

template <class T>
bool identical(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!identical(a[i], b[i])) return false;
  return true;
}

/// Computed numbers against exact ones. `bound` is the largest error of the fp32 number before its one
/// rounding to T (float: of the number itself).
///   float: |got - want| <= bound.
///   bf16:  got is want rounded to bf16, bit for bit, unless a rounding boundary lies within `bound` of want;
///          then either side of it will do. Such elements must be as rare as chance makes them: the sum of
///          2 * bound / (bf16 spacing), doubled, and 4 more for small samples. So a second rounding on the
///          way, which moves every tenth element, cannot hide.
/// NaN and +-inf must stand where they should.
template <class T>
class Comparison {
 public:
  void add(T got, double want, double bound) {
    const double limit = static_cast<float>(want);  // +-inf where want is out of range
    bool good = within(value(got), std::isinf(limit) ? limit : want, bound);
    if constexpr (sizeof(T) == 2) {
      const unsigned low = oracle::bf16_nearest(want - bound), high = oracle::bf16_nearest(want + bound);
      const double got_value = value(got);
      good = std::isnan(want) ? std::isnan(got_value)
                              : oracle::bf16_value(low) <= got_value && got_value <= oracle::bf16_value(high);
      near_ += low != high;
      const double spacing = std::ldexp(1.0, std::max(std::ilogb(want), -126) - 7);
      expected_ += std::isfinite(want) ? std::fmin(1, 2 * bound / spacing) : 0;
    }
    if (!good && failure_.empty()) {
      std::ostringstream text;
      text.precision(10);
      text << "element " << count_ << ": got " << value(got) << ", want " << want << ", bound " << bound;
      failure_ = text.str();
    }
    ++count_;
  }

  /// Elements that could have rounded either way.
  double near() const { return near_; }

  /// Empty if all comparisons held, else the first that did not.
  std::string failure() const {
    if (!failure_.empty()) return failure_;
    if (count_ == 0) return "nothing was compared";
    if (near_ > 4 + 2 * expected_) return "more elements at rounding boundaries than chance explains";
    return {};
  }

 private:
  std::int64_t count_ = 0;
  double near_ = 0, expected_ = 0;
  std::string failure_;
};

}  // namespace dsv4::test
