// The canonical order of summation, the same in a host thread and in a warp.
#pragma once

#include <dsv4/core/config.hpp>

namespace dsv4 {

/// A reduction over channels keeps 32 partial sums: lane l folds the terms k with k % 32 == l in ascending
/// order, each by one fused multiply-add where the term is a product. The partial sums are then added by
/// the fixed tree of a butterfly: distances 16, 8, 4, 2, 1.
inline constexpr int kReduceLanes = 32;

/// The tree. Overwrites `partial` [32] f32. Deterministic; for one thread.
DSV4_HD inline float tree_sum(float* partial) {
  DSV4_UNROLL
  for (int distance = kReduceLanes / 2; distance > 0; distance /= 2)
    for (int l = 0; l < distance; ++l) partial[l] += partial[l + distance];
  return partial[0];
}

}  // namespace dsv4
