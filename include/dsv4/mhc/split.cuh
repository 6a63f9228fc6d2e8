// mHC, second and third step, of one token in one warp: a lane a coefficient.
//
// The primitive's 40 normalisations of the 4 x 4 matrix are a chain of dependent divisions, in one thread
// some 600 of them; with one element a lane the chain is 40 long. Sums are gathered and added in the
// primitive's order, so the bits are the primitive's.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/math.hpp>

namespace dsv4::mhc::inline DSV4_FLAVOUR {

/// mhc::sinkhorn of the matrix whose element (j, k) lane 4j + k and lane 16 + 4j + k both hold. Returns the
/// lane's element. All lanes call.
DSV4_DEVICE float sinkhorn_warp(float own, int iterations, float eps) {
  const int lane = arch::lane_id();
  const auto row_sum = [lane](float v) {
    float sum = 0;
    DSV4_UNROLL
    for (int k = 0; k < 4; ++k) sum += arch::shfl(v, (lane & ~3) + k);
    return sum;
  };
  const auto column_sum = [lane](float v) {
    float sum = 0;
    DSV4_UNROLL
    for (int j = 0; j < 4; ++j) sum += arch::shfl(v, (lane & 0x13) + 4 * j);
    return sum;
  };
  float max = arch::shfl(own, lane & ~3);
  DSV4_UNROLL
  for (int k = 1; k < 4; ++k) max = math::max(max, arch::shfl(own, (lane & ~3) + k));
  const float e = math::exp(own - max);
  own = e / row_sum(e) + eps;
  for (int step = 0; step < iterations; ++step) {
    if (step > 0) own /= row_sum(own) + eps;
    own /= column_sum(own) + eps;
  }
  return own;
}

/// Coefficient `lane` of mhc::split<4> for lane < 8: pre 0-3, post 4-7; unspecified beyond.
///   z      the lane's mix
///   scale  [3] f32    base  [24] f32
DSV4_DEVICE float pre_post_coefficient(float z, const float* scale, const float* base, float eps) {
  const int lane = arch::lane_id();
  const int i = lane < 8 ? lane : 0;
  const float s = math::sigmoid(math::fma(z, scale[i / 4], base[i]));
  return i < 4 ? s + eps : 2.0f * s;
}

/// Element lane % 16 of comb of mhc::split<4>, from the mixes z (lane i holds mix i). All lanes call.
DSV4_DEVICE float comb_coefficient(float z, const float* scale, const float* base, int iterations,
                                   float eps) {
  const int i = 8 + arch::lane_id() % 16;
  return sinkhorn_warp(math::fma(arch::shfl(z, i), scale[2], base[i]), iterations, eps);
}

}  // namespace dsv4::mhc::inline DSV4_FLAVOUR
