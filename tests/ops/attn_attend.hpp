// What the tests of attn_attend share: pools in every format, selections, and attention in double.
#pragma once

#include <dsv4/attention/attend.hpp>
#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/support/op_buffers.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/shapes.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace dsv4::test {

inline constexpr int kHeadDim = 512;
inline constexpr float kInf = std::numeric_limits<float>::infinity();

/// A pool with random rows in the slots that were put, and NaN bytes everywhere else.
class AttendPool {
 public:
  AttendPool(ops::CacheFormat format, std::int64_t slots, std::int64_t page_rows = 64,
             std::int64_t stride_bytes = 0, ops::DType dtype = ops::DType::kBf16)
      : format_(format), dtype_(dtype), slots_(slots), page_rows_(page_rows) {
    const std::int64_t value_bytes = dtype == ops::DType::kF32 ? 4 : 2;
    const std::int64_t least =
        format == ops::CacheFormat::kKv584 ? (page_rows * 584 + 15) / 16 * 16 : kHeadDim * value_bytes;
    stride_ = stride_bytes != 0 ? stride_bytes : least;
    const std::int64_t units =
        format == ops::CacheFormat::kKv584 ? (slots + page_rows - 1) / page_rows : slots;
    bytes_.assign(static_cast<std::size_t>(units * stride_ + 32), 0xff);
    first_ = (16 - reinterpret_cast<std::uintptr_t>(bytes_.data()) % 16) % 16;
    view_ = {.data = data(),
             .format = format,
             .dtype = dtype,
             .slots = slots,
             .stride = format == ops::CacheFormat::kKv584 ? stride_bytes : stride_bytes / value_bytes,
             .page_rows = static_cast<std::int32_t>(page_rows)};
  }
  AttendPool(const AttendPool&) = delete;
  AttendPool& operator=(const AttendPool&) = delete;

  std::uint8_t* data() { return bytes_.data() + first_; }
  std::size_t bytes() const { return bytes_.size() - 32; }
  std::uint8_t* page_of(std::int64_t slot) { return data() + slot / page_rows_ * stride_; }
  const ops::CachePool& view() const { return view_; }
  ops::CacheFormat format() const { return format_; }
  std::int64_t slots() const { return slots_; }

  void put(std::int64_t slot, const std::vector<double>& row) {
    if (format_ == ops::CacheFormat::kKv584)
      return oracle::put_kv_entry(page_of(slot), page_rows_, slot % page_rows_, row);
    for (int d = 0; d < kHeadDim; ++d) {
      const float x = static_cast<float>(row[std::size_t(d)]);
      if (dtype_ == ops::DType::kF32) {
        std::memcpy(data() + slot * stride_ + d * 4, &x, 4);
      } else {
        const auto code = static_cast<std::uint16_t>(oracle::bf16_nearest(x));
        std::memcpy(data() + slot * stride_ + d * 2, &code, 2);
      }
    }
  }
  std::vector<double> get(std::int64_t slot) {
    if (format_ == ops::CacheFormat::kKv584)
      return oracle::get_kv_entry(page_of(slot), page_rows_, slot % page_rows_);
    std::vector<double> row;
    for (int d = 0; d < kHeadDim; ++d) {
      if (dtype_ == ops::DType::kF32) {
        float x = 0;
        std::memcpy(&x, data() + slot * stride_ + d * 4, 4);
        row.push_back(x);
      } else {
        std::uint16_t code = 0;
        std::memcpy(&code, data() + slot * stride_ + d * 2, 2);
        row.push_back(oracle::bf16_value(code));
      }
    }
    return row;
  }
  /// Random rows in slots [first, last), blocks of channels at different sizes.
  void fill(std::int64_t first, std::int64_t last, std::uint64_t seed) {
    for (std::int64_t s = first; s < last; ++s) {
      const auto x = normal(kHeadDim, seed + static_cast<std::uint64_t>(s));
      std::vector<double> row(x.begin(), x.end());
      for (int d = 0; d < kHeadDim; ++d)
        row[std::size_t(d)] *=
            std::ldexp(1.0, static_cast<int>((std::uint64_t(s) + std::uint64_t(d / 64)) % 4));
      put(s, row);
    }
  }

 private:
  ops::CacheFormat format_;
  ops::DType dtype_;
  std::int64_t slots_, page_rows_, stride_ = 0;
  std::vector<std::uint8_t> bytes_;
  std::size_t first_ = 0;
  ops::CachePool view_;
};

inline ops::AttendSelection listed(const AttendPool& pool, const std::vector<std::int32_t>& idx,
                                   std::int64_t max_count, const std::int32_t* counts = nullptr) {
  return {.pool = pool.view(),
          .kind = ops::SelectionKind::kList,
          .idx = idx.data(),
          .counts = counts,
          .max_count = max_count};
}

/// Slots 0 .. n-1 of a pool in a fixed shuffled order, cyclic.
inline std::vector<std::int32_t> slots_of(std::int64_t n, std::int64_t slots, std::uint64_t seed) {
  std::vector<std::int32_t> idx(static_cast<std::size_t>(slots));
  for (std::size_t i = 0; i < idx.size(); ++i) idx[i] = static_cast<std::int32_t>(i);
  Random random(seed);
  for (std::size_t i = idx.size(); i > 1; --i)
    std::swap(idx[i - 1], idx[static_cast<std::size_t>(random.integer(0, static_cast<std::int64_t>(i) - 1))]);
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(idx[static_cast<std::size_t>(i % slots)]);
  return out;
}

