// Indexer queries and keys in every format for the tests of attn_index_scores, what their scores must be, and
// a run of the op on them. The oracle decodes the stored bytes with oracle_formats.hpp and finds slots by
// itself: it shares no code with dsv4.
#pragma once

#include <dsv4/ops/attn_index.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

namespace dsv4::test {

inline constexpr int kIndexDim = 128;

/// What a case is made of. Nothing else tells two cases apart.
struct IndexShape {
  std::int64_t tokens = 1;
  std::int32_t heads = 64;
  std::int64_t max_entries = 64;
  ops::CacheFormat queries = ops::CacheFormat::kIndexFp4;
  ops::CacheFormat keys = ops::CacheFormat::kIndexFp4;
  ops::DType dtype = ops::DType::kBf16;  // of kRows
  std::int32_t page_rows = 64;           // of the pool
  std::int32_t table_rows = 64;          // of the page table; 0 = no table
  std::int64_t sequences = 1;            // token t belongs to t % sequences
  std::int64_t padding = 0;              // between pages and between rows of keys, in units of 16 bytes
  std::int32_t ring = 0;
  bool dense = false;     // scales as a tensor of their own
  bool integers = false;  // values whose sums are exact in fp32, in any order
  std::uint64_t seed = 1;
};

/// A score, and how far from it the op may be.
struct Expected {
  double value, bound;
};

/// Buffers, parameters and expectations. Every byte of the pool is a NaN except the keys that some token
/// sees; page 0 of the table of each sequence is not page 0 of the pool, and neighbours lie apart.
class IndexCase {
 public:
  IndexShape shape;
  std::vector<std::int32_t> visible;  // [tokens]
  std::vector<std::int32_t> pages;    // [sequences, stride]
  std::vector<std::int32_t> sequence_of;
  std::vector<std::uint8_t> q_bytes, q_scales;
  std::vector<double> q;  // [tokens, heads, kIndexDim]
  std::vector<float> weights;
  std::int64_t slots = 0, table_stride = 0;

  /// visible: one count for each token, or one for all; -1 = max_entries.
  explicit IndexCase(const IndexShape& s, std::vector<std::int32_t> counts = {-1})
      : shape(s), visible(std::move(counts)) {
    if (visible.size() == 1) visible.resize(static_cast<std::size_t>(s.tokens), visible[0]);
    for (std::int32_t& v : visible)
      if (v < 0) v = static_cast<std::int32_t>(s.max_entries);
    make_table();
    make_queries();
    make_pool();
    for (std::int64_t t = 0; t < s.tokens; ++t)
      for (std::int64_t i = 0; i < visible[std::size_t(t)]; ++i)
        if (const std::int64_t slot = slot_of(t, i); slot >= 0) write_key(slot);
  }

  /// Where entry i of token t lies, or -1.
  std::int64_t slot_of(std::int64_t t, std::int64_t i) const {
    if (shape.ring > 0) i %= shape.ring;
    if (shape.table_rows == 0) return i < slots ? i : -1;
    const std::int64_t page = i / shape.table_rows, s = sequence_of[std::size_t(t)];
    if (s < 0 || s >= shape.sequences || page >= table_stride) return -1;
    const std::int64_t number = pages[std::size_t(s * table_stride + page)];
    const std::int64_t slot = number * shape.table_rows + i % shape.table_rows;
    return number < 0 || slot >= slots ? -1 : slot;
  }

  std::uint8_t* code_bytes(std::int64_t slot) {
    if (shape.keys == ops::CacheFormat::kRows) return pool->row(slot);
    return pool->row(slot / shape.page_rows) + slot % shape.page_rows * data_bytes();
  }
  std::uint8_t* scale_bytes(std::int64_t slot) {
    const std::int64_t page = slot / shape.page_rows, row = slot % shape.page_rows;
    return shape.dense ? scales->row(page) + row * 4
                       : pool->row(page) + shape.page_rows * data_bytes() + row * 4;
  }
  /// Bytes of a key, scales apart.
  std::int64_t data_bytes() const {
    switch (shape.keys) {
      case ops::CacheFormat::kIndexFp4:
        return 64;
      case ops::CacheFormat::kIndexFp8:
        return 128;
      default:
        return kIndexDim * (shape.dtype == ops::DType::kF32 ? 4 : 2);
    }
  }

