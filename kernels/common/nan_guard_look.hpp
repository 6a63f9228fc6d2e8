// What the NaN guard's kernel looks at: a tensor, and which of its elements an op has written.
#pragma once

#include <dsv4/linear/integers.cuh>
#include <dsv4/ops/nan_guard.hpp>

#include "kernels/common/cache.hpp"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

enum class GuardedType : std::int32_t { kBf16, kF32, kE4m3, kUe8m0 };

struct GuardedTensor {
  const void* data;  // null = the op has no such output
  GuardedType type;
  std::int64_t rows, cols;
  std::int64_t row_stride, col_stride = 1;  // elements

  // Columns in pieces, as heads whose tail alone is written: column c lies at
  // c / piece * piece_stride + piece_first + c % piece, and is reported as that. 0 = all in one piece.
  std::int64_t piece = 0, piece_stride = 0, piece_first = 0;
  std::int64_t shown_first = 0;  // added to the column reported

  // Rows in a pool: row r lies at data + slot / page_rows * page_bytes + slot % page_rows * slot_bytes.
  linear::Slots slots = {};  // [rows]; data null = not in a pool
  std::int64_t pool_slots = 0, page_rows = 1, page_bytes = 0, slot_bytes = 0;

  // Rows, and columns, that were written.
  const std::int32_t* row_count = nullptr;  // on the device; null = all
  Visible visible = {};                     // ratio or counts: columns that a row has
  attention::PageTable table = {};          // with visible: columns without a slot of `table_slots` pass
  const std::int32_t* sequence_of = nullptr;
  std::int64_t table_slots = 0;
  const std::int32_t* first_token = nullptr;  // rows that complete a block of `ratio` tokens; null = any row
  linear::Positions start = {};
  const std::int32_t* state_of = nullptr;
  std::int64_t sequences = 0, states = 0, ratio = 0;
};

/// The looks at one op's outputs, in their order.
class NanGuardLook {
 public:
  NanGuardLook(const char* op, Stream stream) noexcept;
  bool wanted() const { return record_ != nullptr; }
  void operator()(const char* tensor, const GuardedTensor& t) noexcept;
  const Status& status() const { return status_; }

 private:
  const char* op_;
  Stream stream_;
  ops::NanGuardRecord* record_;
  Status status_;
};

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
