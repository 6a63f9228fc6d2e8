// Scores of a group by tensor cores, their maxima, and the weights that follow: a warp takes a step of 16
// rows against all heads of the block.
//
// Cta is an AttendBlock; all of its threads call but for score_step, a warp's.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/matrix.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/attention/attend_block.cuh>
#include <dsv4/attention/attend_finish.cuh>
#include <dsv4/attention/attend_fragments.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// Queries of the tile in the order of score_operands; zeros for heads that do not exist.
template <class Cta>
DSV4_DEVICE void load_queries(const Cta& cta) {
  for (int i = cta.warp; i < Cta::kHeads / 8 * 16; i += Cta::kWarps) {
    const int head = i / 16 * 8 + cta.g, quad = i % 16;  // 4 units
    arch::Vec<std::uint32_t, 4> w = {};
    if (cta.first_head + head < cta.q.heads)
      w = arch::load(reinterpret_cast<const arch::Vec<std::uint32_t, 4>*>(
          cta.q.q + cta.token * cta.q.stride + (cta.first_head + head) * cta.q.head_stride + quad * 32 +
          cta.t * 8));
    std::uint32_t operands[2][2];
    score_operands_bf16(operands, w);
    DSV4_UNROLL
    for (int k = 0; k < 4; ++k)
      *reinterpret_cast<std::uint32_t*>(cta.query_unit(head, quad * 4 + k) + cta.t * 4) =
          operands[k / 2][k % 2];
  }
}

/// This warp's scores: every head of the tile against the 16 rows of a step; -inf for rows that are none.
template <class Cta, class List>
DSV4_DEVICE void score_step(const Cta& cta, typename Cta::Scores& score, const AttendGroup& g,
                            const List& list, int step) {
  const bool packed = Cta::kPacked || list.packed(g.number * kAttendGroup + step * kAttendStep);
  const int base = cta.step_row(g, step), row = step * kAttendStep;
  const std::uint8_t* scales = cta.scale_bytes(g.buffer) + row * 8;
  if (packed && cta.lane < kAttendStep)
    for (int block = 0; block < Cta::kScaleBlocks; ++block)
      cta.scale_pairs(block)[row + cta.lane] = scale_bits(scales[cta.lane * 8 + block]);

  DSV4_UNROLL
  for (int i = 0; i < Cta::kTiles * 8; ++i) score[i / 8][i / 4 % 2][i % 4] = 0.0f;
  std::uint32_t nan[2] = {};
  for (int block = 0; block < 8; ++block) {
    const bool codes = packed && block < Cta::kScaleBlocks;
    std::uint32_t b[2][2][2][2];  // of 32 channels, 8 rows, a product
    DSV4_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int half = i / 2, n = i % 2;
      if (codes) {
        const int unit = 4 * block + 2 * half + cta.t / 2;
        score_operands_e4m3(b[half][n], nan[n], cta.row_unit(base + 8 * n + cta.g, unit) + cta.t % 2 * 8);
      } else {
        const int unit = (packed ? 4 * Cta::kScaleBlocks : 8 * block) + 4 * half + cta.t;
        const auto w =
            *reinterpret_cast<const arch::Vec<std::uint32_t, 4>*>(cta.row_unit(base + 8 * n + cta.g, unit));
        score_operands_bf16(b[half][n], w);
      }
    }
    float scale[2][2];
    DSV4_UNROLL
    for (int i = 0; i < 4; ++i)
      scale[i / 2][i % 2] =
          codes ? to_float(e8m0{scales[(8 * (i / 2) + 2 * cta.t + i % 2) * 8 + block]}) : 1.0f;
    DSV4_UNROLL
    for (int first = 0; first < Cta::kTiles; first += Cta::kTogether) {
      float part[Cta::kTogether][2][4] = {};
      DSV4_UNROLL
      for (int k = 0; k < 4; ++k) {
        DSV4_UNROLL
        for (int tile = 0; tile < Cta::kTogether; ++tile) {
          std::uint32_t a[4];
          arch::ldmatrix(
              a, cta.query_unit(16 * (first + tile) + cta.lane % 16, 8 * block + 2 * k + cta.lane / 16));
          DSV4_UNROLL
          for (int n = 0; n < 2; ++n)
            arch::mma_m16n8k16_bf16(part[tile][n], a, b[k / 2][n][k % 2], part[tile][n]);
        }
      }
      DSV4_UNROLL
      for (int i = 0; i < Cta::kTogether * 8; ++i) {
        float& sum = score[first + i / 8][i / 4 % 2][i % 4];
        sum = math::fma(part[i / 8][i / 4 % 2][i % 4], scale[i / 4 % 2][i % 2], sum);
      }
    }
  }
  DSV4_UNROLL
  for (int n = 0; n < 2; ++n) {
    const unsigned votes = arch::ballot(nan[n] != 0);  // four lanes a row
    DSV4_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int column = 2 * cta.t + i;
      const bool exists = cta.addresses(g.buffer)[row + 8 * n + column] != nullptr;
      const bool is_nan = (votes >> (4 * column) & 15u) != 0;
      DSV4_UNROLL
      for (int k = 0; k < 2 * Cta::kTiles; ++k) {
        float& s = score[k / 2][n][k % 2 * 2 + i];
        s = !exists ? -math::kInfinity : is_nan ? bits_as<float>(0x7fc00000u) : s * cta.q.scale;
      }
    }
  }
}

