// Weights times rows by tensor cores, and what becomes of the sums: a warp takes 64 channels of all heads of
// the block, in passes of 32 accumulators.
//
// Cta is an AttendBlock; all of its threads call.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/matrix.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/attention/attend_block.cuh>
#include <dsv4/attention/attend_finish.cuh>
#include <dsv4/attention/attend_fragments.cuh>
#include <dsv4/attention/attend_merge.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// part += weights times the 16 rows of a step, in a pass over this warp's 64 channels.
template <class Cta>
DSV4_DEVICE void add_values(const Cta& cta, typename Cta::Part& part, const AttendGroup& g, int pass,
                            int step, bool packed) {
  const int base = cta.step_row(g, step);
  std::uint32_t b[Cta::kPairs][2][2];
  DSV4_UNROLL
  for (int k = 0; k < Cta::kPairs; ++k) {
    const int pair = pass * Cta::kPairs + k;  // 16 channels
    if (cta.warp == Cta::kRotatedWarp) {
      const int unit = (packed ? 4 * Cta::kScaleBlocks : 8 * Cta::kRotatedWarp) + 2 * pair + cta.lane / 16;
      value_operands_split(b[k], cta.row_unit(base + cta.lane % 16, unit));
    } else if (packed) {
      value_operands_e4m3(b[k], cta.row_unit(base + cta.lane % 16, 4 * cta.warp + pair),
                          cta.scale_pairs(cta.warp) + step * kAttendStep);
    } else {
      value_operands_interleaved(b[k], [&](int row) {
        const std::uint8_t* unit = cta.row_unit(base + row, 8 * cta.warp + 2 * pair + cta.g / 4);
        return *reinterpret_cast<const std::uint32_t*>(unit + cta.g % 4 * 4);
      });
    }
  }
  DSV4_UNROLL
  for (int tile = 0; tile < Cta::kTiles; ++tile) {
    std::uint32_t a[4];
    arch::ldmatrix(a, cta.weight_unit(16 * tile + cta.lane % 16, 2 * step + cta.lane / 16));
    DSV4_UNROLL
    for (int k = 0; k < Cta::kPairs * 2; ++k)
      arch::mma_m16n8k16_bf16(part[tile][k / 2][k % 2], a, b[k / 2][k % 2], part[tile][k / 2][k % 2]);
  }
}

/// The values of a pass, merged with a group's.
template <class Cta>
DSV4_DEVICE void merge_values(const Cta& cta, typename Cta::Values& values, int pass,
                              const typename Cta::Part& part) {
  DSV4_UNROLL
  for (int k = 0; k < 2 * Cta::kTiles; ++k) {
    const int head = 8 * k + cta.g;
    const AttendState::Factors f = {cta.old_factor()[head], cta.part_factor()[head]};
    DSV4_UNROLL
    for (int i = 0; i < Cta::kPairs * 4; ++i) {
      float& v = values[k / 2][pass * Cta::kPairs + i / 4][i / 2 % 2][k % 2 * 2 + i % 2];
      v = merged(v, part[k / 2][i / 4][i / 2 % 2][k % 2 * 2 + i % 2], f);
    }
  }
}

/// The values that a lane holds of 16 channels of a head, in the order of value_operands: neighbours, or two
/// pairs. four(channel, x[4]) or two(channel, x, y) twice.
template <class Cta, class Four, class Two>
DSV4_DEVICE void scatter_values(const Cta& cta, const float (&v)[2][4], int half, int pair, const Four& four,
                                const Two& two) {
  const int channel = 64 * cta.warp + 16 * pair, i = 2 * half;
  if (cta.warp == Cta::kRotatedWarp) {
    two(channel + 2 * cta.t, v[0][i], v[0][i + 1]);
    two(channel + 8 + 2 * cta.t, v[1][i], v[1][i + 1]);
  } else {
    const float x[4] = {v[0][i], v[1][i], v[0][i + 1], v[1][i + 1]};
    four(channel + 4 * cta.t, x);
  }
}

/// A group's values of a pass, to memory for the merge.
template <class Cta>
DSV4_DEVICE void store_part(const Cta& cta, const AttendParts& parts, int group, int pass,
                            const typename Cta::Part& part) {
  DSV4_UNROLL
  for (int k = 0; k < 2 * Cta::kTiles; ++k) {
    const int head = cta.first_head + 8 * k + cta.g;
    if (head >= cta.q.heads) continue;
    float* to = parts.values + parts.at(cta.token, group, cta.q.heads, head) * Cta::kChannels;
    DSV4_UNROLL
    for (int i = 0; i < Cta::kPairs; ++i)
      scatter_values(
          cta, part[k / 2][i], k % 2, pass * Cta::kPairs + i,
          [&](int channel, const float(&x)[4]) {
            arch::store(reinterpret_cast<arch::Vec<float, 4>*>(to + channel), {{x[0], x[1], x[2], x[3]}});
          },
          [&](int channel, float x, float y) {
            arch::store(reinterpret_cast<arch::Vec<float, 2>*>(to + channel), {{x, y}});
          });
  }
}

/// Divides the values by their denominators and hands each head on to `out`: an AttendOutput, or a kernel's
/// own with these three members of it: close, put (of bf16) and rotate_back.
///   angle  (int pair) -> math::SinCos of the token; called with out.rotate_back alone
template <class Cta, class Output, class Angles>
DSV4_DEVICE void finish_values(const Cta& cta, const Output& out, const typename Cta::Values& values,
                               const Angles& angle) {
  float* inverse = cta.group_max();
  if (cta.thread < Cta::kHeads && cta.first_head + cta.thread < cta.q.heads)
    inverse[cta.thread] = out.close(cta.token, cta.first_head + cta.thread, cta.state().total);
  if (out.rotate_back && cta.thread < AttendOutput::kRopePairs) cta.angles()[cta.thread] = angle(cta.thread);
  arch::sync_threads();
  DSV4_UNROLL
  for (int k = 0; k < 2 * Cta::kTiles; ++k) {
    const int head = 8 * k + cta.g;
    if (cta.first_head + head >= cta.q.heads) continue;
    const float d = inverse[head];
    const auto rounded = [d](float x, float y) {
      return std::uint32_t{from_float<bf16>(x * d).bits} | std::uint32_t{from_float<bf16>(y * d).bits} << 16;
    };
    const auto word = [&](int channel) { return cta.query_unit(head, channel / 8) + channel % 8 * 2; };
    DSV4_UNROLL
    for (int pair = 0; pair < 4; ++pair)
      scatter_values(
          cta, values[k / 2][pair], k % 2, pair,
          [&](int channel, const float(&x)[4]) {
            *reinterpret_cast<std::uint64_t*>(word(channel)) =
                rounded(x[0], x[1]) | std::uint64_t{rounded(x[2], x[3])} << 32;
          },
          [&](int channel, float x, float y) {
            *reinterpret_cast<std::uint32_t*>(word(channel)) = rounded(x, y);
          });
  }
  arch::sync_threads();
  for (int head = cta.warp; head < Cta::kHeads && cta.first_head + head < cta.q.heads; head += Cta::kWarps) {
    Octet<bf16> v[2];
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half)
      v[half].part[0] =
          *reinterpret_cast<const arch::Vec<bf16, 8>*>(cta.query_unit(head, 32 * half + cta.lane));
    out.put(cta.token, cta.first_head + head, v, cta.angles());
  }
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
