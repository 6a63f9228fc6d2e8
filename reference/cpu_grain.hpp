// How the CPU backend cuts its loops. Not public API.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dsv4::reference {

/// Output rows of a linear that one item computes.
inline constexpr std::int64_t kRowBlock = 32;

constexpr std::int64_t blocks_of(std::int64_t count, std::int64_t block) {
  return (count + block - 1) / block;
}

/// Items a chunk should hold when one item costs `operations` multiply-adds: waking a thread costs
/// microseconds.
constexpr std::int64_t grain_of(std::int64_t operations) {
  constexpr std::int64_t kChunk = 64 * 1024;
  return std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, operations));
}

/// Calls f(first token, count) over `tokens` in blocks whose f32 rows of `cols` stay in the L2 cache.
template <class F>
void for_token_blocks(std::int64_t tokens, std::int64_t cols, const F& f) {
  constexpr std::int64_t kCacheFloats = 128 * 1024;
  const std::int64_t block = std::max<std::int64_t>(12, kCacheFloats / std::max<std::int64_t>(1, cols));
  for (std::int64_t t = 0; t < tokens; t += block) f(t, static_cast<int>(std::min(block, tokens - t)));
}

}  // namespace dsv4::reference
