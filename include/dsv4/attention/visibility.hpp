// Which positions and entries a token may see: the index rules of every attention kind.
#pragma once

#include <dsv4/core/config.hpp>

#include <cstdint>

namespace dsv4::attention {

/// First position in the sliding window of position t: the window is [window_begin(t), t].
DSV4_HD constexpr std::int64_t window_begin(std::int64_t t, int window) {
  return t - window + 1 > 0 ? t - window + 1 : 0;
}

/// Compressed entries visible to position t: entry i is visible iff its LAST source token, (i+1) * ratio - 1,
/// is at or before t. At ratio 4 the first becomes visible at t = 3, at ratio 128 at t = 127.
DSV4_HD constexpr std::int64_t visible_entries(std::int64_t t, int ratio) {
  return ratio == 0 ? 0 : (t + 1) / ratio;
}

/// Position at which entry i is rotated: its block's FIRST token, not its index.
DSV4_HD constexpr std::int64_t entry_position(std::int64_t entry, int ratio) { return entry * ratio; }

}  // namespace dsv4::attention
