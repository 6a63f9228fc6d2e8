// Shards of the ops that engines split over ranks, on the SIMT machine: fp32 partial sums added up in the
// order of the ranks against the whole op, exactly where nothing is added, else within a derived bound.
#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/mhc.hpp>

#include "tests/ops/moe_fused_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::at;
using test::Factor;
using test::kUnit;
using test::kUnitBf16;
using test::RowLayout;
using test::Rows;
using test::TestMatrix;

namespace {

/// First element of part r of n elements in `ranks` parts, which differ by one where ranks does not divide n.
std::int64_t part(std::int64_t n, int ranks, int r) { return n * r / ranks; }

/// How far a sum of n terms by fp32 additions in any order may lie from exact, in units of their magnitudes.
double sum_bound(std::int64_t n) {
  const double nu = static_cast<double>(n) * kUnit;
  return nu / (1 - nu);
}

std::vector<float> added(std::vector<float> sum, const std::vector<float>& partial) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += partial[i];
  return sum;
}

/// Rows [first, ...) of a matrix, as a shard's parameters name them.
ops::LinearWeight rows_from(const TestMatrix& m, std::int64_t first) {
  ops::LinearWeight w = m.weight();
  const std::int64_t bytes = m.format == WeightFormat::kFp8 ? 1 : 2;
  w.data = static_cast<const std::byte*>(w.data) + first * w.stride * bytes;
  w.scales_row = m.format == WeightFormat::kFp8 ? first : 0;
  return w;
}
/// Columns [first, ...); a multiple of 128 with FP8.
ops::LinearWeight columns_from(const TestMatrix& m, std::int64_t first) {
  ops::LinearWeight w = m.weight();
  const std::int64_t bytes = m.format == WeightFormat::kFp8 ? 1 : 2;
  w.data = static_cast<const std::byte*>(w.data) + first * bytes;
  if (w.scales) w.scales = static_cast<const e8m0*>(w.scales) + first / 128;
  return w;
}

constexpr int kHeadDim = 512;

/// The way out of attention: whole groups to a rank.
struct OutProjection {
  std::int64_t tokens, hidden;
  int heads, groups, rank;
  Rows<bf16> o;
  TestMatrix wo_a, wo_b;

  OutProjection(std::int64_t t, int h, int g, int r, WeightFormat a, WeightFormat b)
      : tokens(t),
        hidden(40),
        heads(h),
        groups(g),
        rank(r),
        o(t, h * kHeadDim, test::row_of<bf16>(test::normal(t * h * kHeadDim, 1))),
        wo_a(test::random_matrix(a, std::int64_t{g} * r, h / g * kHeadDim, 2, 1)),
        wo_b(test::random_matrix(b, hidden, std::int64_t{g} * r, 3, 1)) {}

  std::int64_t k() const { return std::int64_t{groups} * rank; }
  std::int64_t group_channels() const { return heads / groups * std::int64_t{kHeadDim}; }

