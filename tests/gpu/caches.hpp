// Pools of cached rows for the cases of tests/gpu: their geometry, and images of their memory.
#pragma once

#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/ops/cache.hpp>

#include "tests/gpu/inputs.hpp"

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace dsv4::gpu {

/// A pool without memory: pages (or rows) a little wider than they need to be.
inline ops::CachePool pool_shape(ops::CacheFormat format, std::int64_t slots, std::int32_t page_rows,
                                 std::int64_t channels, ops::DType dtype) {
  ops::CachePool p = {.format = format, .dtype = dtype, .slots = slots, .page_rows = page_rows};
  const std::int64_t row = format == ops::CacheFormat::kKv584      ? attention::KvPagePool::kEntryBytes
                           : format == ops::CacheFormat::kIndexFp4 ? attention::IndexFp4Pool::kEntryBytes
                                                                   : attention::IndexFp8Pool::kEntryBytes;
  p.stride = format == ops::CacheFormat::kRows ? channels + 16 : (page_rows * row + 15) / 16 * 16 + 48;
  return p;
}

/// Bytes of its memory.
inline std::int64_t pool_bytes(const ops::CachePool& p) {
  if (p.format == ops::CacheFormat::kRows) return p.slots * p.stride * (p.dtype == ops::DType::kF32 ? 4 : 2);
  return (p.slots + p.page_rows - 1) / p.page_rows * p.stride;
}

/// Does the slot hold a row in pool_image? The others, and all that lies between rows, are NaNs.
inline bool is_filled(std::int64_t slot) { return slot % 7 != 3; }

/// Memory of a pool whose filled slots (or all) hold normal rows [channels] T.
template <class T>
std::vector<std::uint8_t> pool_image(const ops::CachePool& p, std::int64_t channels, std::uint64_t seed,
                                     bool all = false) {
  std::vector<std::uint8_t> image(static_cast<std::size_t>(pool_bytes(p)), 0xff);
  const auto fill = [&](auto&& write) {
    for (std::int64_t slot = 0; slot < p.slots; ++slot)
      if (all || is_filled(slot))
        write(slot, normal<T>(channels, seed + static_cast<std::uint64_t>(slot)).data());
  };
  const auto fill_pages = [&](auto pool) {
    pool.pages = image.data(), pool.page_stride = p.stride;
    pool.page_entries = p.page_rows, pool.slots = p.slots;
    fill([&](std::int64_t slot, const T* row) { pool.write(SerialCoop{}, slot, row); });
  };
  switch (p.format) {
    case ops::CacheFormat::kRows:
      fill([&](std::int64_t slot, const T* row) {
        std::memcpy(image.data() + slot * p.stride * std::int64_t{sizeof(T)}, row,
                    static_cast<std::size_t>(channels) * sizeof(T));
      });
      break;
    case ops::CacheFormat::kKv584:
      fill_pages(attention::KvPagePool{});
      break;
    case ops::CacheFormat::kIndexFp4:
      fill_pages(attention::IndexFp4Pool{});
      break;
    case ops::CacheFormat::kIndexFp8:
      fill_pages(attention::IndexFp8Pool{});
      break;
  }
  return image;
}

/// e4m3 codes of n values +-(1 .. 3.75), multiples of 1/8, or +-(0.5 .. 0.94), multiples of 1/16.
inline std::vector<std::uint8_t> e4m3_codes(std::int64_t n, std::uint64_t seed) {
  std::vector<std::uint8_t> v = test::bytes(n, seed);
  for (std::uint8_t& b : v) b = static_cast<std::uint8_t>((b & 0x87) | ((6 + (b >> 3) % 3) << 3));
  return v;
}

/// UE8M0 scales 1/2, 1 and 2.
inline std::vector<std::uint8_t> scale_bytes(std::int64_t n, std::uint64_t seed) {
  std::vector<std::uint8_t> v = test::bytes(n, seed);
  for (std::uint8_t& b : v) b = static_cast<std::uint8_t>(126 + b % 3);
  return v;
}

/// pages[s, i] of a table: a permutation of 0 .. sequences * stride - 1, so that no two sequences share one.
inline std::vector<std::int32_t> page_numbers(std::int64_t sequences, std::int64_t stride,
                                              std::uint64_t seed) {
  std::vector<std::int32_t> v;
  for (std::int64_t i = 0; i < sequences * stride; ++i) v.push_back(static_cast<std::int32_t>(i));
  test::Random random(seed);
  for (std::size_t i = v.size(); i > 1; --i)
    std::swap(v[i - 1], v[static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(i) - 1))]);
  return v;
}

}  // namespace dsv4::gpu
