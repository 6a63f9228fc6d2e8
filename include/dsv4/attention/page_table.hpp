// How a logical row of a sequence becomes a slot of a pool.
#pragma once

#include <dsv4/core/config.hpp>

#include <cstdint>

namespace dsv4::attention {

/// Row r of sequence s lies in slot pages[s * stride + r' / page_rows] * page_rows + r' mod page_rows,
/// r' = r mod ring; with no table in slot r'.
///   pages  [sequences, stride] i32, or null
///   ring   0 = none
struct PageTable {
  const std::int32_t* pages;
  std::int64_t stride;
  std::int64_t sequences;
  std::int32_t page_rows;
  std::int32_t ring;

  /// Slot of a row >= 0, or -1: outside the table, or a negative page. The caller checks it against its pool.
  DSV4_HD std::int64_t slot(std::int64_t sequence, std::int64_t row) const {
    const std::int64_t r = ring > 0 ? row % ring : row;
    if (!pages) return r;
    const std::int64_t page = r / page_rows;
    if (sequence < 0 || sequence >= sequences || page >= stride) return -1;
    const std::int64_t number = pages[sequence * stride + page];
    return number < 0 ? -1 : number * page_rows + r % page_rows;
  }
};

}  // namespace dsv4::attention