  /// y of groups [first, first + count).
  template <class T>
  std::vector<T> run(int first, int count) const {
    Rows<T> y(tokens, hidden, RowLayout{hidden + 3, 4});
    ops::AttnOutProjParams p = {.y = y.data(),
                                .o = o.data() + first * group_channels(),
                                .wo_a = rows_from(wo_a, std::int64_t{first} * rank),
                                .wo_b = columns_from(wo_b, std::int64_t{first} * rank),
                                .tokens = tokens,
                                .hidden = hidden,
                                .heads = heads / groups * count,
                                .head_dim = kHeadDim,
                                .groups = count,
                                .rank = rank,
                                .y_f32 = sizeof(T) == sizeof(float),
                                .o_stride = o.stride(),
                                .y_stride = y.stride()};
    test::TestWorkspace w(ops::attn_out_proj_workspace_bytes(p));
    p.workspace = w.data(), p.workspace_bytes = w.bytes();
    REQUIRE_OK(ops::attn_out_proj(p, nullptr));
    REQUIRE(w.intact() == "");
    REQUIRE(y.intact() == "");
    return y.values();
  }
  /// What Wo_b multiplies: z of every group, as a product of its own.
  Factor z() const {
    Rows<bf16> all(tokens, k());
    ops::LinearMultiParams p = {
        .count = groups, .input = {.x = o.data()}, .tokens = tokens, .k = group_channels()};
    for (int g = 0; g < groups; ++g)
      p.parts[g] = {.y = all.data() + std::int64_t{g} * rank,
                    .weight = rows_from(wo_a, std::int64_t{g} * rank),
                    .n = rank,
                    .x_column = g * group_channels(),
                    .y_stride = k()};
    test::run_linear(p);
    std::vector<float> values;
    for (const bf16 v : all.values()) values.push_back(test::value(v));
    return wo_b.format == WeightFormat::kFp8 ? test::quantised(values, k()) : Factor{values, {}};
  }
};

}  // namespace

TEST_CASE("attn_out_proj by groups: partial sums add up to the whole", "[ops][attn_out_proj][parallel]") {
  struct Widths {
    int rank, ranks;
    WeightFormat a, b;
  };
  using W = WeightFormat;
  // rank 128 divides tiles of scales; 64 shares a tile of Wo_a between two ranks; 48 lies across two.
  const Widths s = GENERATE(Widths{128, 1, W::kFp8, W::kFp8}, Widths{128, 2, W::kFp8, W::kFp8},
                            Widths{128, 4, W::kFp8, W::kFp8}, Widths{64, 2, W::kFp8, W::kFp8},
                            Widths{64, 4, W::kFp8, W::kBf16}, Widths{48, 2, W::kFp8, W::kBf16},
                            Widths{48, 4, W::kBf16, W::kBf16});
  const std::int64_t tokens = GENERATE(1, 11);
  if (test::reduced() && tokens > 1) return;
  CAPTURE(s.rank, s.ranks, static_cast<int>(s.a), static_cast<int>(s.b), tokens);
  const OutProjection c(tokens, 4, 4, s.rank, s.a, s.b);
  const std::vector<float> whole = c.run<float>(0, 4);
  REQUIRE(test::difference_of(c.run<bf16>(0, 4), test::rounded_to<bf16>(whole)) ==
          "");  // y_f32 leaves out the rounding alone

  std::vector<float> sum(whole.size(), 0.0f);
  for (int r = 0; r < s.ranks; ++r) sum = added(sum, c.run<float>(4 / s.ranks * r, 4 / s.ranks));
  if (s.ranks == 1) REQUIRE(sum == whole);
  const Factor z = c.z();
  // A shard's z has the whole's bits, quantised or not. Its product is as exact as any of its width, and the
  // ranks' sums lose one rounding each.
  const double whole_bound = test::product_bound(c.k());
  const double shards_bound = test::product_bound(c.k() / s.ranks) + (1 + whole_bound) * sum_bound(s.ranks);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t d = 0; d < c.hidden; ++d) {
      const test::Exact e = test::exact_product(z, c.wo_b, t, d);
      CAPTURE(t, d);
      REQUIRE(test::within(whole[at(t * c.hidden + d)], e.value, whole_bound * e.magnitude));
      REQUIRE(test::within(sum[at(t * c.hidden + d)], e.value, shards_bound * e.magnitude));
    }
}

