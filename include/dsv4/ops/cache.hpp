// Caches as engines store them: rows and pages that ops read and write by slot, and how a logical row of a
// sequence becomes a slot.
#pragma once

#include <dsv4/ops/common.hpp>
#include <dsv4/ops/rope.hpp>

#include <cstdint>

namespace dsv4::ops {

/// How a cached row is stored (primitives attention/kv_cache.hpp; spec formats sections 1 and 2).
enum class CacheFormat : std::int32_t {
  kRows = 0,      // plain rows of a DType, unquantised
  kKv584 = 1,     // 512 channels in 584 bytes: 448 e4m3, 64 bf16, 7 UE8M0; pages of P rows
  kIndexFp4 = 2,  // 128 channels in 68 bytes: 64 bytes of e2m1, 4 UE8M0; pages of P keys
  kIndexFp8 = 3,  // 128 channels in 132 bytes: 128 e4m3, one f32 scale; pages of P keys
};

/// Integer type of a tensor of slots. kInt64 holds any value: those that no int32 can hold lie outside every
/// pool. Page tables, counts and sequence numbers are int32 throughout.
enum class SlotType : std::int32_t { kInt32 = 0, kInt64 = 1 };

/// A pool of cached rows. Slot s of a paged format is row s mod P of page s / P. EVERY slot outside
/// [0, slots) means "no row": nothing behind it is read or written.
struct CachePool {
  void* data = nullptr;    // first page or row, 16-byte aligned
  void* scales = nullptr;  // index formats, dense form: the scales as a tensor of their own ([P, 4] bytes a
                           // page, 4-byte aligned); null = behind the codes of each page
  CacheFormat format = CacheFormat::kRows;
  DType dtype = DType::kBf16;      // of kRows
  std::int64_t slots = 0;          // 0 .. 2^31-1
  std::int64_t stride = 0;         // kRows: elements between rows, a multiple of 16 bytes, 0 = contiguous;
                                   // pages: bytes between pages, a multiple of 16, 0 = the least that fits
  std::int64_t scales_stride = 0;  // bytes between pages of `scales`, a multiple of 4; 0 = P * 4
  std::int32_t page_rows = 0;      // P >= 1 of the paged formats, a power of two or not; unused with kRows
};

/// Logical row r of a token's sequence lies in slot pages[s, r' / page_rows] * page_rows + r' mod page_rows,
/// s = sequence_of[token], r' = r mod ring. An entry outside the table, or one that leads outside the pool,
/// means "no row".
struct PageTable {
  const std::int32_t* pages = nullptr;        // [sequences, stride]; null = slot r' itself, for every token
  const std::int32_t* sequence_of = nullptr;  // [tokens] row of `pages`; null = row t for token t
  std::int64_t stride = 0;                    // pages a sequence has room for
  std::int64_t sequences = 0;                 // rows of `pages`
  std::int32_t page_rows = 1;                 // rows that one number of the table stands for
  std::int32_t ring = 0;                      // 0 = no ring
};

/// How many compressed entries each token sees: counts[t] where given, else (positions[t] + 1) / ratio. Never
/// more than the op's max_entries.
struct VisibleEntries {
  const std::int32_t* counts = nullptr;  // [tokens]; null = by position
  const void* positions = nullptr;       // [tokens] position_type
  PositionType position_type = PositionType::kInt32;
  std::int32_t ratio = 0;  // 4 or 128, with positions
};

}  // namespace dsv4::ops
