// Ops of mHC: the four residual streams collapsed to a sublayer's input, its output mixed back, and the head.
// streams are [tokens, 4, hidden] with a token's streams contiguous; a stride is that between tokens.
#pragma once

#include <dsv4/ops/common.hpp>
#include <dsv4/ops/quantised.hpp>

namespace dsv4::ops {

/// mhc_post: for every token t, stream k and channel d
///     out[t,k,d] = round_T( post[t,k] * y[t,d] + sum_j comb[t,j,k] * streams[t,j,d] )     (primitive
///     mhc::post)
struct MhcPostParams {
  void* out = nullptr;            // [tokens, 4, hidden] dtype; may be `streams` itself (same stride)
  const void* y = nullptr;        // [tokens, hidden] dtype: the sublayer's output; or f32 with y_f32
  const void* streams = nullptr;  // [tokens, 4, hidden] dtype
  const float* post = nullptr;    // [tokens, 4] f32, 16-byte aligned
  const float* comb = nullptr;    // [tokens, 4, 4] f32, row j = source stream, 16-byte aligned
  std::int64_t tokens = 0;        // 0 .. 2^26
  std::int64_t hidden = 0;        // 1 .. 16384; bf16: a multiple of 32
  std::int32_t stream_count = 0;  // 4
  DType dtype = DType::kBf16;
  bool y_f32 = false;               // y is f32, as shards' partial sums add up, and rounded to dtype here
  std::int64_t out_stride = 0;      // 0 = 4 * hidden
  std::int64_t y_stride = 0;        // 0 = hidden
  std::int64_t streams_stride = 0;  // 0 = 4 * hidden
  std::int64_t post_stride = 0;     // a multiple of 4; 0 = 4
  std::int64_t comb_stride = 0;     // a multiple of 4; 0 = 16
};

/// mhc_pre: of every token, z = (fn . streams) * rsqrt(mean(streams^2) + mix_eps), 24 mixes; of these pre,
/// post and comb (primitives mhc::project, split, sinkhorn);
///     x[t,d]      = round_T( sum_i pre[t,i] * streams[t,i,d] )                           (primitive
///     mhc::pre) normed[t,d] = round_T( norm_weight[d] * (x[t,d] * rsqrt(mean_d x[t,d]^2 + norm_eps)) )
///     (rms_norm) quantised   = normed as act_quant (e4m3, blocks of 128) makes it
/// Each output has the bits of the separate ops one after the other. Outputs overlap nothing.
struct MhcPreParams {
  void* x = nullptr;              // [tokens, hidden] dtype; null where only normed or quantised is wanted
  void* normed = nullptr;         // [tokens, hidden] dtype; null = not wanted
  Fp8Output quantised = {};       // codes null = not wanted
  float* post = nullptr;          // [tokens, 4] f32
  float* comb = nullptr;          // [tokens, 4, 4] f32, row j = source stream
  float* pre = nullptr;           // [tokens, 4] f32; null = not wanted
  float* mixes = nullptr;         // [tokens, 24] f32: z; null = not wanted
  const void* streams = nullptr;  // [tokens, 4, hidden] dtype
  const float* fn = nullptr;      // [24, 4 * hidden] f32: rows 0-3 pre, 4-7 post, 8 + 4j + k comb[j,k]
  const float* scale = nullptr;   // [3] f32: of pre, post, comb
  const float* base = nullptr;    // [24] f32
  const float* norm_weight = nullptr;  // [hidden] f32; where normed or quantised is wanted, else null
  void* workspace = nullptr;           // mhc_pre_workspace_bytes, 256-byte aligned; contents do not matter
  std::size_t workspace_bytes = 0;
  std::int64_t tokens = 0;               // 0 .. 2^26
  std::int64_t hidden = 0;               // 1 .. 16384; bf16: a multiple of 32
  std::int32_t stream_count = 0;         // 4
  std::int32_t sinkhorn_iterations = 0;  // column steps, >= 0 (the model: 20)
  float mix_eps = 0.0f;                  // each >= 0
  float hc_eps = 0.0f;
  float norm_eps = 0.0f;
  DType dtype = DType::kBf16;
  std::int64_t x_stride = 0;        // 0 = hidden
  std::int64_t normed_stride = 0;   // 0 = hidden
  std::int64_t post_stride = 0;     // 0 = 4
  std::int64_t comb_stride = 0;     // 0 = 16
  std::int64_t pre_stride = 0;      // 0 = 4
  std::int64_t mixes_stride = 0;    // 0 = 24
  std::int64_t streams_stride = 0;  // 0 = 4 * hidden
};

/// mhc_post_pre: mhc_post at the end of one site, then mhc_pre at the start of the next, in one pass: the old
/// streams are read once, the new ones written once.
struct MhcPostPreParams {
  MhcPostParams post = {};
  MhcPreParams pre = {};  // its streams are post.out; tokens, hidden, stream_count, dtype and stride are the
                          // same. pre.post and pre.comb may be post.post and post.comb (same strides)
};

/// mhc_head: the streams collapsed before the final norm. z as in mhc_pre with the 4 rows of fn;
///     pre[t,i] = sigmoid(z[t,i] * scale[0] + base[i]) + hc_eps                           (primitive
///     mhc::head)
/// and x, normed as in mhc_pre.
struct MhcHeadParams {
  void* x = nullptr;                   // [tokens, hidden] dtype; null where only normed is wanted
  void* normed = nullptr;              // [tokens, hidden] dtype; null = not wanted
  float* pre = nullptr;                // [tokens, 4] f32; null = not wanted
  float* mixes = nullptr;              // [tokens, 4] f32: z; null = not wanted
  const void* streams = nullptr;       // [tokens, 4, hidden] dtype
  const float* fn = nullptr;           // [4, 4 * hidden] f32
  const float* scale = nullptr;        // [1] f32
  const float* base = nullptr;         // [4] f32
  const float* norm_weight = nullptr;  // [hidden] f32: the final norm's; where normed is wanted, else null
  void* workspace = nullptr;           // mhc_head_workspace_bytes, 256-byte aligned; contents do not matter
  std::size_t workspace_bytes = 0;
  std::int64_t tokens = 0;        // 0 .. 2^26
  std::int64_t hidden = 0;        // 1 .. 16384; bf16: a multiple of 32
  std::int32_t stream_count = 0;  // 4
  float mix_eps = 0.0f;           // each >= 0
  float hc_eps = 0.0f;
  float norm_eps = 0.0f;
  DType dtype = DType::kBf16;
  std::int64_t x_stride = 0;        // 0 = hidden
  std::int64_t normed_stride = 0;   // 0 = hidden
  std::int64_t pre_stride = 0;      // 0 = 4
  std::int64_t mixes_stride = 0;    // 0 = 4
  std::int64_t streams_stride = 0;  // 0 = 4 * hidden
};

// All: a token's bits depend on that token alone, whatever the batch and its size; deterministic; no
// synchronisation. bf16: the mixes are fp32-grade (relative to |fn row| * |streams| within 1e-6) in a fixed
// order of their own (mhc/mix.cuh); everything computed from them has the primitives' bits. f32: the
// canonical order, the primitives' bits throughout. bf16 rows (streams, y, x, normed) and fn, norm_weight are
// 16-byte aligned and their strides multiples of 8; codes 8-byte aligned, their stride too; other pointers to
// their type. sm_80 and later.
inline namespace DSV4_FLAVOUR {
[[nodiscard]] DSV4_API Status mhc_post(const MhcPostParams& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API Status mhc_pre(const MhcPreParams& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API Status mhc_post_pre(const MhcPostPreParams& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API Status mhc_head(const MhcHeadParams& p, Stream stream) noexcept;

/// Bytes of workspace, from dtype, tokens and hidden alone: pure, and monotone in both. 0 for f32. A size out
/// of range counts as the nearest in range, and the op refuses it.
[[nodiscard]] DSV4_API std::size_t mhc_pre_workspace_bytes(const MhcPreParams& p) noexcept;
[[nodiscard]] DSV4_API std::size_t mhc_post_pre_workspace_bytes(const MhcPostPreParams& p) noexcept;  // pre's
[[nodiscard]] DSV4_API std::size_t mhc_head_workspace_bytes(const MhcHeadParams& p) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
