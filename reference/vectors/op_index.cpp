// Vectors of attn_index_scores, visibility and attn_select.
#include "reference/error.hpp"
#include "reference/vectors/rows.hpp"
#include "reference/vectors/suite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace dsv4::reference::vectors {

namespace {

// ---- scores
// ------------------------------------------------------------------------------------------------

Num index_value(const Array& keys, std::int64_t row, std::int64_t i, Mistake mistake, bool scaled) {
  const std::int64_t nibble = mistake == Mistake::kNibblesSwapped ? 1 - i % 2 : i % 2;
  const auto byte = static_cast<unsigned>(keys.integer(row * 68 + i / 2));
  const double scale =
      scaled ? e8m0_value(static_cast<std::uint8_t>(keys.integer(row * 68 + 64 + i / 32))) : 1;
  return Num(e2m1_value(byte >> (nibble * 4) & 15u) * scale);
}

std::vector<Output> scores_oracle(const Problem& p, Mistake mistake) {
  const Array &q = p.array("q"), &weights = p.array("weights"), &keys = p.array("keys");
  const std::int64_t tokens = q.dim(0), heads = q.dim(1), entries = keys.dim(0);
  Nums scores;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t e = 0; e < entries; ++e) {
      Sum sum;
      for (std::int64_t h = 0; h < heads; ++h) {
        Sum dot;
        for (std::int64_t i = 0; i < 128; ++i)
          dot.add(product(index_value(q, t * heads + h, i, Mistake::kNone, true),
                          index_value(keys, e, i, mistake, mistake != Mistake::kIndexScalesMissing)));
        Num product_of_head = dot.value();
        if (mistake != Mistake::kReluAfterSum && mistake != Mistake::kReluMissing)
          product_of_head = max(product_of_head, Num(0));
        sum.add(product(Num(weights.at(t * heads + h)), product_of_head));
      }
      const Num score = sum.value();
      scores.push_back(mistake == Mistake::kReluAfterSum ? max(score, Num(0)) : score);
    }
  return {plain("scores", DType::kF32, {tokens, entries}, std::move(scores))};
}

// Rows through the FP4 format.
Array index_rows(Random& random, std::vector<std::int64_t> shape) {
  std::int64_t rows = 1;
  for (const std::int64_t d : shape) rows *= d;
  Output packed;
  for (std::int64_t r = 0; r < rows; ++r) {
    Nums row;
    for (int i = 0; i < 128; ++i) row.emplace_back(bf16_round(random.normal()));
    append_index_key(packed, row, Mistake::kNone);
  }
  shape.push_back(68);
  return {DType::kU8, std::move(shape), packed.bytes};
}

std::vector<Case> scores_cases(const Sizes& s, std::uint64_t seed) {
  const auto make = [&](const char* name, const char* catches, std::int64_t tokens, std::int64_t entries) {
    Random random(seed, std::string("attn_index_scores/") + name);
    Case c{name, catches, {}, {}, 0};
    c.problem.in["q"] = index_rows(random, {tokens, s.index_heads});
    c.problem.in["weights"] = normal(random, DType::kF32, {tokens, s.index_heads}, 0.1);
    c.problem.in["keys"] = index_rows(random, {entries});
    return c;
  };
  return {
      make("random", "ReLU after the sum over heads, or none; scales or nibbles of the keys mistaken", 2, 19),
      make("one", "a single entry: the rest of a tile must not be read or written", 1, 1),
      make("no_entries", "a context shorter than the ratio: nothing to score", 1, 0)};
}

// ---- visibility
// --------------------------------------------------------------------------------------------

std::int64_t ratio_of(const Problem& p) {
  const std::int64_t ratio = p.integer("ratio");
  if (ratio != 0 && ratio != 4 && ratio != 128) throw InputError("vectors: ratio is not 0, 4 or 128");
  return ratio;
}

std::int64_t visible(std::int64_t t, std::int64_t ratio, Mistake mistake) {
  if (ratio == 0) return 0;
  if (mistake == Mistake::kVisibleEarly) return t / ratio + 1;
  return mistake == Mistake::kVisibleLate ? t / ratio : (t + 1) / ratio;
}

std::vector<Output> visibility_oracle(const Problem& p, Mistake mistake) {
  const Array& positions = p.array("positions");
  const std::int64_t window = 128 + (mistake == Mistake::kWindowLong    ? 1
                                     : mistake == Mistake::kWindowShort ? -1
                                                                        : 0);
  Nums begin, entries;
  for (std::int64_t i = 0; i < positions.count(); ++i) {
    const std::int64_t t = positions.integer(i);
    begin.emplace_back(static_cast<double>(std::max<std::int64_t>(0, t - window + 1)));
    entries.emplace_back(static_cast<double>(visible(t, ratio_of(p), mistake)));
  }
  return {plain("window_begin", DType::kI64, positions.shape, std::move(begin)),
          plain("entries", DType::kI64, positions.shape, std::move(entries))};
}

std::vector<Case> visibility_cases(const Sizes& s, std::uint64_t) {
  const double last = static_cast<double>(s.max_positions - 1);
  std::vector<Case> cases;
  for (const int ratio : {0, 4, 128}) {
    Case c{ratio == 0   ? "window"
           : ratio == 4 ? "csa"
                        : "hca",
           "an entry visible a token early or late (t = 3, 4, 127, 128); a window of 127 or 129",
           {},
           {},
           0};
    const std::vector<double> t = {0,   1,   2,   3,   4,   5,   6,   7,        8,
                                   126, 127, 128, 129, 254, 255, 256, last - 1, last};
    c.problem.in["positions"] = Array::of(DType::kI64, {static_cast<std::int64_t>(t.size())}, t);
    c.problem.scalars["ratio"] = ratio;
    cases.push_back(std::move(c));
  }
  return cases;
}

