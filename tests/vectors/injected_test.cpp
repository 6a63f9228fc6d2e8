// Mistakes injected into the primitives, by inputs and results altered on the way: another arithmetic than
// that of the oracles, whose tables dsv4_check searches.
#include "tests/support/catch.hpp"
#include "tests/vectors/engine.hpp"

#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dsv4::reference;
using namespace dsv4::reference::vectors;
using M = Mistake;
using Run = std::function<Outputs(const std::string& op, Problem p)>;

Outputs run(const std::string& op, const Problem& p) { return dsv4::test::engine::run(op, p); }

// Elements of an array, replaced: value(i, old value at i).
Array mapped(const Array& a, const std::function<double(std::int64_t, double)>& value) {
  return Array::make(a.dtype, a.shape, [&](std::int64_t i) { return value(i, a.at(i)); });
}
// Elements of an array, moved: the one at from(i) goes to i.
Array moved(const Array& a, const std::function<std::int64_t(std::int64_t)>& from) {
  return Array::make(a.dtype, a.shape, [&](std::int64_t i) { return a.at(from(i)); });
}

// The op with an input or scalar changed first.
Run with(const std::string& input, const std::function<double(std::int64_t, double)>& value) {
  return [=](const std::string& op, Problem p) {
    if (p.in.contains(input)) p.in[input] = mapped(p.array(input), value);
    return run(op, p);
  };
}
Run with_scalar(const std::string& scalar, const std::function<double(double)>& value) {
  return [=](const std::string& op, Problem p) {
    p.scalars[scalar] = value(p.scalar(scalar));
    return run(op, p);
  };
}
// The op with an output changed afterwards.
Run then(const std::string& output, const std::function<double(double)>& value) {
  return [=](const std::string& op, const Problem& p) {
    Outputs out = run(op, p);
    out[output] = mapped(out[output], [&](std::int64_t, double x) { return value(x); });
    return out;
  };
}

constexpr auto swap_halves = [](const Array& a) {  // of every row
  const std::int64_t n = a.dim(1);
  return moved(a, [=](std::int64_t i) { return i / n * n + (i % n + n / 2) % n; });
};

Outputs halves_swapped(const std::string& op, Problem p) {
  if (p.integer("ratio") == 4)
    for (const char* name : {"a", "b", "ape", "index_a", "index_b", "index_ape"})
      p.in[name] = swap_halves(p.array(name));
  return run(op, p);
}

Outputs padding_leaks(const std::string& op, Problem p) {
  p.in["chunks"] = moved(p.array("chunks"), [](std::int64_t i) { return i / 2 * 2; });
  return run(op, p);
}

Outputs index_shares_main(const std::string& op, Problem p) {
  if (p.integer("ratio") == 4)
    for (const std::string name : {"a", "b", "ape"}) {
      const Array& main = p.array(name);
      Array& index = p.in["index_" + name];
      index = Array::make(index.dtype, index.shape, [&](std::int64_t i) {
        const std::int64_t column = i % 256;
        return main.at(i / 256 * 1024 + (column < 128 ? column : 512 + column - 128));
      });
    }
  return run(op, p);
}

Outputs ape_twice(const std::string& op, Problem p) {
  for (const char* name : {"ape", "index_ape"})
    if (p.in.contains(name)) p.in[name] = mapped(p.array(name), [](std::int64_t, double x) { return 2 * x; });
  return run(op, p);
}

Outputs ape_missing(const std::string& op, Problem p) {
  for (const char* name : {"ape", "index_ape"})
    if (p.in.contains(name)) p.in[name] = mapped(p.array(name), [](std::int64_t, double) { return 0.0; });
  return run(op, p);
}

// Rotating halves is rotating pairs of the channels dealt out in turn.
Outputs half_split(const std::string& op, Problem p) {
  const std::int64_t n = p.array("x").dim(2);
  const auto first = [=](std::int64_t i) { return i / n * n + n - 64; };
  const auto rotated = [=](std::int64_t i) { return i % n >= n - 64; };
  p.in["x"] = moved(p.array("x"), [=](std::int64_t i) {
    const std::int64_t c = i - first(i);
    return rotated(i) ? first(i) + c / 2 + c % 2 * 32 : i;
  });
  Outputs out = run(op, p);
  out["out"] = moved(out["out"], [=](std::int64_t i) {
    const std::int64_t c = i - first(i);
    return rotated(i) ? first(i) + c % 32 * 2 + c / 32 : i;
  });
  return out;
}

