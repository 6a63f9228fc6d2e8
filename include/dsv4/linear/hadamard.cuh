// The Walsh-Hadamard transform of rows that lie in the registers of neighbouring lanes.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>

#include <cmath>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// Transforms rows of kWidth values, each in kWidth / kN neighbouring lanes of kN neighbouring values. The
/// bits that dsv4::hadamard has before it rounds: distances 1, 2, 4, ..., then the factor kWidth^-1/2. The
/// first stages stay in a lane's registers, the others are shuffles: all lanes of the warp call.
template <int kWidth, int kN>
DSV4_DEVICE void hadamard(float (&v)[kN]) {
  static_assert((kWidth & (kWidth - 1)) == 0 && kWidth % kN == 0 && kWidth / kN <= arch::kWarpThreads,
                "a row is a power of two, and lies within one warp");
  DSV4_UNROLL
  for (int distance = 1; distance < kN; distance *= 2) {
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      if (i & distance) continue;
      const float a = v[i], b = v[i + distance];
      v[i] = a + b;
      v[i + distance] = a - b;
    }
  }
  DSV4_UNROLL
  for (int distance = 1; distance < kWidth / kN; distance *= 2) {
    const bool upper = (arch::lane_id() & distance) != 0;
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      const float other = arch::shfl_xor(v[i], distance);
      // a + b in the lower lane, a - b in the upper one, where `other` is a.
      v[i] = other + (upper ? -v[i] : v[i]);
    }
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(kWidth));
  DSV4_UNROLL
  for (int i = 0; i < kN; ++i) v[i] *= norm;
}

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
