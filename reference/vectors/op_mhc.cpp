// Vectors of mhc_pre, mhc_post and mhc_head.
#include "reference/vectors/rows.hpp"
#include "reference/vectors/suite.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace dsv4::reference::vectors {

namespace {

using Comb = std::array<std::array<double, 4>, 4>;  // row = source stream

// z[m] = (fn[m] . f) * rsqrt(mean(f^2) + eps) of one token's streams, flattened.
Nums mixes_of(const Nums& f, const Array& fn, std::int64_t rows, double eps, Mistake mistake) {
  Sum squares;
  for (const Num& x : f) squares.add(Num(x.v * x.v));
  Num rho = Num(1) / sqrt(squares.value() / Num(static_cast<double>(f.size())) + Num(eps));
  if (mistake == Mistake::kRmsMissing) rho = Num(1);
  Nums z;
  for (std::int64_t m = 0; m < rows; ++m) {
    Sum sum;
    for (std::size_t k = 0; k < f.size(); ++k)
      sum.add(Num(fn.at(m * static_cast<std::int64_t>(f.size()) + static_cast<std::int64_t>(k)) * f[k].v));
    z.push_back(sum.value() * rho);
  }
  return z;
}

void divide_rows(Comb& c, double eps) {
  for (auto& row : c) {
    const double sum = row[0] + row[1] + row[2] + row[3] + eps;
    for (double& x : row) x /= sum;
  }
}

void divide_columns(Comb& c, double eps) {
  for (std::size_t k = 0; k < 4; ++k) {
    const double sum = c[0][k] + c[1][k] + c[2][k] + c[3][k] + eps;
    for (auto& row : c) row[k] /= sum;
  }
}

// Softmax of every row plus eps, then `steps` column steps with a row step between two.
Comb sinkhorn(const Nums& logits, int steps, double eps, Mistake mistake) {
  if (mistake == Mistake::kNoHcEps) eps = 0;
  Comb c{};
  for (std::size_t j = 0; j < 4; ++j) {
    double top = logits[4 * j].v, sum = 0;
    for (std::size_t k = 1; k < 4; ++k) top = std::max(top, logits[4 * j + k].v);
    for (std::size_t k = 0; k < 4; ++k) sum += c[j][k] = exp_of(logits[4 * j + k].v - top);
    for (std::size_t k = 0; k < 4; ++k) c[j][k] = c[j][k] / sum + eps;
  }
  if (mistake == Mistake::kSinkhornEndsOnRows) {
    for (int step = 0; step < steps; ++step) divide_columns(c, eps), divide_rows(c, eps);
    return c;
  }
  for (int step = 0; step < steps; ++step) {
    if (step > 0) divide_rows(c, eps);
    if (step == steps - 1 && mistake == Mistake::kSinkhornStepShort) break;
    divide_columns(c, eps);
  }
  return c;
}

// Relative margin of every entry of an fp32 Sinkhorn. Intervals would grow exponentially through divisions by
// sums of themselves, hence a bound in closed form, in ulps. The softmax leaves e0 = depth (subtracting the
// maximum) + error of the logits + 4 (exponential) + 4 (sum) + 2 (division, eps). Each of the n
// normalisations divides an entry (1) by a sum of positive terms, wrong by at most the worst entry's error
// and 4 more; scaling by the axis before carries that error over: n (e0 + 5) + n (n + 1) / 2 + e0.
double sinkhorn_margin(const Nums& logits, int steps) {
  double depth = 0, error = 0;
  for (std::size_t j = 0; j < 4; ++j) {
    double top = logits[4 * j].v, least = top;
    for (std::size_t k = 0; k < 4; ++k) {
      const Num& x = logits[4 * j + k];
      top = std::max(top, x.v), least = std::min(least, x.v);
      error = std::max(error, (x.hi - x.lo) / kUlp);
    }
    depth = std::max(depth, top - least);
  }
  const double n = 2.0 * steps - 1, e0 = depth + error + 10;
  return kUlp * (n * (e0 + 5) + n * (n + 1) / 2 + e0);
}

Num coefficient(Num z, const Problem& p, std::int64_t scale, std::int64_t base) {
  return sigmoid(z * Num(p.array("scale").at(scale)) + Num(p.array("base").at(base)));
}

// bf16(sum_i pre[i] * streams[i]), appended to x.
void collapse(Nums& x, const Nums& f, const Nums& pre) {
  const std::size_t hidden = f.size() / 4;
  for (std::size_t d = 0; d < hidden; ++d) {
    Sum sum;
    for (std::size_t i = 0; i < 4; ++i) sum.add(product(pre[i], f[i * hidden + d]));
    x.push_back(bf16(sum.value()));
  }
}

std::vector<Output> pre_oracle(const Problem& p, Mistake mistake) {
  const Array& streams = p.array("streams");
  const std::int64_t tokens = streams.dim(0), hidden = streams.dim(2);
  const int steps = static_cast<int>(p.positive("sinkhorn_iterations"));
  Nums x, post, comb;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Nums f = streams.row(t, 4 * hidden);
    const Nums z = mixes_of(f, p.array("fn"), 24, p.scalar("norm_eps"), mistake);
    Nums pre, logits;
    for (std::int64_t i = 0; i < 4; ++i) {
      const Num sigma = coefficient(z[static_cast<std::size_t>(i)], p, 0, i);
      pre.push_back(mistake == Mistake::kNoHcEps ? sigma : sigma + Num(p.scalar("hc_eps")));
      const Num gate = coefficient(z[static_cast<std::size_t>(4 + i)], p, 1, 4 + i);
      post.push_back(mistake == Mistake::kPostNoFactor2 ? gate : product(Num(2), gate));
    }
    for (std::int64_t i = 8; i < 24; ++i)
      logits.push_back(z[static_cast<std::size_t>(i)] * Num(p.array("scale").at(2)) +
                       Num(p.array("base").at(i)));
    const Comb c = sinkhorn(logits, steps, p.scalar("hc_eps"), mistake);
    const double margin = sinkhorn_margin(logits, steps);
    for (std::size_t i = 0; i < 16; ++i) {
      const double entry = mistake == Mistake::kCombNotTransposed ? c[i % 4][i / 4] : c[i / 4][i % 4];
      comb.push_back(widened(Num(entry), margin * entry));
    }
    collapse(x, f, pre);
  }
  return {plain("x", DType::kBf16, {tokens, hidden}, std::move(x)),
          plain("post", DType::kF32, {tokens, 4}, std::move(post)),
          plain("comb", DType::kF32, {tokens, 4, 4}, std::move(comb))};
}