/// Attention of one head in double, with bounds on what the documented roundings may change.
struct AttendOracle {
  std::vector<double> o, bound;
  double lse = -INFINITY;

  /// rows: [n][512], in list order; sink -inf = none.
  AttendOracle(const std::vector<double>& q, const std::vector<const std::vector<double>*>& rows,
               double scale, double sink) {
    o.assign(kHeadDim, 0.0), bound.assign(kHeadDim, 0.0);
    if (rows.empty()) return;
    std::vector<double> s, error;
    for (const auto* row : rows) {
      double dot = 0, size = 0;
      for (std::size_t d = 0; d < kHeadDim; ++d) {
        dot += q[d] * (*row)[d];
        size += std::abs(q[d] * (*row)[d]);
      }
      s.push_back(dot * scale);
      // Eight blocks of four products, each a sum of 17 terms cut at 2^-23 of the largest, scaled exactly and
      // added with one rounding; the scale, the difference to the maximum and exp: four roundings of values
      // no larger.
      error.push_back(size * scale * ((4 * 18 * 2 + 8) * kUnit) + 4 * kUnit * (std::abs(dot * scale) + 1));
    }
    const double m = *std::max_element(s.begin(), s.end());
    const double worst = *std::max_element(error.begin(), error.end());
    double sum = 0;
    std::vector<double> size(kHeadDim, 0.0);
    for (std::size_t j = 0; j < rows.size(); ++j) {
      const double w = std::exp(s[j] - m);
      sum += w;
      for (std::size_t d = 0; d < kHeadDim; ++d) {
        o[d] += w * (*rows[j])[d];
        size[d] += w * std::abs((*rows[j])[d]);
      }
    }
    lse = m + std::log(sum);
    const double denominator = sum + (sink == -INFINITY ? 0.0 : std::exp(sink - m));
    // A weight is rounded to bf16: 2^-8 of it, or 2^-133 where it is tiny. Scores shift weights and
    // denominator alike. A group's chain adds 128 terms, cut at 2^-23 each; groups merge with three
    // roundings.
    const double groups = static_cast<double>((rows.size() + 127) / 128);
    const double relative = 0x1p-8 + 2 * std::expm1(2 * worst) + (8 * 18 * 2 + 4 * groups + 40) * kUnit;
    for (std::size_t d = 0; d < kHeadDim; ++d) {
      o[d] /= denominator;
      bound[d] = relative * size[d] / denominator;
    }
    lse_bound = 2 * worst + 40 * kUnit * (1 + std::abs(lse));
  }
  double lse_bound = 0;
};

/// A batch of queries, and where its results go, with red zones.
struct AttendBatch {
  std::int64_t tokens;
  int heads;
  Rows<bf16> q, o;
  Rows<float> lse;
  std::vector<float> sink;
  std::vector<std::byte> workspace;
  ops::AttnAttendParams p;

  AttendBatch(std::int64_t t, int h, std::uint64_t seed, double size = 1.0)
      : tokens(t),
        heads(h),
        q(t * h, kHeadDim, stored<bf16>(normal(t * h * kHeadDim, seed, size))),
        o(t * h, kHeadDim),
        lse(t, h, RowLayout{0, 4}),
        sink(normal(h, seed + 1)) {
    p.o = o.data(), p.lse = lse.data(), p.q = q.data(), p.sink = sink.data();
    p.tokens = t, p.heads = h, p.head_dim = kHeadDim;
    p.scale = 1.0f / std::sqrt(512.0f);
  }

  void take_workspace() {
    const std::size_t n = ops::attn_attend_workspace_bytes(p);
    workspace.assign(n + 256, std::byte{0xff});
    const auto at = reinterpret_cast<std::uintptr_t>(workspace.data());
    p.workspace = workspace.data() + (256 - at % 256) % 256;
    p.workspace_bytes = n;
  }
  void run() {
    take_workspace();
    REQUIRE_OK(ops::attn_attend(p, nullptr));
  }
  std::vector<double> query(std::int64_t token, int head) const {
    std::vector<double> v;
    for (int d = 0; d < kHeadDim; ++d) v.push_back(value(q.row(token * heads + head)[d]));
    return v;
  }

  /// Compares one token with the oracle; rows as the token sees them.
  void check(std::int64_t token, const std::vector<const std::vector<double>*>& rows) const {
    for (int h = 0; h < heads; ++h) {
      const AttendOracle want(query(token, h), rows, double{p.scale},
                              p.sink ? double{p.sink[h]} : -double{INFINITY});
      CAPTURE(token, h, rows.size());
      for (int d = 0; d < kHeadDim; ++d) {
        const double got = value(o.row(token * heads + h)[d]), w = want.o[std::size_t(d)];
        const double before = want.bound[std::size_t(d)];  // the result is rounded to bf16
        // Where exp(sink - max) overflows, from 88.7 on, o is 0 instead of at most e^-88 times a row's value.
        const double bound = before + 0x1p-8 * (std::abs(w) + before) + 1e-36;
        if (!(std::abs(got - w) <= bound)) {
          CAPTURE(d, got, w, bound);
          FAIL("o is outside its bound");
        }
      }
      const double got = lse.row(token)[h];
      if (rows.empty())
        REQUIRE(lse.row(token)[h] == p.empty_lse);
      else
        REQUIRE(std::abs(got - want.lse) <= want.lse_bound);
    }
    REQUIRE(o.intact() == "");
    REQUIRE(lse.intact() == "");
  }
};

}  // namespace dsv4::test