// ---- selection
// ---------------------------------------------------------------------------------------------

std::vector<Output> select_oracle(const Problem& p, Mistake mistake) {
  const Array &scores = p.array("scores"), &positions = p.array("positions");
  const std::int64_t tokens = positions.count(), entries = scores.dim(1), k = p.positive("k");
  Nums idx;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t seen = std::min(entries, visible(positions.integer(t), ratio_of(p), mistake));
    const bool mask_last = mistake == Mistake::kSelectBeforeMask;
    std::vector<std::int64_t> order(
        static_cast<std::size_t>(std::max<std::int64_t>(mask_last ? entries : seen, 0)));
    std::iota(order.begin(), order.end(), 0);
    const auto score = [&](std::int64_t e) {
      const double x = scores.at(t * entries + e);
      return std::isnan(x) ? std::numeric_limits<double>::infinity() : x;
    };
    if (mistake != Mistake::kNanChosen)
      std::erase_if(order, [&](std::int64_t e) { return std::isnan(scores.at(t * entries + e)); });
    if (mistake == Mistake::kTiesHigher) std::reverse(order.begin(), order.end());
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return score(a) > score(b); });
    if (static_cast<std::int64_t>(order.size()) > k) order.resize(static_cast<std::size_t>(k));
    if (mask_last) std::erase_if(order, [&](std::int64_t e) { return e >= seen; });
    for (const std::int64_t e : order) idx.emplace_back(static_cast<double>(e));
    for (auto i = static_cast<std::int64_t>(order.size()); i < k; ++i)
      idx.emplace_back(mistake == Mistake::kPadsWithZero ? 0.0 : -1.0);
  }
  Output out = plain("idx", DType::kI32, {tokens, k}, std::move(idx));
  out.form = Form::kSet;
  return {out};
}

std::vector<Case> select_cases(const Sizes& s, std::uint64_t seed) {
  const std::int64_t k = s.index_top_k, entries = 2 * k + 5;
  const auto make = [&](const char* name, const char* catches, std::vector<double> positions,
                        const std::function<double(Random&, std::int64_t entry)>& score) {
    Random random(seed, std::string("attn_select/") + name);
    const auto tokens = static_cast<std::int64_t>(positions.size());
    Case c{name, catches, {}, {}, 0};
    c.problem.in["scores"] = Array::make(DType::kF32, {tokens, entries},
                                         [&](std::int64_t i) { return score(random, i % entries); });
    c.problem.in["positions"] = Array::of(DType::kI64, {tokens}, positions);
    c.problem.scalars = {{"k", static_cast<double>(k)}, {"ratio", 4}};
    return c;
  };
  const auto normal_score = [](Random& r, std::int64_t) { return r.normal(); };
  const double all = static_cast<double>(4 * entries + 2), half = static_cast<double>(4 * (k + 2));
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  return {
      make("random", "the newest entry left out or taken early; invisible entries selected, then dropped",
           {half - 1, half, half + 2, half + 3, all},
           [](Random& r, std::int64_t e) { return r.normal() + 0.1 * static_cast<double>(e); }),
      make("ties", "of equal scores another than the lowest index, so that selections change between runs",
           {half, all}, [](Random& r, std::int64_t) { return static_cast<double>(r.integer(0, 2)); }),
      make("zeros", "-0 ordered below +0", {all},
           [](Random& r, std::int64_t) { return r.integer(0, 1) != 0 ? 0.0 : -0.0; }),
      make("few", "fewer visible than k: the rest is -1 (t = 0, 2, 3, 4, 7)", {0, 2, 3, 4, 7}, normal_score),
      make("nan", "a NaN score that becomes an index, or one that is not an index at all; infinities",
           {half, all},
           [=](Random& r, std::int64_t e) {
             return e % 3 == 1 ? nan : e == 2 ? infinity : e == 3 ? -infinity : r.normal();
           }),
      make("empty", "T = 0", {}, normal_score),
  };
}

}  // namespace

Op attn_index_scores_op() {
  return {"attn_index_scores",
          "scores [T, N] f32 = sum_h weights[t][h] * relu(q[t][h] . keys[n]) of q [T, H, 68] and keys [N, "
          "68] bytes "
          "(pages of one), weights [T, H] f32; every entry for every token",
          scores_cases,
          scores_oracle,
          {Mistake::kReluAfterSum, Mistake::kReluMissing, Mistake::kNibblesSwapped,
           Mistake::kIndexScalesMissing}};
}

Op visibility_op() {
  return {"visibility",
          "window_begin [T] and entries [T]: the first position in the window of positions [T], and how many "
          "compressed entries are visible at 'ratio'",
          visibility_cases,
          visibility_oracle,
          {Mistake::kVisibleEarly, Mistake::kVisibleLate, Mistake::kWindowShort, Mistake::kWindowLong}};
}

Op attn_select_op() {
  return {"attn_select",
          "idx [T, k] i32, in any order within a row: the k best of the entries visible to positions [T] by "
          "scores "
          "[T, N] f32; -1 where there are fewer",
          select_cases,
          select_oracle,
          {Mistake::kTiesHigher, Mistake::kVisibleEarly, Mistake::kVisibleLate, Mistake::kNanChosen,
           Mistake::kSelectBeforeMask, Mistake::kPadsWithZero}};
}

}  // namespace dsv4::reference::vectors
