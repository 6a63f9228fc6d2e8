// The f32 instances of moe_experts and moe_fused: the canonical order of summation, bit for bit linear::tile
// and moe::swiglu.
#pragma once

#include <dsv4/arch/index.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/linear/dot_tile.cuh>

#include "kernels/moe/experts.cuh"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

struct ExpertsExact {
  ExpertsMatrix up[2], down;
  moe::ExpertPlan plan;
  const float *x, *routing;
  float *h, *y;
  float limit;
  std::int64_t hidden, inner, x_stride, y_stride, row_blocks;
};

inline constexpr int kExactExpertWarps = 4;
inline constexpr int kExactExpertRows = 4;    // weight rows of a warp
inline constexpr int kExactExpertTokens = 4;  // at a time

struct ExactFp8Row {
  const e4m3* codes;
  const e8m0* scales;
  DSV4_DEVICE float operator[](int k) const {
    return to_float(codes[k]) * to_float(scales[k / linear::kFp8Tile]);
  }
};
struct ExactFp4Row {
  const e2m1x2* codes;
  const e8m0* scales;
  DSV4_DEVICE float operator[](int k) const {
    const std::uint32_t byte = codes[k / 2].bits;
    return e2m1_to_float(k % 2 == 0 ? byte & 15u : byte >> 4) * to_float(scales[k / linear::kFp4Block]);
  }
};

/// sum[i][r] = x[i] . row r0 + r of an expert's matrix [n, k]; rows beyond the end repeat the last.
DSV4_DEVICE void exact_sums(float (&sum)[kExactExpertTokens][kExactExpertRows],
                            const float* const (&x)[kExactExpertTokens], const ExpertsMatrix& m,
                            std::int64_t expert, std::int64_t r0, std::int64_t n, std::int64_t k) {
  const unsigned char* data = m.data + expert * m.stride;
  const e8m0* scales = m.scales ? m.scales + expert * m.scales_stride : nullptr;
  const auto multiply = [&](auto row_of) {
    decltype(row_of(std::int64_t{0})) w[kExactExpertRows];
    DSV4_UNROLL
    for (int i = 0; i < kExactExpertRows; ++i) w[i] = row_of(r0 + i < n ? r0 + i : n - 1);
    linear::warp_dot_tile(sum, x, w, static_cast<int>(k));
  };
  switch (m.format) {
    case ops::WeightFormat::kF32:
      return multiply([&](std::int64_t r) { return reinterpret_cast<const float*>(data) + r * k; });
    case ops::WeightFormat::kBf16:
      return multiply([&](std::int64_t r) { return reinterpret_cast<const bf16*>(data) + r * k; });
    case ops::WeightFormat::kFp8:
      return multiply([&](std::int64_t r) {
        return ExactFp8Row{reinterpret_cast<const e4m3*>(data) + r * k,
                           scales + r / linear::kFp8Tile * ((k + linear::kFp8Tile - 1) / linear::kFp8Tile)};
      });
    case ops::WeightFormat::kFp4:
      return multiply([&](std::int64_t r) {
        return ExactFp4Row{reinterpret_cast<const e2m1x2*>(data) + r * (k / 2),
                           scales + r * (k / linear::kFp4Block)};
      });
  }
}

/// Rows r0 .. r0 + kExactExpertRows of the weights times all rows of a tile: h, or y. Called by all lanes of
/// a warp.
template <bool kUp>
DSV4_DEVICE void experts_exact(const ExpertsExact& p, const moe::TileRows& tile, std::int64_t r0) {
  const std::int64_t n = kUp ? p.inner : p.hidden, k = kUp ? p.hidden : p.inner;
  if (r0 >= n) return;
  for (int t0 = 0; t0 < tile.rows; t0 += kExactExpertTokens) {
    const float* x[kExactExpertTokens];
    DSV4_UNROLL
    for (int i = 0; i < kExactExpertTokens; ++i) {  // beyond the end: a row again, not stored
      const std::int64_t row = tile.first + (t0 + i < tile.rows ? t0 + i : tile.rows - 1);
      x[i] = kUp ? p.x + moe::pair_of(p.plan, row) / p.plan.k * p.x_stride : p.h + row * p.inner;
    }
    float sum[kExactExpertTokens][kExactExpertRows], up[kExactExpertTokens][kExactExpertRows];
    exact_sums(sum, x, kUp ? p.up[0] : p.down, tile.expert, r0, n, k);
    if constexpr (kUp) exact_sums(up, x, p.up[1], tile.expert, r0, n, k);
    if (arch::lane_id() != 0) continue;
    DSV4_UNROLL
    for (int i = 0; i < kExactExpertTokens; ++i) {
      if (t0 + i >= tile.rows) continue;
      const std::int64_t row = tile.first + t0 + i;
      DSV4_UNROLL
      for (int r = 0; r < kExactExpertRows; ++r) {
        if (r0 + r >= n) continue;
        if constexpr (kUp) {
          const float weight = p.routing ? p.routing[moe::pair_of(p.plan, row)] : 1.0f;
          moe::swiglu(SerialCoop{}, p.h + row * p.inner + r0 + r, &sum[i][r], &up[i][r], 1, p.limit, weight);
        } else {
          p.y[row * p.y_stride + r0 + r] = sum[i][r];
        }
      }
    }
  }
}

template <bool kUp>
DSV4_KERNEL(kExactExpertWarps* arch::kWarpThreads)
experts_exact_kernel(const DSV4_GRID_CONSTANT ExpertsExact p) {
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const moe::TileRows tile(p.plan, arch::block_idx().x / p.row_blocks);
  if (tile.expert < 0) return;
  experts_exact<kUp>(
      p, tile, (arch::block_idx().x % p.row_blocks * kExactExpertWarps + arch::warp_id()) * kExactExpertRows);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
