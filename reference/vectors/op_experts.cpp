// Vectors of moe_experts: routed experts in FP4, the shared expert in FP8.
#include "reference/vectors/suite.hpp"
#include "reference/vectors/weights.hpp"

#include <algorithm>

namespace dsv4::reference::vectors {

namespace {

Num clamped(Num x, double low, double high) { return max(min(x, Num(high)), Num(low)); }

// bf16(silu(gate) * up * weight), clamped first.
Num activated(Num gate, Num up, double limit, double weight, Mistake mistake) {
  const bool first =
      limit != 0 && mistake != Mistake::kClampMissing && mistake != Mistake::kClampAfterProduct;
  if (first) {
    gate = min(gate, Num(limit));
    if (mistake == Mistake::kGateClampedBelow) gate = max(gate, Num(-limit));
    up = clamped(up, -limit, limit);
  }
  Num h = gate * sigmoid(gate) * up;
  if (limit != 0 && mistake == Mistake::kClampAfterProduct) h = clamped(h, -limit, limit);
  return bf16(mistake == Mistake::kWeightAfterW2 ? h : h * Num(weight));
}

Nums operand(const Nums& x, Mistake mistake) {
  return mistake == Mistake::kActivationsNotQuantised ? x : quantise_fp8(x, 128, mistake).values;
}

std::vector<Output> oracle(const Problem& p, Mistake mistake) {
  const Array &x = p.array("x"), &idx = p.array("idx"), &weights = p.array("weights");
  const Stored stored = p.integer("fp4") != 0 ? Stored::kFp4 : Stored::kFp8;
  const std::int64_t tokens = x.dim(0), hidden = x.dim(1), k = idx.dim(1), experts = p.positive("experts");
  const std::int64_t inner = p.array("w1").dim(0) / experts;
  const double limit = p.scalar("limit");
  const bool swapped = mistake == Mistake::kGateUpSwapped;
  Nums y(static_cast<std::size_t>(tokens * k * hidden));
  for (std::int64_t e = 0; e < experts; ++e) {
    std::vector<std::int64_t> pairs;  // of this expert
    std::vector<Nums> in, middle;
    for (std::int64_t pair = 0; pair < tokens * k; ++pair)
      if (idx.integer(pair) == e) {
        pairs.push_back(pair), middle.emplace_back();
        in.push_back(operand(x.row(pair / k, hidden), mistake));
      }
    if (pairs.empty()) continue;
    for (std::int64_t n = 0; n < inner; ++n) {
      const std::vector<double> w1 =
          matrix_row(p, swapped ? "w3" : "w1", stored, e, inner, hidden, n, mistake);
      const std::vector<double> w3 =
          matrix_row(p, swapped ? "w1" : "w3", stored, e, inner, hidden, n, mistake);
      for (std::size_t i = 0; i < pairs.size(); ++i)
        middle[i].push_back(
            activated(bf16(dot(in[i], w1)), bf16(dot(in[i], w3)), limit, weights.at(pairs[i]), mistake));
    }
    for (Nums& row : middle) row = operand(row, mistake);
    for (std::int64_t n = 0; n < hidden; ++n) {
      const std::vector<double> w2 = matrix_row(p, "w2", stored, e, hidden, inner, n, mistake);
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        Num out = bf16(dot(middle[i], w2));
        if (mistake == Mistake::kWeightAfterW2) out = bf16(out * Num(weights.at(pairs[i])));
        y[static_cast<std::size_t>(pairs[i] * hidden + n)] = out;
      }
    }
  }
  return {plain("y", DType::kBf16, {tokens, k, hidden}, std::move(y))};
}

struct Drawn {
  const char *name, *catches;
  bool fp4;
  std::int64_t tokens, experts, k;
  double sigma;  // of x: the products of W1 and W3 have it too
};

Case make(const Sizes& s, std::uint64_t seed, const Drawn& d) {
  Random random(seed, std::string("moe_experts/") + d.name);
  Case c{d.name, d.catches, {}, {}, 0};
  Problem& p = c.problem;
  const Stored stored = d.fp4 ? Stored::kFp4 : Stored::kFp8;
  p.in["x"] = normal(random, DType::kBf16, {d.tokens, s.hidden}, d.sigma);
  p.in["idx"] = Array::make(DType::kI32, {d.tokens, d.k},
                            [&](std::int64_t i) { return static_cast<double>((i + i / d.k) % d.experts); });
  p.in["weights"] = Array::make(DType::kF32, {d.tokens, d.k},
                                [&](std::int64_t) { return d.fp4 ? 0.2 + random.unit() : 1.0; });
  put_matrix(p, "w1", stored, d.experts, s.expert_inner, s.hidden, random);
  put_matrix(p, "w3", stored, d.experts, s.expert_inner, s.hidden, random);
  put_matrix(p, "w2", stored, d.experts, s.hidden, s.expert_inner, random);
  p.scalars = {{"experts", static_cast<double>(d.experts)},
               {"fp4", d.fp4 ? 1.0 : 0.0},
               {"limit", d.fp4 ? s.swiglu_limit : s.shared_swiglu_limit}};
  return c;
}

std::vector<Case> cases(const Sizes& s, std::uint64_t seed) {
  return {
      make(s, seed,
           {"routed",
            "nibbles of FP4 swapped, W1 and W3 swapped, the routing weight after W2, activations not in FP8",
            true, 2, 2, 2, 1}),
      make(s, seed,
           {"routed_clamp", "no clamp, a clamp of the product, the gate clamped from below", true, 2, 1, 1,
            8}),
      make(s, seed,
           {"shared_clamp", "a shared expert without its clamp, or in another format", false, 2, 1, 1, 8}),
      make(s, seed, {"empty", "T = 0: an expert without tokens", true, 0, 1, 1, 1}),
  };
}

}  // namespace

Op moe_experts_op() {
  return {"moe_experts",
          "y [T, k, D] bf16, of each (token, slot) by itself: expert idx [T, k] of x [T, D] bf16, weights "
          "[T, k] f32 "
          "multiplied before W2, 'limit' (0 = none). w1, w3 [E * I, D], w2 [E * D, I]: 'fp4' packed e2m1 "
          "with UE8M0 "
          "per row and 32, else e4m3 with UE8M0 per 128 x 128 of each expert",
          cases,
          oracle,
          {Mistake::kClampMissing, Mistake::kClampAfterProduct, Mistake::kGateClampedBelow,
           Mistake::kWeightAfterW2, Mistake::kGateUpSwapped, Mistake::kNibblesSwapped,
           Mistake::kActivationsNotQuantised, Mistake::kScaleUnrounded, Mistake::kTruncates}};
}

}  // namespace dsv4::reference::vectors
