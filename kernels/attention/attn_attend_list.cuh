// The rows that a token attends to, by their position in one list: the window's, filled up to a multiple of
// 16, then the entries.
#pragma once

#include <dsv4/attention/attend_tile.cuh>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/attention/page_table.hpp>
#include <dsv4/attention/visibility.hpp>
#include <dsv4/linear/angles.cuh>
#include <dsv4/ops/attn_attend.hpp>

#include "kernels/common/cache.hpp"
#include "kernels/common/rope.hpp"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// ops::AttendSelection as kernels read it.
struct AttendSource {
  ops::SelectionKind kind;
  bool packed;                  // 584-byte entries, else plain rows
  bool wide_idx;                // idx are int64; here, where it costs no room
  attention::KvPagePool pages;  // packed
  const std::uint8_t* rows;     // plain
  std::int64_t row_bytes;       // plain
  std::int64_t slots;
  const void* idx;
  const std::int32_t* counts_or_null;
  std::int64_t idx_stride;
  std::int32_t max_count;
  attention::PageTable table;
  const std::int32_t* sequence_of_or_null;
  Visible visible;
  linear::Positions positions;
  std::int32_t window;

  /// A token's share: `count` rows.
  struct Token {
    std::int64_t token, sequence, first;  // ranges: logical row `first` + i
    std::int32_t count;
  };
  DSV4_DEVICE Token at(std::int64_t t) const {
    Token s = {t, t, 0, 0};
    if (kind == ops::SelectionKind::kNone) return s;
    if (kind == ops::SelectionKind::kList) {
      const std::int32_t n = counts_or_null ? counts_or_null[t] : max_count;
      s.count = n < 0 ? 0 : n < max_count ? n : max_count;
      return s;
    }
    if (sequence_of_or_null) s.sequence = sequence_of_or_null[t];
    if (kind == ops::SelectionKind::kWindow) {
      const std::int64_t position = positions[t];
      if (position < 0) return s;
      s.first = attention::window_begin(position, window);
      s.count = static_cast<std::int32_t>(position - s.first + 1);
    } else {
      s.count = static_cast<std::int32_t>(visible(t));
    }
    return s;
  }

  /// Slot of the token's i-th row, i < count; -1 if it is none.
  DSV4_DEVICE std::int64_t slot(const Token& s, std::int32_t i) const {
    const std::int64_t slot = kind == ops::SelectionKind::kList
                                  ? linear::Slots{idx, wide_idx}[s.token * idx_stride + i]
                                  : table.slot(s.sequence, s.first + i);
    return slot >= 0 && slot < slots ? slot : -1;
  }

  DSV4_DEVICE attention::AttendRow row(const Token& s, std::int32_t i) const {
    const std::int64_t at = slot(s, i);
    if (at < 0) return {};
    if (packed) return {pages.data_of(at), pages.scales_of(at)};
    return {rows + at * row_bytes, nullptr};
  }
};

/// Where a token's list has what.
struct AttendSections {
  AttendSource::Token window, entries;
  std::int32_t first_entry, length;  // position of the first entry; of the end

  DSV4_DEVICE static AttendSections of(const AttendSource& w, const AttendSource& e, std::int64_t token) {
    AttendSections s = {w.at(token), e.at(token), 0, 0};
    constexpr std::int32_t kStep = attention::kAttendStep;
    s.first_entry = (s.window.count + kStep - 1) / kStep * kStep;
    s.length = s.first_entry + s.entries.count;
    return s;
  }
  DSV4_DEVICE int groups() const { return (length + attention::kAttendGroup - 1) / attention::kAttendGroup; }
};

/// A token's list, as AttendTile reads it. In shared memory, the sources too: a compiler keeps the fields of
/// kernel parameters in registers, 40 of them, across the loop that needs all for its accumulators.
struct AttendList {
  AttendSource window, entries;
  AttendSections sections;

  DSV4_DEVICE int groups() const { return sections.groups(); }
  /// Steps of a group: the last may have fewer.
  DSV4_DEVICE int steps(int group) const {
    const std::int32_t rows = sections.length - group * attention::kAttendGroup;
    return rows >= attention::kAttendGroup ? attention::kAttendGroup / attention::kAttendStep
                                           : (rows + attention::kAttendStep - 1) / attention::kAttendStep;
  }
  DSV4_DEVICE bool packed(std::int32_t i) const {
    return i < sections.first_entry ? window.packed : entries.packed;
  }
  DSV4_DEVICE attention::AttendRow row(std::int32_t i) const {
    const AttendSections& s = sections;
    if (i < s.first_entry) return i < s.window.count ? window.row(s.window, i) : attention::AttendRow{};
    return i < s.length ? entries.row(s.entries, i - s.first_entry) : attention::AttendRow{};
  }
};

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
