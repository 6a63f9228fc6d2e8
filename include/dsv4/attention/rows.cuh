// Heads, key-value rows and index keys in the registers of a warp: norm, rotation, Hadamard transform, in the
// primitives' bits and without shared memory.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/math.hpp>
#include <dsv4/core/reduce.hpp>
#include <dsv4/core/rope.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/linear/hadamard.cuh>
#include <dsv4/linear/lanes.cuh>

#include <cstdint>
#include <type_traits>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// One row of kChannels T, 16 bytes of it in each access of a lane: a whole warp's where that many lanes have
/// something to hold, else 32 / kLanes rows lie side by side in the warp.
template <class T, int kChannels_>
struct Row {
  using Element = T;
  static constexpr int kChannels = kChannels_;
  static constexpr int kN = linear::kVectorOf<T>;
  static constexpr int kLanes =
      kChannels / kN < arch::kWarpThreads ? kChannels / kN : static_cast<int>(arch::kWarpThreads);
  static constexpr int kParts = kChannels / (kN * kLanes);
  static_assert(kParts * kLanes * kN == kChannels && arch::kWarpThreads % kLanes == 0);

  arch::Vec<T, kN> part[kParts];

  /// First channel of the caller's lane in a part.
  DSV4_DEVICE static int channel(int p) { return (p * kLanes + arch::lane_id() % kLanes) * kN; }

  /// Reads a row of global memory, 16-byte aligned; zeros where it is not there.
  DSV4_DEVICE void load(const T* row, bool there = true) {
    DSV4_UNROLL
    for (int p = 0; p < kParts; ++p) {
      part[p] = {};
      if (there) part[p] = arch::load(reinterpret_cast<const arch::Vec<T, kN>*>(row + channel(p)));
    }
  }
  DSV4_DEVICE void store(T* row) const {
    DSV4_UNROLL
    for (int p = 0; p < kParts; ++p)
      arch::store(reinterpret_cast<arch::Vec<T, kN>*>(row + channel(p)), part[p]);
  }
  /// A part as fp32.
  DSV4_DEVICE void values(float (&v)[kN], int p) const {
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) v[i] = to_float(part[p][i]);
  }
};

namespace detail {

// Transposes the kN x kN words that kN lanes, 32 / kN apart, hold kN each: afterwards word k of the i-th of
// them is what word i of the k-th was.
template <int kN>
DSV4_DEVICE void transpose(std::uint32_t (&w)[kN]) {
  constexpr int kApart = arch::kWarpThreads / kN;
  DSV4_UNROLL
  for (int distance = 1; distance < kN; distance *= 2) {
    const bool upper = (arch::lane_id() / kApart & distance) != 0;
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      if (i & distance) continue;
      const std::uint32_t low = w[i], high = w[i + distance];
      const std::uint32_t other = arch::shfl_xor(upper ? low : high, distance * kApart);
      w[i] = upper ? other : low;
      w[i + distance] = upper ? high : other;
    }
  }
}

}  // namespace detail

