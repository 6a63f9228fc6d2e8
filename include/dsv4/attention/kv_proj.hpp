// The window entry of a token: key and value at once.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/core/rope.hpp>

namespace dsv4::attention {

/// Finishes ONE key-value row, in place: RMSNorm with weight, then RoPE on the last channels (spec section 5,
/// step 2). The FP8 quantisation that follows is the cache's (kv_cache.hpp).
///   kv      [head_dim] T         Wkv x, or a pooled compressed entry; already rounded to T
///   weight  [head_dim] f32
///   angles  [rope_dim/2]         of rope::angles at the row's position
/// Rounded to T after each step. Called by all threads of `coop`; synchronises between the steps.
template <Coop C, class T>
DSV4_HD void finish_key_value(C coop, T* kv, const float* weight, const math::SinCos* angles, int head_dim,
                              int rope_dim, float eps) {
  rms_norm(coop, kv, kv, weight, head_dim, eps);
  coop.sync();
  rope::rotate(coop, kv + head_dim - rope_dim, angles, rope_dim / 2, rope::Direction::kForward);
}

}  // namespace dsv4::attention
