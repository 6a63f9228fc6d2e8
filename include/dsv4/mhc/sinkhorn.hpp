// mHC, third step: the stream-mixing matrix made (nearly) doubly stochastic.
#pragma once

#include <dsv4/core/math.hpp>

namespace dsv4::mhc {

/// Sinkhorn normalisation of ONE matrix, in place: comb[j,k], row j = source stream, column k = destination.
///     comb = softmax over k (max subtracted) + eps;   comb[j,k] /= sum_j comb[j,k] + eps;
///     iterations - 1 times:  comb[j,k] /= sum_k comb[j,k] + eps,  comb[j,k] /= sum_j comb[j,k] + eps
/// so there are `iterations` column steps and the last step is a column step (published hc_split_sinkhorn;
/// the report's order ends on rows, the code wins).
///   comb  [kMult, kMult] f32 row-major: logits in, the matrix out
/// fp32, sums in index order. Pure; for one thread, in registers.
template <int kMult>
DSV4_HD void sinkhorn(float* comb, int iterations, float eps) {
  static_assert(kMult >= 1 && kMult <= 8, "mhc::sinkhorn keeps the matrix in registers: 1..8");
  DSV4_UNROLL
  for (int j = 0; j < kMult; ++j) {
    float* row = comb + j * kMult;
    float e[kMult];  // not kept in `row`: clang 14 would read row[0] before that store (LLVM issue 63602)
    float max = row[0], sum = 0;
    for (int k = 1; k < kMult; ++k) max = math::max(max, row[k]);
    for (int k = 0; k < kMult; ++k) sum += e[k] = math::exp(row[k] - max);
    for (int k = 0; k < kMult; ++k) row[k] = e[k] / sum + eps;
  }
  for (int step = 0; step < iterations; ++step) {
    if (step > 0) {
      for (int j = 0; j < kMult; ++j) {
        float sum = 0;
        for (int k = 0; k < kMult; ++k) sum += comb[j * kMult + k];
        for (int k = 0; k < kMult; ++k) comb[j * kMult + k] /= sum + eps;
      }
    }
    for (int k = 0; k < kMult; ++k) {
      float sum = 0;
      for (int j = 0; j < kMult; ++j) sum += comb[j * kMult + k];
      for (int j = 0; j < kMult; ++j) comb[j * kMult + k] /= sum + eps;
    }
  }
}

}  // namespace dsv4::mhc
