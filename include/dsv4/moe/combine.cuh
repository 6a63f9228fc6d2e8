// A token's outputs of its experts added up, a few neighbouring channels at a time (primitive moe::combine).
#pragma once

#include <dsv4/linear/lanes.cuh>

#include <cstdint>

namespace dsv4::moe::inline DSV4_FLAVOUR {

/// sum[i] = the rows row_of[0 .. k) of y at channel d + i, slots in order, then the shared expert.
///   y        rows of y_stride; those of row_of outside [0, rows) add nothing
///   shared   the token's; null = none
///   count    channels from d on that exist
/// kVector promises 16-byte aligned rows of whole vectors, and d at a vector.
template <bool kVector, int kN, class T>
DSV4_DEVICE void combine_span(float (&sum)[kN], const T* y, std::int64_t y_stride, std::int64_t rows,
                              const std::int32_t* row_of, int k, const T* shared, std::int64_t d,
                              std::int64_t count) {
  DSV4_UNROLL
  for (int i = 0; i < kN; ++i) sum[i] = 0.0f;
  for (int j = 0; j < k; ++j) {
    const std::int32_t row = row_of[j];
    if (row < 0 || row >= rows) continue;
    float v[kN];
    linear::load_values<kVector>(v, y + row * y_stride + d, count);
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) sum[i] += v[i];
  }
  float v[kN] = {};
  if (shared) linear::load_values<kVector>(v, shared + d, count);
  DSV4_UNROLL
  for (int i = 0; i < kN; ++i) sum[i] += v[i];
}

/// out[i] = round(sum[i]) for i < count, by accesses of 16 bytes. kVector as above, of out.
template <bool kVector, int kN, class T>
DSV4_DEVICE void store_combined(T* out, const float (&sum)[kN], std::int64_t count) {
  constexpr int kV = linear::kVectorOf<T> < kN ? linear::kVectorOf<T> : kN;
  DSV4_UNROLL
  for (int i = 0; i < kN; i += kV) {
    float part[kV];
    DSV4_UNROLL
    for (int j = 0; j < kV; ++j) part[j] = sum[i + j];
    linear::store_values<kVector>(out + i, linear::rounded<T>(part), count - i);
  }
}

}  // namespace dsv4::moe::inline DSV4_FLAVOUR
