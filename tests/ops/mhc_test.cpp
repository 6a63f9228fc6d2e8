// Ops of mHC on the SIMT machine against the primitives, and the mixes of the bf16 instance against fp64.
#include "tests/support/catch.hpp"
#include "tests/support/mhc_batch.hpp"
#include "tests/support/shapes.hpp"

#include <cstdint>
#include <vector>

using namespace dsv4;
using namespace dsv4::test;

namespace {

/// Everything that mhc_pre writes, given the streams it read.
template <class T>
void require_pre(const MhcInputs<T>& in, const std::vector<T>& streams, const MhcOutputs<T>& out) {
  const std::vector<float> mixes = out.mixes.values();
  if constexpr (sizeof(T) == sizeof(float)) {
    REQUIRE_ROWS(out.mixes, reference_mixes(in, streams, 24));
  } else {
    REQUIRE(mix_error(in, streams, mixes, 24) <= 1e-6);
    REQUIRE(out.mixes.intact() == "");
  }
  const MhcReference<T> want(in, streams, mixes, false);
  REQUIRE_ROWS(out.post, want.post);
  REQUIRE_ROWS(out.comb, want.comb);
  REQUIRE_ROWS(out.pre, want.pre);
  REQUIRE_ROWS(out.x, want.x);
  REQUIRE_ROWS(out.normed, want.normed);
  REQUIRE_ROWS(out.codes, want.codes);
  REQUIRE_ROWS(out.scales, want.scales);
}

/// Shapes that cross every edge: of a tile, of a block, of a group, of the two ways to split the work.
std::vector<RowsOf> shapes() {
  std::vector<RowsOf> all = {{17, 32}, {257, reduced() ? 32 : 288}};
  for (const std::int64_t hidden : hidden_sizes())
    for (const std::int64_t tokens : token_counts())
      if (hidden <= 4096 || tokens == 2) all.push_back({tokens, hidden});
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("mhc_pre computes its equations", "[ops][mhc]", float, bf16) {
  using T = TestType;
  const auto [tokens, hidden] = GENERATE(from_range(shapes()));
  const Lay lay = tokens % 2 == 0 ? Lay::kContiguous : Lay::kStrided;
  CAPTURE(tokens, hidden);
  const MhcInputs<T> in(tokens, hidden);
  const Rows<T> streams(tokens, 4 * hidden, in.streams, lay_rows<T>(lay, 4 * hidden));
  MhcOutputs<T> out(tokens, hidden, lay);
  REQUIRE_OK(run_pre(pre_params(in, streams, out)));
  require_pre(in, in.streams, out);
  REQUIRE_ROWS(streams, in.streams);
}

TEMPLATE_TEST_CASE("mhc_post computes its equation, in place too", "[ops][mhc]", float, bf16) {
  using T = TestType;
  const auto [tokens, hidden] = GENERATE(from_range(shapes()));
  const Lay lay = tokens % 2 == 0 ? Lay::kStrided : Lay::kContiguous;
  CAPTURE(tokens, hidden);
  const MhcInputs<T> in(tokens, hidden);
  const std::vector<T> want = reference_post(in);
  MhcPostBuffers<T> b(in, lay);
  Rows<T> out(tokens, 4 * hidden, lay_rows<T>(lay, 4 * hidden));
  REQUIRE_OK(ops::mhc_post(post_params(in, out, b.y, b.streams, b.post, b.comb), nullptr));
  REQUIRE_ROWS(out, want);
  REQUIRE_ROWS(b.streams, in.streams);
  REQUIRE_OK(ops::mhc_post(post_params(in, b.streams, b.y, b.streams, b.post, b.comb), nullptr));
  REQUIRE_ROWS(b.streams, want);
  REQUIRE_ROWS(b.y, in.y);
}

TEMPLATE_TEST_CASE("mhc_post_pre is mhc_post, then mhc_pre, bit for bit", "[ops][mhc]", float, bf16) {
  using T = TestType;
  const auto [tokens, hidden] = GENERATE(from_range(shapes()));
  const Lay lay = tokens % 2 == 0 ? Lay::kContiguous : Lay::kStrided;
  CAPTURE(tokens, hidden);
  const MhcInputs<T> in(tokens, hidden);
  const std::vector<T> streams = reference_post(in);
  MhcPostBuffers<T> b(in, lay);
  Rows<T> mixed(tokens, 4 * hidden, lay_rows<T>(lay, 4 * hidden));
  MhcOutputs<T> fused(tokens, hidden, lay), apart(tokens, hidden, lay);

  REQUIRE_OK(run_post_pre(
      {.post = post_params(in, mixed, b.y, b.streams, b.post, b.comb), .pre = pre_params(in, mixed, fused)}));
  REQUIRE_ROWS(mixed, streams);
  REQUIRE_ROWS(b.streams, in.streams);
  REQUIRE_OK(run_pre(pre_params(in, mixed, apart)));
  require_pre(in, streams, apart);
  REQUIRE_ROWS(fused.mixes, apart.mixes.values());
  REQUIRE_ROWS(fused.post, apart.post.values());
  REQUIRE_ROWS(fused.comb, apart.comb.values());
  REQUIRE_ROWS(fused.pre, apart.pre.values());
  REQUIRE_ROWS(fused.x, apart.x.values());
  REQUIRE_ROWS(fused.normed, apart.normed.values());
  REQUIRE_ROWS(fused.codes, apart.codes.values());
  REQUIRE_ROWS(fused.scales, apart.scales.values());

  // In place, the next site's coefficients where the last one's were.
  auto pre = pre_params(in, b.streams, fused);
  pre.post = b.post.data(), pre.post_stride = b.post.stride();
  pre.comb = b.comb.data(), pre.comb_stride = b.comb.stride();
  REQUIRE_OK(run_post_pre({.post = post_params(in, b.streams, b.y, b.streams, b.post, b.comb), .pre = pre}));
  REQUIRE_ROWS(b.streams, streams);
  REQUIRE_ROWS(b.post, apart.post.values());
  REQUIRE_ROWS(b.comb, apart.comb.values());
  REQUIRE_ROWS(fused.codes, apart.codes.values());
}

TEMPLATE_TEST_CASE("mhc_head computes its equations", "[ops][mhc]", float, bf16) {
  using T = TestType;
  const auto [tokens, hidden] = GENERATE(from_range(shapes()));
  const Lay lay = tokens % 2 == 0 ? Lay::kContiguous : Lay::kStrided;
  CAPTURE(tokens, hidden);
  const MhcInputs<T> in(tokens, hidden, 4);
  const Rows<T> streams(tokens, 4 * hidden, in.streams, lay_rows<T>(lay, 4 * hidden));
  MhcOutputs<T> out(tokens, hidden, lay, 4);
  REQUIRE_OK(run_head({.x = out.x.data(),
                       .normed = out.normed.data(),
                       .pre = out.pre.data(),
                       .mixes = out.mixes.data(),
                       .streams = streams.data(),
                       .fn = in.fn.data(),
                       .scale = in.scale.data(),
                       .base = in.base.data(),
                       .norm_weight = in.norm_weight.data(),
                       .tokens = tokens,
                       .hidden = hidden,
                       .stream_count = 4,
                       .mix_eps = kMhcMixEps,
                       .hc_eps = kMhcHcEps,
                       .norm_eps = kMhcNormEps,
                       .dtype = kDType<T>,
                       .x_stride = out.x.stride(),
                       .normed_stride = out.normed.stride(),
                       .pre_stride = out.pre.stride(),
                       .mixes_stride = out.mixes.stride(),
                       .streams_stride = streams.stride()}));
  const std::vector<float> mixes = out.mixes.values();
  if constexpr (sizeof(T) == sizeof(float)) {
    REQUIRE_ROWS(out.mixes, reference_mixes(in, in.streams, 4));
  } else {
    REQUIRE(mix_error(in, in.streams, mixes, 4) <= 1e-6);
    REQUIRE(out.mixes.intact() == "");
  }
  const MhcReference<T> want(in, in.streams, mixes, true);
  REQUIRE_ROWS(out.pre, want.pre);
  REQUIRE_ROWS(out.x, want.x);
  REQUIRE_ROWS(out.normed, want.normed);
}
