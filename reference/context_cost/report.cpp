#include "reference/context_cost/report.hpp"

#include "reference/context_cost/published.hpp"
#include "reference/error.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

namespace dsv4::reference::context_cost {

namespace {

const Model kBase{"V3.2", kV32};

struct Suffix {
  const char* text;
  std::int64_t factor;
};
constexpr std::array<Suffix, 4> kSuffixes = {
    {{"Mi", 1 << 20}, {"M", 1'000'000}, {"Ki", 1 << 10}, {"k", 1'000}}};

std::string percent(double share) { return fmt::format("{:.2f} %", 100 * share); }

const char* name_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kBf16:
      return "bf16";
    case Arithmetic::kFp8:
      return "fp8";
    case Arithmetic::kFp4Weights:
      return "fp8 x fp4";
    case Arithmetic::kFp4:
      break;
  }
  return "fp4";
}

bool is_v4(const Model& m) { return std::holds_alternative<ModelConfig>(m.sizes); }

}  // namespace

std::int64_t parse_tokens(std::string_view text) {
  std::string_view digits = text;
  std::int64_t factor = 1;
  for (const Suffix& s : kSuffixes)
    if (digits.ends_with(s.text)) {
      digits.remove_suffix(std::string_view(s.text).size());
      factor = s.factor;
      break;
    }
  std::int64_t n = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  const bool number = error == std::errc{} && end == digits.data() + digits.size();
  if (!number || n < 1 || n > kMaxTokens / factor)
    throw InputError(
        fmt::format("'{}' is no context length: a whole number of tokens in [1, 2^32], such as "
                    "4096, 64k, 1M, 512Ki",
                    printable(text)));
  return n * factor;
}

std::string tokens_text(std::int64_t tokens) {
  std::string shortest = fmt::format("{}", tokens);
  for (const Suffix& s : kSuffixes)
    if (tokens % s.factor == 0) {
      const std::string text = fmt::format("{}{}", tokens / s.factor, s.text);
      if (text.size() < shortest.size()) shortest = text;
    }
  return shortest;
}

Table by_length(std::span<const Model> models, std::span<const std::int64_t> lengths, const Assumptions& a) {
  Table t{{"tokens"}, "r", {}};
  for (const Model& m : models) {
    t.header.insert(t.header.end(), {m.name + " GFLOP", m.name + " MB"});
    t.align += "rr";
    if (!is_v4(m)) continue;
    t.header.insert(t.header.end() - 1, "of V3.2");
    t.header.push_back("of V3.2");
    t.align += "rr";
  }
  for (const std::int64_t n : lengths) {
    const Cost base = cost(kBase, n, a);
    std::vector<std::string> row = {tokens_text(n)};
    for (const Model& m : models) {
      const Cost c = cost(m, n, a);
      row.push_back(fmt::format("{:.1f}", c.fp8_flops / 1e9));
      if (is_v4(m)) row.push_back(percent(c.fp8_flops / base.fp8_flops));
      row.push_back(fmt::format("{:.1f}", c.cache.total / 1e6));
      if (is_v4(m)) row.push_back(percent(c.cache.total / base.cache.total));
    }
    t.rows.push_back(std::move(row));
  }
  return t;
}

Table by_model_and_length(std::span<const Model> models, std::span<const std::int64_t> lengths,
                          const Assumptions& a) {
  Table t{{"model", "tokens", "flops_per_token", "fp8_flops_per_token", "fp8_flops_of_v32", "cache_bytes",
           "cache_bytes_per_token", "cache_of_v32", "bytes_entries", "bytes_keys", "bytes_window",
           "bytes_states"},
          "lrrrrrrrrrrr",
          {}};
  for (const Model& m : models)
    for (const std::int64_t n : lengths) {
      const Cost c = cost(m, n, a), base = cost(kBase, n, a);
      t.rows.push_back(
          {m.name, fmt::format("{}", n), fmt::format("{:.0f}", c.flops), fmt::format("{:.0f}", c.fp8_flops),
           fmt::format("{:.6f}", c.fp8_flops / base.fp8_flops), fmt::format("{:.0f}", c.cache.total),
           fmt::format("{:.2f}", c.cache.total / static_cast<double>(n)),
           fmt::format("{:.6f}", c.cache.total / base.cache.total), fmt::format("{:.0f}", c.cache.entries),
           fmt::format("{:.0f}", c.cache.keys), fmt::format("{:.0f}", c.cache.window),
           fmt::format("{:.0f}", c.cache.states)});
    }
  return t;
}

std::string as_json(std::span<const Model> models, std::span<const std::int64_t> lengths,
                    const Assumptions& a) {
  using json = nlohmann::ordered_json;
  json out;
  out["assumptions"] = {{"bf16_rate", a.bf16_rate},         {"fp4_weights_rate", a.fp4_weights_rate},
                        {"fp4_rate", a.fp4_rate},           {"grouped", name_of(a.grouped)},
                        {"entry_bytes", entry_bytes(a.kv)}, {"key_bytes", key_bytes(a.keys)},
                        {"count_window", a.count_window}};
  out["models"] = json::array();
  for (const Model& m : models) {
    json model = {{"name", m.name}, {"active_weights", active_weights(m)}, {"lengths", json::array()}};
    for (const std::int64_t n : lengths) {
      const Cost c = cost(m, n, a), base = cost(kBase, n, a);
      json parts;
      for (const Term& t : terms(m, n, a))
        parts[std::string(t.part)] = {{"flops", 2 * t.macs}, {"arithmetic", name_of(t.arithmetic)}};
      model["lengths"].push_back({{"tokens", n},
                                  {"flops_per_token", c.flops},
                                  {"fp8_flops_per_token", c.fp8_flops},
                                  {"fp8_flops_of_v32", c.fp8_flops / base.fp8_flops},
                                  {"parts", parts},
                                  {"cache_bytes", c.cache.total},
                                  {"cache_bytes_per_token", c.cache.total / static_cast<double>(n)},
                                  {"cache_of_v32", c.cache.total / base.cache.total},
                                  {"bytes_entries", c.cache.entries},
                                  {"bytes_keys", c.cache.keys},
                                  {"bytes_window", c.cache.window},
                                  {"bytes_states", c.cache.states}});
    }
    out["models"].push_back(std::move(model));
  }
  // A model's name may come from a folder that is no UTF-8.
  return out.dump(2, ' ', false, json::error_handler_t::replace) + '\n';
}

Table published_table(const Assumptions& a) {
  Table t{{"at 1M tokens", "computed", "rounded", "report", "where", ""}, "lrrrll", {}};
  for (const PublishedFigure& f : published_figures(a))
    t.rows.push_back({f.what, fmt::format("{:.{}f} {}", f.computed, f.decimals + 2, f.unit), f.rounded(),
                      f.said, f.source, f.agrees() ? "agrees" : "DIFFERS"});
  return t;
}

std::string explanation(std::span<const Model> models, const Assumptions& a) {
  std::string out = fmt::format(
      "Counted: 2 operations a multiply-add of every weight matrix that a decoded token passes, of the\n"
      "indexer's scores and of attention. Not counted: norms, rotations, Hadamard transforms, quantisers,\n"
      "softmax, Sinkhorn, selection, the embedding's copy, and the MTP block.\n\n"
      "An operation costs, in FP8 operations: fp8 1, bf16 {}, fp8 activations x fp4 weights {}, fp4 {}.\n"
      "  fp8 x fp4 = fp8: \"the peak FLOPs for FP4 x FP8 operations are currently the same as FP8 x FP8\"\n"
      "  (report, section 1); the indexer's scores are fp4 x fp4 (section 2.3.4), twice as fast.\n"
      "  Wo_a by groups and V3.2's absorbed Wkv_b are stored as fp8 and counted as {}.\n\n"
      "Cache of V4: {} bytes an entry, {} an index key; entries n/4 a CSA layer, n/128 an HCA layer; the\n"
      "window's min(128, n) entries a layer are {}. Compressors' states (no rollback) are listed, not\n"
      "counted. Cache of V3.2: {} + {} bytes a token and layer. No padding of pages.\n",
      a.bf16_rate, a.fp4_weights_rate, a.fp4_rate, name_of(a.grouped), entry_bytes(a.kv), key_bytes(a.keys),
      a.count_window ? "counted" : "not counted", kV32EntryBytes, kV32KeyBytes);
  for (const Model& m : models) {
    Table t{{"product", "multiply-adds a token, n = " + tokens_text(kPublishedTokens), "arithmetic", "GFLOP",
             "FP8 GFLOP"},
            "lllrr",
            {}};
    for (const Term& term : terms(m, kPublishedTokens, a))
      t.rows.push_back({std::string(term.part), std::string(term.formula), name_of(term.arithmetic),
                        fmt::format("{:.2f}", 2 * term.macs / 1e9),
                        fmt::format("{:.2f}", 2 * term.macs * rate(term.arithmetic, a) / 1e9)});
    const Cost c = cost(m, kPublishedTokens, a);
    t.rows.push_back(
        {"sum", "", "", fmt::format("{:.2f}", c.flops / 1e9), fmt::format("{:.2f}", c.fp8_flops / 1e9)});
    out += fmt::format(
        "\n{}: {:.2f} B active weights; cache {:.3f} GB: entries {:.3f}, index keys {:.3f}, "
        "window {:.4f} (states {:.4f})\n{}",
        m.name, active_weights(m) / 1e9, c.cache.total / 1e9, c.cache.entries / 1e9, c.cache.keys / 1e9,
        c.cache.window / 1e9, c.cache.states / 1e9, as_text(t));
  }
  Table v{{"of V3.2, if", "Pro FLOPs", "Flash FLOPs", "Pro cache", "Flash cache"}, "lrrrr", {}};
  for (const Variant& variant : variants(a)) {
    const Assumptions& va = variant.assumptions;
    const Cost base = cost(kBase, variant.tokens, va);
    const Cost pro = cost({"", kPro}, variant.tokens, va), flash = cost({"", kFlash}, variant.tokens, va);
    v.rows.push_back({variant.what, percent(pro.fp8_flops / base.fp8_flops),
                      percent(flash.fp8_flops / base.fp8_flops), percent(pro.cache.total / base.cache.total),
                      percent(flash.cache.total / base.cache.total)});
  }
  return out + "\n" + as_text(v);
}

std::vector<Panel> panels(std::span<const Model> models, std::int64_t from, std::int64_t to,
                          const Assumptions& a) {
  Panel flops{"FLOPs per decoded token (FP8 equivalent)", "context, tokens", "FLOP", {}};
  Panel cache{"KV cache of a sequence", "context, tokens", "B", {}};
  constexpr int kPoints = 24;  // a decade
  const double decades = std::log10(static_cast<double>(to) / static_cast<double>(from));
  const int steps = std::max(1, static_cast<int>(std::ceil(decades * kPoints)));
  const Cost base = cost(kBase, to, a);
  for (const Model& m : models) {
    Series f{m.name, {}, {}, {}}, b = f;
    for (int i = 0; i <= steps; ++i) {
      const double exact = static_cast<double>(from) * std::pow(10.0, decades * i / steps);
      const std::int64_t n = i == steps ? to : std::llround(exact);
      const Cost c = cost(m, n, a);
      f.x.push_back(static_cast<double>(n)), f.y.push_back(c.fp8_flops);
      b.x.push_back(static_cast<double>(n)), b.y.push_back(c.cache.total);
    }
    if (is_v4(m)) {
      f.end_label = fmt::format("{:.0f} %", 100 * f.y.back() / base.fp8_flops);
      b.end_label = fmt::format("{:.0f} %", 100 * b.y.back() / base.cache.total);
    }
    flops.series.push_back(std::move(f));
    cache.series.push_back(std::move(b));
  }
  return {flops, cache};
}

}  // namespace dsv4::reference::context_cost
