// Op attn_attend: sparse attention over a window pool and a pool of compressed entries, in one softmax.
#pragma once

#include <dsv4/ops/cache.hpp>
#include <dsv4/ops/common.hpp>
#include <dsv4/ops/quantised.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::ops {

enum class SelectionKind : std::int32_t {
  kNone = 0,
  kList = 1,     // slots, listed for each token
  kWindow = 2,   // the logical rows max(0, t - window + 1) .. t of the token's sequence, t its position
  kEntries = 3,  // the logical rows 0 .. visible - 1 of the token's sequence: HCA needs no list
};

/// What a token attends to in one pool.
struct AttendSelection {
  CachePool pool = {};  // kKv584, or kRows of dtype
  SelectionKind kind = SelectionKind::kNone;
  const void* idx = nullptr;             // kList: [tokens, max_count] slots of idx_type; EVERY value outside
                                         // [0, pool.slots) means "no row"
  const std::int32_t* counts = nullptr;  // kList: [tokens] listed for each token; null = max_count
  PageTable table = {};                  // kWindow, kEntries: logical row -> slot
  VisibleEntries visible = {};           // kEntries
  std::int64_t idx_stride = 0;           // kList: between tokens; 0 = max_count
  std::int64_t max_count =
      0;  // the most rows a token has here, 0 .. 2^20 (kWindow: = window); more are not seen
  std::int32_t window = 0;  // kWindow
  SlotType idx_type = SlotType::kInt32;
};

/// o[t,h] = sum_j p_j e_j,  p_j = exp(s_j - m) / (sum_j exp(s_j - m) + exp(sink[h] - m)),  s_j = scale
/// q[t,h].e_j over the rows of both selections, window first               (spec section 5, step 5; primitive
/// attention::attend)
struct AttnAttendParams {
  void* o = nullptr;            // [tokens, heads, head_dim] dtype; null if only `quantised` is wanted
  Fp8Output quantised = {};     // of o as rows of heads * head_dim, per 128 channels; codes null = not wanted
  float* lse = nullptr;         // [tokens, heads] f32, natural log, without the sink; null = not wanted
  const void* q = nullptr;      // [tokens, heads, head_dim] dtype
  const float* sink = nullptr;  // [heads] f32; null or -inf = none; any other value is legal
  AttendSelection window = {};
  AttendSelection entries = {};
  const void* positions = nullptr;           // [tokens] position_type; for kWindow and for `rotate_back`
  RopeTable rope = {};                       // of rotate_back
  std::int64_t tokens = 0;                   // 0 .. 2^31-1
  std::int32_t heads = 0;                    // 1 .. 128
  std::int32_t head_dim = 0;                 // 512
  std::int32_t rope_dim = 0;                 // 64, with rotate_back
  float scale = 0.0f;                        // head_dim^-0.5
  float empty_lse = -__builtin_huge_valf();  // lse of a row with nothing selected; its o is 0
  PositionType position_type = PositionType::kInt32;
  DType dtype = DType::kBf16;
  bool rotate_back = false;        // o is rounded, then turned by the inverse RoPE and rounded again (step 6)
  std::int64_t o_stride = 0;       // between tokens; 0 = heads * o_head_stride
  std::int64_t o_head_stride = 0;  // between heads; 0 = head_dim
  std::int64_t q_stride = 0;       // between tokens; 0 = heads * q_head_stride
  std::int64_t q_head_stride = 0;  // between heads; 0 = head_dim
  std::int64_t lse_stride = 0;     // between tokens; 0 = heads
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

inline namespace DSV4_FLAVOUR {
/// bf16: tensor cores with fp32 accumulation, rows in groups of 128; how the groups are spread over blocks
/// changes no bit, so a token's result depends on that token alone. f32: bit for bit the primitive.
/// Deterministic; does not synchronise.
[[nodiscard]] DSV4_API Status attn_attend(const AttnAttendParams& p, Stream stream) noexcept;

/// Bytes of workspace, 256-byte aligned. Pure; monotone in every size.
[[nodiscard]] DSV4_API std::size_t attn_attend_workspace_bytes(const AttnAttendParams& p) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