namespace {

std::vector<float> run_fused_f32(const test::FusedCase& c, const test::FusedChange& change) {
  const test::ExpertShape& s = c.shape();
  Rows<float> out(s.tokens, s.hidden, RowLayout{s.hidden + 4, 16});
  test::run_fused(c, [&](ops::MoeFusedParams& p) {
    change(p);
    p.out = out.data(), p.out_stride = out.stride(), p.out_f32 = true;
  });
  REQUIRE(out.intact() == "");
  return out.values();
}

/// Plan rows as moe_experts leaves them, added up in fp32.
std::vector<float> run_combine_f32(const test::ExpertCase& c, const std::vector<bf16>& y,
                                   const std::vector<bf16>* shared) {
  test::ExpertPlanBuffers plan(c, 8);
  Rows<float> out(c.s.tokens, c.s.hidden, RowLayout{c.s.hidden + 1, 4});
  const std::vector<bf16> none(1);
  REQUIRE_OK(ops::moe_combine({.out = out.data(),
                               .y = y.empty() ? none.data() : y.data(),
                               .shared = shared ? shared->data() : nullptr,
                               .row_of = plan.row_of.data(),
                               .tokens = c.s.tokens,
                               .rows = c.plan_rows(),
                               .hidden = c.s.hidden,
                               .k = c.s.k,
                               .out_f32 = true,
                               .out_stride = out.stride()},
                              nullptr));
  REQUIRE(out.intact() == "");
  return out.values();
}

/// Magnitudes of what is added up for each element of the output.
std::vector<double> magnitudes(const test::ExpertCase& c, const std::vector<bf16>& y,
                               const std::vector<bf16>* shared) {
  test::ExpertPlanBuffers plan(c, 8);
  std::vector<double> m;
  for (std::int64_t t = 0; t < c.s.tokens; ++t)
    for (std::int64_t d = 0; d < c.s.hidden; ++d) {
      double sum = shared ? std::abs(test::value((*shared)[at(t * c.s.hidden + d)])) : 0.0;
      for (int j = 0; j < c.s.k; ++j)
        if (const std::int32_t row = plan.row_of[at(t * c.s.k + j)]; row >= 0)
          sum += std::abs(test::value(y[at(row * c.s.hidden + d)]));
      m.push_back(sum);
    }
  return m;
}

}  // namespace

TEST_CASE("experts by ranges, the shared one on the first rank: partial sums add up to the whole",
          "[ops][moe][parallel]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8);
  if (test::reduced() && format == WeightFormat::kFp8) return;
  const int experts = 7, k = 3;  // no number of ranks divides 7
  const test::ExpertShape s{
      .up = format, .down = format, .tokens = 6, .hidden = 160, .inner = 96, .k = k, .experts = experts};
  const test::FusedCase whole(s, test::random_experts(s.tokens, k, experts, 3), 5, WeightFormat::kFp8);
  const std::vector<float> want = run_fused_f32(whole, [](auto&) {});
  REQUIRE(test::difference_of(test::run_fused(whole), test::rounded_to<bf16>(want)) ==
          "");  // out_f32 leaves out the rounding alone

  const std::vector<bf16> y = test::run_experts(whole.routed, 8);
  const std::vector<bf16> shared =
      test::run_experts(*whole.shared, 8, [](ops::MoeExpertsParams& p) { p.plan = {}, p.routing = nullptr; });
  const std::vector<double> magnitude = magnitudes(whole.routed, y, &shared);
  for (const int ranks : {1, 2, 4}) {
    std::vector<float> sum(want.size(), 0.0f);
    for (int r = 0; r < ranks; ++r) {
      const auto first = static_cast<std::int32_t>(part(experts, ranks, r));
      const std::int32_t count = static_cast<std::int32_t>(part(experts, ranks, r + 1)) - first;
      const auto shard = [&](ops::MoeFusedParams& p) {
        p.first_expert = first, p.experts = count;
        for (ops::ExpertMatrix* m : {&p.weights.w1, &p.weights.w3, &p.weights.w2}) {
          m->data = static_cast<const std::byte*>(m->data) + first * m->expert_stride;
          m->scales = static_cast<const std::byte*>(m->scales) + first * m->scales_expert_stride;
        }
        if (r > 0) p.shared = {};
      };
      sum = added(sum, run_fused_f32(whole, shard));
    }
    CAPTURE(ranks, static_cast<int>(format));
    // The same k + 1 terms in two orders: each row's bits depend on its token and its expert alone.
    for (std::size_t i = 0; i < want.size(); ++i)
      REQUIRE(test::within(sum[i], want[i], 2 * sum_bound(k + ranks) * magnitude[i]));
    if (ranks == 1) REQUIRE(sum == want);
  }
  REQUIRE(run_combine_f32(whole.routed, y, &shared) == want);
}