  /// A key as it is stored now.
  std::vector<double> key(std::int64_t slot) {
    std::vector<double> k;
    const std::uint8_t* codes = code_bytes(slot);
    float f32_scale = 1;
    if (shape.keys == ops::CacheFormat::kIndexFp8) std::memcpy(&f32_scale, scale_bytes(slot), 4);
    for (int d = 0; d < kIndexDim; ++d) {
      if (shape.keys == ops::CacheFormat::kIndexFp4)
        k.push_back(oracle::e2m1_value(codes[d / 2] >> (d % 2 * 4) & 15u) *
                    oracle::e8m0_value(scale_bytes(slot)[d / 32]));
      else if (shape.keys == ops::CacheFormat::kIndexFp8)
        k.push_back(oracle::e4m3_value(codes[d]) * f32_scale);
      else
        k.push_back(row_value(codes, d));
    }
    return k;
  }

  /// score[t, i]. Bound: a tensor core cuts the 17 terms of a product at 2^-23 of the largest at worst and
  /// its result once more, for 8 products (16 where it takes 8 channels at a time); then a rounding for each
  /// of at most 8 fmas of a thread, 3 additions and the key's factor.
  Expected score(std::int64_t t, std::int64_t i) {
    const std::int64_t slot = slot_of(t, i);
    if (slot < 0) return {oracle::kNan, 0};
    const std::vector<double> k = key(slot);
    double sum = 0, bound = 0;
    for (std::int64_t h = 0; h < shape.heads; ++h) {
      const double* row = &q[std::size_t((t * shape.heads + h) * kIndexDim)];
      double dot = 0, magnitude = 0;
      for (std::size_t d = 0; d < kIndexDim; ++d) dot += row[d] * k[d], magnitude += std::abs(row[d] * k[d]);
      const double w = weights[std::size_t(t * shape.heads + h)], clipped = dot < 0 ? 0 : dot;
      sum += w * clipped;
      bound += std::abs(w) * (16 * 18 * 2 * kUnit * magnitude + 13 * kUnit * clipped);
    }
    return {sum, shape.integers ? 0 : bound};
  }

  ops::IndexQueries params() {
    ops::IndexQueries p;
    p.q = q_bytes_aligned();
    p.scales = shape.queries == ops::CacheFormat::kIndexFp4 ? q_scales.data() : nullptr;
    p.weights = weights.data();
    p.keys = {.data = pool->data(),
              .scales = shape.dense ? scales->data() : nullptr,
              .format = shape.keys,
              .dtype = shape.dtype,
              .slots = slots,
              .stride = shape.keys == ops::CacheFormat::kRows ? pool->stride() / row_unit() : pool->stride(),
              .scales_stride = shape.dense ? scales->stride() : 0,
              .page_rows = shape.page_rows};
    if (shape.table_rows > 0)
      p.table = {.pages = pages.data(),
                 .sequence_of = sequence_of.data(),
                 .stride = table_stride,
                 .sequences = shape.sequences,
                 .page_rows = shape.table_rows,
                 .ring = shape.ring};
    else
      p.table = {.ring = shape.ring};
    p.visible = {.counts = visible.data()};
    p.tokens = shape.tokens, p.max_entries = shape.max_entries, p.heads = shape.heads, p.dim = kIndexDim;
    p.format = shape.queries, p.dtype = shape.dtype;
    return p;
  }

  /// Runs the op; row t keeps its poison from visible[t] on.
  std::unique_ptr<Rows<float>> run(RowLayout layout = {0, 4}) { return run(params(), layout); }
  std::unique_ptr<Rows<float>> run(const ops::IndexQueries& p, RowLayout layout = {0, 4}) {
    auto out = std::make_unique<Rows<float>>(p.tokens, std::max<std::int64_t>(p.max_entries, 1), layout);
    REQUIRE_OK(ops::attn_index_scores({.scores = out->data(), .queries = p, .scores_stride = out->stride()},
                                      nullptr));
    REQUIRE(out->intact() == "");
    return out;
  }

