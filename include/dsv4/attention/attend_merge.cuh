// Groups of rows that blocks of their own computed: what each leaves in memory, and how they become one.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/attention/attend_finish.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// What blocks with a group each leave for the merge.
struct AttendParts {
  /// `sum` of a group without rows, whose values are not there.
  static constexpr float kAbsent = -1.0f;

  float* values;          // [tokens, groups, heads, 512]
  softmax::State* state;  // [tokens, groups, heads]
  int groups;             // that a token has at most

  DSV4_HD std::int64_t at(std::int64_t token, int group, int heads, int head) const {
    return (token * groups + group) * heads + head;
  }
};

/// Merges the groups of a head and finishes it, bit for bit as AttendTile::run does. A warp's; all lanes
/// call.
///   out     an AttendOutput, or a kernel's own (attend_values.cuh: finish_values)
///   groups  of the token: what its list has
template <class T, class Output>
DSV4_DEVICE void attend_merge(const AttendParts& parts, const Output& out, std::int64_t token, int heads,
                              int head, int groups, const math::SinCos* angles) {
  const int lane = arch::lane_id();
  AttendState state;
  float values[2][8] = {};
  for (int group = 0; group < groups; ++group) {
    const std::int64_t i = parts.at(token, group, heads, head);
    const softmax::State part = parts.state[i];
    if (part.sum == AttendParts::kAbsent) continue;
    const AttendState::Factors f = state.raise(part.max);
    state.add(part.sum, f);
    DSV4_UNROLL
    for (int k = 0; k < 4; ++k) {
      const float* from = parts.values + i * AttendOutput::kChannels + k / 2 * 256 + 8 * lane + k % 2 * 4;
      const auto v = arch::load(reinterpret_cast<const arch::Vec<float, 4>*>(from));
      DSV4_UNROLL
      for (int c = 0; c < 4; ++c) {
        float& value = values[k / 2][k % 2 * 4 + c];
        value = merged(value, v[c], f);
      }
    }
  }
  float inverse = 0.0f;
  if (lane == 0) inverse = out.close(token, head, state.total);
  inverse = arch::shfl(inverse, 0);
  Octet<T> v[2];
  DSV4_UNROLL
  for (int i = 0; i < 16; ++i) v[i / 8][i % 8] = from_float<T>(values[i / 8][i % 8] * inverse);
  out.put(token, head, v, angles);
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