Outputs sinkhorn_step_short(const std::string& op, Problem p) {
  p.scalars["sinkhorn_iterations"] -= 1;
  const auto eps = static_cast<float>(p.scalar("hc_eps"));
  Outputs out = run(op, p);
  Array& comb = out["comb"];  // a column step was the last: one row step more
  const Array before = comb;
  comb = mapped(before, [&](std::int64_t i, double x) {
    float sum = 0;
    for (std::int64_t k = 0; k < 4; ++k) sum += static_cast<float>(before.at(i / 4 * 4 + k));
    return static_cast<float>(x) / (sum + eps);
  });
  return out;
}

Outputs weight_after_rounding(const std::string& op, Problem p) {
  const Array weight = p.array("weight");
  p.in["weight"] = mapped(weight, [](std::int64_t, double) { return 1.0; });
  Outputs out = run(op, p);
  out["out"] =
      mapped(out["out"], [&](std::int64_t i, double x) { return x * weight.at(i % weight.count()); });
  return out;
}

// relu(d) - relu(-d) = d: scores without a ReLU from two runs.
Array scores_without_relu(const std::string& op, Problem p) {
  const Array scores = run(op, p)["scores"];
  p.in["q"] = mapped(p.array("q"), [](std::int64_t i, double byte) {
    return i % 68 < 64 ? static_cast<double>(static_cast<unsigned>(byte) ^ 0x88u) : byte;
  });
  const Array negated = run(op, p)["scores"];
  return mapped(scores, [&](std::int64_t i, double x) { return x - negated.at(i); });
}

Outputs relu_missing(const std::string& op, const Problem& p) {
  return {{"scores", scores_without_relu(op, p)}};
}

Outputs relu_after_sum(const std::string& op, const Problem& p) {
  return {
      {"scores", mapped(scores_without_relu(op, p), [](std::int64_t, double x) { return x > 0 ? x : 0; })}};
}

double nibbles_swapped(std::int64_t, double byte) {
  const auto b = static_cast<unsigned>(byte);
  return (b >> 4) | (b & 15u) << 4;
}

Outputs two_softmaxes(const std::string& op, const Problem& p) {
  const auto none = [](std::int64_t, double) { return -1.0; };
  Problem window = p, entries = p;
  window.in["entry_idx"] = mapped(p.array("entry_idx"), none);
  entries.in["window_idx"] = mapped(p.array("window_idx"), none);
  const Outputs first = run(op, window);
  Outputs second = run(op, entries);
  second["o"] = mapped(second["o"], [&](std::int64_t i, double x) { return x + first.at("o").at(i); });
  return second;
}

Outputs index_clamped(const std::string& op, Problem p) {
  for (const char* name : {"window", "entry"}) {
    const double last =
        static_cast<double>(p.array(name == std::string("window") ? "window" : "entries").dim(0)) - 1;
    Array& idx = p.in[std::string(name) + "_idx"];
    idx = mapped(idx, [&](std::int64_t, double i) { return std::min(std::max(i, 0.0), last); });
  }
  return run(op, p);
}

Outputs ties_higher(const std::string& op, Problem p) {
  const std::int64_t n = p.array("scores").dim(1), k = p.integer("k");
  const Problem given = p;
  std::vector<std::int64_t> seen;
  for (std::int64_t t = 0; t < p.array("positions").count(); ++t)
    seen.push_back(std::min(n, (p.array("positions").integer(t) + 1) / 4));
  const auto back = [&](std::int64_t t, std::int64_t e) { return seen[static_cast<std::size_t>(t)] - 1 - e; };
  p.in["scores"] = moved(given.array("scores"), [&](std::int64_t i) {
    return i % n < seen[static_cast<std::size_t>(i / n)] ? i / n * n + back(i / n, i % n) : i;
  });
  Outputs out = run(op, p);
  out["idx"] = mapped(out["idx"], [&](std::int64_t i, double e) {
    return e < 0 ? e : static_cast<double>(back(i / k, static_cast<std::int64_t>(e)));
  });
  return out;
}

Outputs not_renormalised(const std::string& op, const Problem& p) {
  Outputs out = run(op, p);
  const Array &idx = out["idx"], &logits = p.array("logits");
  const std::int64_t k = p.integer("k");
  out["weights"] = mapped(out["weights"], [&](std::int64_t i, double) {
    const double u = logits.at(i / k * logits.dim(1) + idx.integer(i));
    const float softplus = u > 20 ? static_cast<float>(u) : static_cast<float>(std::log1p(std::exp(u)));
    return std::sqrt(softplus) * static_cast<float>(p.scalar("route_scale"));
  });
  return out;
}

