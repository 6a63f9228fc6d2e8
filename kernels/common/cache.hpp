// Caches, page tables and visible entries of ops: their checks, and what kernels read of them.
#pragma once

#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/attention/page_table.hpp>
#include <dsv4/attention/visibility.hpp>
#include <dsv4/linear/integers.cuh>
#include <dsv4/ops/cache.hpp>

#include "kernels/common/checks.hpp"

#include <cstddef>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline linear::Slots slots(const void* data, ops::SlotType type) {
  return {data, type == ops::SlotType::kInt64};
}
constexpr std::size_t slot_bytes(ops::SlotType type) { return type == ops::SlotType::kInt64 ? 8 : 4; }

template <Text kArgument, class C>
void check_slot_type(C& checks, ops::SlotType type) {
  checks.template require<kArgument, "must be int32 or int64">(
      type == ops::SlotType::kInt32 || type == ops::SlotType::kInt64, static_cast<std::int64_t>(type), 0,
      Code::kUnsupported);
}

/// Least bytes between pages of P rows of E bytes: whole 16-byte units.
constexpr std::int64_t least_page_stride(std::int64_t page_rows, std::int64_t entry_bytes) {
  return (page_rows * entry_bytes + 15) / 16 * 16;
}

/// The paged pool behind `p`, whose format is Pool's.
template <class Pool>
Pool page_pool(const ops::CachePool& p) {
  Pool pool{};
  pool.pages = static_cast<std::uint8_t*>(p.data);
  pool.page_entries = p.page_rows;
  pool.slots = p.slots;
  pool.page_stride =
      stride_or(p.stride, least_page_stride(p.page_rows, p.scales ? Pool::kDataBytes : Pool::kEntryBytes));
  pool.scales_or_null = static_cast<std::uint8_t*>(p.scales);
  pool.scales_stride = stride_or(p.scales_stride, std::int64_t{p.page_rows} * Pool::kScaleBytes);
  return pool;
}

/// The plain rows behind `p`.
template <class T>
attention::RowPool<T> row_pool(const ops::CachePool& p, int channels) {
  return {static_cast<T*>(p.data), stride_or(p.stride, channels), p.slots, channels};
}

inline attention::PageTable page_table(const ops::PageTable& t) {
  return {t.pages, t.stride, t.sequences, t.page_rows, t.ring};
}

/// Entries that a token sees.
struct Visible {
  const std::int32_t* counts_or_null;
  const void* positions;
  bool wide;  // 64-bit positions
  std::int32_t ratio;
  std::int64_t max;

  DSV4_HD std::int64_t operator()(std::int64_t token) const {
    std::int64_t n;
    if (counts_or_null)
      n = counts_or_null[token];
    else
      n = attention::visible_entries(wide ? static_cast<const std::int64_t*>(positions)[token]
                                          : static_cast<const std::int32_t*>(positions)[token],
                                     ratio);
    return n < 0 ? 0 : n < max ? n : max;
  }
};
inline Visible visible(const ops::VisibleEntries& v, std::int64_t max_entries) {
  return {v.counts, v.positions, v.position_type == ops::PositionType::kInt64, v.ratio, max_entries};
}

/// Sizes of a pool whose format is known to be supported; kArgument names it.
template <Text kArgument, class C>
void check_pool_sizes(C& checks, const ops::CachePool& p, std::int64_t channels) {
  using ops::CacheFormat;
  checks.template require<kArgument + Text(".slots"), "must be 0 .. 2^31-1">(
      p.slots >= 0 && p.slots <= INT32_MAX, p.slots, INT32_MAX);
  if (p.format == CacheFormat::kRows) {
    const std::int64_t vector = p.dtype == ops::DType::kF32 ? 4 : 8;
    checks.template stride<kArgument + Text(".stride")>(p.stride, channels, vector);
    return;
  }
  checks.template require<kArgument + Text(".page_rows"), "must be at least 1">(p.page_rows >= 1, p.page_rows,
                                                                                1);
  if (!checks.ok()) return;
  const std::int64_t data = p.format == CacheFormat::kKv584      ? attention::KvPagePool::kDataBytes
                            : p.format == CacheFormat::kIndexFp4 ? attention::IndexFp4Pool::kDataBytes
                                                                 : attention::IndexFp8Pool::kDataBytes;
  const std::int64_t scales = p.format == CacheFormat::kKv584 ? attention::KvPagePool::kScaleBytes : 4;
  const std::int64_t least = least_page_stride(p.page_rows, p.scales ? data : data + scales);
  checks.template require<kArgument + Text(".stride"), "must hold a page">(
      p.stride == 0 || p.stride >= std::int64_t{p.page_rows} * (p.scales ? data : data + scales), p.stride,
      least);
  checks.template require<kArgument + Text(".stride"), "must be a multiple of 16 bytes">(p.stride % 16 == 0,
                                                                                         p.stride, 16);
  checks.template require<kArgument + Text(".scales_stride"), "must hold the page's scales, in units of 4">(
      p.scales_stride == 0 || (p.scales_stride >= std::int64_t{p.page_rows} * 4 && p.scales_stride % 4 == 0),
      p.scales_stride, std::int64_t{p.page_rows} * 4);
  checks.template require<kArgument + Text(".scales"), "have no dense form in this format">(
      !p.scales || p.format != CacheFormat::kKv584);
}

/// Pointers of a pool that has slots.
template <Text kArgument, class C>
void check_pool_pointers(C& checks, const ops::CachePool& p) {
  if (p.slots == 0) return;
  checks.template pointer<kArgument + Text(".data")>(p.data, 16);
  checks.template optional<kArgument + Text(".scales")>(p.scales, 4);
}

template <Text kArgument, class C>
void check_page_table(C& checks, const ops::PageTable& t) {
  checks.template require<kArgument + Text(".page_rows"), "must be at least 1">(t.page_rows >= 1, t.page_rows,
                                                                                1);
  checks.template require<kArgument + Text(".ring"), "must not be negative">(t.ring >= 0, t.ring, 0);
  checks.template require<kArgument + Text(".stride"), "must not be negative">(t.stride >= 0, t.stride, 0);
  checks.template require<kArgument + Text(".sequences"), "must not be negative">(t.sequences >= 0,
                                                                                  t.sequences, 0);
}

template <Text kArgument, class C>
void check_visible(C& checks, const ops::VisibleEntries& v) {
  if (v.counts) return;
  checks.template require<kArgument + Text(".ratio"), "must be at least 1 where counts is null">(v.ratio >= 1,
                                                                                                 v.ratio, 1);
}

/// Pointers of an op that has tokens.
template <Text kArgument, class C>
void check_visible_pointers(C& checks, const ops::VisibleEntries& v) {
  if (v.counts)
    checks.template pointer<kArgument + Text(".counts")>(v.counts, 4);
  else
    checks.template pointer<kArgument + Text(".positions")>(
        v.positions, v.position_type == ops::PositionType::kInt64 ? 8 : 4);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
