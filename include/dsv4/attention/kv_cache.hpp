// Where key-value entries and index keys live: byte layouts that engines already use, and plain rows.
// A pool is read by slot: read(slot, buffer) decodes a row, view(slot, buffer) says where the f32 row then
// is.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>
#include <type_traits>

namespace dsv4::attention {

/// Plain rows: slot i at data + i * stride.
///   data  [slots] rows of `channels` T (float or bf16); a row holds what the model computed, unquantised
template <class T>
struct RowPool {
  T* data;
  std::int64_t stride;  // elements, >= channels
  std::int64_t slots;
  int channels;

  /// Stores one row. Called by all threads of `coop`; does not synchronise.
  template <Coop C>
  DSV4_HD void write(C coop, std::int64_t slot, const T* row) const {
    for (int d = coop.rank(); d < channels; d += coop.size()) data[slot * stride + d] = row[d];
  }

  /// Decodes one row into `buffer` [channels], unless it is f32 already. For one thread.
  DSV4_HD void read(std::int64_t slot, float* buffer) const {
    if constexpr (!std::is_same_v<T, float>)
      for (int d = 0; d < channels; ++d) buffer[d] = to_float(data[slot * stride + d]);
  }
  /// Where the row is found after `read`: in place if it is f32, else in `buffer`.
  DSV4_HD const float* view(std::int64_t slot, const float* buffer) const {
    if constexpr (std::is_same_v<T, float>)
      return data + slot * stride;
    else
      return buffer;
  }
};

/// Pages of P rows: first the data of all rows of the page, then their scales. Slot s is row s mod P of page
/// s / P. In the dense form the scales are a tensor of their own, laid out by the same pages.
template <int kDataBytes_, int kScaleBytes_>
struct Pages {
  static constexpr int kDataBytes = kDataBytes_;    // of a row
  static constexpr int kScaleBytes = kScaleBytes_;  // of a row
  static constexpr int kEntryBytes = kDataBytes + kScaleBytes;

  std::uint8_t* pages;
  std::int64_t page_stride;   // bytes; >= page_entries * kEntryBytes, dense form: * kDataBytes
  std::int32_t page_entries;  // P >= 1, a power of two or not
  std::int64_t slots;
  std::uint8_t* scales_or_null = nullptr;  // dense form: the scales of the first page
  std::int64_t scales_stride = 0;          // dense form: bytes between pages of scales

  DSV4_HD std::uint8_t* data_of(std::int64_t slot) const {
    return pages + slot / page_entries * page_stride + slot % page_entries * kDataBytes;
  }
  DSV4_HD std::uint8_t* scales_of(std::int64_t slot) const {
    const std::int64_t page = slot / page_entries, row = slot % page_entries;
    return (scales_or_null ? scales_or_null + page * scales_stride
                           : pages + page * page_stride + std::int64_t{page_entries} * kDataBytes) +
           row * kScaleBytes;
  }
};

/// Byte layout of a 584-byte entry inside a page of P entries (spec formats section 1):
///     576*t + 0    448 e4m3    channels 0..447
///     576*t + 448   64 bf16    channels 448..511, already rotated
///     576*P + 8*t    7 UE8M0   one scale per 64 channels, then a pad byte that is never read
/// Pages are 16-byte aligned, their stride a multiple of 16.
struct KvPagePool : Pages<576, 8> {
  static constexpr int kQuantised = 448;                           // channels stored as e4m3
  static constexpr int kRotated = 64;                              // channels stored as bf16
  static constexpr int kScales = kQuantised / quant::kFp8KvBlock;  // 7

  /// Quantises and stores one row [512] T: blocks of 64 to FP8, the rotated channels to bf16; the pad byte is
  /// 0. Called by all threads of `coop`; does not synchronise.
  template <Coop C, class T>
  DSV4_HD void write(C coop, std::int64_t slot, const T* row) const {
    std::uint8_t* data = data_of(slot);
    std::uint8_t* scales = scales_of(slot);
    for (int b = 0; b < kScales; ++b) {
      const int begin = b * quant::kFp8KvBlock;
      const e8m0 s =
          quant::fp8_block(coop, reinterpret_cast<e4m3*>(data) + begin, row + begin, quant::kFp8KvBlock);
      if (coop.rank() == 0) scales[b] = s.bits;
    }
    if (coop.rank() == 0) scales[kScales] = 0;
    bf16* rotated = reinterpret_cast<bf16*>(data + kQuantised);
    for (int d = coop.rank(); d < kRotated; d += coop.size())
      rotated[d] = from_float<bf16>(to_float(row[kQuantised + d]));
  }

