// A whole kernel for the machine's own tests: sparse multi-query attention on mma.sync, one block a query. 64
// heads share one 512-wide latent, whose keys are also the values; keys arrive by cp.async, double-buffered.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/math.cuh>
#include <dsv4/arch/matrix.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::test::inline DSV4_FLAVOUR {

inline constexpr int kHeads = 64, kDim = 512, kTile = 32, kAttentionThreads = 256;

struct SparseAttentionParams {
  const bf16* q;                // [queries, 64, 512]
  const bf16* kv;               // [keys, 512]
  const std::int32_t* indices;  // [queries, selected], -1: nothing
  const float* sink;            // [64]: a logit that takes probability and gives nothing
  bf16* out;                    // [queries, 64, 512]
  int selected;
  float scale;
};

// Rows of 512 + kPad elements: 8 shift each row by 4 banks, so that ldmatrix finds no conflicts.
template <int kPad>
struct SparseAttentionShared {
  bf16 q[kHeads][kDim + kPad];
  bf16 kv[2][kTile][kDim + kPad];
  bf16 p[kHeads][kTile + kPad];
  float reduced[2][kHeads];  // of each half of the warps
  std::int32_t index[2][kTile];
};

DSV4_DEVICE std::uint32_t pack_bf16(float low, float high) {
  return from_float<bf16>(low).bits | std::uint32_t{from_float<bf16>(high).bits} << 16;
}

DSV4_DEVICE void store_pair(bf16* p, float low, float high) {
  *reinterpret_cast<std::uint32_t*>(p) = pack_bf16(low, high);
}

template <int kPad>
DSV4_DEVICE void load_tile(SparseAttentionShared<kPad>& s, const SparseAttentionParams& p, int tile) {
  const int thread = static_cast<int>(arch::thread_idx().x), buffer = tile & 1;
  const std::int32_t* indices = p.indices + std::int64_t{arch::block_idx().x} * p.selected + tile * kTile;
  const int rows = p.selected - tile * kTile;
  if (thread < kTile) s.index[buffer][thread] = thread < rows ? indices[thread] : -1;
  DSV4_UNROLL
  for (int i = 0; i < kTile * kDim / 8 / kAttentionThreads; ++i) {
    const int chunk = thread + i * kAttentionThreads, row = chunk / (kDim / 8),
              column = chunk % (kDim / 8) * 8;
    const std::int32_t key = row < rows ? indices[row] : -1;
    arch::cp_async<16>(&s.kv[buffer][row][column], p.kv + std::int64_t{key < 0 ? 0 : key} * kDim + column,
                       key < 0 ? 0 : 16);
  }
}