namespace {

/// Shard r of an expert's inner channels: rows of W1 and W3, and columns of W2, which a loader copies. Tiles
/// of FP8 scales and blocks of quantised activations are 128 channels, so shards of multiples of 128 cut
/// none.
test::ExpertCase inner_shard(const test::ExpertCase& whole, int ranks, int r) {
  test::ExpertShape s = whole.s;
  s.inner /= ranks;
  test::ExpertCase shard(s, whole.idx);
  shard.routing = whole.routing, shard.x = whole.x;
  const auto copy = [](test::ExpertBytes& to, const test::ExpertBytes& from, std::int64_t row,
                       std::int64_t col) {
    // Bytes of `cols` columns; FP4: of 2, scales of 32 columns and one row; FP8: of 128 and 128.
    const bool fp4 = from.format == WeightFormat::kFp4;
    const auto bytes = [&](std::int64_t cols) { return fp4 ? cols / 2 : cols; };
    const std::int64_t tile_rows = fp4 ? 1 : 128, tile_cols = fp4 ? 32 : 128;
    for (std::int64_t e = 0; e < from.experts; ++e) {
      for (std::int64_t i = 0; i < to.n; ++i)
        std::memcpy(to.data->row(e) + i * bytes(to.k),
                    from.data->row(e) + (row + i) * bytes(from.k) + bytes(col), at(bytes(to.k)));
      const std::int64_t to_cols = (to.k + tile_cols - 1) / tile_cols;
      const std::int64_t from_cols = (from.k + tile_cols - 1) / tile_cols;
      for (std::int64_t i = 0; i < (to.n + tile_rows - 1) / tile_rows; ++i)
        std::memcpy(to.scales->row(e) + i * to_cols,
                    from.scales->row(e) + (row / tile_rows + i) * from_cols + col / tile_cols, at(to_cols));
    }
  };
  copy(shard.w1, whole.w1, r * s.inner, 0);
  copy(shard.w3, whole.w3, r * s.inner, 0);
  copy(shard.w2, whole.w2, 0, r * s.inner);
  return shard;
}

}  // namespace

TEST_CASE("experts by inner channels: partial sums add up to the whole", "[ops][moe][parallel]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8);
  const int ranks = GENERATE(2, 4);
  if (test::reduced() && ranks == 4) return;
  const test::ExpertShape s{
      .up = format, .down = format, .tokens = 3, .hidden = 96, .inner = 128 * ranks, .k = 2, .experts = 3};
  const test::ExpertCase whole(s, test::random_experts(s.tokens, s.k, s.experts, 3));
  const std::vector<bf16> y = test::run_experts(whole, 8);
  const std::vector<float> want = run_combine_f32(whole, y, nullptr);
  std::vector<float> sum(want.size(), 0.0f);
  std::vector<double> parts(want.size(), 0.0);
  for (int r = 0; r < ranks; ++r) {
    const test::ExpertCase shard = inner_shard(whole, ranks, r);
    const std::vector<bf16> shard_y = test::run_experts(shard, 8);
    sum = added(sum, run_combine_f32(shard, shard_y, nullptr));
    const auto m = magnitudes(shard, shard_y, nullptr);
    for (std::size_t i = 0; i < m.size(); ++i) parts[i] += m[i];
  }
  // A shard is one chunk of 128 channels, so its product before rounding is a term c_r of the whole's, whose
  // y is round(sum of c_r). Rounded to bf16: the whole once, each shard once; added in fp32: the shards'
  // terms in the whole, the pairs, and the ranks.
  const auto magnitude = magnitudes(whole, y, nullptr);
  const double rounded = kUnitBf16 / (1 - kUnitBf16);
  CAPTURE(ranks, static_cast<int>(format));
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double bound =
        rounded * (magnitude[i] + parts[i]) +
        (1 + 2 * rounded) * (sum_bound(2 * ranks + s.k) * parts[i] + sum_bound(s.k) * magnitude[i]);
    REQUIRE(test::within(sum[i], want[i], bound));
  }
}

