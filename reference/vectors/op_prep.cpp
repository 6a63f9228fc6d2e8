// Vectors of attn_q_proj, attn_kv_proj and attn_index_prep: what follows the projections.
#include "reference/vectors/rows.hpp"
#include "reference/vectors/suite.hpp"

#include <cmath>

namespace dsv4::reference::vectors {

namespace {

// ---- queries
// -----------------------------------------------------------------------------------------------

std::vector<Output> query_oracle(const Problem& p, Mistake mistake) {
  const Array& q = p.array("q");
  const std::int64_t tokens = q.dim(0), heads = q.dim(1);
  Nums out;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Rotation turns = rotation(p, p.array("positions").integer(t), mistake);
    Nums all = q.row(t, heads * 512);
    if (mistake == Mistake::kQueryNormOverHeads) rms_norm(all, {}, p.scalar("eps"), mistake);
    for (std::int64_t h = 0; h < heads; ++h) {
      Nums row(all.begin() + h * 512, all.begin() + (h + 1) * 512);
      if (mistake != Mistake::kQueryNormOverHeads && mistake != Mistake::kQueryNormMissing)
        rms_norm(row, {}, p.scalar("eps"), mistake);
      round_to_bf16(row);
      rotate(row, turns, false, mistake);
      out.insert(out.end(), row.begin(), row.end());
    }
  }
  return {plain("q", DType::kBf16, q.shape, std::move(out))};
}

// Heads of different sizes, so that one norm over all of them shows.
Case query_case(const Sizes& s, std::uint64_t seed, const char* name, const char* catches, int ratio,
                std::vector<double> positions, double sigma) {
  Random random(seed, std::string("attn_q_proj/") + name);
  const auto tokens = static_cast<std::int64_t>(positions.size());
  Case c{name, catches, {}, {}, 0};
  c.problem.in["q"] = Array::make(DType::kBf16, {tokens, s.heads, 512}, [&](std::int64_t i) {
    return sigma * static_cast<double>(1 + i / 512 % s.heads) * random.normal();
  });
  c.problem.in["positions"] = Array::of(DType::kI64, {tokens}, positions);
  c.problem.scalars["eps"] = eps_of(s.norm_eps);
  put_rope(c.problem, s, ratio);
  return c;
}

std::vector<Case> query_cases(const Sizes& s, std::uint64_t seed) {
  const double last = static_cast<double>(s.max_positions - 1);
  return {
      query_case(s, seed, "window_layer",
                 "no norm of each head, or one over all; base of the other layer kind", 0, {5, 128}, 1),
      query_case(s, seed, "csa_layer", "half-split pairs, mscale, YaRN left out, positions beyond 65536", 4,
                 {0, 131, 80000}, 1),
      query_case(s, seed, "small", "norm_eps left out", 128, {77}, 1e-3),
      query_case(s, seed, "far", "angles in bf16, or without range reduction", 4, {last}, 1),
  };
}

// ---- key-value entries
// -------------------------------------------------------------------------------------

std::vector<Output> key_value_oracle(const Problem& p, Mistake mistake) {
  const Array& kv = p.array("kv");
  const Nums weight = p.array("weight").row(0, 512);
  Output entries{"entries", DType::kU8, {kv.dim(0), 584}, Form::kKvEntry, {}, {}, {}};
  for (std::int64_t t = 0; t < kv.dim(0); ++t) {
    Nums row = kv.row(t, 512);
    rms_norm(row, weight, p.scalar("eps"), mistake);
    round_to_bf16(row);
    rotate(row, rotation(p, p.array("positions").integer(t), mistake), false, mistake);
    append_kv_entry(entries, row, mistake);
  }
  return {entries};
}

std::vector<Case> key_value_cases(const Sizes& s, std::uint64_t seed) {
  const double last = static_cast<double>(s.max_positions - 1);
  const auto make = [&](const char* name, const char* catches, int ratio, std::vector<double> positions) {
    Random random(seed, std::string("attn_kv_proj/") + name);
    const auto tokens = static_cast<std::int64_t>(positions.size());
    Case c{name, catches, {}, {}, 0};
    c.problem.in["kv"] = normal(random, DType::kBf16, {tokens, 512});
    c.problem.in["weight"] = normal(random, DType::kF32, {512}, 0.3, 1);
    c.problem.in["positions"] = Array::of(DType::kI64, {tokens}, positions);
    c.problem.scalars["eps"] = eps_of(s.norm_eps);
    put_rope(c.problem, s, ratio);
    return c;
  };
  return {
      make("window_layer", "base of the other layer kind; rotation after quantisation; entries' byte layout",
           0, {0, 3, 300}),
      make("csa_layer", "half-split pairs; codes from the unrounded scale; the rotated 64 channels quantised",
           4, {1, 127, 66000}),
      make("far", "angles in bf16 or without range reduction", 4, {last}),
      make("empty", "T = 0", 0, {}),
  };
}

// ---- the indexer's queries and head weights
// ----------------------------------------------------------------

std::vector<Output> index_oracle(const Problem& p, Mistake mistake) {
  const Array &q = p.array("q"), &w = p.array("weights");
  const std::int64_t tokens = q.dim(0), heads = q.dim(1);
  Output codes{"q", DType::kU8, {tokens, heads, 68}, Form::kIndexKey, {}, {}, {}};
  Nums weights;
  const double factor = 1 / std::sqrt(128.0) / std::sqrt(static_cast<double>(heads));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Rotation turns = rotation(p, p.array("positions").integer(t), mistake);
    for (std::int64_t h = 0; h < heads; ++h) {
      Nums row = q.row(t * heads + h, 128);
      rotate(row, turns, false, mistake);
      hadamard(row, mistake);
      append_index_key(codes, row, mistake);
      const Num weight(w.at(t * heads + h));
      weights.push_back(mistake == Mistake::kIndexFactorMissing ? weight : f32(weight * Num(factor), 2));
    }
  }
  return {codes, plain("weights", DType::kF32, {tokens, heads}, std::move(weights))};
}

