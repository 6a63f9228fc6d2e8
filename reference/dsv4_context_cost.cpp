// dsv4_context_cost: what a context costs in FLOPs and in cache, as a table and as a plot.
#include "reference/config.hpp"
#include "reference/context_cost/published.hpp"
#include "reference/context_cost/report.hpp"
#include "reference/error.hpp"
#include "reference/mapped_file.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace {

using namespace dsv4::reference::context_cost;
using dsv4::reference::InputError;

constexpr int kUnusable = 2;

struct Options {
  std::vector<std::string> models = {"flash", "pro", "v3.2"};
  std::vector<std::string> configs;
  std::vector<std::string> lengths = {"1k", "4k", "16k", "64k", "128k", "256k", "512k", "1M"};
  std::string format = "text";
  std::string svg;
  bool explain = false, published = false, no_window = false;
  Assumptions assumptions;
};

Model from_config(const std::string& path) {
  constexpr std::size_t kLargest = 1 << 20;
  const std::string text = dsv4::reference::read_text(path, kLargest);
  // Checkpoints are folders with a config.json: the folder names the model.
  const std::filesystem::path full = std::filesystem::absolute(path);
  const std::string name =
      full.filename() == "config.json" ? full.parent_path().filename().string() : full.stem().string();
  return {dsv4::reference::printable(name, 40),
          dsv4::reference::parse_config(text, dsv4::reference::printable(path)).config};
}

std::vector<Model> models_of(const Options& o) {
  const std::vector<Model> published = published_models();
  std::vector<Model> models;
  const std::vector<std::string> names = {"flash", "pro", "v3.2"};
  for (const std::string& name : o.models)
    models.push_back(
        published[static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin())]);
  for (const std::string& path : o.configs) models.push_back(from_config(path));
  return models;
}

void write_svg(const std::string& path, const std::vector<Model>& models,
               const std::vector<std::int64_t>& lengths, const Assumptions& a) {
  const auto [from, to] = std::minmax_element(lengths.begin(), lengths.end());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << plot_svg("Cost of a context, and share of V3.2 at " + tokens_text(*to) + " tokens",
                   panels(models, *from, *to, a));
  if (!file.flush()) throw InputError(fmt::format("{}: cannot be written", dsv4::reference::printable(path)));
}

// CLI::Range lets a NaN pass.
std::string rate_text(const std::string& text) {
  double rate = 0;
  const bool number = CLI::detail::lexical_cast(text, rate);
  return number && rate >= 1e-3 && rate <= 1e3 ? "" : text + " is not in [0.001, 1000]";
}

bool all_agree(const Assumptions& a) {
  const std::vector<PublishedFigure> figures = published_figures(a);
  return std::all_of(figures.begin(), figures.end(), [](const auto& f) { return f.agrees(); });
}

int run(const Options& o) {
  const Assumptions& a = o.assumptions;
  const std::vector<Model> models = models_of(o);
  std::vector<std::int64_t> lengths;
  for (const std::string& text : o.lengths) lengths.push_back(parse_tokens(text));

  if (!o.svg.empty()) write_svg(o.svg, models, lengths, a);
  if (o.explain) {
    fmt::print("{}", explanation(models, a));
    return 0;
  }
  if (o.published) {
    const bool agree = all_agree(a);
    fmt::print("{}{}\n", as_text(published_table(a)), agree ? "PASS: all agree" : "FAIL: not all agree");
    return agree ? 0 : 1;
  }
  if (o.format == "json") {
    fmt::print("{}", as_json(models, lengths, a));
  } else if (o.format == "csv") {
    fmt::print("{}", as_csv(by_model_and_length(models, lengths, a)));
  } else {
    const Table table = by_length(models, lengths, a);
    fmt::print("{}", o.format == "markdown" ? as_markdown(table) : as_text(table));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "FLOPs of a decoded token and bytes of KV cache, by the context's length, for DeepSeek-V4 and V3.2.\n"
      "GFLOP are equivalent FP8 operations, MB are 10^6 bytes; --explain says what is counted.\n"
      "Exit: 0 done, 1 --published found a figure that differs, 2 unusable input."};
  Options o;
  app.add_option("--model", o.models, "Published models")
      ->delimiter(',')
      ->check(CLI::IsMember({"flash", "pro", "v3.2"}))
      ->capture_default_str();
  app.add_option("--config", o.configs, "Other V4 models: config.json of a checkpoint (repeatable)");
  app.add_option("--lengths", o.lengths, "Context lengths: 4096, 64k (thousands), 1M, 512Ki")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--format", o.format, "Of the table on standard output")
      ->check(CLI::IsMember({"text", "markdown", "csv", "json"}))
      ->capture_default_str();
  app.add_option("--svg", o.svg, "Also write a plot over the range of lengths to this file");
  app.add_flag("--explain", o.explain, "Print what is counted, each product and other choices, and stop");
  app.add_flag("--published", o.published, "Compare with the figures of the report at 1M tokens, and stop");

  const std::map<std::string, KvFormat> kv = {{"fp8", KvFormat::kFp8}, {"bf16", KvFormat::kBf16}};
  const std::map<std::string, KeyFormat> keys = {
      {"fp4", KeyFormat::kFp4}, {"fp8", KeyFormat::kFp8}, {"bf16", KeyFormat::kBf16}};
  const std::map<std::string, Arithmetic> grouped = {{"fp8", Arithmetic::kFp8}, {"bf16", Arithmetic::kBf16}};
  Assumptions& a = o.assumptions;
  std::string kv_name = "fp8", keys_name = "fp4", grouped_name = "fp8";
  app.add_option("--kv", kv_name, "V4's entries: fp8 (584 bytes) or bf16 rows")
      ->check(CLI::IsMember(kv))
      ->capture_default_str();
  app.add_option("--index-keys", keys_name, "V4's index keys and the scores' arithmetic: fp4, fp8 or bf16")
      ->check(CLI::IsMember(keys))
      ->capture_default_str();
  app.add_option("--grouped", grouped_name, "Products by group (Wo_a, V3.2's absorbed Wkv_b): fp8 or bf16")
      ->check(CLI::IsMember(grouped))
      ->capture_default_str();
  app.add_option("--bf16-rate", a.bf16_rate, "Cost of a bf16 operation in FP8 operations")
      ->check(rate_text)
      ->capture_default_str();
  app.add_option("--fp4-weights-rate", a.fp4_weights_rate, "Cost of FP8 activations x FP4 weights")
      ->check(rate_text)
      ->capture_default_str();
  app.add_option("--fp4-rate", a.fp4_rate, "Cost of FP4 x FP4")->check(rate_text)->capture_default_str();
  app.add_flag("--no-window", o.no_window, "Leave the window's entries out of the cache");
  try {
    app.parse(argc, argv);
    if (o.explain && o.published) throw CLI::ValidationError("--explain and --published exclude each other");
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    fmt::print(stderr, "dsv4_context_cost: {} (--help lists the options)\n", error.what());
    return kUnusable;
  }
  a.kv = kv.at(kv_name), a.keys = keys.at(keys_name), a.grouped = grouped.at(grouped_name);
  a.count_window = !o.no_window;

  try {
    return run(o);
  } catch (const std::exception& error) {
    fmt::print(stderr, "dsv4_context_cost: {}\n", error.what());
    return kUnusable;
  }
}
