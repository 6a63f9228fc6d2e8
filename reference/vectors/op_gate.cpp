// Vectors of moe_gate.
#include "reference/error.hpp"
#include "reference/vectors/rows.hpp"
#include "reference/vectors/suite.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace dsv4::reference::vectors {

namespace {

Num score_of(double logit, Mistake mistake) {
  const Num u(logit);
  if (mistake == Mistake::kSigmoidScores) return sigmoid(u);
  Num softplus;
  if (mistake == Mistake::kSoftplusOverflows)
    softplus = log(Num(1) + exp(u));
  else if (logit > 20)
    softplus = widened(u, kUlp * 2);  // log(1 + e^-u) < 2.1e-9 may or may not be added
  else if (logit < -15)
    softplus = f32(exp(u), 4);
  else
    softplus = f32(Num(log_of(1 + exp_of(logit))), 8);
  return mistake == Mistake::kSoftplusWithoutRoot ? softplus : sqrt(softplus);
}

std::vector<Output> oracle(const Problem& p, Mistake mistake) {
  const Array& logits = p.array("logits");
  const std::int64_t tokens = logits.dim(0), experts = logits.dim(1), k = p.positive("k");
  if (k > experts) throw InputError("vectors: moe_gate: k exceeds the number of experts");
  const bool hashed = p.in.contains("table");
  const Num route_scale(p.scalar("route_scale"));
  Nums ids, weights;
  for (std::int64_t t = 0; t < tokens; ++t) {
    Nums scores;
    for (std::int64_t e = 0; e < experts; ++e)
      scores.push_back(score_of(logits.at(t * experts + e), mistake));
    std::vector<std::int64_t> chosen;
    if (hashed && mistake != Mistake::kHashIgnored) {
      const Array& table = p.array("table");
      for (std::int64_t j = 0; j < k; ++j)
        chosen.push_back(table.integer(p.array("token_ids").integer(t) * k + j));
    } else {
      std::vector<std::int64_t> order(static_cast<std::size_t>(experts));
      std::iota(order.begin(), order.end(), 0);
      if (mistake == Mistake::kTiesHigher) std::reverse(order.begin(), order.end());
      const auto key = [&](std::int64_t e) {
        const double bias = hashed || mistake == Mistake::kBiasIgnored ? 0 : p.array("bias").at(e);
        return scores[static_cast<std::size_t>(e)].v + bias;
      };
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return key(a) > key(b); });
      chosen.assign(order.begin(), order.begin() + k);
    }
    Nums w;
    for (const std::int64_t e : chosen) {
      if (e < 0 || e >= experts) throw InputError("vectors: moe_gate: the table names no expert");
      Num x = scores[static_cast<std::size_t>(e)];
      if (mistake == Mistake::kBiasInWeights && !hashed) x = x + Num(p.array("bias").at(e));
      w.push_back(x);
    }
    if (mistake == Mistake::kDuplicatesOnce)
      for (std::size_t j = 0; j < w.size(); ++j)
        if (std::find(chosen.begin(), chosen.begin() + static_cast<std::ptrdiff_t>(j), chosen[j]) !=
            chosen.begin() + static_cast<std::ptrdiff_t>(j))
          w[j] = Num(0);
    Sum sum;
    for (const Num& x : w) sum.add(x);
    for (Num& x : w) {
      if (mistake == Mistake::kHashWeightsUniform && hashed)
        x = route_scale / Num(static_cast<double>(k));
      else if (mistake == Mistake::kNotRenormalised)
        x = x * route_scale;
      else if (mistake == Mistake::kScaleBeforeRenorm)
        x = x / sum.value();
      else
        x = x / sum.value() * route_scale;
    }
    for (const std::int64_t e : chosen) ids.emplace_back(static_cast<double>(e));
    weights.insert(weights.end(), w.begin(), w.end());
  }
  Output idx = plain("idx", DType::kI32, {tokens, k}, std::move(ids));
  idx.form = Form::kSet;
  Output out = plain("weights", DType::kF32, {tokens, k}, std::move(weights));
  out.form = Form::kPaired, out.paired_with = "idx";
  return {idx, out};
}