std::vector<Case> index_cases(const Sizes& s, std::uint64_t seed) {
  const auto make = [&](const char* name, const char* catches, std::vector<double> positions) {
    Random random(seed, std::string("attn_index_prep/") + name);
    const auto tokens = static_cast<std::int64_t>(positions.size());
    Case c{name, catches, {}, {}, 0};
    c.problem.in["q"] = normal(random, DType::kBf16, {tokens, s.index_heads, 128});
    c.problem.in["weights"] = normal(random, DType::kBf16, {tokens, s.index_heads});
    c.problem.in["positions"] = Array::of(DType::kI64, {tokens}, positions);
    put_rope(c.problem, s, 4);
    return c;
  };
  return {
      make("random",
           "Hadamard on the keys' side alone; base of window layers; head weights without their factor",
           {0, 9, 70000}),
      make("far", "angles in bf16 or without range reduction", {static_cast<double>(s.max_positions - 1)})};
}

}  // namespace

Op attn_q_proj_op() {
  return {
      "attn_q_proj",
      "q [T, H, 512] bf16: RMS norm of each head, no weight, then RoPE, of q = Wq_b qr [T, H, 512] bf16 at "
      "positions [T]",
      query_cases,
      query_oracle,
      {Mistake::kQueryNormMissing, Mistake::kQueryNormOverHeads, Mistake::kNormNoEps, Mistake::kHalfSplit,
       Mistake::kRopeOtherKind, Mistake::kNoYarn, Mistake::kMscale, Mistake::kWrongDirection,
       Mistake::kFirstChannels}};
}

Op attn_kv_proj_op() {
  return {
      "attn_kv_proj",
      "entries [T, 584] bytes (a page of one entry each): norm, RoPE and FP8 of kv = Wkv x [T, 512] bf16, "
      "weight [512] f32",
      key_value_cases,
      key_value_oracle,
      {Mistake::kHalfSplit, Mistake::kRopeOtherKind, Mistake::kNoYarn, Mistake::kMscale,
       Mistake::kWrongDirection, Mistake::kFirstChannels, Mistake::kNormRoundsBeforeWeight,
       Mistake::kScaleUnrounded, Mistake::kScaleFloored, Mistake::kTruncates}};
}

Op attn_index_prep_op() {
  return {"attn_index_prep",
          "q [T, H, 68] bytes (a page of one key each) and weights [T, H] f32: RoPE, Hadamard and FP4 of q = "
          "Wq_bI qr [T, H, 128] bf16; weights = Wproj x [T, H] bf16 times 128^-0.5 H^-0.5",
          index_cases,
          index_oracle,
          {Mistake::kHadamardMissing, Mistake::kHadamardUnscaled, Mistake::kIndexFactorMissing,
           Mistake::kHalfSplit, Mistake::kRopeOtherKind, Mistake::kNoYarn, Mistake::kMscale,
           Mistake::kNibblesSwapped, Mistake::kScaleUnrounded, Mistake::kTruncates}};
}

}  // namespace dsv4::reference::vectors
