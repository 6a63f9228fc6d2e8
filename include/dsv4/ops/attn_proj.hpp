// Ops attn_q_proj, attn_kv_proj, attn_index_prep, and attn_qk_prep that does all three in one launch: what
// follows the projections of queries, key-values and indexer queries.
#pragma once

#include <dsv4/ops/cache.hpp>
#include <dsv4/ops/common.hpp>

#include <cstdint>

namespace dsv4::ops {

/// q[t,h] = round_T( q[t,h] * rsqrt(mean(q[t,h]^2) + eps) ), then RoPE on the last rope_dim channels, rounded
/// again                                                            (primitive attention::finish_query)
struct AttnQProjParams {
  void* out = nullptr;      // [tokens, heads, head_dim] dtype; may be q itself (same strides)
  const void* q = nullptr;  // [tokens, heads, head_dim] dtype: Wq_b qr, rounded; null = absent (attn_qk_prep)
  const void* positions = nullptr;  // [tokens] position_type
  RopeTable rope = {};
  std::int64_t tokens = 0;    // 0 .. 2^31-1
  std::int64_t heads = 0;     // 1 .. 1024
  std::int32_t head_dim = 0;  // 512
  std::int32_t rope_dim = 0;  // 64
  float eps = 0.0f;
  PositionType position_type = PositionType::kInt32;
  DType dtype = DType::kBf16;
  std::int64_t out_stride = 0;       // between tokens; 0 = heads * out_head_stride
  std::int64_t out_head_stride = 0;  // between heads; 0 = head_dim
  std::int64_t q_stride = 0;         // between tokens; 0 = heads * q_head_stride
  std::int64_t q_head_stride = 0;    // between heads; 0 = head_dim
};

/// row = round_T(norm(kv[t])), RoPE on the last rope_dim channels, then into the window cache at slots[t]
/// and, if wanted, to `out`                  (primitives attention::finish_key_value, the pool's write)
struct AttnKvProjParams {
  CachePool window = {};        // kKv584 or kRows of dtype; data null = no cache
  const void* slots = nullptr;  // [tokens] slot_type; outside [0, window.slots) = the token is not
                                // stored. Stored slots are distinct (promised)
  void* out = nullptr;  // [tokens, head_dim] dtype; may be kv itself (same strides); null = not wanted. The
                        // row as the cache gives it back: with window.format kKv584, with a cache or without,
                        // its first 448 channels have been through FP8
  const void* kv = nullptr;         // [tokens, head_dim] dtype: Wkv x, rounded; null = absent (attn_qk_prep)
  const float* norm = nullptr;      // [head_dim] f32, 16-byte aligned
  const void* positions = nullptr;  // [tokens] position_type
  RopeTable rope = {};
  std::int64_t tokens = 0;    // 0 .. 2^31-1
  std::int32_t head_dim = 0;  // 512
  std::int32_t rope_dim = 0;  // 64
  float eps = 0.0f;
  PositionType position_type = PositionType::kInt32;
  SlotType slot_type = SlotType::kInt32;
  DType dtype = DType::kBf16;
  std::int64_t out_stride = 0;  // between tokens; 0 = head_dim
  std::int64_t kv_stride = 0;   // between tokens; 0 = head_dim
};

/// Indexer queries, finished: RoPE on the last rope_dim channels, Hadamard transform, each rounded, then
/// quantised; and the head weights with their factor               (primitives attention::finish_index_query,
/// attention::index_weight_factor):
///     weights_out[t,h] = float(weights[t,h]) * dim^-0.5 * heads^-0.5  ( * the head's scale, with kIndexFp8 )
struct AttnIndexPrepParams {
  void* codes = nullptr;   // [tokens, heads, dim]: e2m1x2, dim/2 bytes (kIndexFp4), e4m3 (kIndexFp8) or dtype
                           // (kRows); contiguous, 16-byte aligned; kRows may be q itself
  void* scales = nullptr;  // kIndexFp4: [tokens, heads, 4] UE8M0, 4-byte aligned; else null
  float* weights_out = nullptr;  // [tokens, heads] f32
  const void* q = nullptr;  // [tokens, heads, dim] dtype: Wq_bI qr, rounded; null = absent (attn_qk_prep)
  const void* weights = nullptr;    // [tokens, heads] dtype: Wproj x, rounded
  const void* positions = nullptr;  // [tokens] position_type
  RopeTable rope = {};
  std::int64_t tokens = 0;    // 0 .. 2^31-1
  std::int32_t heads = 0;     // 1 .. 64
  std::int32_t dim = 0;       // 128
  std::int32_t rope_dim = 0;  // 64
  CacheFormat format = CacheFormat::kIndexFp4;
  PositionType position_type = PositionType::kInt32;
  DType dtype = DType::kBf16;
  std::int64_t q_stride = 0;        // between tokens; 0 = heads * dim
  std::int64_t weights_stride = 0;  // between tokens; 0 = heads
};

/// All three in one launch. A part whose input (q or kv) is null is absent; the others have one dtype, and
/// may differ in tokens.
struct AttnQkPrepParams {
  AttnQProjParams q = {};
  AttnKvProjParams kv = {};
  AttnIndexPrepParams index = {};
};

inline namespace DSV4_FLAVOUR {
/// fp32 inside, canonical order of summation, bit for bit the primitives: a token's bits depend on that token
/// alone. attn_qk_prep equals the three ops bit for bit. Rows start at multiples of 16 bytes, those of
/// `weights` at their type's. Deterministic; no workspace; do not synchronise.
[[nodiscard]] DSV4_API Status attn_q_proj(const AttnQProjParams& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API Status attn_kv_proj(const AttnKvProjParams& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API Status attn_index_prep(const AttnIndexPrepParams& p, Stream stream) noexcept;
[[nodiscard]] DSV4_API Status attn_qk_prep(const AttnQkPrepParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
