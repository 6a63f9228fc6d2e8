// A kernel of your own: sparse attention whose output is gated head by head and leaves as FP8 codes.
#pragma once

#include <dsv4/core/config.hpp>
#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace mine::inline DSV4_FLAVOUR {

/// y = sigmoid(gate[t,h]) * attention(q[t,h]; rows listed for t), in e4m3 with a UE8M0 scale for every 128
/// channels: what the next FP8 product reads. One launch; the attention's output never reaches memory.
struct GatedAttention {
  dsv4::e4m3* codes;          // [tokens, heads * 512]
  dsv4::e8m0* scales;         // [tokens, heads * 4]
  const dsv4::bf16* q;        // [tokens, heads, 512], 16-byte aligned
  const float* gate;          // [tokens, heads]
  std::uint8_t* pages;        // 584-byte rows in pages of page_rows, 16-byte aligned
  const std::int32_t* slots;  // [tokens, rows] of the pages; negative = no row
  int tokens, heads, rows, page_rows;
};

dsv4::Status gated_attention(const GatedAttention& p, dsv4::Stream stream) noexcept;

}  // namespace mine::inline DSV4_FLAVOUR
