// Vectors of rms_norm, rope and hadamard.
#include "reference/vectors/rows.hpp"
#include "reference/vectors/suite.hpp"

#include <limits>

namespace dsv4::reference::vectors {

namespace {

// ---- rms_norm
// ----------------------------------------------------------------------------------------------

std::vector<Output> rms_norm_oracle(const Problem& p, Mistake mistake) {
  const Array& x = p.array("x");
  const std::int64_t rows = x.dim(0), n = x.dim(1);
  const Nums weight = p.array("weight").row(0, n);
  Nums out;
  for (std::int64_t t = 0; t < rows; ++t) {
    Nums row = x.row(t, n);
    rms_norm(row, weight, p.scalar("eps"), mistake);
    round_to_bf16(row);
    out.insert(out.end(), row.begin(), row.end());
  }
  return {plain("out", DType::kBf16, {rows, n}, std::move(out))};
}

std::vector<Case> rms_norm_cases(const Sizes& s, std::uint64_t seed) {
  const std::int64_t n = s.hidden;
  const auto make = [&](const char* name, const char* catches, std::int64_t rows, double sigma) {
    Random random(seed, std::string("rms_norm/") + name);
    Case c{name, catches, {}, {}, 0};
    c.problem.in["x"] = normal(random, DType::kBf16, {rows, n}, sigma);
    c.problem.in["weight"] = normal(random, DType::kF32, {n}, 0.3, 1);
    c.problem.scalars["eps"] = eps_of(s.norm_eps);
    return c;
  };
  std::vector<Case> cases = {
      make("random", "a weight that multiplies after the rounding to bf16, a sum of squares in bf16", 3, 1),
      make("small", "eps left out or added outside the root: the mean square is as small as eps", 3, 1e-3),
      make("large", "squares that overflow a half or lose the sum in fp16", 2, 3e4),
      make("special", "NaN that spreads beyond its row, 0/0 in a row of zeros", 3, 1),
      make("empty", "T = 0 launched as a grid of 0 blocks", 0, 1),
  };
  Array& x = cases[3].problem.in["x"];  // row 0 normal, row 1 zeros, row 2 holds a NaN
  const Array old = x;
  x = Array::make(DType::kBf16, {3, n}, [&](std::int64_t i) {
    return i < n            ? old.at(i)
           : i == 2 * n + 5 ? std::numeric_limits<double>::quiet_NaN()
           : i < 2 * n      ? 0
                            : old.at(i);
  });
  return cases;
}

// ---- rope
// --------------------------------------------------------------------------------------------------

std::vector<Output> rope_oracle(const Problem& p, Mistake mistake) {
  const Array& x = p.array("x");
  const std::int64_t tokens = x.dim(0), heads = x.dim(1), n = x.dim(2);
  Nums out;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Rotation turns = rotation(p, p.array("positions").integer(t), mistake);
    for (std::int64_t h = 0; h < heads; ++h) {
      Nums row = x.row(t * heads + h, n);
      rotate(row, turns, p.integer("inverse") != 0, mistake);
      out.insert(out.end(), row.begin(), row.end());
    }
  }
  return {plain("out", DType::kBf16, x.shape, std::move(out))};
}

std::vector<Case> rope_cases(const Sizes& s, std::uint64_t seed) {
  const std::int64_t last = s.max_positions - 1;
  const auto make = [&](const char* name, const char* catches, int ratio, bool inverse,
                        std::vector<double> positions) {
    Random random(seed, std::string("rope/") + name);
    Case c{name, catches, {}, {}, 0};
    const auto tokens = static_cast<std::int64_t>(positions.size());
    c.problem.in["x"] = normal(random, DType::kBf16, {tokens, 2, 128});
    c.problem.in["positions"] = Array::of(DType::kI64, {tokens}, positions);
    c.problem.scalars["inverse"] = inverse ? 1 : 0;
    put_rope(c.problem, s, ratio);
    return c;
  };
  const double end = static_cast<double>(last);
  return {
      make("window_layer", "base or YaRN of compressed layers in a ratio 0 layer; half-split pairs", 0, false,
           {0, 1, 2, 127, 128, 5000}),
      make("csa_layer", "base of ratio 0 layers or no YaRN in a ratio 4 layer; mscale folded in", 4, false,
           {0, 1, 3, 4, 127, 1000, 65535, 65536}),
      make("hca_layer", "a ratio 128 layer rotated like the window layers", 128, false, {1, 127, 128, 40000}),
      make("inverse", "the way out of attention rotated forward, or not at all", 4, true, {0, 1, 100, 70000}),
      make("far", "sine and cosine without range reduction, or angles in bf16, at the last positions", 4,
           false, {end - 1, end}),
      make("far_window_layer", "the same with ratio 0 frequencies", 0, false, {end - 4096, end}),
      make("empty", "T = 0", 4, false, {}),
  };
}

// ---- hadamard
// ----------------------------------------------------------------------------------------------

std::vector<Output> hadamard_oracle(const Problem& p, Mistake mistake) {
  const Array& x = p.array("x");
  Nums out;
  for (std::int64_t t = 0; t < x.dim(0); ++t) {
    Nums row = x.row(t, 128);
    hadamard(row, mistake);
    out.insert(out.end(), row.begin(), row.end());
  }
  return {plain("out", DType::kBf16, x.shape, std::move(out))};
}

std::vector<Case> hadamard_cases(const Sizes&, std::uint64_t seed) {
  Random random(seed, "hadamard");
  Case basis{"basis", "rows in another order than Sylvester's: each input is one unit vector", {}, {}, 0};
  basis.problem.in["x"] = Array::make(DType::kBf16, {4, 128}, [](std::int64_t i) {
    return i % 128 == (i / 128) * (i / 128) * 11 + 1 ? 1.0 : 0.0;
  });
  Case rows{"random", "the factor 128^-0.5 left out, or the transform itself", {}, {}, 0};
  rows.problem.in["x"] = normal(random, DType::kBf16, {3, 128});
  return {basis, rows};
}

}  // namespace

Op rms_norm_op() {
  return {"rms_norm",
          "out [T, n] bf16 = bf16(weight * x * rsqrt(mean(x^2) + eps)) of x [T, n] bf16, weight [n] f32",
          rms_norm_cases,
          rms_norm_oracle,
          {Mistake::kNormNoEps, Mistake::kNormRoundsBeforeWeight}};
}

Op rope_op() {
  return {"rope",
          "out [T, H, n] bf16: the last 64 channels of x turned by positions [T], back where 'inverse'; the "
          "layer's frequencies follow from 'ratio'",
          rope_cases,
          rope_oracle,
          {Mistake::kHalfSplit, Mistake::kRopeOtherKind, Mistake::kNoYarn, Mistake::kMscale,
           Mistake::kWrongDirection, Mistake::kFirstChannels}};
}

Op hadamard_op() {
  return {"hadamard",
          "out [T, 128] bf16 = the normalised Walsh-Hadamard transform of x [T, 128] bf16, Sylvester order",
          hadamard_cases,
          hadamard_oracle,
          {Mistake::kHadamardMissing, Mistake::kHadamardUnscaled}};
}

}  // namespace dsv4::reference::vectors
