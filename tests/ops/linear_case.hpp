// What the tests of the linear ops share: matrices of every format, the order of summation spelled out, and
// an oracle in double that knows nothing of either.
#pragma once

#include <dsv4/core/norm.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/ops/linear.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

namespace dsv4::test {

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
inline std::int64_t chunks_of(std::int64_t k) { return (k + 127) / 128; }

/// Factors of a product as the tensor core gets them: rows of values, and a scale for every 128 channels.
struct Factor {
  std::vector<float> values;  // [rows, k]
  std::vector<float> scales;  // [rows or rows/128, chunks]; empty = none
};

/// A weight matrix in memory, everything around it poisoned.
struct TestMatrix {
  ops::WeightFormat format;
  std::int64_t n, k;
  std::unique_ptr<Rows<bf16>> plain;
  std::unique_ptr<Rows<e4m3>> codes;
  std::unique_ptr<Rows<float>> exact;
  std::unique_ptr<Rows<e8m0>> scales;
  Factor factor;

  ops::LinearWeight weight() const {
    using ops::WeightFormat;
    ops::LinearWeight w{.format = format};
    if (format == WeightFormat::kBf16) w.data = plain->data(), w.stride = plain->stride();
    if (format == WeightFormat::kF32) w.data = exact->data(), w.stride = exact->stride();
    if (format == WeightFormat::kFp8) {
      w.data = codes->data(), w.stride = codes->stride();
      w.scales = scales->data(), w.scales_stride = scales->stride();
    }
    return w;
  }
  double value(std::int64_t row, std::int64_t channel) const {
    const double v = factor.values[at(row * k + channel)];
    return format == ops::WeightFormat::kFp8 ? v * factor.scales[at(row / 128 * chunks_of(k) + channel / 128)]
                                             : v;
  }
};

/// FP8 weights from code and scale bytes; `pad` is how much the strides exceed the rows, in 16 bytes.
inline TestMatrix fp8_matrix(std::int64_t n, std::int64_t k, const std::vector<std::uint8_t>& codes,
                             const std::vector<std::uint8_t>& scales, std::int64_t pad = 0) {
  TestMatrix m{ops::WeightFormat::kFp8, n, k, {}, {}, {}, {}, {}};
  m.codes = std::make_unique<Rows<e4m3>>(n, k, RowLayout{k + 16 * pad, 16});
  m.scales = std::make_unique<Rows<e8m0>>((n + 127) / 128, chunks_of(k), RowLayout{chunks_of(k) + pad, 1});
  std::vector<e4m3> c;
  std::vector<e8m0> s;
  for (const std::uint8_t b : codes) {
    c.push_back({b});
    m.factor.values.push_back(static_cast<float>(oracle::e4m3_value(b)));
  }
  for (const std::uint8_t b : scales) {
    s.push_back({b});
    m.factor.scales.push_back(static_cast<float>(oracle::e8m0_value(b)));
  }
  m.codes->set(c), m.scales->set(s);
  return m;
}

/// A matrix of any format with random contents.
inline TestMatrix random_matrix(ops::WeightFormat format, std::int64_t n, std::int64_t k, std::uint64_t seed,
                                std::int64_t pad = 0) {
  if (format == ops::WeightFormat::kFp8) {
    std::vector<std::uint8_t> codes = bytes(n * k, seed),
                              scales = bytes((n + 127) / 128 * chunks_of(k), seed + 1);
    for (std::uint8_t& c : codes)
      if ((c & 0x7f) == 0x7f) c = 0;
    for (std::uint8_t& s : scales) s = static_cast<std::uint8_t>(110 + s % 12);
    return fp8_matrix(n, k, codes, scales, pad);
  }
  TestMatrix m{format, n, k, {}, {}, {}, {}, {}};
  m.factor.values = format == ops::WeightFormat::kBf16 ? normal_bf16(n * k, seed) : normal(n * k, seed);
  if (format == ops::WeightFormat::kBf16)
    m.plain = std::make_unique<Rows<bf16>>(n, k, row_of<bf16>(m.factor.values), RowLayout{k + 8 * pad, 16});
  else
    m.exact = std::make_unique<Rows<float>>(n, k, m.factor.values, RowLayout{k + pad, 4});
  return m;
}

/// Rows of x through RMSNorm (where weight is not null), rounded to bf16: primitive rms_norm.
inline std::vector<float> normed(const std::vector<float>& x, std::int64_t k, const float* weight,
                                 float eps) {
  std::vector<float> out;
  std::vector<bf16> row(at(k));
  for (std::size_t first = 0; first < x.size(); first += at(k)) {
    for (std::size_t i = 0; i < at(k); ++i) row[i] = cast_to<bf16>(x[first + i]);
    rms_norm(SerialCoop{}, row.data(), row.data(), weight, static_cast<int>(k), eps);
    for (const bf16 v : row) out.push_back(value(v));
  }
  return out;
}

/// Rows quantised to FP8 per 128 channels, by the oracle of formats: values of codes, and scales.
inline Factor quantised(const std::vector<float>& x, std::int64_t k) {
  Factor f;
  for (std::size_t first = 0; first < x.size(); first += at(k))
    for (std::int64_t c = 0; c < k; c += 128) {
      const std::size_t begin = first + at(c), end = first + at(std::min(k, c + 128));
      double largest = 0;
      for (std::size_t i = begin; i < end; ++i)
        largest =
            std::isfinite(x[i]) && !(largest > 1e300) ? std::max(largest, std::abs(double{x[i]})) : 1e301;
      const unsigned scale = oracle::fp8_scale_byte(largest > 1e300 ? oracle::kNan : largest);
      f.scales.push_back(static_cast<float>(oracle::e8m0_value(scale)));
      for (std::size_t i = begin; i < end; ++i) {
        const unsigned code = scale == 255 ? 0 : oracle::e4m3_nearest(x[i] / oracle::e8m0_value(scale));
        f.values.push_back(static_cast<float>(oracle::e4m3_value(code)));
      }
    }
  return f;
}

/// Products in the order that linear/mma_weights.cuh documents, with tensor cores that add as an fma chain in
/// ascending k: chunks of 128 channels; in a chunk, groups of 4 * load; product p of a group takes channels
/// load * lane + 4p + {0, 1} of the four lanes, then those + 2.
inline std::vector<float> ordered(const Factor& x, const TestMatrix& w, std::int64_t tokens) {
  const std::int64_t load = w.format == ops::WeightFormat::kFp8 ? 16 : 8, k = w.k, chunks = chunks_of(k);
  std::vector<std::int64_t> order;
  for (std::int64_t group = 0; group < 128; group += 4 * load)
    for (std::int64_t p = 0; p < load / 4; ++p)
      for (std::int64_t half = 0; half < 4; half += 2)
        for (std::int64_t lane = 0; lane < 4; ++lane)
          for (std::int64_t i = 0; i < 2; ++i) order.push_back(group + load * lane + 4 * p + half + i);
  std::vector<float> y;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t row = 0; row < w.n; ++row) {
      const float *a = x.values.data() + t * k, *b = w.factor.values.data() + row * k;
      float total = 0;
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        float part = 0;
        for (const std::int64_t i : order) {
          const std::int64_t c = chunk * 128 + i;
          part = std::fmaf(c < k ? a[c] : 0.0f, c < k ? b[c] : 0.0f, part);
        }
        if (!x.scales.empty()) part *= x.scales[at(t * chunks + chunk)];
        if (w.format == ops::WeightFormat::kFp8) part *= w.factor.scales[at(row / 128 * chunks + chunk)];
        total += part;
      }
      y.push_back(total);
    }
  return y;
}

