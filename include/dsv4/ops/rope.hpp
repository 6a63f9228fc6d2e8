// Op rope: rotary position embedding of the last channels of every head.
#pragma once

#include <dsv4/ops/common.hpp>

namespace dsv4::ops {

enum class PositionType : std::int32_t { kInt32 = 0, kInt64 = 1 };
enum class RopeDirection : std::int32_t { kForward = 0, kInverse = 1 };

/// Where the angles of a rotation come from: computed from `freq`, or read from an engine's tables.
struct RopeTable {
  const float* freq = nullptr;    // [rope_dim/2] f32 in the memory of the kernel; null with cos and sin
  const float* cos = nullptr;     // [max_position, rope_dim/2] f32; null with freq
  const float* sin = nullptr;     // [max_position, rope_dim/2] f32; null with freq
  std::int64_t max_position = 0;  // rows of cos and sin; a position outside gives NaNs
  std::int64_t table_stride = 0;  // between rows of cos, and of sin; 0 = rope_dim/2
};

/// Turns the interleaved pairs (x[2i], x[2i+1]) of the last rope_dim channels of head h of token t by
/// +-positions[t] * freq[i]                                         (primitives rope::angles, rope::rotate).
/// The other channels are neither read nor written.
struct RopeParams {
  void* out = nullptr;              // [tokens, heads, head_dim] dtype; may be x itself (same strides)
  const void* x = nullptr;          // [tokens, heads, head_dim] dtype
  const void* positions = nullptr;  // [tokens] position_type; 0 .. 2^22-1 (promised)
  RopeTable table = {};
  std::int64_t tokens = 0;    // 0 .. 2^31-1
  std::int64_t heads = 0;     // 1 .. 2^31-1
  std::int64_t head_dim = 0;  // >= rope_dim
  std::int32_t rope_dim = 0;  // 64
  RopeDirection direction = RopeDirection::kForward;
  PositionType position_type = PositionType::kInt32;
  DType dtype = DType::kBf16;
  std::int64_t out_stride = 0;       // between tokens; 0 = heads * out_head_stride
  std::int64_t out_head_stride = 0;  // between heads; 0 = head_dim
  std::int64_t x_stride = 0;         // between tokens; 0 = heads * x_head_stride
  std::int64_t x_head_stride = 0;    // between heads; 0 = head_dim
};

inline namespace DSV4_FLAVOUR {
/// The angle is the fp32 product float(position) * freq, its cosine and sine are accurate to fp32; each value
/// is rounded once. Deterministic; no workspace; does not synchronise. Fastest where a head's rope channels
/// start at a multiple of two values.
[[nodiscard]] DSV4_API Status rope(const RopeParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
