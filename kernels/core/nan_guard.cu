// The NaN guard: its kernel, and the record of each host thread.
#include <dsv4/ops/nan_guard.hpp>

#if defined(DSV4_NAN_GUARD)
#include <dsv4/arch/atomic.cuh>
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>

#include "kernels/common/nan_guard_look.hpp"

#include <algorithm>

namespace dsv4::kernels::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kElements = 16;  // of a thread, before there are more blocks
constexpr std::int64_t kMaxBlocks = 1024;

thread_local ops::NanGuardRecord* guard_record = nullptr;

DSV4_DEVICE bool is_nan(GuardedType type, const void* p) {
  switch (type) {
    case GuardedType::kBf16:
      return (*static_cast<const std::uint16_t*>(p) & 0x7fffu) > 0x7f80u;
    case GuardedType::kF32:
      return (*static_cast<const std::uint32_t*>(p) & 0x7fffffffu) > 0x7f800000u;
    case GuardedType::kE4m3:
      return (*static_cast<const std::uint8_t*>(p) & 0x7fu) == 0x7fu;
    case GuardedType::kUe8m0:
      return *static_cast<const std::uint8_t*>(p) == 0xffu;
  }
  return false;
}

DSV4_DEVICE std::int64_t element_bytes(GuardedType type) {
  return type == GuardedType::kF32 ? 4 : type == GuardedType::kBf16 ? 2 : 1;
}

/// Whether token row r completes a block of its sequence.
DSV4_DEVICE bool completes(const GuardedTensor& t, std::int64_t r) {
  std::int64_t s = 0;
  while (s < t.sequences && !(t.first_token[s] <= r && r < t.first_token[s + 1])) ++s;
  if (s == t.sequences) return false;
  const std::int64_t state = t.state_of ? t.state_of[s] : s;
  return state >= 0 && state < t.states && (t.start[s] + r - t.first_token[s] + 1) % t.ratio == 0;
}

DSV4_DEVICE std::int64_t place_of(const GuardedTensor& t, std::int64_t c) {
  return t.piece == 0 ? c : c / t.piece * t.piece_stride + t.piece_first + c % t.piece;
}

/// Whether the element was written, and is a NaN.
DSV4_DEVICE bool is_found(const GuardedTensor& t, std::int64_t r, std::int64_t c) {
  if (t.row_count && r >= *t.row_count) return false;
  if (t.visible.counts_or_null || t.visible.positions) {
    if (c >= t.visible(r)) return false;
    const std::int64_t slot = t.table.slot(t.sequence_of ? t.sequence_of[r] : r, c);
    if (slot < 0 || slot >= t.table_slots) return false;
  }
  if (t.first_token && !completes(t, r)) return false;
  const auto* row = static_cast<const unsigned char*>(t.data);
  if (t.slots.data) {
    const std::int64_t slot = t.slots[r];
    if (slot < 0 || slot >= t.pool_slots) return false;
    row += slot / t.page_rows * t.page_bytes + slot % t.page_rows * t.slot_bytes;
  } else {
    row += r * t.row_stride * element_bytes(t.type);
  }
  return is_nan(t.type, row + place_of(t, c) * t.col_stride * element_bytes(t.type));
}

// Any grid. The largest complement of an element's number is the first element; the last block to arrive
// writes it down.
DSV4_KERNEL(kThreads)
nan_guard_kernel(const DSV4_GRID_CONSTANT GuardedTensor t, ops::NanGuardRecord* record, const char* op,
                 const char* tensor) {
  if (record->op) return;  // written by an earlier launch
  const std::int64_t all = t.rows * t.cols, step = std::int64_t{arch::grid_dim().x} * kThreads;
  for (std::int64_t i = std::int64_t{arch::block_idx().x} * kThreads + arch::thread_idx().x; i < all;
       i += step)
    if (is_found(t, i / t.cols, i % t.cols)) {
      arch::atomic_max(&record->nearest, ~static_cast<std::uint64_t>(i));
      break;
    }
  arch::sync_threads();
  if (arch::thread_idx().x != 0) return;
  arch::fence();
  const std::uint64_t before = arch::atomic_add<arch::Order::kAcqRel>(&record->arrived, std::uint64_t{1});
  if (before + 1 != arch::grid_dim().x) return;
  const std::uint64_t nearest = arch::load_relaxed(&record->nearest);
  arch::store_relaxed(&record->arrived, std::uint64_t{0});
  if (nearest == 0) return;
  arch::store_relaxed(&record->nearest, std::uint64_t{0});
  const auto i = static_cast<std::int64_t>(~nearest);
  record->row = i / t.cols;
  record->column = t.shown_first + place_of(t, i % t.cols);
  record->tensor = tensor;
  record->op = op;
}

}  // namespace

NanGuardLook::NanGuardLook(const char* op, Stream stream) noexcept
    : op_(op), stream_(stream), record_(guard_record) {}

void NanGuardLook::operator()(const char* tensor, const GuardedTensor& t) noexcept {
  if (!status_.ok() || !t.data || t.rows <= 0 || t.cols <= 0) return;
  const std::int64_t share = kThreads * kElements;
  const std::int64_t blocks = std::min((t.rows * t.cols + share - 1) / share, kMaxBlocks);
  status_ = arch::launch("nan_guard", nan_guard_kernel,
                         {.grid = {static_cast<unsigned>(blocks), 1, 1}, .block = {kThreads, 1, 1}}, stream_,
                         t, record_, op_, tensor);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
#endif

namespace dsv4::ops::inline DSV4_FLAVOUR {

Status set_nan_guard([[maybe_unused]] NanGuardRecord* record_or_null) noexcept {
#if defined(DSV4_NAN_GUARD)
  kernels::guard_record = record_or_null;
  return {};
#else
  return unsupported("set_nan_guard: this library was built without DSV4_NAN_GUARD", 0);
#endif
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
