// The way out of attention: rotated back, then a grouped and a plain linear.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/rope.hpp>
#include <dsv4/linear/linear.hpp>

#include <cstdint>

namespace dsv4::attention {

/// Rotates ONE head of the attention output back, in place: RoPE with the angle -t * freq on the last
/// channels (spec section 5, step 6). Keys are values here, so without it the output would carry the keys'
/// positions.
///   o       [head_dim] T
///   angles  [rope_dim/2] at the query's position
/// Called by all threads of `coop`; does not synchronise.
template <Coop C, class T>
DSV4_HD void rotate_back(C coop, T* o, const math::SinCos* angles, int head_dim, int rope_dim) {
  rope::rotate(coop, o + head_dim - rope_dim, angles, rope_dim / 2, rope::Direction::kInverse);
}

/// Grouped linear: the heads of group i times that group's rows of Wo_a (spec section 5, step 7). Computes
/// the rows [begin, end) of Wo_a, which must lie in one group:
///     y[t, n] = round_T( sum_k o[t, group * cols + k] * wo_a[n, k] ),  group = n / o_lora_rank,  cols =
///     H*512/g
///   y        rows of `y_stride` T, column n
///   o        [tokens, H * 512] f32 rows (values of T, NOT quantised)
///   scratch  [linear::kDecodeRows * cols] f32, shared by the group
/// Canonical dots. Called by all threads of `coop`; synchronises.
template <Coop C, class T>
DSV4_HD void grouped_linear(C coop, T* y, std::int64_t y_stride, const linear::RowsF32& o, int tokens,
                            const linear::WeightView& wo_a, int o_lora_rank, std::int64_t begin,
                            std::int64_t end, float* scratch) {
  DSV4_ASSERT(begin == end || begin / o_lora_rank == (end - 1) / o_lora_rank);
  const std::int64_t group = begin / o_lora_rank;
  linear::tile(coop, y, y_stride, linear::RowsF32{o.data + group * wo_a.cols, o.stride}, tokens, wo_a, begin,
               end, scratch);
}

}  // namespace dsv4::attention
