// The coefficients of mHC in double, from the equations of the published model. Shares nothing with dsv4/.
#pragma once

#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

namespace dsv4::test::oracle {

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// Bound on the error of an fp32 1 / (1 + exp(-x)) where x itself is a product and a sum, rounded once:
/// d(log sigmoid) = (1 - sigmoid) dx. So (1 - s) times |x| units from the rounding of x and 2.6 (1.3 ulp) of
/// the exponential, then one unit each of the addition and the division. Below 2^-126 the fp32 exponential
/// is infinite and the result 0.
inline double sigmoid_bound(double x) {
  const double s = sigmoid(x);
  return kUnit * s * ((1 - s) * (std::abs(x) + 2.6) + 2) + 0x1p-126;
}

/// The three places of the Sinkhorn normalisation where an eps is added. All equal in the model; a test
/// sets one to 0 to ask whether its input would show that.
struct SinkhornEps {
  double softmax, row, column;
};

/// comb [mult, mult]: logits to (nearly) doubly stochastic; column_steps column steps with a row step before
/// each but the first, which follows the softmax.
inline std::vector<double> sinkhorn(std::vector<double> comb, int mult, int column_steps, SinkhornEps eps) {
  const auto at = [&](int j, int k) -> double& { return comb[static_cast<std::size_t>(j) * mult + k]; };
  for (int j = 0; j < mult; ++j) {
    double largest = at(j, 0), sum = 0;
    for (int k = 0; k < mult; ++k) largest = std::max(largest, at(j, k));
    for (int k = 0; k < mult; ++k) sum += std::exp(at(j, k) - largest);
    for (int k = 0; k < mult; ++k) at(j, k) = std::exp(at(j, k) - largest) / sum + eps.softmax;
  }
  for (int step = 1; step <= column_steps; ++step) {
    for (int j = 0; step > 1 && j < mult; ++j) {
      double sum = 0;
      for (int k = 0; k < mult; ++k) sum += at(j, k);
      for (int k = 0; k < mult; ++k) at(j, k) /= sum + eps.row;
    }
    for (int k = 0; k < mult; ++k) {
      double sum = 0;
      for (int j = 0; j < mult; ++j) sum += at(j, k);
      for (int j = 0; j < mult; ++j) at(j, k) /= sum + eps.column;
    }
  }
  return comb;
}

inline std::vector<double> sinkhorn(std::vector<double> comb, int mult, int column_steps, double eps) {
  return sinkhorn(std::move(comb), mult, column_steps, SinkhornEps{eps, eps, eps});
}

/// Bound on the relative error of every entry of an fp32 Sinkhorn normalisation of logits whose rows span
/// `depth`, the logits themselves wrong by `logit_units` units of absolute error at most.
/// The softmax leaves e0 = depth (subtracting the maximum) + logit_units + 2.6 (exponential) + mult - 1 (sum)
/// + 2 (division, eps) units. Each of the n = 2 * column_steps - 1 normalisations divides an entry (1 unit,
/// which stays with it) by a sum of positive terms (at most the error of the worst entry, + mult - 1 + 1
/// units), and the scaling of the axis before carries its error over:
///     n * (e0 + mult) + n * (n + 1) / 2 + e0 units.
/// Reached only if all roundings conspire.
inline double sinkhorn_bound(int mult, int column_steps, double depth, double logit_units = 0) {
  const double n = 2.0 * column_steps - 1, e0 = depth + logit_units + 2.6 + mult + 1;
  return kUnit * (n * (e0 + mult) + n * (n + 1) / 2 + e0);
}

/// Largest difference of a row's logits.
template <class T>
double depth(const std::vector<T>& logits, int mult) {
  double d = 0;
  for (std::size_t row = 0; row < logits.size(); row += mult) {
    const auto [low, high] = std::minmax_element(logits.begin() + row, logits.begin() + row + mult);
    d = std::max(d, double{*high} - double{*low});
  }
  return d;
}

/// Largest |a - b| / |b|; infinite if one of them is NaN.
template <class A, class B>
double relative_distance(const std::vector<A>& a, const std::vector<B>& b) {
  double d = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double here = std::abs(double{a[i]} - double{b[i]}) / std::abs(double{b[i]});
    if (std::isnan(here)) return std::numeric_limits<double>::infinity();
    d = std::max(d, here);
  }
  return d;
}

}  // namespace dsv4::test::oracle