  /// Every score in its interval, everything else untouched.
  void check(const Rows<float>& scores) {
    CAPTURE(shape.heads, shape.max_entries, static_cast<int>(shape.queries), static_cast<int>(shape.keys),
            shape.page_rows, shape.table_rows, shape.dense);
    for (std::int64_t t = 0; t < shape.tokens; ++t) {
      for (std::int64_t i = 0; i < visible[std::size_t(t)]; ++i) {
        const Expected want = score(t, i);
        CAPTURE(t, i, scores.row(t)[i], want.value, want.bound);
        REQUIRE(within(scores.row(t)[i], want.value, want.bound));
      }
      for (std::int64_t i = visible[std::size_t(t)]; i < shape.max_entries; ++i)
        if (bits_of(scores.row(t)[i]) != 0xffffffffu) FAIL("score " << i << " was written");
    }
  }

  std::unique_ptr<Rows<std::uint8_t>> pool, scales;

 private:
  std::vector<std::uint8_t> q_storage_;

  const void* q_bytes_aligned() {
    q_storage_.assign(q_bytes.size() + 16, 0);
    const auto at = reinterpret_cast<std::uintptr_t>(q_storage_.data());
    std::uint8_t* start = q_storage_.data() + (16 - at % 16) % 16;
    std::copy(q_bytes.begin(), q_bytes.end(), start);
    return start;
  }

  std::int64_t row_unit() const { return shape.dtype == ops::DType::kF32 ? 4 : 2; }
  double row_value(const std::uint8_t* row, int d) const {
    if (shape.dtype == ops::DType::kF32) {
      float v;
      std::memcpy(&v, row + 4 * d, 4);
      return v;
    }
    return oracle::bf16_value(unsigned{row[2 * d]} | unsigned{row[2 * d + 1]} << 8);
  }
  void put_row_value(std::uint8_t* row, int d, double v) const {
    if (shape.dtype == ops::DType::kF32) {
      const auto f = static_cast<float>(v);
      std::memcpy(row + 4 * d, &f, 4);
    } else {
      const unsigned code = oracle::bf16_nearest(v);
      row[2 * d] = static_cast<std::uint8_t>(code), row[2 * d + 1] = static_cast<std::uint8_t>(code >> 8);
    }
  }
  double sample(Random& random) const {
    return shape.integers ? static_cast<double>(random.integer(-6, 6)) : random.normal();
  }
  // A code that is a number: an integer of e4m3, where those are asked for.
  std::uint8_t fp8_code(Random& random) const {
    const auto code = static_cast<std::uint8_t>(random.bits() >> 24);
    if (shape.integers)
      return static_cast<std::uint8_t>(oracle::e4m3_nearest(static_cast<double>(random.integer(-6, 6))));
    return (code & 0x7f) == 0x7f ? 0x7e : code;
  }
  std::uint8_t fp4_scale(Random& random) const {
    return static_cast<std::uint8_t>(shape.integers ? random.integer(127, 129) : random.integer(122, 132));
  }

  void make_table() {
    const IndexShape& s = shape;
    if (s.table_rows == 0) {
      slots = s.max_entries;
      sequence_of.assign(static_cast<std::size_t>(s.tokens), 0);
      return;
    }
    table_stride = (s.max_entries + s.table_rows - 1) / s.table_rows;
    const std::int64_t used = s.sequences * table_stride;
    slots = (used + 2) * s.table_rows;
    std::vector<std::int32_t> numbers(static_cast<std::size_t>(used + 2));
    std::iota(numbers.begin(), numbers.end(), 0);
    Random random(s.seed + 100);
    for (std::size_t i = numbers.size() - 1; i > 0; --i)
      std::swap(numbers[i], numbers[std::size_t(random.integer(0, static_cast<std::int64_t>(i)))]);
    pages.assign(numbers.begin(), numbers.begin() + used);
    for (std::int64_t t = 0; t < s.tokens; ++t)
      sequence_of.push_back(static_cast<std::int32_t>(t % s.sequences));
  }

