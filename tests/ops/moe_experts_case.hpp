// What the tests of moe_experts share: experts of every format in memory, plans, and what the op must give,
// from the documented order of summation.
#pragma once

#include <dsv4/moe/expert.hpp>
#include <dsv4/ops/moe_experts.hpp>

#include "tests/ops/linear_case.hpp"

#include <functional>

namespace dsv4::test {

inline bool is_quantising(ops::WeightFormat f) {
  return f == ops::WeightFormat::kFp8 || f == ops::WeightFormat::kFp4;
}

/// One matrix [n, k] of every expert, as bytes; experts that are not `used` are all 0xff, NaNs in each
/// format.
struct ExpertBytes {
  ops::WeightFormat format;
  std::int64_t n, k, experts, data_stride, scales_stride;
  std::shared_ptr<Rows<std::uint8_t>> data, scales;  // copies of a case share its weights

  ExpertBytes(ops::WeightFormat f, std::int64_t rows, std::int64_t cols, std::int64_t count, std::int64_t pad)
      : format(f), n(rows), k(cols), experts(count) {
    using ops::WeightFormat;
    const std::int64_t bytes = f == WeightFormat::kFp4    ? n * k / 2
                               : f == WeightFormat::kFp8  ? n * k
                               : f == WeightFormat::kBf16 ? n * k * 2
                                                          : n * k * 4;
    scales_stride = f == WeightFormat::kFp4   ? n * (k / 32)
                    : f == WeightFormat::kFp8 ? (n + 127) / 128 * chunks_of(k)
                                              : 1;
    data = std::make_shared<Rows<std::uint8_t>>(experts, bytes, RowLayout{bytes + 16 * pad, 16});
    scales =
        std::make_shared<Rows<std::uint8_t>>(experts, scales_stride, RowLayout{scales_stride + 4 * pad, 4});
    data_stride = data->stride(), scales_stride = scales->stride();
  }
  ops::ExpertMatrix view() const {
    return {.data = data->data(),
            .scales = is_quantising(format) ? scales->data() : nullptr,
            .format = format,
            .expert_stride = data_stride,
            .scales_expert_stride = is_quantising(format) ? scales_stride : 0};
  }
  /// Value of a weight, in double, from the bytes.
  double value(std::int64_t e, std::int64_t row, std::int64_t col) const {
    using ops::WeightFormat;
    const std::uint8_t *d = data->row(e), *s = scales->row(e);
    const std::int64_t i = row * k + col;
    switch (format) {
      case WeightFormat::kFp4:
        return oracle::e2m1_value(d[i / 2] >> (4 * (i % 2)) & 15u) *
               oracle::e8m0_value(s[row * (k / 32) + col / 32]);
      case WeightFormat::kFp8:
        return oracle::e4m3_value(d[i]) * oracle::e8m0_value(s[row / 128 * chunks_of(k) + col / 128]);
      case WeightFormat::kBf16:
        return oracle::bf16_value(static_cast<unsigned>(d[2 * i] | d[2 * i + 1] << 8));
      case WeightFormat::kF32: {
        float v;
        std::memcpy(&v, d + 4 * i, 4);
        return v;
      }
    }
    return oracle::kNan;
  }
  void put(std::int64_t e, std::int64_t row, std::int64_t col, float v) {  // bf16 and f32
    const std::int64_t i = row * k + col;
    if (format == ops::WeightFormat::kBf16) {
      const bf16 b = from_float<bf16>(v);
      std::memcpy(data->row(e) + 2 * i, &b, 2);
    } else {
      std::memcpy(data->row(e) + 4 * i, &v, 4);
    }
  }
  /// Random weights of about 1 / sqrt(k).
  void randomise(std::int64_t e, std::uint64_t seed) {
    Random random(seed);
    const int exponent = 127 - static_cast<int>(std::lround(std::log2(static_cast<double>(k)) / 2));
    if (!is_quantising(format)) {
      for (std::int64_t r = 0; r < n; ++r)
        for (std::int64_t c = 0; c < k; ++c)
          put(e, r, c, static_cast<float>(random.normal() / std::sqrt(static_cast<double>(k))));
      return;
    }
    const bool fp4 = format == ops::WeightFormat::kFp4;
    for (std::int64_t i = 0; i < data->cols(); ++i) {
      std::uint8_t b = static_cast<std::uint8_t>(random.bits());
      if (!fp4) b = static_cast<std::uint8_t>((b & 0x80) | random.integer(0x20, 0x3f));
      data->row(e)[i] = b;
    }
    for (std::int64_t i = 0; i < scales->cols(); ++i)
      scales->row(e)[i] = static_cast<std::uint8_t>(exponent - (fp4 ? 1 : 0) + random.integer(-2, 2));
  }
};

/// y = x w^T for rows of x, in the documented order; weights as the doubles that they are. What a scale that
/// is a power of two multiplies does not change where a sum is rounded.
inline std::vector<float> expert_product(const Factor& x, const ExpertBytes& w, std::int64_t e,
                                         std::int64_t tokens) {
  TestMatrix m{is_quantising(w.format) ? ops::WeightFormat::kFp8 : ops::WeightFormat::kBf16,
               w.n,
               w.k,
               {},
               {},
               {},
               {},
               {}};
  for (std::int64_t r = 0; r < w.n; ++r)
    for (std::int64_t c = 0; c < w.k; ++c) m.factor.values.push_back(static_cast<float>(w.value(e, r, c)));
  m.factor.scales.assign(at((w.n + 127) / 128 * chunks_of(w.k)), 1.0f);
  return ordered(x, m, tokens);
}

struct ExpertShape {
  ops::WeightFormat up = ops::WeightFormat::kFp4, down = ops::WeightFormat::kFp4;
  std::int64_t tokens = 1, hidden = 256, inner = 128;
  std::int32_t k = 2, experts = 8, first_expert = 0;
  float limit = 10.0f;
  std::int64_t pad = 0;
};

/// A batch, its experts, its routing.
struct ExpertCase {
  ExpertShape s;
  std::vector<std::int32_t> idx;
  std::vector<float> routing, x;  // [tokens, k]; [tokens, hidden] bf16 values
  ExpertBytes w1, w3, w2;

