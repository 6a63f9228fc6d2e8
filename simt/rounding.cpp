// Sums of products, eight columns at a time in vectors of the compiler, whatever the host's registers are.
#include "simt/rounding.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace dsv4::simt {
namespace {

typedef float f32x8 __attribute__((vector_size(32)));
typedef std::int32_t i32x8 __attribute__((vector_size(32)));
typedef std::uint32_t u32x8 __attribute__((vector_size(32)));
constexpr int kColumns = 8;
constexpr int kMaxTerms = 32;

// Vectors go in and out through memory: returned by a function, they would need a register of their size.
template <class V, class T>
[[gnu::always_inline]] inline V vector_at(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// ---- the fp32 chain
// ----------------------------------------------------------------------------------------
void chain(int rows, int columns, int k, const float* a, const float* b, float* d) {
  constexpr int kRows = 8;
  for (int j = 0; j < columns; j += kColumns)
    for (int i = 0; i < rows; i += kRows) {
      f32x8 sum[kRows];
      for (int r = 0; r < kRows; ++r) sum[r] = vector_at<f32x8>(d + (i + r) * columns + j);
      const float* row = a + i * k;
      for (int n = 0; n < k; ++n) {
        const f32x8 column = vector_at<f32x8>(b + n * columns + j);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sum[r] += row[r * k + n] * column;
      }
      for (int r = 0; r < kRows; ++r) std::memcpy(d + (i + r) * columns + j, &sum[r], sizeof sum[r]);
    }
}

// ---- aligned sums
// ------------------------------------------------------------------------------------------
constexpr int kZeroExponent = -100000;  // of 0: below any other, even in a sum of two

// |x| = mantissa 2^(exponent - fraction bits); the sign is x's.
struct Decoded {
  std::int32_t mantissa, exponent;
};

// `bits` fraction bits, no exponent below min_exponent; x is finite and has no more bits than that.
Decoded decode(float x, int bits, int min_exponent) {
  std::uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  const std::int32_t field = static_cast<std::int32_t>(u >> 23 & 255);
  std::int32_t mantissa = static_cast<std::int32_t>(u & 0x7fffff), exponent = -126;
  if (field) {
    mantissa |= 0x800000;
    exponent = field - 127;
  }
  if (!mantissa) return {0, kZeroExponent};
  mantissa >>= std::min(23 - bits + std::max(min_exponent - exponent, 0), 31);
  exponent = std::max(exponent, min_exponent);
  return {static_cast<std::int32_t>(u) < 0 ? -mantissa : mantissa, exponent};
}

// sum * 2^exponent, cut off at `bits` fraction bits.
float pack(std::int64_t sum, int exponent, int bits) {
  if (!sum) return 0.0f;
  std::uint64_t magnitude = static_cast<std::uint64_t>(sum < 0 ? -sum : sum);
  const int top = 63 - __builtin_clzll(magnitude);
  const int drop = std::max(top + exponent < -126 ? -126 - bits - exponent : top - bits, 0);
  magnitude = drop > 63 ? 0 : magnitude >> drop << drop;
  // Both factors and the product are exact in double, and the product's bits fit a float.
  const std::uint64_t power = static_cast<std::uint64_t>(1023 + exponent) << 52;
  double scale;
  std::memcpy(&scale, &power, sizeof scale);
  const double value = static_cast<double>(magnitude) * scale;
  return static_cast<float>(sum < 0 ? -value : value);
}

bool finite(float x) {
  std::uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return (u & 0x7f800000u) != 0x7f800000u;
}

// The operands of eight columns, decoded.
struct Columns {
  alignas(32) std::int32_t mantissa[kMaxTerms][kColumns];
  alignas(32) std::int32_t exponent[kMaxTerms][kColumns];
};

// sum[j] += a[n] b[n][j] over `terms` products, for eight columns j.
void add_aligned(const SumModel& m, int terms, const Decoded* a, const std::int32_t (*mantissa)[kColumns],
                 const std::int32_t (*exponent)[kColumns], float* sum) {
  Decoded addend[kColumns];
  alignas(32) std::int32_t largest_at[kColumns];
  for (int j = 0; j < kColumns; ++j) {
    addend[j] = decode(sum[j], 23, -126);
    largest_at[j] = addend[j].exponent;
  }
  i32x8 largest = vector_at<i32x8>(largest_at);
  for (int n = 0; n < terms; ++n) {
    const i32x8 e = vector_at<i32x8>(exponent[n]) + a[n].exponent;
    largest = e > largest ? e : largest;
  }
  const int up = m.fraction_bits - 2 * m.element_bits;  // a product has two operands' fraction bits
  std::int64_t total[kColumns] = {};
  for (int begin = 0; begin < terms; begin += 8) {  // 8 products of fraction_bits + 2 <= 27 bits fit 32
    i32x8 partial = {};
    for (int n = begin; n < std::min(begin + 8, terms); ++n) {
      const i32x8 product = vector_at<i32x8>(mantissa[n]) * a[n].mantissa;
      const i32x8 sign = product >> 31;
      i32x8 right = largest - (vector_at<i32x8>(exponent[n]) + a[n].exponent);
      right = right > 31 ? i32x8{} + 31 : right;
      const u32x8 magnitude = (u32x8)((product ^ sign) - sign) << up;
      partial += ((i32x8)(magnitude >> (u32x8)right) ^ sign) - sign;
    }
    for (int j = 0; j < kColumns; ++j) total[j] += partial[j];
  }
  for (int j = 0; j < kColumns; ++j) {
    const int exponent_of_sum = largest[j];
    if (exponent_of_sum < kZeroExponent / 2) {
      sum[j] = 0.0f;
      continue;
    }
    const int right = std::min(8 + 23 - m.fraction_bits + exponent_of_sum - addend[j].exponent, 63);
    const std::int64_t magnitude = std::int64_t{std::abs(addend[j].mantissa)} << 8 >> right;
    sum[j] = pack(total[j] + (addend[j].mantissa < 0 ? -magnitude : magnitude),
                  exponent_of_sum - m.fraction_bits, m.result_bits);
  }
}

void aligned(const SumModel& m, int rows, int columns, int k, const float* a, const float* b, float* d) {
  for (int j0 = 0; j0 < columns; j0 += kColumns) {
    Columns c;
    bool column_finite[kColumns];
    std::fill_n(column_finite, kColumns, true);
    for (int n = 0; n < k; ++n)
      for (int j = 0; j < kColumns; ++j) {
        const float x = b[n * columns + j0 + j];
        column_finite[j] = column_finite[j] && finite(x);
        const Decoded y = decode(x, m.element_bits, m.min_exponent);
        c.mantissa[n][j] = y.mantissa;
        c.exponent[n][j] = y.exponent;
      }
    for (int i = 0; i < rows; ++i) {
      Decoded row[kMaxTerms];
      bool row_finite = true;
      for (int n = 0; n < k; ++n) {
        row_finite = row_finite && finite(a[i * k + n]);
        row[n] = decode(a[i * k + n], m.element_bits, m.min_exponent);
      }
      float before[kColumns], sum[kColumns];
      std::memcpy(before, d + i * columns + j0, sizeof before);
      std::memcpy(sum, before, sizeof sum);
      for (int n = 0; n < k; n += m.terms)
        add_aligned(m, std::min(m.terms, k - n), row + n, c.mantissa + n, c.exponent + n, sum);
      for (int j = 0; j < kColumns; ++j) {
        if (row_finite && column_finite[j] && finite(before[j])) continue;
        sum[j] = before[j];
        for (int n = 0; n < k; ++n) sum[j] += a[i * k + n] * b[n * columns + j0 + j];
      }
      std::memcpy(d + i * columns + j0, sum, sizeof sum);
    }
  }
}

SumModel model(MatrixElement element, int terms, int fraction_bits, int result_bits) {
  switch (element) {
    case MatrixElement::kBf16:
      return {terms, fraction_bits, result_bits, 7, -126};
    case MatrixElement::kE4m3:
      return {terms, fraction_bits, result_bits, 3, -6};
    case MatrixElement::kTf32:
      return {terms, fraction_bits, result_bits, 10, -126};
  }
  return {};
}

}  // namespace

SumModel mma_sums(Rounding rounding, MatrixElement element) {
  if (rounding == Rounding::kChain) return {};
  if (rounding == Rounding::kAmpere) {
    if (element == MatrixElement::kE4m3) return model(element, 16, 13, 13);
    return model(element, element == MatrixElement::kTf32 ? 4 : 8, 24, 23);
  }
  SumModel m = model(element, element == MatrixElement::kTf32 ? 8 : 16, 25, 23);
  if (element == MatrixElement::kE4m3) m.min_exponent = -14;  // fp16's: every e4m3 is a normal fp16
  return m;
}

SumModel wgmma_sums(Rounding rounding, MatrixElement element) {
  if (rounding == Rounding::kChain) return {};
  return element == MatrixElement::kE4m3 ? model(element, 32, 13, 13) : model(element, 16, 25, 23);
}

void multiply_accumulate(const SumModel& model, int rows, int columns, int k, const float* a, const float* b,
                         float* d) {
  if (model.terms == 0)
    chain(rows, columns, k, a, b, d);
  else
    aligned(model, rows, columns, k, a, b, d);
}

}  // namespace dsv4::simt
