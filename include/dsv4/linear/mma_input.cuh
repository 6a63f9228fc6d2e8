// Activations on their way into a product: normed, quantised, or decoded from FP8 codes to bf16.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/core/norm.hpp>
#include <dsv4/linear/lanes.cuh>
#include <dsv4/linear/mma_tile.cuh>
#include <dsv4/linear/mma_weights.cuh>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// Scales of given codes: that of block b of row r is element r * row_stride + b * block_stride.
struct GivenScales {
  const void* data;  // e8m0, or f32
  std::int64_t row_stride, block_stride;
  bool f32;

  DSV4_DEVICE float at(std::int64_t row, std::int64_t block) const {
    const std::int64_t i = row * row_stride + block * block_stride;
    return f32 ? arch::load(static_cast<const float*>(data) + i)
               : to_float(arch::load(static_cast<const e8m0*>(data) + i));
  }
};

/// Rows of activations as a caller gives them; 16-byte aligned.
struct MmaInput {
  const bf16* x;        // [tokens] rows of x_stride
  const e4m3* codes;    // [tokens] rows of codes_stride; null: x is quantised here, where that is wanted
  GivenScales scales;   // of codes
  const float* weight;  // of RMSNorm; null = none
  float eps;
  std::int64_t tokens, x_stride, codes_stride;
};

/// What a lane holds of a token: 8 channels as the product takes them, and the scale of their 128.
struct InputLane {
  arch::Vec<bf16, 8> values;
  float scale;  // 1 where not quantised
};

/// 8 values as FP8 codes, which are exact in bf16, and their scale: bit for bit quant::fp8_block over the 16
/// lanes that hold 128 channels. Values beyond a row's end are zeros. All lanes of the warp call.
DSV4_DEVICE InputLane quantised_lane(const float (&v)[8]) {
  InputLane lane;
  arch::Vec<e4m3, 8> codes;
  lane.scale = to_float(fp8_codes<kMmaChunk>(codes, v));
  DSV4_UNROLL
  for (int i = 0; i < 8; ++i) lane.values[i] = from_float<bf16>(to_float(codes[i]));
  return lane;
}

/// `count` (a multiple of 8, or no more than 0) channels of row `token` from `channel` on: from the given
/// codes, or from x. All lanes of the warp call.
DSV4_DEVICE InputLane load_quantised(const MmaInput& in, std::int64_t token, std::int64_t channel,
                                     std::int64_t count) {
  float v[8];
  if (!in.codes) {
    load_values<true>(v, in.x + token * in.x_stride + channel, count);
    return quantised_lane(v);
  }
  load_values<true>(v, in.codes + token * in.codes_stride + channel, count);
  return {rounded<bf16>(v), count > 0 ? in.scales.at(token, channel / kMmaChunk) : 0.0f};
}

/// Rows of activations in shared memory, as MmaStream reads them: up to 8 tokens.
template <class Weights>
struct StagedRows {
  static constexpr int kMaxTokens = kMmaTokens;

  bf16* rows;     // [tokens, pitch], channels swizzled
  float* scales;  // [pitch / 128, 8]
  int tokens, pitch;

  /// Bytes of shared memory for `tokens` rows of `chunks` chunks; scales first.
  DSV4_HD static constexpr std::int64_t bytes(std::int64_t tokens, std::int64_t chunks) {
    return chunks * (kMaxTokens * static_cast<std::int64_t>(sizeof(float)) +
                     tokens * kMmaChunk * static_cast<std::int64_t>(sizeof(bf16)));
  }
  DSV4_DEVICE StagedRows(void* memory, int token_count, int chunks)
      : rows(reinterpret_cast<bf16*>(static_cast<float*>(memory) + chunks * kMaxTokens)),
        scales(static_cast<float*>(memory)),
        tokens(token_count),
        pitch(chunks * kMmaChunk) {}

