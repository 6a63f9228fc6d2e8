// Weight matrices stored plain, bf16 or f32, row-major [rows][cols].
#pragma once

#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::linear {

/// View of a plain matrix, one output row after the other.
///   data  [rows, cols] T, cols contiguous
template <class T>
struct PlainMatrix {
  const T* data;
  std::int64_t rows;
  std::int64_t cols;

  /// Value of one weight. Exact.
  DSV4_HD float at(std::int64_t row, std::int64_t col) const { return to_float(data[row * cols + col]); }

  /// out[i] = weight (row, col + i), i < count. Exact; for one thread.
  DSV4_HD void decode(float* out, std::int64_t row, std::int64_t col, int count) const {
    const T* p = data + row * cols + col;
    for (int i = 0; i < count; ++i) out[i] = to_float(p[i]);
  }
};

}  // namespace dsv4::linear