/// The exact product, and the sum of its terms' magnitudes.
struct Exact {
  double value = 0, magnitude = 0;
};
inline Exact exact_product(const Factor& x, const TestMatrix& w, std::int64_t token, std::int64_t row) {
  Exact e;
  for (std::int64_t c = 0; c < w.k; ++c) {
    double term = double{x.values[at(token * w.k + c)]} * w.value(row, c);
    if (!x.scales.empty()) term *= x.scales[at(token * chunks_of(w.k) + c / 128)];
    e.value += term, e.magnitude += std::abs(term);
  }
  return e;
}

/// How far a product may lie from exact, in units of its terms' magnitudes. Terms of one tensor-core product
/// and its addend, 17, are cut at 2^-23 of the largest at worst, and its result is cut once; a chunk is 8
/// products (16 where the device takes 8 channels at a time); the chunks are added with one rounding each.
inline double product_bound(std::int64_t k) {
  return 16 * 18 * 2 * kUnit + static_cast<double>(chunks_of(k)) * kUnit;
}

template <class T>
std::vector<T> rounded_to(const std::vector<float>& v) {
  std::vector<T> out;
  for (const float f : v) out.push_back(from_float<T>(f));
  return out;
}

/// Memory that an op asked for: exactly as much, poisoned, 256-byte aligned.
class TestWorkspace {
 public:
  explicit TestWorkspace(std::size_t bytes)
      : rows_(1, std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes)), RowLayout{0, 256}),
        bytes_(bytes) {}
  void* data() { return bytes_ == 0 ? nullptr : rows_.data(); }
  std::size_t bytes() const { return bytes_; }
  std::string intact() const { return rows_.intact(); }

 private:
  Rows<std::uint8_t> rows_;
  std::size_t bytes_;
};

/// linear_multi with a workspace of its size.
inline void run_linear(ops::LinearMultiParams p) {
  TestWorkspace w(ops::linear_multi_workspace_bytes(p));
  p.workspace = w.data(), p.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::linear_multi(p, nullptr));
  REQUIRE(w.intact() == "");
}

}  // namespace dsv4::test