  void make_queries() {
    const IndexShape& s = shape;
    Random random(s.seed);
    const std::int64_t rows = s.tokens * s.heads;
    for (std::int64_t r = 0; r < rows; ++r) {
      weights.push_back(s.integers ? static_cast<float>(random.integer(-4, 4))
                                   : static_cast<float>(random.normal()));
      std::uint8_t row[kIndexDim * 4];
      if (s.queries == ops::CacheFormat::kIndexFp4)
        for (int b = 0; b < 4; ++b) q_scales.push_back(fp4_scale(random));
      for (int d = 0; d < kIndexDim; ++d) {
        if (s.queries == ops::CacheFormat::kIndexFp4) {
          const auto nibble = static_cast<unsigned>(random.integer(0, 15));
          if (d % 2 == 0) row[d / 2] = 0;
          row[d / 2] = static_cast<std::uint8_t>(row[d / 2] | nibble << (d % 2 * 4));
          q.push_back(oracle::e2m1_value(nibble) * oracle::e8m0_value(q_scales[std::size_t(r * 4 + d / 32)]));
        } else if (s.queries == ops::CacheFormat::kIndexFp8) {
          row[d] = fp8_code(random);
          q.push_back(oracle::e4m3_value(row[d]));
        } else {
          put_row_value(row, d, sample(random));
          q.push_back(row_value(row, d));
        }
      }
      const std::int64_t n = s.queries == ops::CacheFormat::kIndexFp4   ? kIndexDim / 2
                             : s.queries == ops::CacheFormat::kIndexFp8 ? kIndexDim
                                                                        : kIndexDim * row_unit();
      q_bytes.insert(q_bytes.end(), row, row + n);
    }
  }

  void make_pool() {
    const IndexShape& s = shape;
    if (s.keys == ops::CacheFormat::kRows) {
      pool = std::make_unique<Rows<std::uint8_t>>(
          slots, data_bytes(), RowLayout{s.padding == 0 ? 0 : data_bytes() + 16 * s.padding, 16});
      return;
    }
    const std::int64_t page_count = (slots + s.page_rows - 1) / s.page_rows;
    const std::int64_t bytes = s.page_rows * (data_bytes() + (s.dense ? 0 : 4));
    pool = std::make_unique<Rows<std::uint8_t>>(page_count, bytes,
                                                RowLayout{(bytes + 15) / 16 * 16 + 16 * s.padding, 16});
    if (s.dense)
      scales = std::make_unique<Rows<std::uint8_t>>(page_count, s.page_rows * 4,
                                                    RowLayout{s.page_rows * 4 + 4 * s.padding, 4});
  }

  // The same key at a slot however often it is written.
  void write_key(std::int64_t slot) {
    Random random(shape.seed * 1000003 + static_cast<std::uint64_t>(slot));
    std::uint8_t* codes = code_bytes(slot);
    if (shape.keys == ops::CacheFormat::kIndexFp4) {
      for (int i = 0; i < 64; ++i) codes[i] = static_cast<std::uint8_t>(random.bits() >> 24);
      for (int b = 0; b < 4; ++b) scale_bytes(slot)[b] = fp4_scale(random);
    } else if (shape.keys == ops::CacheFormat::kIndexFp8) {
      for (int d = 0; d < kIndexDim; ++d) codes[d] = fp8_code(random);
      const float f32_scale = shape.integers ? static_cast<float>(1 << random.integer(0, 2))
                                             : static_cast<float>(0.001 + random.unit());
      std::memcpy(scale_bytes(slot), &f32_scale, 4);
    } else {
      for (int d = 0; d < kIndexDim; ++d) put_row_value(codes, d, sample(random));
    }
  }
};

/// Pairs of formats that tensor cores serve.
inline std::vector<std::pair<ops::CacheFormat, ops::CacheFormat>> index_formats() {
  using F = ops::CacheFormat;
  return {{F::kIndexFp4, F::kIndexFp4},
          {F::kIndexFp8, F::kIndexFp8},
          {F::kRows, F::kRows},
          {F::kRows, F::kIndexFp4},
          {F::kRows, F::kIndexFp8}};
}

}  // namespace dsv4::test
