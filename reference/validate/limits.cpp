#include "reference/validate/limits.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace dsv4::reference::validation {

namespace {

// The first pattern that matches a tap decides; lines with the same pattern belong together.

// fp32 throughout: what differs is the order of summation. Independent implementations reach 1.2e-6 after a
// whole pass; 2e-5 would let 21 Sinkhorn iterations or a dropped epsilon through.
constexpr Limit kExactFree[] = {
    {"*.attn.idx", Measure::kSet},
    {"*.attn.indexer.topk", Measure::kSet},
    {"*.ffn.gate.indices", Measure::kSet},
    {"*", Measure::kCallL2, 4e-6},
};

constexpr Limit kExactStaged[] = {
    {"*.attn.idx", Measure::kSet},         {"*.attn.indexer.topk", Measure::kSet},
    {"*.ffn.gate.indices", Measure::kSet}, {"*.mixes", Measure::kCallL2, 1.5e-6},
    {"*.pre", Measure::kCallL2, 1.5e-6},   {"*.post", Measure::kCallL2, 1.5e-6},
    {"*.comb", Measure::kCallL2, 1.5e-6},  {"*.gate.weights", Measure::kCallL2, 1.5e-6},
    {"*", Measure::kCallL2, 3e-6},
};

// Rounded at every step: a stage that is fed recorded inputs gives the recorded bits, except where its fp32
// sum falls on the edge between two bf16 values. attn.out, ffn.shared and ffn.out round to FP8 inside, where
// one flip moves a whole block: up to 1e-2 of its row.
constexpr Limit kDeployStaged[] = {
    {"*.attn.idx", Measure::kSet},
    {"*.attn.indexer.topk", Measure::kSet},
    {"*.ffn.gate.indices", Measure::kSet},
    {"*.mixes", Measure::kPooledL2, 2e-6},
    {"*.mixes", Measure::kRowL2, 3e-2},
    {"*.pre", Measure::kPooledL2, 2e-6},
    {"*.pre", Measure::kRowL2, 3e-2},
    {"*.post", Measure::kPooledL2, 2e-6},
    {"*.post", Measure::kRowL2, 3e-2},
    {"*.comb", Measure::kPooledL2, 2e-6},
    {"*.comb", Measure::kRowL2, 3e-2},
    {"*.gate.weights", Measure::kPooledL2, 2e-6},
    {"*.gate.weights", Measure::kRowL2, 3e-2},
    {"*.indexer.scores", Measure::kPooledL2, 2e-6},
    {"*.indexer.scores", Measure::kRowL2, 3e-2},
    // The MTP block's final norm is not a tap: between its recorded streams and its logits lie two roundings
    // to bf16, of which one in a hundred calls or so flips (3e-4 of that call). The median sees the
    // arithmetic.
    {"mtp.*logits", Measure::kMedianL2, 2e-6},
    {"mtp.*logits", Measure::kRowL2, 3e-2},
    {"logits", Measure::kPooledL2, 2e-6},
    {"logits", Measure::kRowL2, 3e-2},
    // A softmax may round its weights against the maximum of a group of rows instead of all.
    {"*.attn.o", Measure::kEqual, 0.98},
    {"*.attn.o", Measure::kPooledL2, 1e-3},
    {"*.attn.o", Measure::kRowL2, 3e-2},
    {"*.attn.out", Measure::kEqual, 0.97},
    {"*.attn.out", Measure::kRowL2, 3e-2},
    {"*.ffn.shared", Measure::kEqual, 0.97},
    {"*.ffn.shared", Measure::kRowL2, 3e-2},
    {"*.ffn.out", Measure::kEqual, 0.97},
    {"*.ffn.out", Measure::kRowL2, 3e-2},
    {"*", Measure::kEqual, 0.995},
    {"*", Measure::kRowL2, 3e-2},
};

// A coarse check: one rounding that flips moves the logits by up to 2e-2, and an expert that is chosen
// otherwise by more. The first stages, where nothing can have built up yet, are held to what they are held to
// staged; the rest before the logits is shown without a limit: --mode staged judges it.
constexpr Limit kDeployFree[] = {
    {"layers.0.in", Measure::kEqual, 1},
    {"layers.0.hc_attn.mixes", Measure::kPooledL2, 2e-6},
    {"layers.0.hc_attn.pre", Measure::kPooledL2, 2e-6},
    {"layers.0.hc_attn.post", Measure::kPooledL2, 2e-6},
    {"layers.0.hc_attn.comb", Measure::kPooledL2, 2e-6},
    {"layers.0.hc_attn.in", Measure::kEqual, 0.995},
    {"layers.0.hc_attn.in", Measure::kRowL2, 3e-2},
    {"layers.0.attn.in", Measure::kEqual, 0.99},
    {"layers.0.attn.in", Measure::kRowL2, 3e-2},
    {"*logits", Measure::kMedianL2, 0.1},
    {"*logits", Measure::kCallL2, 0.4},
    {"*", Measure::kNone},
};

}  // namespace