Outputs hash_weights_uniform(const std::string& op, const Problem& p) {
  Outputs out = run(op, p);
  if (p.in.contains("table"))
    out["weights"] = mapped(out["weights"], [&](std::int64_t, double) {
      return static_cast<float>(p.scalar("route_scale")) / static_cast<float>(p.integer("k"));
    });
  return out;
}

Outputs gate_up_swapped(const std::string& op, Problem p) {
  std::swap(p.in["w1"], p.in["w3"]), std::swap(p.in["w1_scale"], p.in["w3_scale"]);
  return run(op, p);
}

Outputs weight_after_w2(const std::string& op, Problem p) {
  const Array weights = p.array("weights");
  p.in["weights"] = mapped(weights, [](std::int64_t, double) { return 1.0; });
  Outputs out = run(op, p);
  const std::int64_t hidden = p.array("x").dim(1);
  out["y"] = mapped(out["y"], [&](std::int64_t i, double y) { return y * weights.at(i / hidden); });
  return out;
}

Outputs expert_nibbles(const std::string& op, Problem p) {
  if (p.integer("fp4") != 0)
    for (const char* name : {"w1", "w2", "w3"}) p.in[name] = mapped(p.array(name), nibbles_swapped);
  return run(op, p);
}

Outputs groups_interleaved(const std::string& op, Problem p) {
  const std::int64_t heads = p.array("o").dim(1), groups = p.integer("groups"), per_group = heads / groups;
  p.in["o"] = moved(p.array("o"), [=](std::int64_t i) {
    const std::int64_t h = i / 512 % heads;
    return i + (h % per_group * groups + h / per_group - h) * 512;
  });
  return run(op, p);
}

struct Injection {
  const char* op;
  Mistake mistake;
  Run engine;
};