  ExpertCase(const ExpertShape& shape, std::vector<std::int32_t> experts_of, std::uint64_t seed = 1,
             double magnitude = 1.0)
      : s(shape),
        idx(std::move(experts_of)),
        routing(uniform(s.tokens * s.k, seed + 1, 0.1, 2.5)),
        x(normal_bf16(s.tokens * s.hidden, seed + 2, magnitude)),
        w1(s.up, s.inner, s.hidden, s.experts, s.pad),
        w3(s.up, s.inner, s.hidden, s.experts, s.pad),
        w2(s.down, s.hidden, s.inner, s.experts, s.pad) {
    for (std::int32_t e = 0; e < s.experts; ++e) {
      if (rows_of(e).empty()) continue;
      const auto base = seed * 7919 + 3 * static_cast<std::uint64_t>(e);
      w1.randomise(e, base), w3.randomise(e, base + 1), w2.randomise(e, base + 2);
    }
  }
  /// Pairs of a local expert, ascending.
  std::vector<std::int64_t> rows_of(std::int32_t e) const {
    std::vector<std::int64_t> pairs;
    for (std::size_t p = 0; p < idx.size(); ++p)
      if (idx[p] == s.first_expert + e) pairs.push_back(static_cast<std::int64_t>(p));
    return pairs;
  }
  std::int64_t plan_rows() const {
    std::int64_t n = 0;
    for (std::int32_t e = 0; e < s.experts; ++e) n += static_cast<std::int64_t>(rows_of(e).size());
    return n;
  }
  /// What the op must write, plan order, with tensor cores that add as an fma chain.
  std::vector<bf16> want(bool routed = true) const {
    std::vector<bf16> y;
    for (std::int32_t e = 0; e < s.experts; ++e) {
      const auto pairs = rows_of(e);
      if (pairs.empty()) continue;
      const auto n = static_cast<std::int64_t>(pairs.size());
      std::vector<float> rows;
      for (const std::int64_t p : pairs)
        rows.insert(rows.end(), x.begin() + p / s.k * s.hidden, x.begin() + (p / s.k + 1) * s.hidden);
      const Factor f = is_quantising(s.up) ? quantised(rows, s.hidden) : Factor{rows, {}};
      const auto g = rounded_to<bf16>(expert_product(f, w1, e, n));
      const auto u = rounded_to<bf16>(expert_product(f, w3, e, n));
      std::vector<float> h;
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        std::vector<bf16> row(at(s.inner));
        moe::swiglu(SerialCoop{}, row.data(), g.data() + i * at(s.inner), u.data() + i * at(s.inner),
                    static_cast<int>(s.inner), s.limit, routed ? routing[at(pairs[i])] : 1.0f);
        for (const bf16 v : row) h.push_back(test::value(v));
      }
      const Factor d = is_quantising(s.down) ? quantised(h, s.inner) : Factor{h, {}};
      for (const float v : expert_product(d, w2, e, n)) y.push_back(from_float<bf16>(v));
    }
    return y;
  }
};