/// 1 / sqrt(mean of squares + eps) of a row that takes a whole warp, bit for bit dsv4::inverse_rms. A lane's
/// 16 bytes belong to kN of the 32 partial sums of the canonical order; kN lanes with the same ones exchange
/// their values, so that each then folds one partial sum. Returned to all lanes; all call.
template <class T, int kChannels>
DSV4_DEVICE float inverse_rms(const Row<T, kChannels>& row, float eps) {
  using R = Row<T, kChannels>;
  constexpr int kN = R::kN, kApart = arch::kWarpThreads / kN;
  constexpr int kPacked = 4 / static_cast<int>(sizeof(T));  // parts whose values travel in one word
  static_assert(R::kLanes == arch::kWarpThreads && R::kParts % kPacked == 0 && kReduceLanes == 32);
  float sum = 0.0f;  // partial sum number lane % kApart * kN + lane / kApart
  DSV4_UNROLL
  for (int p = 0; p < R::kParts; p += kPacked) {
    std::uint32_t w[kN];
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      if constexpr (std::is_same_v<T, bf16>)
        w[i] = row.part[p][i].bits | (std::uint32_t{row.part[p + 1][i].bits} << 16);
      else
        w[i] = bits_as<std::uint32_t>(row.part[p][i]);
    }
    detail::transpose(w);
    DSV4_UNROLL
    for (int packed = 0; packed < kPacked; ++packed) {
      DSV4_UNROLL
      for (int k = 0; k < kN; ++k) {
        const float v = bits_as<float>(kPacked == 1 ? w[k] : packed == 0 ? w[k] << 16 : w[k] & 0xffff0000u);
        sum = math::fma(v, v, sum);
      }
    }
  }
  DSV4_UNROLL
  for (int distance = kReduceLanes / 2; distance > 0; distance /= 2)  // of partial sums
    sum += arch::shfl_xor(sum, distance >= kN ? distance / kN : distance * kApart);
  return math::rsqrt(sum / static_cast<float>(kChannels) + eps);
}

/// row = round_T(weight * row * inverse_rms(row)), bit for bit dsv4::rms_norm.
///   weight_or_null  [kChannels] f32, 16-byte aligned global memory
/// All lanes of the warp call.
template <class T, int kChannels>
DSV4_DEVICE void norm(Row<T, kChannels>& row, const float* weight_or_null, float eps) {
  using R = Row<T, kChannels>;
  constexpr int kW = linear::kVectorOf<float>;
  const float rho = inverse_rms(row, eps);
  DSV4_UNROLL
  for (int p = 0; p < R::kParts; ++p) {
    DSV4_UNROLL
    for (int begin = 0; begin < R::kN; begin += kW) {
      arch::Vec<float, kW> weight = {};
      if (weight_or_null)
        weight =
            arch::load(reinterpret_cast<const arch::Vec<float, kW>*>(weight_or_null + R::channel(p) + begin));
      DSV4_UNROLL
      for (int i = 0; i < kW; ++i) {
        T& x = row.part[p][begin + i];
        const float v = to_float(x) * rho;
        x = from_float<T>(weight_or_null ? weight[i] * v : v);
      }
    }
  }
}

/// Turns the last 64 channels of every row of the warp, bit for bit rope::rotate.
///   angle  of pair number lane, the same rows' in every lane: one sine and cosine a lane, whatever the
///   number
///          of lanes that hold rotated channels
/// All lanes of the warp call.
template <class T, int kChannels>
DSV4_DEVICE void rotate(Row<T, kChannels>& row, math::SinCos angle, rope::Direction direction) {
  using R = Row<T, kChannels>;
  constexpr int kPairs = arch::kWarpThreads;
  static_assert(R::kLanes * R::kN >= 2 * kPairs, "the rotated channels lie in the last part");
  const int first = R::channel(R::kParts - 1) - (kChannels - 2 * kPairs);  // negative in front of them
  DSV4_UNROLL
  for (int i = 0; i < R::kN; i += 2) {
    const int pair = (first + i) / 2 & (kPairs - 1);
    const math::SinCos turn = {arch::shfl(angle.sin, pair), arch::shfl(angle.cos, pair)};
    if (first >= 0) rope::rotate(SerialCoop{}, &row.part[R::kParts - 1].v[i], &turn, 1, direction);
  }
}

/// Transforms every row of the warp, bit for bit dsv4::hadamard. All lanes call.
template <class T, int kChannels>
DSV4_DEVICE void hadamard(Row<T, kChannels>& row) {
  static_assert(Row<T, kChannels>::kParts == 1);
  float v[Row<T, kChannels>::kN];
  row.values(v, 0);
  linear::hadamard<kChannels>(v);
  row.part[0] = linear::rounded<T>(v);
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
