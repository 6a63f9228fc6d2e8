// Op act_quant: activations to FP8 or FP4 codes with a power-of-two scale a block.
#pragma once

#include <dsv4/ops/common.hpp>
#include <dsv4/ops/quantised.hpp>

namespace dsv4::ops {

enum class QuantFormat : std::int32_t {
  kE4m3 = 0,  // one byte a value; blocks of 64 or 128
  kE2m1 = 1,  // two values a byte, the even channel in the low nibble; blocks of 32
};

/// For every block of `block` consecutive channels of a row: s = the block's scale,
/// code[i] = round(clamp(x[i] / s))                              (primitives quant::fp8_block,
/// quant::fp4_block)
struct ActQuantParams {
  void* codes = nullptr;    // [rows, n] e4m3, or [rows, n/2] e2m1x2; may not overlap x
  void* scales = nullptr;   // ceil(n/block) scales a row, scale_type and scale_layout; aligned to their size
  const void* x = nullptr;  // [rows, n] dtype
  std::int64_t rows = 0;    // 0 .. 2^31-1
  std::int64_t n = 0;       // 1 .. 2^31-1; the last block of a row may be shorter; e2m1: even
  std::int32_t block = 0;   // 64 or 128 (e4m3), 32 (e2m1)
  QuantFormat format = QuantFormat::kE4m3;
  ScaleType scale_type = ScaleType::kUe8m0;
  ScaleLayout scale_layout = ScaleLayout::kRowMajor;
  DType dtype = DType::kBf16;
  std::int64_t codes_stride = 0;   // bytes between rows; 0 = n (e4m3), n/2 (e2m1)
  std::int64_t scales_stride = 0;  // between rows of [rows, blocks] or [blocks, rows]; 0 = contiguous
  std::int64_t x_stride = 0;       // between rows; 0 = n
};

inline namespace DSV4_FLAVOUR {
/// Exact and deterministic; no workspace; does not synchronise. Fastest where x and x_stride are multiples of
/// 16 bytes and codes, codes_stride and n of as many values as 16 bytes of x hold.
[[nodiscard]] DSV4_API Status act_quant(const ActQuantParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