// Warp w computes the heads [16 (w % 4), ...) and half w / 4 of the keys for the scores, of the columns for
// the output.
template <int kPad>
DSV4_KERNEL(kAttentionThreads)
sparse_attention(const SparseAttentionParams p) {
  using Shared = SparseAttentionShared<kPad>;
  DSV4_DYN_SMEM(Shared, shared);
  Shared& s = *shared;
  const int thread = static_cast<int>(arch::thread_idx().x), warp = thread / 32, lane = thread % 32;
  const int head = warp % 4 * 16, half = warp / 4, g = lane / 4, t = lane % 4;
  const int m = lane / 8, row_of_m = lane % 8;  // the row that this lane addresses for ldmatrix

  const bf16* q = p.q + std::int64_t{arch::block_idx().x} * kHeads * kDim;
  DSV4_UNROLL
  for (int i = 0; i < kHeads * kDim / 8 / kAttentionThreads; ++i) {
    const int chunk = thread + i * kAttentionThreads, row = chunk / (kDim / 8),
              column = chunk % (kDim / 8) * 8;
    arch::cp_async<16>(&s.q[row][column], q + row * kDim + column);
  }
  const int tiles = (p.selected + kTile - 1) / kTile;
  load_tile(s, p, 0);
  arch::cp_async_commit();

  constexpr float kLog2E = 1.4426950408889634f, kMinusInfinity = -__builtin_huge_valf();
  const float scale = p.scale * kLog2E;
  float o[32][4] = {}, largest[2] = {kMinusInfinity, kMinusInfinity}, sum[2] = {};

  for (int tile = 0; tile < tiles; ++tile) {
    const int buffer = tile & 1;
    if (tile + 1 < tiles) load_tile(s, p, tile + 1);
    arch::cp_async_commit();
    arch::cp_async_wait<1>();
    arch::sync_threads();

    float score[2][4] = {};  // 16 heads x 16 keys
    DSV4_UNROLL
    for (int k = 0; k < kDim; k += 16) {
      std::uint32_t a[4], b[4];
      arch::ldmatrix(a, &s.q[head + m % 2 * 8 + row_of_m][k + m / 2 * 8]);
      arch::ldmatrix(b, &s.kv[buffer][half * 16 + m / 2 * 8 + row_of_m][k + m % 2 * 8]);
      const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
      arch::mma_m16n8k16_bf16(score[0], a, b0, score[0]);
      arch::mma_m16n8k16_bf16(score[1], a, b1, score[1]);
    }

    float tile_largest[2] = {kMinusInfinity, kMinusInfinity};
    DSV4_UNROLL
    for (int n = 0; n < 2; ++n) DSV4_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int key = half * 16 + n * 8 + 2 * t + e % 2;
      score[n][e] = s.index[buffer][key] < 0 ? kMinusInfinity : score[n][e] * scale;
      tile_largest[e / 2] = tile_largest[e / 2] > score[n][e] ? tile_largest[e / 2] : score[n][e];
    }
    DSV4_UNROLL
    for (int r = 0; r < 2; ++r) {
      for (int distance = 1; distance <= 2; distance *= 2) {
        const float other = arch::shfl_xor(tile_largest[r], distance);
        tile_largest[r] = tile_largest[r] > other ? tile_largest[r] : other;
      }
      if (t == 0) s.reduced[half][head + g + 8 * r] = tile_largest[r];
    }
    arch::sync_threads();
    float correction[2];
    DSV4_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = head + g + 8 * r;
      float now = largest[r];
      for (int h = 0; h < 2; ++h) now = now > s.reduced[h][row] ? now : s.reduced[h][row];
      const float base = now == kMinusInfinity ? 0.0f : now;
      correction[r] = arch::exp2_approx(largest[r] - base);
      largest[r] = now;
      sum[r] *= correction[r];
      DSV4_UNROLL
      for (int n = 0; n < 2; ++n) {
        const float p0 = arch::exp2_approx(score[n][2 * r] - base);
        const float p1 = arch::exp2_approx(score[n][2 * r + 1] - base);
        sum[r] += p0 + p1;
        store_pair(&s.p[row][half * 16 + n * 8 + 2 * t], p0, p1);
      }
    }
    arch::sync_threads();
    DSV4_UNROLL
    for (int i = 0; i < 32; ++i) {
      o[i][0] *= correction[0];
      o[i][1] *= correction[0];
      o[i][2] *= correction[1];
      o[i][3] *= correction[1];
    }
    DSV4_UNROLL
    for (int k = 0; k < kTile; k += 16) {
      std::uint32_t a[4];
      arch::ldmatrix(a, &s.p[head + m % 2 * 8 + row_of_m][k + m / 2 * 8]);
      DSV4_UNROLL
      for (int n = 0; n < 16; ++n) {
        std::uint32_t b[4];
        arch::ldmatrix_trans(b, &s.kv[buffer][k + m % 2 * 8 + row_of_m][half * 256 + n * 16 + m / 2 * 8]);
        const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
        arch::mma_m16n8k16_bf16(o[2 * n], a, b0, o[2 * n]);
        arch::mma_m16n8k16_bf16(o[2 * n + 1], a, b1, o[2 * n + 1]);
      }
    }
    arch::sync_threads();  // the next round overwrites this buffer
  }
  arch::cp_async_wait<0>();

  DSV4_UNROLL
  for (int r = 0; r < 2; ++r) {
    sum[r] += arch::shfl_xor(sum[r], 1);
    sum[r] += arch::shfl_xor(sum[r], 2);
    if (t == 0) s.reduced[half][head + g + 8 * r] = sum[r];
  }
  arch::sync_threads();
  bf16* out = p.out + std::int64_t{arch::block_idx().x} * kHeads * kDim;
  DSV4_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = head + g + 8 * r;
    const float base = largest[r] == kMinusInfinity ? 0.0f : largest[r];
    const float total =
        s.reduced[0][row] + s.reduced[1][row] + arch::exp2_approx(p.sink[row] * kLog2E - base);
    const float inverse = 1.0f / total;
    DSV4_UNROLL
    for (int i = 0; i < 32; ++i)
      store_pair(out + row * kDim + half * 256 + i * 8 + 2 * t, o[i][2 * r] * inverse,
                 o[i][2 * r + 1] * inverse);
  }
}

}  // namespace dsv4::test::inline DSV4_FLAVOUR