struct Drawn {
  const char *name, *catches;
  std::int64_t tokens;
  double sigma, base, depth;  // of streams; offset of pre's and post's base; spread of comb's base
};

Case pre_case(const Sizes& s, std::uint64_t seed, const Drawn& d) {
  Random random(seed, std::string("mhc_pre/") + d.name);
  const std::int64_t n = 4 * std::int64_t{s.hidden};
  Case c{d.name, d.catches, {}, {}, 0};
  auto& in = c.problem.in;
  in["streams"] = normal(random, DType::kBf16, {d.tokens, 4, s.hidden}, d.sigma);
  in["fn"] = normal(random, DType::kF32, {24, n}, 1 / std::sqrt(static_cast<double>(n)));
  in["scale"] = Array::of(DType::kF32, {3}, {1.25, 0.75, 1.5});
  in["base"] = Array::make(DType::kF32, {24}, [&](std::int64_t i) {
    return i < 8 ? d.base + 0.5 * random.normal() : d.depth * random.normal();
  });
  c.problem.scalars = {{"norm_eps", eps_of(s.norm_eps)},
                       {"hc_eps", eps_of(s.hc_eps)},
                       {"sinkhorn_iterations", s.sinkhorn_iterations}};
  return c;
}

std::vector<Case> pre_cases(const Sizes& s, std::uint64_t seed) {
  std::vector<Case> cases = {
      pre_case(
          s, seed,
          {"random", "post without its factor 2, comb transposed, mixes not divided by the RMS", 5, 1, 0, 1}),
      pre_case(s, seed,
               {"tiny_pre", "hc_eps left out of pre: the sigmoids are as small as it", 2, 1, -15, 1}),
      pre_case(s, seed,
               {"deep_comb", "a Sinkhorn step too few, rows last, eps left out: far from doubly stochastic",
                3, 1, 0, 6}),
      pre_case(
          s, seed,
          {"small_streams", "norm_eps left out or the RMS missing: mean squares near eps", 2, 1e-3, 0, 1}),
      pre_case(s, seed, {"empty", "T = 0", 0, 1, 0, 1}),
  };
  // Row 3 of the first case by itself.
  Case alone = cases[0];
  const Array all = alone.problem.in["streams"];
  alone.name = "alone", alone.same_as = "random", alone.same_row = 3;
  alone.catches = "the mixes' GEMM split by batch size, so that a token's bits depend on its neighbours";
  const std::int64_t n = 4 * std::int64_t{s.hidden};
  alone.problem.in["streams"] =
      Array::make(DType::kBf16, {1, 4, s.hidden}, [&](std::int64_t i) { return all.at(3 * n + i); });
  cases.push_back(std::move(alone));
  return cases;
}

// ---- mhc_post
// ----------------------------------------------------------------------------------------------

std::vector<Output> post_oracle(const Problem& p, Mistake mistake) {
  const Array &y = p.array("y"), &streams = p.array("streams"), &post = p.array("post"),
              &comb = p.array("comb");
  const std::int64_t tokens = streams.dim(0), hidden = streams.dim(2);
  Nums out(static_cast<std::size_t>(tokens * 4 * hidden));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t d = 0; d < hidden; ++d) {
      Nums column;
      for (std::int64_t j = 0; j < 4; ++j) column.emplace_back(streams.at((t * 4 + j) * hidden + d));
      for (std::int64_t k = 0; k < 4; ++k) {
        Sum sum;
        sum.add(product(Num(post.at(t * 4 + k)), Num(y.at(t * hidden + d))));
        for (std::int64_t j = 0; j < 4; ++j) {
          const std::int64_t at = mistake == Mistake::kCombNotTransposed ? 4 * k + j : 4 * j + k;
          sum.add(product(Num(comb.at(t * 16 + at)), column[static_cast<std::size_t>(j)]));
        }
        const Num x = bf16(sum.value());
        out[static_cast<std::size_t>((t * 4 + k) * hidden + d)] = x;
        if (mistake == Mistake::kPostInPlace) column[static_cast<std::size_t>(k)] = x;
      }
    }
  return {plain("out", DType::kBf16, streams.shape, std::move(out))};
}

