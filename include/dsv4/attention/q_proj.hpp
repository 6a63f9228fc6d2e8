// Queries: what follows the low-rank projection.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/core/rope.hpp>

namespace dsv4::attention {

/// Finishes ONE head of one token's query, in place (spec section 5, step 1):
///     q = round_T( q * rsqrt(mean(q^2) + eps) )       over the whole head, no weight; in fp32, rounded once
///     q[last rope_dim] = round_T( RoPE at the token's position )
///   q       [head_dim] T         a head of Wq_b qr, already rounded to T
///   angles  [rope_dim/2]         of rope::angles
/// Deterministic. Called by all threads of `coop`; synchronises between the steps.
template <Coop C, class T>
DSV4_HD void finish_query(C coop, T* q, const math::SinCos* angles, int head_dim, int rope_dim, float eps) {
  rms_norm(coop, q, q, nullptr, head_dim, eps);
  coop.sync();
  rope::rotate(coop, q + head_dim - rope_dim, angles, rope_dim / 2, rope::Direction::kForward);
}

}  // namespace dsv4::attention
