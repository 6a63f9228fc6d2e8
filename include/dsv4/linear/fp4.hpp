// FP4 expert weights as checkpoints store them: e2m1 nibbles with one UE8M0 scale per row and 32 columns.
#pragma once

#include <dsv4/core/quant.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::linear {

inline constexpr int kFp4Block = 32;

/// View of an FP4 matrix. Value (n, k) = nibble (n, k) * scale (n, k / 32); exact in bf16 and fp32.
///   data   [rows, cols/2] e2m1x2, the even column in the low nibble; cols is even
///   scale  [rows, ceil(cols/32)] UE8M0
/// Source: spec formats section 3; published kernel.py fp4_gemm.
struct Fp4Matrix {
  const e2m1x2* data;
  const e8m0* scale;
  std::int64_t rows;
  std::int64_t cols;

  DSV4_HD std::int64_t scale_cols() const { return (cols + kFp4Block - 1) / kFp4Block; }

  DSV4_HD float at(std::int64_t row, std::int64_t col) const {
    const std::uint32_t byte = data[row * (cols / 2) + col / 2].bits;
    return e2m1_to_float(col % 2 == 0 ? byte & 15u : byte >> 4) *
           to_float(scale[row * scale_cols() + col / kFp4Block]);
  }

  /// out[i] = weight (row, col + i), i < count; col and count even. Exact; for one thread.
  DSV4_HD void decode(float* out, std::int64_t row, std::int64_t col, int count) const {
    DSV4_ASSERT(col % 2 == 0 && count % 2 == 0);
    const e2m1x2* p = data + row * (cols / 2) + col / 2;
    const e8m0* s = scale + row * scale_cols();
    int i = 0;
    while (i < count) {  // one run per scale
      const float factor = to_float(s[(col + i) / kFp4Block]);
      const std::int64_t run = kFp4Block - (col + i) % kFp4Block;
      const int end = i + run < count ? i + static_cast<int>(run) : count;
      quant::fp4_decode(out + i, p + i / 2, end - i, factor);
      i = end;
    }
  }
};

}  // namespace dsv4::linear
