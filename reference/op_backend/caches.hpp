// A batch's cached rows as engines keep them, for kernels to read and write; the sequences' states own them.
#pragma once

#include <dsv4/ops/cache.hpp>

#include "reference/op_backend/op_call.hpp"
#include "reference/state.hpp"

#include <cstdint>
#include <vector>

namespace dsv4::reference::inline DSV4_FLAVOUR {

/// One pool for the rows of all sequences of a batch. Pages hold a number of rows that divides nothing, lie
/// apart, and belong to the sequences in an order of no meaning, so that every way from a logical row to its
/// bytes is taken. What no row was put into is 0xff, NaNs.
class PagedRows {
 public:
  PagedRows() = default;
  /// A place for `rows[s]` rows of sequence s, stored as `like` stores them. ring > 0: row r lies where row r
  /// mod ring does.
  PagedRows(const RowStore& like, const std::vector<std::int64_t>& rows, std::int32_t ring = 0);

  /// Slot of a row of a sequence, or -1 where it has no place.
  std::int32_t slot(std::int64_t sequence, std::int64_t row) const;

  /// Copies the bytes of one row from, or to, slot `at` of a sequence's store.
  void get(std::int64_t sequence, std::int64_t row, const RowStore& from, std::int64_t at);
  void give(std::int64_t sequence, std::int64_t row, RowStore& to, std::int64_t at) const;
  /// Stores one row [channels] of f32 or bf16.
  template <class T>
  void put(std::int64_t sequence, std::int64_t row, const T* values);

  /// As ops read it; as they read and write it (OpCall::run brings back what they wrote).
  ops::CachePool pool(OpCall& call) const;
  ops::CachePool writable_pool(OpCall& call);
  /// sequence_of: which sequence a token belongs to.
  ops::PageTable table(OpCall& call, const std::vector<std::int32_t>& sequence_of) const;

 private:
  static constexpr std::int32_t kPageRows = 12;

  // Offsets into bytes_ of a slot's data and scales.
  std::size_t data_at(std::int64_t slot) const;
  std::size_t scales_at(std::int64_t slot) const;
  ops::CachePool describe() const;

  RowFormat format_ = RowFormat::kF32;
  int channels_ = 0;
  std::int64_t data_bytes_ = 0, scale_bytes_ = 0;  // of a row
  std::int64_t pitch_ = 0, page_bytes_ = 0;        // bytes between the data of rows, and between pages
  std::int64_t pages_ = 0, stride_ = 0;            // of the pool; numbers of a sequence in the table
  std::int32_t ring_ = 0;
  std::vector<std::int32_t> table_;  // [sequences, stride_]
  std::vector<std::uint8_t> bytes_;
};

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
