// What the attention tests share: plain formulas in double over INTERVALS, and byte layouts written down from
// the format description. An interval holds every value that fp32 arithmetic in the documented steps may
// give. Rounding to bf16 is monotone, so a chain of roundings maps interval to interval: nearly always to a
// single bf16 value, and a missing, extra or misplaced rounding falls outside. From dsv4/ come only the types
// bf16 and math::SinCos.
#pragma once

#include <dsv4/core/math.hpp>
#include <dsv4/core/types.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/ulp.hpp"

namespace dsv4::test {

inline double value(float x) { return x; }
inline double value(bf16 x) { return oracle::bf16_value(x.bits); }

/// x rounded to T.
template <class T>
T stored(double x) {
  if constexpr (std::is_same_v<T, float>)
    return static_cast<float>(x);
  else
    return {static_cast<std::uint16_t>(oracle::bf16_nearest(x))};
}

template <class T>
std::vector<T> stored(const std::vector<float>& x) {
  std::vector<T> out;
  for (const float v : x) out.push_back(stored<T>(v));
  return out;
}

template <class T>
std::vector<double> values(const std::vector<T>& x) {
  std::vector<double> out;
  for (const T v : x) out.push_back(value(v));
  return out;
}

struct Interval {
  double lo, hi;

  bool holds(double x) const { return std::isnan(lo) ? std::isnan(x) : lo <= x && x <= hi; }
  double magnitude() const { return std::max(std::abs(lo), std::abs(hi)); }
};

inline Interval around(double x, double bound) { return {x - bound, x + bound}; }
inline Interval operator+(Interval a, Interval b) { return {a.lo + b.lo, a.hi + b.hi}; }
inline Interval operator*(double s, Interval a) {
  return {std::min(s * a.lo, s * a.hi), std::max(s * a.lo, s * a.hi)};
}

/// What rounding to T makes of the interval. For float nothing: the bound of the step holds that rounding.
template <class T>
Interval rounded(Interval x) {
  if constexpr (std::is_same_v<T, float>)
    return x;
  else
    return {oracle::bf16_round(x.lo), oracle::bf16_round(x.hi)};
}

template <class T>
std::vector<Interval> rounded(std::vector<Interval> x) {
  for (Interval& v : x) v = rounded<T>(v);
  return x;
}

/// Empty if every element lies in its interval, else a sentence about the first that does not; positions of
/// NaN and inf are compared before anything else.
template <class T>
std::string outside(const std::vector<T>& got, const std::vector<Interval>& want) {
  std::ostringstream text;
  text.precision(9);
  if (got.size() != want.size()) return "sizes differ";
  for (const bool finite : {false, true})
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double g = value(got[i]);
      if (finite ? want[i].holds(g) : std::isfinite(g) == std::isfinite(want[i].lo)) continue;
      text << "element " << i << ": got " << g << ", want " << want[i].lo << " .. " << want[i].hi;
      return text.str();
    }
  return {};
}

/// Empty if the arrays are equal bit for bit, else a sentence about the first element that differs.
template <class T>
std::string differing(const std::vector<T>& got, const std::vector<T>& want) {
  if (got.size() != want.size()) return "sizes differ";
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &want[i], sizeof(T)) == 0) continue;
    std::ostringstream text;
    text << "element " << i << " of " << got.size() << " differs";
    if constexpr (!std::is_integral_v<T>) text << ": " << value(got[i]) << " and " << value(want[i]);
    return text.str();
  }
  return {};
}

namespace oracle {

/// Relative bound of an fp32 sum of n terms of one sign in canonical order: ceil(n/32) additions to a partial
/// sum, five in the tree, and the rounding of a product.
inline double sum_bound(std::int64_t n) { return static_cast<double>((n + 31) / 32 + 6) * kUnit; }

/// weight[i] * x[i] / sqrt(mean x^2 + eps), weight empty = none. Bound: the sum and three roundings under the
/// root (halved), then root, reciprocal, two products.
inline std::vector<Interval> rms_norm(const std::vector<double>& x, const std::vector<double>& weight,
                                      double eps) {
  const double n = static_cast<double>(x.size());
  double squares = 0;
  for (const double v : x) squares += v * v;
  const double rho = 1 / std::sqrt(squares / n + eps);
  const double bound = (sum_bound(static_cast<std::int64_t>(x.size())) + 3 * kUnit) / 2 + 4 * kUnit;
  std::vector<Interval> out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = (weight.empty() ? 1.0 : weight[i]) * x[i] * rho;
    out.push_back(around(v, bound * std::abs(v)));
  }
  return out;
}

/// Turns the interleaved pairs from element `first` on by the angles of `table`, backwards if sign is -1:
/// (a, b) -> (a cos - b sin, a sin + b cos). Bound: two roundings of terms.
inline void rotate(std::vector<Interval>& x, std::size_t first, const std::vector<math::SinCos>& table,
                   double sign) {
  const auto sum = [](Interval p, Interval q) {
    const Interval r = p + q;
    const double bound = 2 * kUnit * (p.magnitude() + q.magnitude());
    return Interval{r.lo - bound, r.hi + bound};
  };
  for (std::size_t i = 0; i < table.size(); ++i) {
    const Interval a = x[first + 2 * i], b = x[first + 2 * i + 1];
    const double c = table[i].cos, s = sign * table[i].sin;
    x[first + 2 * i] = sum(c * a, -s * b);
    x[first + 2 * i + 1] = sum(s * a, c * b);
  }
}

