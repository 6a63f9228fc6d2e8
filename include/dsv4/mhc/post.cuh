// mHC, last step, on vectors of channels in a thread's registers.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/core/coop.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/mhc/post.hpp>

#include <cstdint>

namespace dsv4::mhc::inline DSV4_FLAVOUR {

inline constexpr int kStreams = 4;
inline constexpr int kVector = 8;  // bf16 channels of one 16-byte access

using Channels = arch::Vec<bf16, kVector>;  // neighbouring channels of one stream

/// A sublayer's output, rows of bf16, or of f32 that are rounded on the way in.
struct SublayerRows {
  const void* data;
  std::int64_t stride;
  bool f32;

  /// Channels d .. d + 7 of token t. One thread's.
  DSV4_DEVICE Channels load(std::int64_t t, std::int64_t d) const {
    if (!f32)
      return arch::load<arch::Cache::kStreaming>(
          reinterpret_cast<const Channels*>(static_cast<const bf16*>(data) + t * stride + d));
    using Four = arch::Vec<float, 4>;
    const auto* from = reinterpret_cast<const Four*>(static_cast<const float*>(data) + t * stride + d);
    Channels y;
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Four v = arch::load<arch::Cache::kStreaming>(from + half);
      DSV4_UNROLL
      for (int i = 0; i < 4; ++i) y[4 * half + i] = from_float<bf16>(v[i]);
    }
    return y;
  }
};

/// Coefficients of one token for mhc::post.
struct PostCoefficients {
  float post[kStreams];
  float comb[kStreams * kStreams];  // row j = source stream
};

/// post [4] and comb [4, 4] of one token, 16-byte aligned.
DSV4_DEVICE PostCoefficients load_post_coefficients(const float* post, const float* comb) {
  using Four = arch::Vec<float, 4>;
  PostCoefficients c;
  const Four p = arch::load(reinterpret_cast<const Four*>(post));
  DSV4_UNROLL
  for (int j = 0; j < kStreams; ++j) {
    c.post[j] = p[j];
    const Four row = arch::load(reinterpret_cast<const Four*>(comb) + j);
    DSV4_UNROLL
    for (int k = 0; k < kStreams; ++k) c.comb[j * kStreams + k] = row[k];
  }
  return c;
}

/// streams[k] = post[k] * y + sum_j comb[j,k] * streams[j], channel by channel: the primitive's bits. One
/// thread's.
DSV4_DEVICE void post_channels(Channels (&streams)[kStreams], const Channels& y, const PostCoefficients& c) {
  DSV4_UNROLL
  for (int i = 0; i < kVector; ++i) {
    bf16 column[kStreams];  // [4, 1]
    DSV4_UNROLL
    for (int j = 0; j < kStreams; ++j) column[j] = streams[j][i];
    mhc::post<kStreams>(SerialCoop{}, column, &y[i], column, c.post, c.comb, 1);
    DSV4_UNROLL
    for (int k = 0; k < kStreams; ++k) streams[k][i] = column[k];
  }
}

}  // namespace dsv4::mhc::inline DSV4_FLAVOUR
