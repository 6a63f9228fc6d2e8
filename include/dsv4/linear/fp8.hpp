// FP8 weight matrices as checkpoints store them: e4m3 codes with one UE8M0 scale per 128x128 tile.
#pragma once

#include <dsv4/core/quant.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::linear {

inline constexpr int kFp8Tile = 128;

/// View of an FP8 matrix. Value (n, k) = code (n, k) * scale (n / 128, k / 128); exact in bf16 and fp32.
///   data   [rows, cols] e4m3, cols contiguous
///   scale  [ceil(rows/128), ceil(cols/128)] UE8M0
/// Source: spec formats section 3; published kernel.py fp8_gemm.
struct Fp8Matrix {
  const e4m3* data;
  const e8m0* scale;
  std::int64_t rows;
  std::int64_t cols;

  DSV4_HD std::int64_t scale_cols() const { return (cols + kFp8Tile - 1) / kFp8Tile; }

  DSV4_HD float at(std::int64_t row, std::int64_t col) const {
    return to_float(data[row * cols + col]) * to_float(scale[row / kFp8Tile * scale_cols() + col / kFp8Tile]);
  }

  /// out[i] = weight (row, col + i), i < count. Exact; for one thread.
  DSV4_HD void decode(float* out, std::int64_t row, std::int64_t col, int count) const {
    const e4m3* p = data + row * cols + col;
    const e8m0* s = scale + row / kFp8Tile * scale_cols();
    int i = 0;
    while (i < count) {  // one run per scale
      const float factor = to_float(s[(col + i) / kFp8Tile]);
      const std::int64_t run = kFp8Tile - (col + i) % kFp8Tile;
      const int end = i + run < count ? i + static_cast<int>(run) : count;
      quant::fp8_decode(out + i, p + i, end - i, factor);
      i = end;
    }
  }
};

}  // namespace dsv4::linear
