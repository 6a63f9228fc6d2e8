#include "reference/context_cost/published.hpp"

#include <fmt/format.h>

namespace dsv4::reference::context_cost {

namespace {

// Bytes of a bf16 cache of grouped-query attention with 8 key-value heads of 128: keys and values.
double gqa8_bytes(double layers, double tokens) { return layers * tokens * 8 * 128 * 2 * 2; }

}  // namespace

std::string PublishedFigure::rounded() const { return fmt::format("{:.{}f}", computed, decimals); }

std::vector<PublishedFigure> published_figures(const Assumptions& a) {
  const Model v32{"V3.2", kV32};
  const Cost base = cost(v32, kPublishedTokens, a);
  std::vector<PublishedFigure> figures;
  struct Said {
    const char *flops_share, *flops_factor, *cache_share, *cache_factor, *active;
  };
  const auto add = [&](const std::string& name, const ModelConfig& config, const Said& said) {
    const Model model{name, config};
    const Cost c = cost(model, kPublishedTokens, a);
    const double gqa8 = gqa8_bytes(config.layers, static_cast<double>(kPublishedTokens));
    figures.push_back({name + " FLOPs a token, of V3.2", "section 1", 100 * c.fp8_flops / base.fp8_flops, 0,
                       "%", said.flops_share});
    figures.push_back({name + " FLOPs a token, times lower", "figure 1", base.fp8_flops / c.fp8_flops, 1, "x",
                       said.flops_factor});
    figures.push_back({name + " cache, of V3.2", "section 1", 100 * c.cache.total / base.cache.total, 0, "%",
                       said.cache_share});
    figures.push_back({name + " cache, times smaller", "figure 1", base.cache.total / c.cache.total, 1, "x",
                       said.cache_factor});
    figures.push_back({name + " cache, of bf16 GQA8 with heads of 128", "section 2.3.4",
                       100 * c.cache.total / gqa8, 0, "%", "2"});
    figures.push_back(
        {name + " activated parameters", "section 1", active_weights(model) / 1e9, 0, "B", said.active});
  };
  add("V4-Pro", kPro, {"27", "3.7", "10", "9.5", "49"});
  add("V4-Flash", kFlash, {"10", "9.8", "7", "13.7", "13"});
  return figures;
}

std::vector<Variant> variants(const Assumptions& a) {
  std::vector<Variant> list = {{"as above", a, kPublishedTokens}};
  const auto add = [&](const char* what, auto change, std::int64_t tokens = kPublishedTokens) {
    Variant v{what, a, tokens};
    change(v.assumptions);
    list.push_back(v);
  };
  add("routed experts' FP4 weights at 0.5 (a machine that multiplies FP4 by FP8 faster)",
      [](Assumptions& v) { v.fp4_weights_rate = 0.5; });
  add("Wo_a and absorbed Wkv_b in bf16, as the published inference code has them",
      [](Assumptions& v) { v.grouped = Arithmetic::kBf16; });
  add("both of these", [](Assumptions& v) { v.fp4_weights_rate = 0.5, v.grouped = Arithmetic::kBf16; });
  add("index keys in FP8, as engines without FP4 tensor cores keep them",
      [](Assumptions& v) { v.keys = KeyFormat::kFp8; });
  add("a cache of plain bf16 rows", [](Assumptions& v) { v.kv = KvFormat::kBf16; });
  add("the window's entries not counted", [](Assumptions& v) { v.count_window = false; });
  add(
      "2^20 tokens", [](Assumptions&) {}, std::int64_t{1} << 20);
  return list;
}

}  // namespace dsv4::reference::context_cost