/// A plan of moe_dispatch in memory.
struct ExpertPlanBuffers {
  std::vector<std::int32_t> counts, offsets, pair_of, row_of, tile_offsets, tile_expert;

  ExpertPlanBuffers(const ExpertCase& c, std::int32_t tile_rows)
      : counts(at(c.s.experts)),
        offsets(at(c.s.experts + 1)),
        pair_of(at(c.s.tokens * c.s.k), -7),
        row_of(at(c.s.tokens * c.s.k)),
        tile_offsets(at(c.s.experts + 1)),
        tile_expert(at(ops::moe_max_tiles(c.s.tokens, c.s.k, c.s.experts, tile_rows))) {
    REQUIRE_OK(ops::moe_dispatch({.plan = plan(),
                                  .idx = c.idx.data(),
                                  .tokens = c.s.tokens,
                                  .k = c.s.k,
                                  .first_expert = c.s.first_expert,
                                  .experts = c.s.experts,
                                  .tile_rows = tile_rows},
                                 nullptr));
  }
  ops::MoePlan plan() {
    return {counts.data(), offsets.data(),      pair_of.data(),
            row_of.data(), tile_offsets.data(), tile_expert.data()};
  }
};

/// Runs the op; room for tokens * k rows, of which those beyond the plan's must stay as they are.
inline std::vector<bf16> run_experts(const ExpertCase& c, std::int32_t tile_rows,
                                     const std::function<void(ops::MoeExpertsParams&)>& change = {}) {
  const ExpertShape& s = c.s;
  ExpertPlanBuffers plan(c, tile_rows);
  const Rows<bf16> x(s.tokens, s.hidden, row_of<bf16>(c.x), RowLayout{s.hidden + 8 * s.pad, 16});
  Rows<bf16> y(c.plan_rows(), s.hidden, RowLayout{s.hidden + 3 * s.pad, 2});
  ops::MoeExpertsParams p{.y = y.data(),
                          .input = {.x = x.data(), .x_stride = x.stride()},
                          .weights = {c.w1.view(), c.w3.view(), c.w2.view()},
                          .routing = c.routing.data(),
                          .plan = plan.plan(),
                          .tokens = s.tokens,
                          .hidden = s.hidden,
                          .inner = s.inner,
                          .k = s.k,
                          .experts = s.experts,
                          .tile_rows = tile_rows,
                          .limit = s.limit,
                          .y_stride = y.stride()};
  if (change) change(p);
  TestWorkspace w(ops::moe_experts_workspace_bytes(p));
  p.workspace = w.data(), p.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::moe_experts(p, nullptr));
  REQUIRE(w.intact() == "");
  REQUIRE(y.intact() == "");
  return y.values();
}

/// Equal bit for bit; NaNs where they should be.
inline std::string difference_of(const std::vector<bf16>& got, const std::vector<bf16>& want) {
  if (got.size() != want.size()) return "sizes differ";
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!identical(to_float(got[i]), to_float(want[i]))) {
      std::ostringstream text;
      text << "element " << i << ": got " << to_float(got[i]) << ", want " << to_float(want[i]);
      return text.str();
    }
  return {};
}

/// k different experts for each token, of those in [first, first + n).
inline std::vector<std::int32_t> random_experts(std::int64_t tokens, std::int32_t k, std::int32_t n,
                                                std::uint64_t seed, std::int32_t first = 0) {
  Random random(seed);
  std::vector<std::int32_t> idx;
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::int32_t> mine;
    while (static_cast<std::int32_t>(mine.size()) < k) {
      const auto e = static_cast<std::int32_t>(random.integer(first, first + n - 1));
      if (std::find(mine.begin(), mine.end(), e) == mine.end()) mine.push_back(e);
    }
    idx.insert(idx.end(), mine.begin(), mine.end());
  }
  return idx;
}

}  // namespace dsv4::test