// Logits, and the same as a product that is exact in any order: x holds unit vectors, so that column t of the
// gate's matrix is token t's logits.
void put_logits(Problem& p, std::int64_t tokens, std::int64_t experts,
                const std::function<double(std::int64_t t, std::int64_t e)>& logit) {
  constexpr std::int64_t kHidden = 32;
  p.in["logits"] = Array::make(DType::kF32, {tokens, experts},
                               [&](std::int64_t i) { return bf16_round(logit(i / experts, i % experts)); });
  const Array& logits = p.in["logits"];
  p.in["x"] = Array::make(DType::kBf16, {tokens, kHidden},
                          [](std::int64_t i) { return i % kHidden == i / kHidden ? 1.0 : 0.0; });
  p.in["gate"] = Array::make(DType::kBf16, {experts, kHidden}, [&](std::int64_t i) {
    const std::int64_t e = i / kHidden, t = i % kHidden;
    return t < tokens ? logits.at(t * experts + e) : 0.0;
  });
}

std::vector<Case> cases(const Sizes& s, std::uint64_t seed) {
  const std::int64_t experts = s.experts, k = s.active_experts;
  const auto make = [&](const char* name, const char* catches, std::int64_t tokens, double bias_sigma,
                        const std::function<double(Random&, std::int64_t e)>& logit) {
    Random random(seed, std::string("moe_gate/") + name);
    Case c{name, catches, {}, {}, 0};
    put_logits(c.problem, tokens, experts, [&](std::int64_t, std::int64_t e) { return logit(random, e); });
    c.problem.in["bias"] =
        Array::make(DType::kF32, {experts}, [&](std::int64_t) { return bias_sigma * random.normal(); });
    c.problem.scalars = {{"k", static_cast<double>(k)}, {"route_scale", s.route_scale}};
    return c;
  };
  const auto hashed = [&](const char* name, const char* catches, bool duplicates) {
    Case c = make(name, catches, 3, 0, [](Random& r, std::int64_t) { return 2 * r.normal(); });
    Random random(seed, std::string("moe_gate/table/") + name);
    c.problem.in.erase("bias");
    const std::int64_t vocab = 16;
    c.problem.in["table"] = Array::make(DType::kI32, {vocab, k}, [&](std::int64_t i) {
      const std::int64_t j = i % k;
      return static_cast<double>(duplicates && j < 2 ? i / k % experts : (i / k * 3 + j * 5 + 1) % experts);
    });
    c.problem.in["token_ids"] = Array::of(DType::kI32, {3}, {0, 15, 7});
    return c;
  };
  const auto plain_logit = [](Random& r, std::int64_t) { return 1.5 * r.normal(); };
  return {
      make("scored", "sigmoid or unrooted scores; weights not renormalised, or scaled before that", 4, 0,
           plain_logit),
      make("bias", "the bias in the weights, or not in the selection", 4, 0.7, plain_logit),
      make("ties", "of equal scores another expert than the lowest", 3, 0,
           [](Random& r, std::int64_t) { return static_cast<double>(r.integer(-1, 1)); }),
      make("large", "softplus that overflows (logits of 100 to 1e4)", 2, 0,
           [](Random& r, std::int64_t e) { return e % 2 != 0 ? 100 * (1 + 90 * r.unit()) : -50 * r.unit(); }),
      make("small", "the root of a negative, a sum that vanishes (logits of -5 to -60)", 2, 0,
           [](Random& r, std::int64_t) { return -5 - 55 * r.unit(); }),
      hashed("hashed", "a hash layer that selects by score, or weights its experts alike", false),
      hashed("hashed_duplicates", "an expert that the table names twice counted once", true),
      make("empty", "T = 0", 0, 0, plain_logit),
  };
}

}  // namespace

Op moe_gate_op() {
  return {"moe_gate",
          "idx [T, k] i32 and weights [T, k] f32, a row's pairs in any order: of logits [T, E] f32 (= x [T, "
          "32] gate "
          "[E, 32]^T, exactly) and bias [E] f32, or of table [vocab, k] and token_ids [T] i32",
          cases,
          oracle,
          {Mistake::kBiasInWeights, Mistake::kBiasIgnored, Mistake::kTiesHigher, Mistake::kScaleBeforeRenorm,
           Mistake::kNotRenormalised, Mistake::kSoftplusWithoutRoot, Mistake::kSoftplusOverflows,
           Mistake::kSigmoidScores, Mistake::kDuplicatesOnce, Mistake::kHashWeightsUniform,
           Mistake::kHashIgnored}};
}

}  // namespace dsv4::reference::vectors
