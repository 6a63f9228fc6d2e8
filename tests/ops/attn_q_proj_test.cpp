// Op attn_q_proj on the SIMT machine: bit for bit its primitive; within the oracle's intervals; nothing else
// touched.
#include "tests/ops/attn_prep.hpp"
#include "tests/support/shapes.hpp"

#include <cmath>

using namespace dsv4;
using ops::PositionType;
using test::kHeadDim;
using test::kPrepEps;
using test::kRopeDim;
using test::RowLayout;
using test::Rows;
namespace oracle = test::oracle;

namespace {

template <class T>
void check_queries(std::int64_t tokens, std::int64_t heads, std::int64_t padding, bool in_place) {
  CAPTURE(tokens, heads, padding, in_place, sizeof(T));
  const auto values = test::prep_values<T>(tokens * heads * kHeadDim, 1, 3.0);
  const auto positions = test::prep_positions(tokens);
  const auto freq = test::prep_frequencies();
  const RowLayout layout = {kHeadDim + padding, 16};
  Rows<T> q(tokens * heads, kHeadDim, values, layout), out(tokens * heads, kHeadDim);
  REQUIRE_OK(ops::attn_q_proj({.out = in_place ? q.data() : out.data(),
                               .q = q.data(),
                               .positions = positions.data(),
                               .rope = {.freq = freq.data()},
                               .tokens = tokens,
                               .heads = heads,
                               .head_dim = kHeadDim,
                               .rope_dim = kRopeDim,
                               .eps = kPrepEps,
                               .dtype = test::kDType<T>,
                               .out_head_stride = in_place ? layout.stride : 0,
                               .q_head_stride = layout.stride},
                              nullptr));
  REQUIRE_ROWS(in_place ? q : out, test::finished_queries(values, positions, heads));
  if (!in_place) REQUIRE_ROWS(q, values);
}

}  // namespace

TEMPLATE_TEST_CASE("attn_q_proj equals its primitive", "[ops][attn_q_proj]", bf16, float) {
  const std::int64_t heads = GENERATE(1, 3, 8, 17);
  for (const std::int64_t tokens : {0, 1, 2, 7}) {
    check_queries<TestType>(tokens, heads, 0, true);
    check_queries<TestType>(tokens, heads, 40, false);
  }
}

TEST_CASE("attn_q_proj at the widths of the models", "[ops][attn_q_proj]") {
  check_queries<bf16>(2, 64, 0, true);
  check_queries<bf16>(1, 128, 8, false);
  if (!test::reduced()) check_queries<bf16>(65, 16, 16, false);
}

TEMPLATE_TEST_CASE("attn_q_proj computes its equation", "[ops][attn_q_proj]", bf16, float) {
  using T = TestType;
  // A row of the table for each token: the oracle's own sines and cosines, far positions among them.
  const std::vector<std::int64_t> turned = {0, 1, 127, 65537, (1 << 20) - 1};
  const auto tokens = static_cast<std::int64_t>(turned.size()), heads = std::int64_t{3};
  const auto values = test::prep_values<T>(tokens * heads * kHeadDim, 4, 3.0);
  Rows<T> q(tokens * heads, kHeadDim, values);
  Rows<float> table(tokens, kRopeDim, RowLayout{kRopeDim + 3, 4});  // cosines, then sines
  std::vector<std::int32_t> positions;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto turns = oracle::turns(turned[static_cast<std::size_t>(t)], test::kPairs, 160000);
    for (std::size_t i = 0; i < turns.size(); ++i) {
      table.row(t)[i] = turns[i].cos;
      table.row(t)[test::kPairs + static_cast<int>(i)] = turns[i].sin;
    }
    positions.push_back(static_cast<std::int32_t>(t));
  }
  REQUIRE_OK(ops::attn_q_proj({.out = q.data(),
                               .q = q.data(),
                               .positions = positions.data(),
                               .rope = {.cos = table.data(),
                                        .sin = table.data() + test::kPairs,
                                        .max_position = tokens,
                                        .table_stride = table.stride()},
                               .tokens = tokens,
                               .heads = heads,
                               .head_dim = kHeadDim,
                               .rope_dim = kRopeDim,
                               .eps = kPrepEps,
                               .dtype = test::kDType<T>},
                              nullptr));
  REQUIRE(q.intact() == "");
  for (std::int64_t r = 0; r < tokens * heads; ++r) {
    const std::vector<T> head(values.begin() + r * kHeadDim, values.begin() + (r + 1) * kHeadDim);
    auto want = test::rounded<T>(oracle::rms_norm(test::values(head), {}, kPrepEps));
    oracle::rotate(want, kHeadDim - kRopeDim,
                   oracle::turns(turned[static_cast<std::size_t>(r / heads)], test::kPairs, 160000), +1);
    CAPTURE(r);
    REQUIRE(test::outside(std::vector<T>(q.row(r), q.row(r) + kHeadDim), test::rounded<T>(want)) == "");
  }
}

