// Vectors of moe_combine, mtp_input and lm_head: the sums at the ends.
#include "reference/vectors/suite.hpp"
#include "reference/vectors/weights.hpp"

namespace dsv4::reference::vectors {

namespace {

// ---- moe_combine
// -------------------------------------------------------------------------------------------

std::vector<Output> combine_oracle(const Problem& p, Mistake mistake) {
  const Array &y = p.array("y"), &idx = p.array("idx"), &shared = p.array("shared");
  const std::int64_t tokens = y.dim(0), k = y.dim(1), hidden = y.dim(2);
  Nums out;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t d = 0; d < hidden; ++d) {
      Sum sum;
      Num running(0);
      const auto add = [&](double x) {
        sum.add(Num(x));
        running = bf16(running + Num(x));
      };
      for (std::int64_t j = 0; j < k; ++j)
        if (idx.integer(t * k + j) >= 0) add(y.at((t * k + j) * hidden + d));
      if (mistake != Mistake::kSharedMissing) add(shared.at(t * hidden + d));
      out.push_back(mistake == Mistake::kSumInBf16 ? running : bf16(sum.value()));
    }
  return {plain("out", DType::kBf16, {tokens, hidden}, std::move(out))};
}

std::vector<Case> combine_cases(const Sizes& s, std::uint64_t seed) {
  const auto make = [&](const char* name, const char* catches, std::int64_t tokens, bool dropped) {
    Random random(seed, std::string("moe_combine/") + name);
    const std::int64_t k = s.active_experts;
    Case c{name, catches, {}, {}, 0};
    c.problem.in["y"] = normal(random, DType::kBf16, {tokens, k, s.hidden});
    c.problem.in["shared"] = normal(random, DType::kBf16, {tokens, s.hidden});
    c.problem.in["idx"] = Array::make(DType::kI32, {tokens, k}, [&](std::int64_t i) {
      return dropped && i % 2 == 0 ? -1.0 : static_cast<double>(i % k);
    });
    return c;
  };
  return {make("random", "a sum in bf16; the shared expert left out", 2, false),
          make("dropped", "a slot of -1 added all the same", 2, true), make("empty", "T = 0", 0, false)};
}

// ---- mtp_input
// ---------------------------------------------------------------------------------------------

std::vector<Output> mtp_oracle(const Problem& p, Mistake) {
  const Array &e = p.array("e"), &h = p.array("h");
  const std::int64_t tokens = h.dim(0), hidden = h.dim(2);
  Nums out;
  for (std::int64_t i = 0; i < tokens * 4 * hidden; ++i)
    out.push_back(bf16(Num(e.at(i / (4 * hidden) * hidden + i % hidden)) + Num(h.at(i))));
  return {plain("out", DType::kBf16, {tokens, 4, hidden}, std::move(out))};
}

std::vector<Case> mtp_cases(const Sizes& s, std::uint64_t seed) {
  Random random(seed, "mtp_input");
  Case c{"random", "one stream in place of four; the sum taken of another stream or token", {}, {}, 0};
  c.problem.in["e"] = normal(random, DType::kBf16, {2, s.hidden});
  c.problem.in["h"] = normal(random, DType::kBf16, {2, 4, s.hidden});
  return {c};
}

// ---- lm_head
// -----------------------------------------------------------------------------------------------

std::vector<Output> head_oracle(const Problem& p, Mistake mistake) {
  const Array& x = p.array("x");
  const std::int64_t tokens = x.dim(0), hidden = x.dim(1), vocab = p.array("head").dim(0);
  Nums logits(static_cast<std::size_t>(tokens * vocab));
  for (std::int64_t v = 0; v < vocab; ++v) {
    const std::vector<double> w = matrix_row(p, "head", Stored::kBf16, 0, vocab, hidden, v, mistake);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const Num logit = dot(x.row(t, hidden), w);
      logits[static_cast<std::size_t>(t * vocab + v)] =
          mistake == Mistake::kLogitsInBf16 ? bf16(logit) : logit;
    }
  }
  return {plain("logits", DType::kF32, {tokens, vocab}, std::move(logits))};
}

std::vector<Case> head_cases(const Sizes& s, std::uint64_t seed) {
  Random random(seed, "lm_head");
  Case c{"random", "logits rounded to bf16, in the kernel or behind it", {}, {}, 0};
  c.problem.in["x"] = normal(random, DType::kBf16, {2, s.hidden});
  put_matrix(c.problem, "head", Stored::kBf16, 1, 33, s.hidden, random);
  return {c};
}

}  // namespace

Op moe_combine_op() {
  return {"moe_combine",
          "out [T, D] bf16 = sum over slots of y [T, k, D] bf16 whose idx [T, k] i32 is not negative, plus "
          "shared [T, "
          "D] bf16, summed in fp32",
          combine_cases,
          combine_oracle,
          {Mistake::kSumInBf16, Mistake::kSharedMissing}};
}

Op mtp_input_op() {
  return {"mtp_input",
          "out [T, 4, D] bf16 = e [T, D] + h [T, 4, D], both bf16 products already",
          mtp_cases,
          mtp_oracle,
          {}};
}

Op lm_head_op() {
  return {"lm_head",
          "logits [T, V] f32 of x [T, D] bf16 and head [V, D] bf16",
          head_cases,
          head_oracle,
          {Mistake::kLogitsInBf16}};
}

}  // namespace dsv4::reference::vectors
