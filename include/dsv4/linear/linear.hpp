// A linear layer: rows of activations times a weight matrix of any stored type.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/linear/dot.hpp>
#include <dsv4/linear/weight.hpp>

#include <cstdint>

namespace dsv4::linear {

/// Rows of weights decoded at a time: the scratch of `tile` holds kDecodeRows * cols f32.
inline constexpr int kDecodeRows = 4;

/// y[t, n] = round_T( sum_k x[t,k] * w[n,k] ) for the rows n in [begin, end) of w.   (spec section 2)
///   y        T rows: element (t, n) at y[t * y_stride + n]
///   x        [tokens, w.cols] f32 rows: float(bf16) values, or what fp8_round_trip made of them
///   scratch  [kDecodeRows * w.cols] f32, shared by the group
/// The FP8 x FP8 and FP8 x FP4 products of the model are this with x already quantised and dequantised: code
/// times power of two is exact, and so is every product of two of them, so scaling before or after the sum is
/// one value. Each y is a canonical dot: the same whatever the tile or the batch. Called by all threads of
/// `coop`; synchronises.
template <Coop C, class T, class M>
DSV4_HD void tile(C coop, T* y, std::int64_t y_stride, const RowsF32& x, int tokens, const M& w,
                  std::int64_t begin, std::int64_t end, float* scratch) {
  const int cols = static_cast<int>(w.cols);
  for (std::int64_t n = begin; n < end; n += kDecodeRows) {
    const int rows = end - n < kDecodeRows ? static_cast<int>(end - n) : kDecodeRows;
    for (int r = coop.rank(); r < rows; r += coop.size())
      w.decode(scratch + std::int64_t{r} * cols, n + r, 0, cols);
    coop.sync();
    dot_tile(coop, x, tokens, RowsF32{scratch, cols}, rows, cols, [&](int t, int r, float sum) {
      if (coop.rank() == 0) y[t * y_stride + n + r] = from_float<T>(sum);
    });
    coop.sync();
  }
}

/// The same for a matrix whose type is known at run time.
template <Coop C, class T>
DSV4_HD void tile(C coop, T* y, std::int64_t y_stride, const RowsF32& x, int tokens, const WeightView& w,
                  std::int64_t begin, std::int64_t end, float* scratch) {
  visit(w, [&](const auto& matrix) { tile(coop, y, y_stride, x, tokens, matrix, begin, end, scratch); });
}

}  // namespace dsv4::linear