/// n^-1/2 sum_j (-1)^popcount(i & j) x[j]. Bound: log2(n) butterflies, the factor (2) and the product.
inline std::vector<Interval> hadamard(const std::vector<Interval>& x) {
  const std::size_t n = x.size();
  const double scale = 1 / std::sqrt(static_cast<double>(n));
  double sum = 0;
  for (const Interval v : x) sum += v.magnitude();
  const double bound = (std::log2(static_cast<double>(n)) + 3) * kUnit * scale * sum;
  std::vector<Interval> out(n, {-bound, bound});
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      int parity = 0;
      for (std::size_t bits = i & j; bits != 0; bits >>= 1) parity ^= static_cast<int>(bits & 1);
      out[i] = out[i] + (parity ? -scale : scale) * x[j];
    }
  return out;
}

/// sin and cos at `position` of the pairs' angles float(position) * freq[i], freq[i] = theta^(-2i/64), from
/// double functions: an input of the primitives under test.
inline std::vector<math::SinCos> turns(std::int64_t position, int pairs = 32, double theta = 10000) {
  std::vector<math::SinCos> table;
  for (int i = 0; i < pairs; ++i) {
    const float freq = static_cast<float>(std::pow(theta, -i / static_cast<double>(pairs)));
    const double angle = static_cast<float>(position) * freq;
    table.push_back({static_cast<float>(std::sin(angle)), static_cast<float>(std::cos(angle))});
  }
  return table;
}

/// Bytes between two guard zones, all filled with one value, the first byte 16-byte aligned.
class GuardedBytes {
 public:
  static constexpr std::int64_t kGuard = 1024;

  GuardedBytes(std::int64_t n, std::uint8_t fill) : all(static_cast<std::size_t>(n + 2 * kGuard), fill) {}
  std::uint8_t* data() { return all.data() + kGuard; }

  std::vector<std::uint8_t> all;
};

/// A 584-byte entry in a page of P: 576*t the data (448 e4m3, then 64 bf16), 576*P + 8*t seven UE8M0 and a
/// pad byte.
inline void put_kv_entry(std::uint8_t* page, std::int64_t page_entries, std::int64_t t,
                         const std::vector<double>& row) {
  std::uint8_t* data = page + 576 * t;
  std::uint8_t* scales = page + 576 * page_entries + 8 * t;
  for (int b = 0; b < 7; ++b) {
    const Block block = fp8_block({row.begin() + 64 * b, row.begin() + 64 * (b + 1)});
    scales[b] = static_cast<std::uint8_t>(block.scale);
    for (int i = 0; i < 64; ++i) data[64 * b + i] = static_cast<std::uint8_t>(block.codes[std::size_t(i)]);
  }
  scales[7] = 0;
  for (int i = 0; i < 64; ++i) {
    const unsigned code = bf16_nearest(row[std::size_t(448 + i)]);
    data[448 + 2 * i] = static_cast<std::uint8_t>(code & 255);  // little-endian
    data[448 + 2 * i + 1] = static_cast<std::uint8_t>(code >> 8);
  }
}

inline std::vector<double> get_kv_entry(const std::uint8_t* page, std::int64_t page_entries, std::int64_t t) {
  const std::uint8_t* data = page + 576 * t;
  const std::uint8_t* scales = page + 576 * page_entries + 8 * t;
  std::vector<double> row;
  for (int i = 0; i < 448; ++i) row.push_back(e4m3_value(data[i]) * e8m0_value(scales[i / 64]));
  for (int i = 0; i < 64; ++i)
    row.push_back(bf16_value(data[448 + 2 * i] | unsigned{data[449 + 2 * i]} << 8));
  return row;
}

/// A 68-byte FP4 index key in a page of P: 64*t the packed e2m1 (even channel in the low nibble), 64*P + 4*t
/// four UE8M0, block 0 in the lowest byte.
inline void put_index_key(std::uint8_t* page, std::int64_t page_entries, std::int64_t t,
                          const std::vector<double>& row) {
  for (int b = 0; b < 4; ++b) {
    const Block block = fp4_block({row.begin() + 32 * b, row.begin() + 32 * (b + 1)});
    page[64 * page_entries + 4 * t + b] = static_cast<std::uint8_t>(block.scale);
    for (std::size_t i = 0; i < 16; ++i)
      page[64 * t + 16 * b + static_cast<int>(i)] =
          static_cast<std::uint8_t>(block.codes[2 * i] | block.codes[2 * i + 1] << 4);
  }
}

inline std::vector<double> get_index_key(const std::uint8_t* page, std::int64_t page_entries,
                                         std::int64_t t) {
  std::vector<double> row;
  for (int i = 0; i < 128; ++i) {
    const unsigned byte = page[64 * t + i / 2];
    const unsigned nibble = i % 2 == 0 ? byte & 15 : byte >> 4;
    row.push_back(e2m1_value(nibble) * e8m0_value(page[64 * page_entries + 4 * t + i / 32]));
  }
  return row;
}

}  // namespace oracle
}  // namespace dsv4::test
