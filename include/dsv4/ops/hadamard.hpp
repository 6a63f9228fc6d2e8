// Op hadamard: the normalised Walsh-Hadamard transform of the lightning indexer's queries and keys.
#pragma once

#include <dsv4/ops/common.hpp>

namespace dsv4::ops {

/// out[r,i] = round_T( n^-1/2 * sum_j (-1)^popcount(i & j) x[r,j] ), Sylvester order      (primitive
/// hadamard)
struct HadamardParams {
  void* out = nullptr;      // [rows, n] dtype; may be x itself (same stride)
  const void* x = nullptr;  // [rows, n] dtype
  std::int64_t rows = 0;    // 0 .. 2^31-1: tokens, or tokens * heads
  std::int32_t n = 0;       // 128
  DType dtype = DType::kBf16;
  std::int64_t out_stride = 0;  // between rows; 0 = n
  std::int64_t x_stride = 0;    // between rows; 0 = n
};

inline namespace DSV4_FLAVOUR {
/// fp32 butterflies, distances 1, 2, 4, ... , one rounding. Deterministic; no workspace; does not
/// synchronise.
[[nodiscard]] DSV4_API Status hadamard(const HadamardParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