TEST_CASE("attn_q_proj: strides between tokens, int64 and negative positions, no row in the table",
          "[ops][attn_q_proj]") {
  const std::int64_t heads = 3, tokens = 4, width = heads * kHeadDim;
  const auto values = test::prep_values<bf16>(tokens * width, 5);
  const auto freq = test::prep_frequencies();
  const std::vector<std::int32_t> positions = {6, 5, (1 << 20) - 1, -7};
  const std::vector<std::int64_t> wide(positions.begin(), positions.end());
  Rows<bf16> q(tokens, width, values, RowLayout{width + 72, 16}),
      out(tokens, width, RowLayout{width + 8, 16});
  ops::AttnQProjParams p{.out = out.data(),
                         .q = q.data(),
                         .positions = wide.data(),
                         .rope = {.freq = freq.data()},
                         .tokens = tokens,
                         .heads = heads,
                         .head_dim = kHeadDim,
                         .rope_dim = kRopeDim,
                         .eps = kPrepEps,
                         .position_type = PositionType::kInt64,
                         .out_stride = out.stride(),
                         .q_stride = q.stride()};
  REQUIRE_OK(ops::attn_q_proj(p, nullptr));
  const auto want = test::finished_queries(values, positions, heads);
  REQUIRE_ROWS(out, want);

  const std::vector<float> cos(6 * test::kPairs, 1.0f), sin(6 * test::kPairs, 0.0f);  // turn nothing
  p.rope = {.cos = cos.data(), .sin = sin.data(), .max_position = 6};
  REQUIRE_OK(ops::attn_q_proj(p, nullptr));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t d = 0; d < width; ++d) {
      CAPTURE(t, d);
      const bool turned = d % kHeadDim >= kHeadDim - kRopeDim;
      REQUIRE(std::isnan(to_float(out.row(t)[d])) == (turned && t != 1));
      if (!turned) REQUIRE(out.row(t)[d].bits == want[static_cast<std::size_t>(t * width + d)].bits);
    }
}

TEST_CASE("attn_q_proj: one bad channel spoils its head alone", "[ops][attn_q_proj]") {
  const std::int64_t heads = 5;
  auto values = test::prep_values<bf16>(2 * heads * kHeadDim, 6);
  values[2 * kHeadDim + 17] = {0x7f80};   // inf in head 2 of token 0
  values[6 * kHeadDim + 500] = {0x7fc0};  // NaN in head 1 of token 1
  const auto positions = test::prep_positions(2);
  const auto freq = test::prep_frequencies();
  Rows<bf16> q(2 * heads, kHeadDim, values);
  REQUIRE_OK(ops::attn_q_proj({.out = q.data(),
                               .q = q.data(),
                               .positions = positions.data(),
                               .rope = {.freq = freq.data()},
                               .tokens = 2,
                               .heads = heads,
                               .head_dim = kHeadDim,
                               .rope_dim = kRopeDim,
                               .eps = kPrepEps},
                              nullptr));
  const auto want = test::finished_queries(values, positions, heads);
  REQUIRE(q.intact() == "");
  for (std::int64_t r = 0; r < 2 * heads; ++r)
    for (int d = 0; d < kHeadDim; ++d) {
      CAPTURE(r, d);
      const bf16 w = want[static_cast<std::size_t>(r * kHeadDim + d)];
      if (std::isnan(to_float(w)))
        REQUIRE(std::isnan(to_float(q.row(r)[d])));
      else
        REQUIRE(q.row(r)[d].bits == w.bits);
      if (r != 2 && r != 6) REQUIRE(std::isfinite(to_float(w)));
    }
}
