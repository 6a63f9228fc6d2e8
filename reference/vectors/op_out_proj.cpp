// Vectors of attn_out_proj.
#include "reference/vectors/suite.hpp"
#include "reference/vectors/weights.hpp"

#include <algorithm>

namespace dsv4::reference::vectors {

namespace {

std::vector<Output> oracle(const Problem& p, Mistake mistake) {
  const Array& o = p.array("o");
  const std::int64_t tokens = o.dim(0), heads = o.dim(1), groups = p.positive("groups");
  const std::int64_t lora = p.array("wo_a").dim(0) / groups, cols = p.array("wo_a").dim(1);
  const std::int64_t hidden = p.array("wo_b").dim(0), per_group = cols / 512;
  std::vector<Nums> turned;  // of each token: H * 512 channels
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Rotation turns = rotation(p, p.array("positions").integer(t), mistake);
    Nums all;
    for (std::int64_t h = 0; h < heads; ++h) {
      Nums row = o.row(t * heads + h, 512);
      rotate(row, turns, true, mistake);
      all.insert(all.end(), row.begin(), row.end());
    }
    if (mistake == Mistake::kQuantisedBeforeWoA) all = quantise_fp8(all, 128, mistake).values;
    turned.push_back(std::move(all));
  }
  std::vector<Nums> low(static_cast<std::size_t>(tokens));
  for (std::int64_t n = 0; n < groups * lora; ++n) {
    const std::vector<double> w = matrix_row(p, "wo_a", Stored::kBf16, 0, groups * lora, cols, n, mistake);
    const std::int64_t group = n / lora;
    for (std::size_t t = 0; t < low.size(); ++t) {
      Nums x;
      for (std::int64_t i = 0; i < per_group; ++i) {
        const std::int64_t h =
            mistake == Mistake::kGroupsInterleaved ? i * groups + group : group * per_group + i;
        x.insert(x.end(), turned[t].begin() + h * 512, turned[t].begin() + (h + 1) * 512);
      }
      low[t].push_back(bf16(dot(x, w)));
    }
  }
  for (Nums& row : low)
    if (mistake != Mistake::kActivationsNotQuantised) row = quantise_fp8(row, 128, mistake).values;
  Nums y(static_cast<std::size_t>(tokens * hidden));
  for (std::int64_t n = 0; n < hidden; ++n) {
    const std::vector<double> w = matrix_row(p, "wo_b", Stored::kFp8, 0, hidden, groups * lora, n, mistake);
    for (std::size_t t = 0; t < low.size(); ++t)
      y[t * static_cast<std::size_t>(hidden) + static_cast<std::size_t>(n)] = bf16(dot(low[t], w));
  }
  return {plain("y", DType::kBf16, {tokens, hidden}, std::move(y))};
}

std::vector<Case> cases(const Sizes& s, std::uint64_t seed) {
  const auto make = [&](const char* name, const char* catches, int ratio, std::vector<double> positions) {
    Random random(seed, std::string("attn_out_proj/") + name);
    const auto tokens = static_cast<std::int64_t>(positions.size());
    Case c{name, catches, {}, {}, 0};
    c.problem.in["o"] = normal(random, DType::kBf16, {tokens, s.heads, 512});
    c.problem.in["positions"] = Array::of(DType::kI64, {tokens}, positions);
    c.problem.scalars["groups"] = s.o_groups;
    put_matrix(c.problem, "wo_a", Stored::kBf16, 1, s.o_groups * s.o_lora_rank, s.heads / s.o_groups * 512,
               random);
    put_matrix(c.problem, "wo_b", Stored::kFp8, 1, s.hidden, s.o_groups * s.o_lora_rank, random);
    put_rope(c.problem, s, ratio);
    return c;
  };
  return {make("csa_layer",
               "no rotation back, or forward; heads dealt to groups in turn; o quantised before Wo_a", 4,
               {3, 900}),
          make("window_layer", "rotated back with the frequencies of compressed layers", 0, {60})};
}

}  // namespace

Op attn_out_proj_op() {
  return {"attn_out_proj",
          "y [T, D] bf16: o [T, H, 512] bf16 rotated back at positions [T], then Wo_a [g * r, H * 512 / g] "
          "bf16 by "
          "'groups', rounded, FP8 of that (blocks of 128) times Wo_b [D, g * r] e4m3 with wo_b_scale per 128 "
          "x 128",
          cases,
          oracle,
          {Mistake::kWrongDirection, Mistake::kHalfSplit, Mistake::kRopeOtherKind, Mistake::kNoYarn,
           Mistake::kMscale, Mistake::kFirstChannels, Mistake::kGroupsInterleaved,
           Mistake::kQuantisedBeforeWoA, Mistake::kActivationsNotQuantised, Mistake::kScaleUnrounded}};
}

}  // namespace dsv4::reference::vectors