  DSV4_DEVICE MmaWords words(int token, std::int64_t channel) const {
    if (token >= tokens) return {};
    return load_shared(reinterpret_cast<const MmaWords*>(
        rows + token * pitch + swizzled<Weights>(token, static_cast<int>(channel))));
  }
  DSV4_DEVICE arch::Vec<float, 2> scale(int token, int chunk) const {
    return load_shared(reinterpret_cast<const arch::Vec<float, 2>*>(scales + chunk * kMaxTokens + token));
  }

  /// Fills the rows with channels [column, column + k) of the input: RMSNorm where it has a weight (over
  /// exactly these), rounded to bf16; then quantised if kQuantise. Bit for bit ops rms_norm and act_quant.
  ///   rho  [8] f32, shared
  /// Called by all threads of a block of kWarps warps; synchronises.
  template <bool kQuantise, int kWarps>
  DSV4_DEVICE void fill(const MmaInput& in, std::int64_t column, int k, float* rho) const {
    const int lane = arch::lane_id(), warp = arch::warp_id();
    constexpr int kSpan = arch::kWarpThreads * 8;  // channels of a warp at a time
    const int spans = (pitch + kSpan - 1) / kSpan;
    if (in.weight) {
      for (int i = warp; i < tokens * spans; i += kWarps) {  // as they are, and not swizzled yet
        const int token = i / spans, c = i % spans * kSpan + lane * 8;
        if (c < k) arch::cp_async<16>(rows + token * pitch + c, in.x + token * in.x_stride + column + c);
      }
      arch::cp_async_wait_all();
      arch::sync_threads();
      for (int token = warp; token < tokens; token += kWarps) {
        const float r = inverse_rms(arch::WarpCoop{}, rows + token * pitch, k, in.eps);
        if (lane == 0) rho[token] = r;
      }
      arch::sync_threads();
    }
    for (int i = warp; i < tokens * spans; i += kWarps) {
      const int token = i / spans, c = i % spans * kSpan + lane * 8;
      InputLane out = {};
      if (in.weight) {
        float v[8] = {};
        if (c < k) {
          const auto x = load_shared(reinterpret_cast<const arch::Vec<bf16, 8>*>(rows + token * pitch + c));
          DSV4_UNROLL
          for (int j = 0; j < 8; ++j)
            v[j] = round_to<bf16>(in.weight[column + c + j] * (to_float(x[j]) * rho[token]));
        }
        if constexpr (kQuantise)
          out = quantised_lane(v);
        else
          out.values = rounded<bf16>(v);
        arch::sync_warp();  // all 256 channels are read, and may be written in another order
      } else if constexpr (kQuantise) {
        out = load_quantised(in, token, column + c, k - c);
      } else {
        float v[8];
        load_values<true>(v, in.x + token * in.x_stride + column + c, k - c);
        out.values = rounded<bf16>(v);
      }
      if (c < pitch) {
        store_shared(
            reinterpret_cast<arch::Vec<bf16, 8>*>(rows + token * pitch + swizzled<Weights>(token, c)),
            out.values);
        if (kQuantise && c % kMmaChunk == 0) scales[c / kMmaChunk * kMaxTokens + token] = out.scale;
      }
    }
    arch::sync_threads();
  }
};

/// The same for many tokens, without the norm: values and scales of 256 channels of a token by one warp.
///   values  [tokens] rows of `stride` bf16: the codes' values
///   scales  [ceil(channels / 128)] rows of scales_stride f32, a token each
DSV4_DEVICE void expand_quantised(bf16* values, std::int64_t stride, float* scales,
                                  std::int64_t scales_stride, const MmaInput& in, std::int64_t token,
                                  std::int64_t first_channel, std::int64_t channels) {
  const std::int64_t c = first_channel + arch::lane_id() * 8;
  const InputLane out = load_quantised(in, token, c, channels - c);
  if (c >= channels) return;
  arch::store(reinterpret_cast<arch::Vec<bf16, 8>*>(values + token * stride + c), out.values);
  if (c % kMmaChunk == 0) arch::store(scales + c / kMmaChunk * scales_stride + token, out.scale);
}

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
