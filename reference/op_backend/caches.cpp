#include "reference/op_backend/caches.hpp"

#include <dsv4/attention/kv_cache.hpp>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace dsv4::reference::inline DSV4_FLAVOUR {

using attention::IndexFp4Pool;
using attention::KvPagePool;

PagedRows::PagedRows(const RowStore& like, const std::vector<std::int64_t>& rows, std::int32_t ring)
    : format_(like.format()), channels_(like.channels()), ring_(ring) {
  constexpr std::int64_t kUnit = 16;
  if (format_ == RowFormat::kF32) {  // plain rows: a unit apart, and no more between pages
    data_bytes_ = like.row_bytes();
    pitch_ = data_bytes_ + kUnit;
    page_bytes_ = kPageRows * pitch_;
  } else {
    scale_bytes_ = format_ == RowFormat::kKv584 ? KvPagePool::kScaleBytes : IndexFp4Pool::kScaleBytes;
    pitch_ = data_bytes_ = like.row_bytes() - scale_bytes_;
    page_bytes_ = (kPageRows * like.row_bytes() + kUnit - 1) / kUnit * kUnit + kUnit;
  }

  std::int64_t most = 0, used = 0;  // pages
  for (const std::int64_t n : rows) {
    const std::int64_t pages = (n + kPageRows - 1) / kPageRows;
    most = std::max(most, pages);
    used += pages;
  }
  pages_ = used + 2;  // two that nobody's rows lie in
  stride_ = most + 1;
  std::int64_t step = 7, next = 5;
  while (std::gcd(step, pages_) != 1) ++step;
  table_.assign(rows.size() * static_cast<std::size_t>(stride_), -1);
  for (std::int64_t page = 0; page < most; ++page)
    for (std::size_t s = 0; s < rows.size(); ++s) {
      if (page * kPageRows >= rows[s]) continue;
      table_[s * static_cast<std::size_t>(stride_) + static_cast<std::size_t>(page)] =
          static_cast<std::int32_t>(next % pages_);
      next += step;
    }
  bytes_.assign(static_cast<std::size_t>(pages_ * page_bytes_), 0xff);
}

std::int32_t PagedRows::slot(std::int64_t sequence, std::int64_t row) const {
  const std::int64_t r = ring_ > 0 ? row % ring_ : row;
  if (r < 0 || r / kPageRows >= stride_) return -1;
  const std::int32_t page = table_[static_cast<std::size_t>(sequence * stride_ + r / kPageRows)];
  return page < 0 ? -1 : page * kPageRows + static_cast<std::int32_t>(r % kPageRows);
}

std::size_t PagedRows::data_at(std::int64_t slot) const {
  return static_cast<std::size_t>(slot / kPageRows * page_bytes_ + slot % kPageRows * pitch_);
}

std::size_t PagedRows::scales_at(std::int64_t slot) const {
  return static_cast<std::size_t>(slot / kPageRows * page_bytes_ + kPageRows * pitch_ +
                                  slot % kPageRows * scale_bytes_);
}

void PagedRows::get(std::int64_t sequence, std::int64_t row, const RowStore& from, std::int64_t at) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(data_bytes_ + scale_bytes_));
  from.get_bytes(at, bytes.data());
  const std::int64_t s = slot(sequence, row);
  std::memcpy(bytes_.data() + data_at(s), bytes.data(), static_cast<std::size_t>(data_bytes_));
  if (scale_bytes_ > 0)
    std::memcpy(bytes_.data() + scales_at(s), bytes.data() + data_bytes_,
                static_cast<std::size_t>(scale_bytes_));
}

void PagedRows::give(std::int64_t sequence, std::int64_t row, RowStore& to, std::int64_t at) const {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(data_bytes_ + scale_bytes_));
  const std::int64_t s = slot(sequence, row);
  std::memcpy(bytes.data(), bytes_.data() + data_at(s), static_cast<std::size_t>(data_bytes_));
  if (scale_bytes_ > 0)
    std::memcpy(bytes.data() + data_bytes_, bytes_.data() + scales_at(s),
                static_cast<std::size_t>(scale_bytes_));
  to.set_bytes(at, bytes.data());
}

template <class T>
void PagedRows::put(std::int64_t sequence, std::int64_t row, const T* values) {
  RowStore one(format_, channels_);
  one.write(0, values);
  get(sequence, row, one, 0);
}

template void PagedRows::put(std::int64_t, std::int64_t, const float*);
template void PagedRows::put(std::int64_t, std::int64_t, const bf16*);

ops::CachePool PagedRows::describe() const {
  ops::CachePool pool{.slots = pages_ * kPageRows};
  switch (format_) {
    case RowFormat::kF32:
      pool.format = ops::CacheFormat::kRows;
      pool.dtype = ops::DType::kF32;
      pool.stride = pitch_ / static_cast<std::int64_t>(sizeof(float));
      return pool;
    case RowFormat::kKv584:
      pool.format = ops::CacheFormat::kKv584;
      break;
    case RowFormat::kIndexFp4:
      pool.format = ops::CacheFormat::kIndexFp4;
      break;
  }
  pool.page_rows = kPageRows;
  pool.stride = page_bytes_;
  return pool;
}

ops::CachePool PagedRows::pool(OpCall& call) const {
  ops::CachePool pool = describe();
  pool.data = const_cast<std::uint8_t*>(call.in(bytes_));
  return pool;
}

ops::CachePool PagedRows::writable_pool(OpCall& call) {
  ops::CachePool pool = describe();
  pool.data = call.in_out(bytes_);
  return pool;
}

ops::PageTable PagedRows::table(OpCall& call, const std::vector<std::int32_t>& sequence_of) const {
  return {.pages = call.in(table_),
          .sequence_of = call.in(sequence_of),
          .stride = stride_,
          .sequences = static_cast<std::int64_t>(table_.size()) / stride_,
          .page_rows = kPageRows,
          .ring = ring_};
}

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
