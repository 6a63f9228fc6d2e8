// mHC from partial sums to the input of a sublayer, one token in one block: sums, coefficients, collapse, and
// where wanted the layer's RMSNorm and its FP8 codes.
//
// Eight warps share the channels. A ninth computes comb, a chain of 40 dependent divisions, beside them:
// nothing else in the block waits for it. The collapsed row stays in shared memory between the collapse and
// the norm, whose sum of squares has the canonical order and is therefore one warp's; the streams are read
// once.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/core/norm.hpp>
#include <dsv4/linear/lanes.cuh>
#include <dsv4/mhc/head.hpp>
#include <dsv4/mhc/mix.cuh>
#include <dsv4/mhc/pre.hpp>
#include <dsv4/mhc/split.cuh>

#include <cstdint>

namespace dsv4::mhc::inline DSV4_FLAVOUR {

inline constexpr int kFinishWorkers = 256;  // threads that share the channels
inline constexpr int kFinishThreads = kFinishWorkers + arch::kWarpThreads;
inline constexpr int kFinishBarrier = 1;      // named barrier of the workers
inline constexpr int kMaxHidden = 16 * 1024;  // the collapsed row fits in shared memory without opt-in
inline constexpr int kMaxGroups = kMaxHidden / (kStepChannels * kGroupSteps);

/// Weights and constants of one site.
struct Site {
  const float* scale;  // [3]; head [1]
  const float* base;   // [24]; head [4]
  float mix_eps, hc_eps;
  int sinkhorn_iterations;
  const float* norm_weight;  // [hidden]; null = no norm
  float norm_eps;
};

/// Where the outputs of one token go; each may be null.
template <class T>
struct TokenOutputs {
  T* x;                   // [hidden]
  T* normed;              // [hidden]
  e4m3* codes;            // [hidden]
  linear::Scales scales;  // with codes
  std::int64_t scales_row;
  float* post;   // [4]
  float* comb;   // [4, 4]
  float* pre;    // [4]
  float* mixes;  // [kRows]
};

/// Shared memory of a block beside the collapsed row.
struct FinishShared {
  float group[kMaxGroups][kPartialColumns];
  float rho;
};

/// Sum of column `lane` over the row, in the order of mix.cuh; the lanes of every warp get it.
///   partial      the token's row of the first unit; unit u lies unit_stride floats further each
///   units        steps, or groups: group_units = 8 or 1 units to a group
/// All threads of the block call; synchronises it.
template <int kRows>
DSV4_DEVICE float sum_partials(FinishShared& shared, const float* partial, std::int64_t unit_stride,
                               int units, int group_units) {
  const int lane = arch::lane_id(), warp = arch::warp_id();
  const int groups = (units + group_units - 1) / group_units;
  const bool mine = lane < kRows || lane == kSquareColumn;
  for (int g = warp; g < groups; g += kFinishThreads / arch::kWarpThreads) {
    float unit[kGroupSteps];
    DSV4_UNROLL
    for (int u = 0; u < kGroupSteps; ++u) {  // all loads first
      const int i = g * group_units + u;
      unit[u] = mine && u < group_units && i < units ? arch::load(partial + i * unit_stride + lane) : 0.0f;
    }
    float sum = unit[0];
    DSV4_UNROLL
    for (int u = 1; u < kGroupSteps; ++u)
      if (u < group_units && g * group_units + u < units) sum += unit[u];
    shared.group[g][lane] = sum;
  }
  arch::sync_threads();
  float sum = shared.group[0][lane];
  for (int g = 1; g < groups; ++g) sum += shared.group[g][lane];
  return sum;
}

/// kRows = 24: a sublayer's site; 4: the head's.
///   streams  [4, hidden] bf16, 16-byte aligned; hidden % 8 == 0, at most kMaxHidden
///   row      [hidden] bf16, 16-byte aligned shared memory
///   sum      of sum_partials
/// Everything downstream of the mixes has the bits of mhc::split or head, pre, rms_norm and quant::fp8_block.
/// All threads of the block call, after sum_partials.
template <int kRows>
DSV4_DEVICE void finish_token(FinishShared& shared, bf16* row, const Site& site,
                              const TokenOutputs<bf16>& out, const bf16* streams, int hidden, float sum) {
  const int lane = arch::lane_id(), thread = static_cast<int>(arch::thread_idx().x);
  const float squares = arch::shfl(sum, kSquareColumn);
  const float z = sum * math::rsqrt(squares / static_cast<float>(kStreams * hidden) + site.mix_eps);

  float coefficient;  // of lane i < 4: pre[i]
  if constexpr (kRows == kStreams)
    mhc::head<1>(&coefficient, &z, site.scale, site.base + lane % kStreams, site.hc_eps);
  else
    coefficient = pre_post_coefficient(z, site.scale, site.base, site.hc_eps);

  if (thread >= kFinishWorkers) {  // the ninth warp
    if (out.mixes && lane < kRows) out.mixes[lane] = z;
    if (out.pre && lane < kStreams) out.pre[lane] = coefficient;
    if constexpr (kRows != kStreams) {
      if (lane >= kStreams && lane < 2 * kStreams) out.post[lane - kStreams] = coefficient;
      const float comb = comb_coefficient(z, site.scale, site.base, site.sinkhorn_iterations, site.hc_eps);
      if (lane < kStreams * kStreams) out.comb[lane] = comb;
    }
    return;
  }

  float pre[kStreams];
  DSV4_UNROLL
  for (int i = 0; i < kStreams; ++i) pre[i] = arch::shfl(coefficient, i);
  for (int d = thread * kVector; d < hidden; d += kFinishWorkers * kVector) {
    Channels stream[kStreams], x;
    DSV4_UNROLL
    for (int s = 0; s < kStreams; ++s)
      stream[s] = arch::load(reinterpret_cast<const Channels*>(streams + std::int64_t{s} * hidden + d));
    DSV4_UNROLL
    for (int i = 0; i < kVector; ++i) {
      const bf16 column[kStreams] = {stream[0][i], stream[1][i], stream[2][i], stream[3][i]};
      mhc::pre<kStreams>(SerialCoop{}, &x[i], column, pre, 1);
    }
    if (out.x) arch::store(reinterpret_cast<Channels*>(out.x + d), x);
    *reinterpret_cast<Channels*>(row + d) = x;
  }
  if (!site.norm_weight) return;

  arch::named_barrier_sync(kFinishBarrier, kFinishWorkers);
  if (thread < arch::kWarpThreads) {
    const float rho = inverse_rms(arch::WarpCoop{}, row, hidden, site.norm_eps);
    if (lane == 0) shared.rho = rho;
  }
  arch::named_barrier_sync(kFinishBarrier, kFinishWorkers);
  const float rho = shared.rho;
  // The same number of rounds for every lane: those of an FP8 block find its maximum together.
  for (int begin = 0; begin < hidden; begin += kFinishWorkers * kVector) {
    const int d = begin + thread * kVector;
    const bool inside = d < hidden;
    Channels y = {};
    float v[kVector] = {};
    if (inside) {
      const Channels x = *reinterpret_cast<const Channels*>(row + d);
      DSV4_UNROLL
      for (int half = 0; half < 2; ++half) {
        const auto w = arch::load<arch::Cache::kReadOnly>(
            reinterpret_cast<const arch::Vec<float, 4>*>(site.norm_weight + d) + half);
        DSV4_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float scaled = to_float(x[4 * half + i]) * rho;
          y[4 * half + i] = from_float<bf16>(w[i] * scaled);
          v[4 * half + i] = to_float(y[4 * half + i]);  // the rounded value is quantised
        }
      }
      if (out.normed) arch::store(reinterpret_cast<Channels*>(out.normed + d), y);
    }
    if (out.codes) {
      arch::Vec<e4m3, kVector> codes;
      const e8m0 s = linear::fp8_codes<quant::kFp8LinearBlock>(codes, v);
      if (inside) arch::store(reinterpret_cast<arch::Vec<e4m3, kVector>*>(out.codes + d), codes);
      if (inside && d % quant::kFp8LinearBlock == 0)
        out.scales.put(out.scales_row, d / quant::kFp8LinearBlock, s);
    }
  }
}

}  // namespace dsv4::mhc::inline DSV4_FLAVOUR
