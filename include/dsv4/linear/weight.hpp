// One view for a weight matrix of whichever type the checkpoint holds.
#pragma once

#include <dsv4/linear/bf16.hpp>
#include <dsv4/linear/fp4.hpp>
#include <dsv4/linear/fp8.hpp>

#include <cstdint>

namespace dsv4::linear {

enum class WeightType : std::int32_t {
  kF32,
  kBf16,
  kFp8,  // e4m3, UE8M0 per 128x128
  kFp4,  // e2m1, UE8M0 per row and 32 columns
};

/// A weight matrix [rows][cols] whose type is known at run time. Owns nothing.
///   data   f32, bf16, e4m3 or e2m1x2 as `type` says; aligned for it
///   scale  UE8M0 of kFp8 and kFp4, null otherwise
struct WeightView {
  WeightType type = WeightType::kF32;
  const void* data = nullptr;
  const e8m0* scale = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  bool operator==(const WeightView&) const = default;
};

/// Calls f with the typed matrix behind `w` (PlainMatrix<float>, PlainMatrix<bf16>, Fp8Matrix or Fp4Matrix).
template <class F>
DSV4_HD decltype(auto) visit(const WeightView& w, F&& f) {
  switch (w.type) {
    case WeightType::kBf16:
      return f(PlainMatrix<bf16>{static_cast<const bf16*>(w.data), w.rows, w.cols});
    case WeightType::kFp8:
      return f(Fp8Matrix{static_cast<const e4m3*>(w.data), w.scale, w.rows, w.cols});
    case WeightType::kFp4:
      return f(Fp4Matrix{static_cast<const e2m1x2*>(w.data), w.scale, w.rows, w.cols});
    case WeightType::kF32:
      break;
  }
  return f(PlainMatrix<float>{static_cast<const float*>(w.data), w.rows, w.cols});
}

/// Whether a linear with these weights quantises its activations in deploy mode (FP8 per 128 channels).
constexpr bool quantises_activations(WeightType type) {
  return type == WeightType::kFp8 || type == WeightType::kFp4;
}

}  // namespace dsv4::linear
