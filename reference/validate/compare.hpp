// What comparing a computed tensor with a recorded one yields.
#pragma once

#include <dsv4/core/types.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <span>
#include <vector>

namespace dsv4::reference::validation {

/// One element: recorded row and column, and both values.
struct Spot {
  std::int64_t row = -1;
  std::int64_t column = 0;
  double computed = 0;
  double recorded = 0;
};

/// A tap in one call. d = computed - recorded, over the rows compared.
struct CallStats {
  int call = 0;  // place in Recording::calls
  std::int64_t rows = 0;
  std::int64_t elements = 0;
  std::int64_t differing = 0;  // elements with other bits; of a selection: members that may not differ
  std::int64_t swaps = 0;      // selections: members exchanged for others of the same score
  std::int64_t nonfinite = 0;  // places where one side is NaN or infinite and the other is not the same
  double error2 = 0;           // sum of d^2 over finite elements
  double recorded2 = 0;        // sum of recorded^2 over finite elements
  double worst_row = 0;        // largest relative L2 of a row
  double largest_error = 0;    // largest |d|
  Spot largest;                // element of the largest |d| (or the first that is `nonfinite`)
  Spot in_worst_row;           // element of the largest |d| in that row

  /// Relative L2; infinite where something differs from zeros.
  double relative() const { return ratio(error2, recorded2); }
  static double ratio(double error2, double recorded2) {
    if (error2 == 0) return 0;
    return recorded2 == 0 ? std::numeric_limits<double>::infinity() : std::sqrt(error2 / recorded2);
  }
};

/// A row to compare.
template <class U>
struct RowPair {
  const U* computed;
  const U* recorded;
  std::int64_t row;  // of the recorded tensor
};

namespace detail {
inline bool same_bits(float a, float b) { return bits_as<std::uint32_t>(a) == bits_as<std::uint32_t>(b); }
inline bool same_bits(bf16 a, bf16 b) { return a.bits == b.bits; }
}  // namespace detail

/// Compares rows of `columns` elements. NaNs are equal whatever their bits; where only one side is not
/// finite, or both are and differ, the element counts as `nonfinite` and not towards the sums. The relative
/// error of a row is taken against at least a thousandth of the root mean square row, so that rows of zeros
/// have one too.
template <class U>
CallStats compare_rows(std::span<const RowPair<U>> pairs, std::int64_t columns) {
  CallStats s;
  s.rows = static_cast<std::int64_t>(pairs.size());
  s.elements = s.rows * columns;
  struct Row {
    double error2, recorded2, magnitude;
    Spot spot;
  };
  std::vector<Row> rows;
  rows.reserve(pairs.size());
  for (const RowPair<U>& pair : pairs) {
    Row row{0, 0, -1, {}};
    for (std::int64_t i = 0; i < columns; ++i) {
      const double computed = to_float(pair.computed[i]), recorded = to_float(pair.recorded[i]);
      const bool finite = std::isfinite(computed) && std::isfinite(recorded);
      if (!finite) {
        if (computed == recorded || (std::isnan(computed) && std::isnan(recorded))) continue;
        if (s.nonfinite == 0) s.largest = {pair.row, i, computed, recorded};
        ++s.nonfinite, ++s.differing;
        continue;
      }
      if (!detail::same_bits(pair.computed[i], pair.recorded[i])) ++s.differing;
      const double d = computed - recorded;
      row.error2 += d * d;
      row.recorded2 += recorded * recorded;
      if (std::abs(d) > row.magnitude) {
        row.magnitude = std::abs(d);
        row.spot = {pair.row, i, computed, recorded};
      }
    }
    s.error2 += row.error2;
    s.recorded2 += row.recorded2;
    rows.push_back(row);
  }
  const double floor2 = s.rows == 0 ? 0 : 1e-6 * s.recorded2 / static_cast<double>(s.rows);
  for (const Row& row : rows) {
    if (s.nonfinite == 0 && row.magnitude > s.largest_error) {
      s.largest_error = row.magnitude;
      s.largest = row.spot;
    }
    const double relative = CallStats::ratio(row.error2, std::max(row.recorded2, floor2));
    if (relative > s.worst_row) {
      s.worst_row = relative;
      s.in_worst_row = row.spot;
    }
  }
  return s;
}

/// One row of a selection against the recorded one.
struct SetDifference {
  std::int64_t wrong = 0;           // members of either side that may not be missing from the other
  std::int64_t swaps = 0;           // pairs that may be exchanged
  std::int64_t only_computed = -1;  // a member of one side alone, -1 = none
  std::int64_t only_recorded = -1;

  bool equal() const { return wrong == 0 && swaps == 0; }
};

/// Largest difference of two scores, relative to the row's largest magnitude, at which either member may be
/// chosen.
inline constexpr double kSwapTolerance = 1e-6;

/// Compares two selections as sets with multiplicity. Where they differ in equally many members, these may be
/// exchanged if, in order of score, each pair's scores lie within kSwapTolerance * magnitude.
///   score      member -> score, NaN for one that may not be exchanged; null = none may
///   magnitude  largest magnitude of the row's scores
inline SetDifference compare_sets(std::vector<std::int64_t> computed, std::vector<std::int64_t> recorded,
                                  const std::function<double(std::int64_t)>& score, double magnitude) {
  std::sort(computed.begin(), computed.end());
  std::sort(recorded.begin(), recorded.end());
  std::vector<std::int64_t> extra, missing;
  std::set_difference(computed.begin(), computed.end(), recorded.begin(), recorded.end(),
                      std::back_inserter(extra));
  std::set_difference(recorded.begin(), recorded.end(), computed.begin(), computed.end(),
                      std::back_inserter(missing));
  SetDifference d;
  if (extra.empty() && missing.empty()) return d;
  if (!extra.empty()) d.only_computed = extra[0];
  if (!missing.empty()) d.only_recorded = missing[0];
  const auto comparable = [&](std::int64_t member) { return !std::isnan(score(member)); };
  bool allowed = score != nullptr && extra.size() == missing.size() &&
                 std::all_of(extra.begin(), extra.end(), comparable) &&
                 std::all_of(missing.begin(), missing.end(), comparable);
  if (allowed) {
    const auto by_score = [&](std::int64_t a, std::int64_t b) { return score(a) < score(b); };
    std::stable_sort(extra.begin(), extra.end(), by_score);
    std::stable_sort(missing.begin(), missing.end(), by_score);
    for (std::size_t i = 0; allowed && i < extra.size(); ++i)
      allowed = std::abs(score(extra[i]) - score(missing[i])) <= kSwapTolerance * magnitude;
  }
  if (allowed)
    d.swaps = static_cast<std::int64_t>(extra.size());
  else
    d.wrong = static_cast<std::int64_t>(extra.size() + missing.size());
  return d;
}

}  // namespace dsv4::reference::validation
