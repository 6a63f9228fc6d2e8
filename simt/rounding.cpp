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

// Eight values with |x| = mantissa 2^(exponent - fraction bits), the mantissa having x's sign.
struct Decoded {
  i32x8 mantissa, exponent;
};

// `bits` fraction bits, no exponent below min_exponent; finite x have no more bits than that.
[[gnu::always_inline]] inline Decoded decode(const float* x, int bits, int min_exponent) {
  const u32x8 u = vector_at<u32x8>(x);
  const i32x8 field = (i32x8)(u >> 23 & 255), fraction = (i32x8)(u & 0x7fffff), negative = (i32x8)u >> 31;
  i32x8 mantissa = field != 0 ? fraction | 0x800000 : fraction;
  i32x8 exponent = (field != 0 ? field : i32x8{} + 1) - 127;
  const i32x8 below = exponent < min_exponent ? min_exponent - exponent : i32x8{};
  const i32x8 right = 23 - bits + below;
  mantissa = (i32x8)((u32x8)mantissa >> (u32x8)(right > 31 ? i32x8{} + 31 : right));
  exponent = mantissa != 0 ? exponent + below : i32x8{} + kZeroExponent;
  return {(mantissa ^ negative) - negative, exponent};
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

// All ones where x is not finite.
[[gnu::always_inline]] inline i32x8 not_finite(const float* x) {
  return (vector_at<u32x8>(x) & 0x7f800000u) == 0x7f800000u;
}

// Rows or columns of an operand, eight values to a vector.
struct Operand {
  alignas(32) std::int32_t mantissa[kMaxTerms][kColumns];
  alignas(32) std::int32_t exponent[kMaxTerms][kColumns];

  void put(int i, const Decoded& d) {
    std::memcpy(mantissa[i], &d.mantissa, sizeof d.mantissa);
    std::memcpy(exponent[i], &d.exponent, sizeof d.exponent);
  }
};

// sum[j] += a[n] b[n][j] over `terms` products, for eight columns j; a is given by its mantissas and
// exponents.
[[gnu::always_inline]] inline void add_aligned(const SumModel& m, int terms, const std::int32_t* a_mantissa,
                                               const std::int32_t* a_exponent,
                                               const std::int32_t (*b_mantissa)[kColumns],
                                               const std::int32_t (*b_exponent)[kColumns], float* sum) {
  const Decoded addend = decode(sum, 23, -126);
  i32x8 largest = addend.exponent;
  for (int n = 0; n < terms; ++n) {
    const i32x8 e = vector_at<i32x8>(b_exponent[n]) + a_exponent[n];
    largest = e > largest ? e : largest;
  }
  const int up = m.fraction_bits - 2 * m.element_bits;  // a product has two operands' fraction bits
  std::int64_t total[kColumns] = {};
  for (int begin = 0; begin < terms; begin += 8) {  // 8 products of fraction_bits + 2 <= 27 bits fit 32
    i32x8 partial = {};
    for (int n = begin; n < std::min(begin + 8, terms); ++n) {
      const i32x8 product = vector_at<i32x8>(b_mantissa[n]) * a_mantissa[n];
      const i32x8 sign = product >> 31;
      i32x8 right = largest - (vector_at<i32x8>(b_exponent[n]) + a_exponent[n]);
      right = right > 31 ? i32x8{} + 31 : right;
      const u32x8 magnitude = (u32x8)((product ^ sign) - sign) << up;
      partial += ((i32x8)(magnitude >> (u32x8)right) ^ sign) - sign;
    }
    for (int j = 0; j < kColumns; ++j) total[j] += partial[j];
  }
  for (int j = 0; j < kColumns; ++j) {
    const int exponent = largest[j], mantissa = addend.mantissa[j];
    if (exponent < kZeroExponent / 2) {
      sum[j] = 0.0f;
      continue;
    }
    const int right = std::min(8 + 23 - m.fraction_bits + exponent - addend.exponent[j], 63);
    const std::int64_t magnitude = std::int64_t{std::abs(mantissa)} << 8 >> right;
    sum[j] =
        pack(total[j] + (mantissa < 0 ? -magnitude : magnitude), exponent - m.fraction_bits, m.result_bits);
  }
}

void aligned(const SumModel& m, int rows, int columns, int k, const float* a, const float* b, float* d) {
  constexpr int kRows = 8;  // whose decoded operands are on the stack at a time
  for (int i0 = 0; i0 < rows; i0 += kRows) {
    Operand row;  // row i: its k values side by side, from row 4 i of the array
    static_assert(kMaxTerms / kColumns * kRows == kMaxTerms);
    bool row_finite[kRows];
    for (int i = 0; i < kRows; ++i) {
      i32x8 bad = {};
      for (int n = 0; n < k; n += kColumns) {
        const float* x = a + (i0 + i) * k + n;
        bad |= not_finite(x);
        row.put(4 * i + n / kColumns, decode(x, m.element_bits, m.min_exponent));
      }
      row_finite[i] = true;
      for (int n = 0; n < kColumns; ++n) row_finite[i] = row_finite[i] && bad[n] == 0;
    }
    for (int j0 = 0; j0 < columns; j0 += kColumns) {
      Operand column;
      i32x8 bad_columns = {};
      for (int n = 0; n < k; ++n) {
        const float* x = b + n * columns + j0;
        bad_columns |= not_finite(x);
        column.put(n, decode(x, m.element_bits, m.min_exponent));
      }
      for (int i = 0; i < kRows; ++i) {
        float* out = d + (i0 + i) * columns + j0;
        float sum[kColumns];
        std::memcpy(sum, out, sizeof sum);
        const i32x8 bad = row_finite[i] ? bad_columns | not_finite(sum) : ~i32x8{};
        for (int n = 0; n < k; n += m.terms)
          add_aligned(m, std::min(m.terms, k - n), row.mantissa[4 * i] + n, row.exponent[4 * i] + n,
                      column.mantissa + n, column.exponent + n, sum);
        for (int j = 0; j < kColumns; ++j) {
          if (!bad[j]) continue;
          sum[j] = out[j];
          for (int n = 0; n < k; ++n) sum[j] += a[(i0 + i) * k + n] * b[n * columns + j0 + j];
        }
        std::memcpy(out, sum, sizeof sum);
      }
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
