// What follows the last group of rows: division, rounding, inverse RoPE, FP8 codes, LSE. And how groups
// merge.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/core/math.hpp>
#include <dsv4/core/rope.hpp>
#include <dsv4/core/softmax.hpp>
#include <dsv4/linear/lanes.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// Statistics of a head while groups of rows are merged into it, in ascending order and by nothing but these
/// operations, so that it does not matter who computed a group.
struct AttendState {
  softmax::State total;

  /// The values so far and a group's part merge as fma(part, part_factor, values * old_factor).
  struct Factors {
    float old_factor, part_factor;
  };
  /// Begins to merge a group whose weights refer to the score `max`.
  DSV4_DEVICE Factors raise(float max) {
    const float before = total.max;
    total.max = math::max(before, max);
    return {softmax::weight(before, total.max), softmax::weight(max, total.max)};
  }
  /// Ends it: `sum` is that of the group's weights, unrounded.
  DSV4_DEVICE void add(float sum, const Factors& f) {
    total.sum = math::fma(sum, f.part_factor, total.sum * f.old_factor);
  }
};

/// values + part of one element.
DSV4_DEVICE float merged(float value, float part, const AttendState::Factors& f) {
  return math::fma(part, f.part_factor, value * f.old_factor);
}

/// Eight neighbouring channels of T: one 16-byte access of bf16, two of f32.
template <class T>
struct Octet {
  static constexpr int kVector = linear::kVectorOf<T>;
  arch::Vec<T, kVector> part[8 / kVector];

  DSV4_DEVICE T& operator[](int i) { return part[i / kVector][i % kVector]; }
  DSV4_DEVICE void store(T* p) const {
    DSV4_UNROLL
    for (int i = 0; i < 8 / kVector; ++i)
      arch::store(reinterpret_cast<arch::Vec<T, kVector>*>(p) + i, part[i]);
  }
};

/// Where attention leaves its results; strides in elements.
struct AttendOutput {
  static constexpr int kChannels = 512;
  static constexpr int kRopePairs = 32;

  void* o_or_null = nullptr;  // [tokens, heads, 512] T
  std::int64_t o_stride = 0, o_head_stride = 0;
  e4m3* codes_or_null = nullptr;  // [tokens, heads * 512]
  std::int64_t codes_stride = 0;
  linear::Scales scales = {};    // of blocks of 128 channels
  float* lse_or_null = nullptr;  // [tokens, heads]
  std::int64_t lse_stride = 0;
  const float* sink_or_null = nullptr;  // [heads]
  float empty_lse = -math::kInfinity;
  bool rotate_back = false;

  /// Writes the head's LSE, and returns what its values are multiplied by: 1 / denominator, a factor so that
  /// the accumulators' owners need no division. One thread's.
  DSV4_DEVICE float close(std::int64_t token, int head, const softmax::State& s) const {
    if (lse_or_null) lse_or_null[token * lse_stride + head] = softmax::lse(s, empty_lse);
    return 1.0f / softmax::denominator(s, sink_or_null ? sink_or_null[head] : -math::kInfinity);
  }

  /// Stores a head whose rounded values are in a warp: v[half] of lane l are channels 256 half + 8 l ...
  ///   angles  [32] of the token; read with rotate_back alone
  /// All lanes of the warp call.
  template <class T>
  DSV4_DEVICE void put(std::int64_t token, int head, Octet<T> (&v)[2], const math::SinCos* angles) const {
    constexpr int kFirst = kChannels - 2 * kRopePairs;
    const int lane = arch::lane_id(), last = 256 + 8 * lane;
    if (rotate_back && last >= kFirst) {
      DSV4_UNROLL
      for (int i = 0; i < 4; ++i) {
        T pair[2] = {v[1][2 * i], v[1][2 * i + 1]};
        rope::rotate(SerialCoop{}, pair, angles + (last - kFirst) / 2 + i, 1, rope::Direction::kInverse);
        v[1][2 * i] = pair[0], v[1][2 * i + 1] = pair[1];
      }
    }
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int channel = 256 * half + 8 * lane;
      if (o_or_null)
        v[half].store(static_cast<T*>(o_or_null) + token * o_stride + head * o_head_stride + channel);
      if (!codes_or_null) continue;
      float x[8];
      DSV4_UNROLL
      for (int i = 0; i < 8; ++i) x[i] = to_float(v[half][i]);
      arch::Vec<e4m3, 8> codes;
      const e8m0 s = linear::fp8_codes<quant::kFp8LinearBlock>(codes, x);
      const std::int64_t column = std::int64_t{head} * kChannels + channel;
      arch::store(reinterpret_cast<arch::Vec<e4m3, 8>*>(codes_or_null + token * codes_stride + column),
                  codes);
      if (lane % 16 == 0) scales.put(token, column / quant::kFp8LinearBlock, s);
    }
  }
};

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
