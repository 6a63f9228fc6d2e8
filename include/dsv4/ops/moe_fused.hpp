// Op moe_fused: from the gate's choice to the combined output of routed and shared experts, in one launch.
#pragma once

#include <dsv4/ops/common.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/moe_experts.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::ops {

/// The ranks that share experts, and where each of them has its state and its workspace (symmetric memory).
struct MoePeers {
  std::int32_t rank = 0;
  std::int32_t ranks = 1;        // others are kUnsupported
  void* const* state = nullptr;  // host array [ranks]; one rank: unused, as is the next
  void* const* workspace = nullptr;
};

/// Bit for bit what these do one after another:
///   moe_dispatch(idx) -> moe_experts(weights, routing)        routed
///   moe_experts(shared weights, no plan, no routing weights)  shared, unless its weights are null
///   moe_combine                                               out
struct MoeFusedParams {
  void* out = nullptr;                // [tokens, hidden] dtype, or f32 with out_f32
  const std::int32_t* idx = nullptr;  // [tokens, k]; outside [first_expert, first_expert + experts): left out
  const float* routing = nullptr;     // [tokens, k] f32, multiplies BEFORE W2; null = 1
  LinearInput input = {};             // [tokens, hidden], as moe_experts takes it; codes only where all
                                      // of W1 and W3 are FP4 or FP8
  ExpertWeights weights = {};         // of `experts` experts, all of one format; of those without rows
                                      // nothing is read
  ExpertWeights shared = {};          // of one expert of the same shape; all data null = none. One format:
                                      // that of `weights`, or FP8 beside FP4 (f32: each matrix any)
  std::int64_t tokens = 0;            // 0 .. kMoeFusedMaxTokens
  std::int64_t hidden = 0;            // of both a multiple of 8, and 8 rows of either must fit a block's
  std::int64_t inner = 0;             // shared memory: up to 7680 always do (f32: up to 2^20)
  std::int32_t k = 0;                 // 1 .. 16
  std::int32_t first_expert = 0;
  std::int32_t experts = 0;  // 1 .. 1024
  float limit = 0.0f;        // clamp of the routed experts; 0 = none
  float shared_limit = 0.0f;
  DType dtype = DType::kBf16;
  bool out_f32 = false;         // out is f32, not rounded: the partial sum of a shard of the experts
  std::int64_t out_stride = 0;  // between tokens; 0 = hidden
  std::int32_t blocks = 0;      // of the launch, 1 .. 65535; 0 = as many as the device holds at once. Results
                                // do not depend on it
  MoePeers peers = {};
  // Counters: zero before the first call, zero after each; 256-byte aligned. It may be shared by calls of any
  // sizes that it is large enough for, as long as they follow one another. After a launch that a device error
  // ended it must be zeroed again.
  void* state = nullptr;
  std::size_t state_bytes = 0;
  void* workspace = nullptr;  // anything before, anything after
  std::size_t workspace_bytes = 0;
};

/// Most tokens of a call: items and counters are 32-bit numbers for every k, experts, hidden and inner.
inline constexpr std::int64_t kMoeFusedMaxTokens = 8192;

/// Guidance for callers that choose. Rows of an expert are computed 8 at a time, each time reading its
/// weights: with more tokens than this, the chain's tiles of 32 rows in launches of their own read less, and
/// there is nothing left to hide between them.
inline constexpr std::int64_t kMoeFusedGoodTokens = 256;

inline namespace DSV4_FLAVOUR {
/// One launch of persistent blocks, which take items of work from a queue: it needs neither a cooperative
/// launch nor more than one resident block. Deterministic; does not synchronise; may be captured, and
/// replayed with other routings. Two calls that share a state or a workspace must not run at the same time.
[[nodiscard]] DSV4_API Status moe_fused(const MoeFusedParams& p, Stream stream) noexcept;

/// Bytes, 256-byte aligned. Pure; depend on tokens, k and experts, and on hidden and inner.
[[nodiscard]] DSV4_API std::size_t moe_fused_state_bytes(const MoeFusedParams& p) noexcept;
[[nodiscard]] DSV4_API std::size_t moe_fused_workspace_bytes(const MoeFusedParams& p) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