const std::vector<Injection>& injections() {
  const auto other_ratio = [](double ratio) { return ratio == 0 ? 4.0 : 0.0; };
  const auto negative = [](std::int64_t, double x) { return -x; };
  const auto zero = [](std::int64_t, double) { return 0.0; };
  const auto no_sink = [](std::int64_t, double) { return -std::numeric_limits<double>::infinity(); };
  const auto later = [](std::int64_t, double t) { return t + 3; };
  const auto earlier = [](std::int64_t, double t) { return t - 1; };
  const auto nan_largest = [](std::int64_t, double x) {
    return std::isnan(x) ? std::numeric_limits<double>::infinity() : x;
  };
  const auto transposed = [](const char* name) {
    return [=](const std::string& op, Problem p) {
      p.in[name] = moved(p.array(name), [](std::int64_t i) { return i / 16 * 16 + i % 4 * 4 + i % 16 / 4; });
      return run(op, p);
    };
  };
  static const std::vector<Injection> all = {
      {"rms_norm", M::kNormNoEps, with_scalar("eps", [](double) { return 0.0; })},
      {"rms_norm", M::kNormRoundsBeforeWeight, weight_after_rounding},
      {"rope", M::kHalfSplit, half_split},
      {"rope", M::kRopeOtherKind, with_scalar("ratio", other_ratio)},
      {"rope", M::kNoYarn, with_scalar("rope_factor", [](double) { return 1.0; })},
      {"rope", M::kWrongDirection, with_scalar("inverse", [](double x) { return 1 - x; })},
      {"mhc_pre", M::kPostNoFactor2, then("post", [](double x) { return x / 2; })},
      {"mhc_pre", M::kSinkhornStepShort, sinkhorn_step_short},
      {"mhc_pre", M::kNoHcEps, with_scalar("hc_eps", [](double) { return 0.0; })},
      {"mhc_post", M::kCombNotTransposed, transposed("comb")},
      {"mhc_head", M::kNoHcEps, with_scalar("hc_eps", [](double) { return 0.0; })},
      {"attn_q_proj", M::kRopeOtherKind, with_scalar("ratio", other_ratio)},
      {"attn_q_proj", M::kNormNoEps, with_scalar("eps", [](double) { return 0.0; })},
      {"attn_kv_proj", M::kNoYarn, with_scalar("rope_factor", [](double) { return 1.0; })},
      {"attn_kv_proj", M::kWrongDirection, with("positions", negative)},
      {"attn_compress", M::kApeTwice, ape_twice},
      {"attn_compress", M::kApeMissing, ape_missing},
      {"attn_compress", M::kHalvesSwapped, halves_swapped},
      {"attn_compress", M::kPaddingLeaks, padding_leaks},
      {"attn_compress", M::kIndexSharesMain, index_shares_main},
      {"attn_compress", M::kRopeOtherKind,
       [](const std::string& op, Problem p) {
         // The state's ratio stays: only the tables are those of window layers.
         p.scalars["compress_rope_theta"] = p.scalar("rope_theta"), p.scalars["rope_factor"] = 1;
         return run(op, p);
       }},
      {"attn_index_prep", M::kIndexFactorMissing,
       then("weights", [](double x) { return x * std::sqrt(128.0) * 2; })},
      {"attn_index_prep", M::kNibblesSwapped,
       [](const std::string& op, const Problem& p) {
         Outputs out = run(op, p);
         out["q"] = mapped(out["q"],
                           [](std::int64_t i, double b) { return i % 68 < 64 ? nibbles_swapped(i, b) : b; });
         return out;
       }},
      {"attn_index_scores", M::kReluMissing, relu_missing},
      {"attn_index_scores", M::kReluAfterSum, relu_after_sum},
      {"attn_index_scores", M::kNibblesSwapped,
       with("keys", [](std::int64_t i, double b) { return i % 68 < 64 ? nibbles_swapped(i, b) : b; })},
      {"visibility", M::kVisibleLate,
       [](const std::string& op, const Problem& p) {
         Problem moved_by_one = p;
         moved_by_one.in["positions"] =
             mapped(p.array("positions"), [](std::int64_t, double t) { return t - 1; });
         Outputs out = run(op, p);
         out["entries"] = run(op, moved_by_one)["entries"];
         return out;
       }},
      {"attn_select", M::kVisibleEarly, with("positions", later)},
      {"attn_select", M::kVisibleLate, with("positions", earlier)},
      {"attn_select", M::kTiesHigher, ties_higher},
      {"attn_select", M::kNanChosen, with("scores", nan_largest)},
      {"attn_select", M::kPadsWithZero, then("idx", [](double i) { return i < 0 ? 0 : i; })},
      {"attn_attend", M::kTwoSoftmaxes, two_softmaxes},
      {"attn_attend", M::kSinkMissing, with("sink", no_sink)},
      {"attn_attend", M::kSinkPerSplit,
       with("sink", [](std::int64_t, double s) { return s + std::log(2.0); })},
      {"attn_attend", M::kIndexClamped, index_clamped},
      {"attn_out_proj", M::kWrongDirection, with("positions", negative)},
      {"attn_out_proj", M::kGroupsInterleaved, groups_interleaved},
      {"moe_gate", M::kBiasIgnored, with("bias", zero)},
      {"moe_gate", M::kScaleBeforeRenorm, with_scalar("route_scale", [](double) { return 1.0; })},
      {"moe_gate", M::kNotRenormalised, not_renormalised},
      {"moe_gate", M::kHashWeightsUniform, hash_weights_uniform},
      {"moe_experts", M::kClampMissing, with_scalar("limit", [](double) { return 0.0; })},
      {"moe_experts", M::kGateUpSwapped, gate_up_swapped},
      {"moe_experts", M::kWeightAfterW2, weight_after_w2},
      {"moe_experts", M::kNibblesSwapped, expert_nibbles},
      {"moe_combine", M::kSharedMissing, with("shared", zero)},
      {"lm_head", M::kLogitsInBf16, then("logits", [](double x) { return bf16_round(x); })},
  };
  return all;
}

}  // namespace

TEST_CASE("vectors: mistakes injected into the primitives are named", "[vectors][injected]") {
  std::set<Mistake> named;
  for (const Injection& injection : injections()) {
    const Op& op = *find_op(injection.op);
    const VectorFile vectors =
        parse_vectors(dsv4::test::engine::in_memory(vectors_bytes(op, tiny_sizes(), "tiny", 7), "vectors"));
    SafetensorsWriter writer;
    for (const StoredCase& c : vectors.cases)
      dsv4::test::engine::add(writer, c.given.name, injection.engine(injection.op, c.given.problem));
    const OpResult result = check_op(vectors, dsv4::test::engine::in_memory(writer.bytes(), "outputs"), {});
    std::string found;
    for (const Likely& l : result.likely) found += std::string(info(l.mistake).name) + " ";
    CAPTURE(injection.op, std::string(info(injection.mistake).name), found, result.wrong());
    CHECK(result.wrong() > 0);
    CHECK(result.likely.size() == 1);
    if (!result.likely.empty()) CHECK(result.likely[0].mistake == injection.mistake);
    named.insert(injection.mistake);
  }
  REQUIRE(named.size() >= 30);
}