std::vector<Case> post_cases(const Sizes& s, std::uint64_t seed) {
  const auto make = [&](const char* name, const char* catches, std::int64_t tokens) {
    Random random(seed, std::string("mhc_post/") + name);
    Case c{name, catches, {}, {}, 0};
    c.problem.in["y"] = normal(random, DType::kBf16, {tokens, s.hidden});
    c.problem.in["streams"] = normal(random, DType::kBf16, {tokens, 4, s.hidden});
    c.problem.in["post"] =
        Array::make(DType::kF32, {tokens, 4}, [&](std::int64_t) { return 2 * random.unit(); });
    c.problem.in["comb"] =
        Array::make(DType::kF32, {tokens, 4, 4}, [&](std::int64_t) { return random.unit() / 2; });
    return c;
  };
  return {
      make("random", "comb applied as [destination][source]; streams overwritten before they are read", 3),
      make("empty", "T = 0", 0)};
}

// ---- mhc_head
// ----------------------------------------------------------------------------------------------

std::vector<Output> head_oracle(const Problem& p, Mistake mistake) {
  const Array& streams = p.array("streams");
  const std::int64_t tokens = streams.dim(0), hidden = streams.dim(2);
  Nums x;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Nums f = streams.row(t, 4 * hidden);
    const Nums z = mixes_of(f, p.array("fn"), 4, p.scalar("norm_eps"), mistake);
    Nums pre;
    for (std::int64_t i = 0; i < 4; ++i) {
      Num sigma = coefficient(z[static_cast<std::size_t>(i)], p, 0, i);
      if (mistake == Mistake::kHeadFactor2) sigma = product(Num(2), sigma);
      pre.push_back(mistake == Mistake::kNoHcEps ? sigma : sigma + Num(p.scalar("hc_eps")));
    }
    collapse(x, f, pre);
  }
  return {plain("x", DType::kBf16, {tokens, hidden}, std::move(x))};
}

std::vector<Case> head_cases(const Sizes& s, std::uint64_t seed) {
  const auto make = [&](const char* name, const char* catches, double base) {
    Random random(seed, std::string("mhc_head/") + name);
    const std::int64_t n = 4 * std::int64_t{s.hidden};
    Case c{name, catches, {}, {}, 0};
    c.problem.in["streams"] = normal(random, DType::kBf16, {2, 4, s.hidden}, 0.5);
    c.problem.in["fn"] = normal(random, DType::kF32, {4, n}, 1 / std::sqrt(static_cast<double>(n)));
    c.problem.in["scale"] = Array::of(DType::kF32, {1}, {1.25});
    c.problem.in["base"] = normal(random, DType::kF32, {4}, 0.5, base);
    c.problem.scalars = {{"norm_eps", eps_of(s.norm_eps)}, {"hc_eps", eps_of(s.hc_eps)}};
    return c;
  };
  return {make("random", "the head's coefficients doubled, or divided by no RMS", 0),
          make("tiny_pre", "hc_eps left out", -15)};
}

}  // namespace

Op mhc_pre_op() {
  return {
      "mhc_pre",
      "x [T, D] bf16, post [T, 4] and comb [T, 4, 4] f32 (row = source stream) of streams [T, 4, D] bf16, fn "
      "[24, 4D], scale [3] and base [24] f32",
      pre_cases,
      pre_oracle,
      {Mistake::kCombNotTransposed, Mistake::kPostNoFactor2, Mistake::kSinkhornStepShort,
       Mistake::kSinkhornEndsOnRows, Mistake::kNoHcEps, Mistake::kRmsMissing}};
}

Op mhc_post_op() {
  return {
      "mhc_post",
      "out [T, 4, D] bf16: out[k] = post[k] * y + sum_j comb[j][k] * streams[j], of y [T, D] and streams [T, "
      "4, D] bf16, post [T, 4] and comb [T, 4, 4] f32",
      post_cases,
      post_oracle,
      {Mistake::kCombNotTransposed, Mistake::kPostInPlace}};
}

Op mhc_head_op() {
  return {
      "mhc_head",
      "x [T, D] bf16 of streams [T, 4, D] bf16, fn [4, 4D], scale [1] and base [4] f32: the collapse before "
      "the final norm",
      head_cases,
      head_oracle,
      {Mistake::kHeadFactor2, Mistake::kNoHcEps, Mistake::kRmsMissing}};
}

}  // namespace dsv4::reference::vectors