/// The group's maxima, and what follows from them for the merge.
template <class Cta>
DSV4_DEVICE void take_maxima(const Cta& cta, const typename Cta::Scores& score, const AttendGroup& g,
                             bool maxima_alone) {
  if (cta.warp < g.steps) {
    DSV4_UNROLL
    for (int k = 0; k < 2 * Cta::kTiles; ++k) {  // head 8 k + g
      const float(&s)[2][4] = score[k / 2];
      const int i = k % 2 * 2;
      float m = math::max(math::max(s[0][i], s[0][i + 1]), math::max(s[1][i], s[1][i + 1]));
      m = math::max(m, arch::shfl_xor(m, 1));
      m = math::max(m, arch::shfl_xor(m, 2));
      if (cta.t == 0) cta.partial(cta.warp)[8 * k + cta.g] = m;
    }
  }
  arch::sync_threads();
  if (cta.thread < Cta::kHeads) {
    float m = -math::kInfinity;
    for (int w = 0; w < g.steps; ++w) m = math::max(m, cta.partial(w)[cta.thread]);
    if (g.number == 0) cta.first_max() = m;
    m = math::max(cta.first_max(), m);
    if (!maxima_alone) {
      cta.group_max()[cta.thread] = m;
      AttendState s = cta.state();
      const AttendState::Factors f = s.raise(m);
      cta.set_state(s);
      cta.old_factor()[cta.thread] = f.old_factor;
      cta.part_factor()[cta.thread] = f.part_factor;
    }
  }
  if (!maxima_alone) arch::sync_threads();
}

/// Scores to weights: bf16 in shared memory; their sums into the state.
template <class Cta>
DSV4_DEVICE void weigh_rows(const Cta& cta, const typename Cta::Scores& score, const AttendGroup& g) {
  if (cta.warp < g.steps) {
    DSV4_UNROLL
    for (int k = 0; k < 2 * Cta::kTiles; ++k) {
      const int head = 8 * k + cta.g, i = k % 2 * 2;
      const float m = cta.group_max()[head];
      float sum[2];
      DSV4_UNROLL
      for (int n = 0; n < 2; ++n) {
        const float first = softmax::weight(score[k / 2][n][i], m);
        const float second = softmax::weight(score[k / 2][n][i + 1], m);
        sum[n] = first + second;
        *reinterpret_cast<std::uint32_t*>(cta.weight_unit(head, 2 * cta.warp + n) + 4 * cta.t) =
            std::uint32_t{from_float<bf16>(first).bits} | std::uint32_t{from_float<bf16>(second).bits} << 16;
      }
      float total = sum[0] + sum[1];
      total += arch::shfl_xor(total, 1);
      total += arch::shfl_xor(total, 2);
      if (cta.t == 0) cta.partial(cta.warp)[head] = total;
    }
  }
  arch::sync_threads();
  if (cta.thread < Cta::kHeads) {
    float sum = 0.0f;
    for (int w = 0; w < g.steps; ++w) sum += cta.partial(w)[cta.thread];
    cta.partial(0)[cta.thread] = sum;
    AttendState s = cta.state();
    s.add(sum, {cta.old_factor()[cta.thread], cta.part_factor()[cta.thread]});
    cta.set_state(s);
  }
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