TEST_CASE("mhc_post of partial sums rounds them first, mhc_post_pre too", "[ops][mhc][parallel]") {
  const std::int64_t tokens = GENERATE(1, 5, 80), hidden = 96;
  if (test::reduced() && tokens == 5) return;
  const Rows<bf16> streams(tokens, 4 * hidden, test::row_of<bf16>(test::normal(tokens * 4 * hidden, 1)));
  const std::vector<float> sums = test::normal(tokens * hidden, 2);
  const Rows<float> wide(tokens, hidden, sums, RowLayout{hidden + 8, 16});
  const Rows<bf16> y(tokens, hidden, test::rounded_to<bf16>(sums));
  const Rows<float> post(tokens, 4, test::uniform(tokens * 4, 3, 0, 2)),
      comb(tokens, 16, test::uniform(tokens * 16, 4, 0, 1)),
      fn(24, 4 * hidden, test::normal(96 * hidden, 5, 0.1)), scale(1, 3, {0.5f, 0.25f, 1.0f}),
      base(1, 24, test::normal(24, 6));
  Rows<bf16> want(tokens, 4 * hidden), got(tokens, 4 * hidden), mixed(tokens, 4 * hidden);
  const ops::MhcPostParams p = {.out = want.data(),
                                .y = y.data(),
                                .streams = streams.data(),
                                .post = post.data(),
                                .comb = comb.data(),
                                .tokens = tokens,
                                .hidden = hidden,
                                .stream_count = 4};
  REQUIRE_OK(ops::mhc_post(p, nullptr));
  ops::MhcPostParams q = p;
  q.out = got.data(), q.y = wide.data(), q.y_stride = wide.stride(), q.y_f32 = true;
  REQUIRE_OK(ops::mhc_post(q, nullptr));
  REQUIRE_ROWS(got, want.values());

  const auto run = [&](const ops::MhcPostParams& site, Rows<bf16>& x, Rows<float>& next) {
    ops::MhcPostPreParams both = {.post = site,
                                  .pre = {.x = x.data(),
                                          .post = next.data(),
                                          .comb = next.data() + 4,
                                          .streams = site.out,
                                          .fn = fn.data(),
                                          .scale = scale.data(),
                                          .base = base.data(),
                                          .tokens = tokens,
                                          .hidden = hidden,
                                          .stream_count = 4,
                                          .sinkhorn_iterations = 20,
                                          .mix_eps = 1e-6f,
                                          .hc_eps = 1e-6f,
                                          .post_stride = 20,
                                          .comb_stride = 20}};
    test::TestWorkspace w(ops::mhc_post_pre_workspace_bytes(both));
    both.pre.workspace = w.data(), both.pre.workspace_bytes = w.bytes();
    REQUIRE_OK(ops::mhc_post_pre(both, nullptr));
  };
  Rows<bf16> x(tokens, hidden), wide_x(tokens, hidden);
  Rows<float> next(tokens, 20), wide_next(tokens, 20);
  run(p, x, next);
  q.out = mixed.data();
  run(q, wide_x, wide_next);
  REQUIRE_ROWS(mixed, want.values());
  REQUIRE_ROWS(wide_x, x.values());
  REQUIRE_ROWS(wide_next, next.values());
}