  /// Decodes one row into `buffer` [512]. Exact. For one thread.
  DSV4_HD void read(std::int64_t slot, float* buffer) const {
    const std::uint8_t* data = data_of(slot);
    const std::uint8_t* scales = scales_of(slot);
    for (int b = 0; b < kScales; ++b) {
      const int begin = b * quant::kFp8KvBlock;
      const e4m3* code = reinterpret_cast<const e4m3*>(data) + begin;
      quant::fp8_decode(buffer + begin, code, quant::kFp8KvBlock, to_float(e8m0{scales[b]}));
    }
    const bf16* rotated = reinterpret_cast<const bf16*>(data + kQuantised);
    for (int d = 0; d < kRotated; ++d) buffer[kQuantised + d] = to_float(rotated[d]);
  }
  DSV4_HD const float* view(std::int64_t, const float* buffer) const { return buffer; }
};

/// FP4 index keys, 68 bytes each (spec formats section 2): P x 64 B packed e2m1, then P x 4 UE8M0 (block 0 in
/// the lowest byte). The model's format.
struct IndexFp4Pool : Pages<64, 4> {
  static constexpr int kChannels = 128;

  /// Quantises and stores one key [128] T. Called by all threads of `coop`; does not synchronise.
  template <Coop C, class T>
  DSV4_HD void write(C coop, std::int64_t slot, const T* row) const {
    e2m1x2* data = reinterpret_cast<e2m1x2*>(data_of(slot));
    std::uint8_t* scales = scales_of(slot);
    for (int b = 0; b < kScaleBytes; ++b) {
      const int begin = b * quant::kFp4Block;
      const e8m0 s = quant::fp4_block(coop, data + begin / 2, row + begin, quant::kFp4Block);
      if (coop.rank() == 0) scales[b] = s.bits;
    }
  }

  /// Decodes one key into `buffer` [128]. Exact. For one thread.
  DSV4_HD void read(std::int64_t slot, float* buffer) const {
    const std::uint8_t* data = data_of(slot);
    const std::uint8_t* scales = scales_of(slot);
    for (int b = 0; b < kScaleBytes; ++b) {
      const int begin = b * quant::kFp4Block;
      const e2m1x2* code = reinterpret_cast<const e2m1x2*>(data) + begin / 2;
      quant::fp4_decode(buffer + begin, code, quant::kFp4Block, to_float(e8m0{scales[b]}));
    }
  }
  DSV4_HD const float* view(std::int64_t, const float* buffer) const { return buffer; }
};

/// FP8 index keys, 132 bytes each: P x 128 B e4m3, then P x 4 B, one f32 scale a key: any positive value when
/// read (engines store amax / 448), a power of two as written here.
struct IndexFp8Pool : Pages<128, 4> {
  static constexpr int kChannels = 128;

  /// Quantises and stores one key [128] T. Called by all threads of `coop`; does not synchronise.
  template <Coop C, class T>
  DSV4_HD void write(C coop, std::int64_t slot, const T* row) const {
    const e8m0 s = quant::fp8_block(coop, reinterpret_cast<e4m3*>(data_of(slot)), row, kChannels);
    if (coop.rank() == 0) *reinterpret_cast<float*>(scales_of(slot)) = to_float(s);
  }

  /// Decodes one key into `buffer` [128]: code * scale, rounded once to fp32. For one thread.
  DSV4_HD void read(std::int64_t slot, float* buffer) const {
    const e4m3* code = reinterpret_cast<const e4m3*>(data_of(slot));
    quant::fp8_decode(buffer, code, kChannels, *reinterpret_cast<const float*>(scales_of(slot)));
  }
  DSV4_HD const float* view(std::int64_t, const float* buffer) const { return buffer; }
};

/// A pool that is never selected from (a layer without compressed entries).
struct EmptyPool {
  static constexpr std::int64_t slots = 0;

  DSV4_HD void read(std::int64_t, float*) const {}
  DSV4_HD const float* view(std::int64_t, const float* buffer) const { return buffer; }
};

}  // namespace dsv4::attention