std::span<const Limit> limits(NumericMode mode, RunMode run) {
  if (mode == NumericMode::kExact) {
    if (run == RunMode::kFree) return kExactFree;
    return kExactStaged;
  }
  if (run == RunMode::kFree) return kDeployFree;
  return kDeployStaged;
}

bool matches(std::string_view pattern, std::string_view name) {
  const std::size_t star = pattern.find('*');
  if (star == pattern.npos) return pattern == name;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  for (std::size_t skip = star; skip <= name.size(); ++skip)
    if (matches(pattern.substr(star + 1), name.substr(skip))) return true;
  return false;
}

std::vector<Limit> limits_of(NumericMode mode, RunMode run, std::string_view tap, double scale) {
  std::vector<Limit> out;
  for (Limit limit : limits(mode, run)) {
    if (!out.empty() ? limit.pattern != out[0].pattern : !matches(limit.pattern, tap)) continue;
    limit.value =
        limit.measure == Measure::kEqual ? std::max(0.0, 1 - (1 - limit.value) * scale) : limit.value * scale;
    out.push_back(limit);
  }
  return out;
}

std::string describe(const Limit& limit) {
  switch (limit.measure) {
    case Measure::kCallL2:
      return fmt::format("L2 of each call <= {:.3g}", limit.value);
    case Measure::kPooledL2:
      return fmt::format("L2 over all calls <= {:.3g}", limit.value);
    case Measure::kMedianL2:
      return fmt::format("median L2 of the calls <= {:.3g}", limit.value);
    case Measure::kRowL2:
      return fmt::format("L2 of each row <= {:.3g}", limit.value);
    case Measure::kEqual:
      return fmt::format("bit-equal elements >= {:.4g} %", 100 * limit.value);
    case Measure::kSet:
      return "same set";
    case Measure::kNone:
      break;
  }
  return "none (shown for information)";
}

std::string limits_text() {
  std::string out =
      "Limits, by numeric mode of the recording and --mode. The first pattern that matches a tap's name\n"
      "decides. d = computed - recorded; L2 = sqrt(sum d^2) / sqrt(sum recorded^2), a row being one token "
      "(or\n"
      "one entry); a row of zeros counts with a thousandth of the root mean square row. Whatever the limit,\n"
      "NaN and infinities must be where the recording has them. A selection may swap members whose scores\n"
      "differ by at most 1e-6 of the row's largest magnitude.\n";
  for (const NumericMode mode : {NumericMode::kExact, NumericMode::kDeploy})
    for (const RunMode run : {RunMode::kFree, RunMode::kStaged}) {
      out += fmt::format("\n{}, {}\n", mode == NumericMode::kExact ? "exact" : "deploy",
                         run == RunMode::kFree ? "free" : "staged");
      const std::span<const Limit> all = limits(mode, run);
      for (std::size_t i = 0; i < all.size(); ++i) {
        const bool more = i > 0 && all[i].pattern == all[i - 1].pattern;
        out += fmt::format("  {:<24}{}\n", more ? std::string_view{} : all[i].pattern, describe(all[i]));
      }
    }
  return out;
}

}  // namespace dsv4::reference::validation
