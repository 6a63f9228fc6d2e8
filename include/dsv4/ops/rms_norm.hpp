// Op rms_norm: RMSNorm of rows, optionally quantised to FP8 in the same pass.
#pragma once

#include <dsv4/ops/common.hpp>
#include <dsv4/ops/quantised.hpp>

namespace dsv4::ops {

/// y[r,i] = round_T( weight[i] * (x[r,i] * rsqrt(mean_i x[r,i]^2 + eps)) )             (primitive rms_norm)
/// `out` receives y; `quantised` receives what act_quant (e4m3, block 128) makes of y: the rounded value is
/// quantised, so that both equal the two ops one after the other, bit for bit.
struct RmsNormParams {
  void* out = nullptr;       // [rows, n] dtype; may be x itself (same stride); null if only codes are wanted
  Fp8Output quantised = {};  // codes null if only out is wanted; may not overlap x or out
  const void* x = nullptr;   // [rows, n] dtype
  const float* weight = nullptr;  // [n] f32; null = no weight
  std::int64_t rows = 0;          // 0 .. 2^31-1
  std::int64_t n = 0;             // 1 .. 2^30
  float eps = 0.0f;               // >= 0
  DType dtype = DType::kBf16;
  std::int64_t out_stride = 0;  // between rows; 0 = n
  std::int64_t x_stride = 0;    // between rows; 0 = n
};

inline namespace DSV4_FLAVOUR {
/// fp32 inside, canonical order of summation: a row's bits depend on that row alone. Deterministic; no
/// workspace; does not synchronise. Fastest where rows and strides are multiples of 16 bytes.
[[nodiscard]] DSV4_API Status rms_norm(const RmsNormParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
