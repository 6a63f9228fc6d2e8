#include "reference/config.hpp"

#include "reference/error.hpp"
#include "reference/json.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace dsv4::reference {
namespace {

using nlohmann::json;

std::string quoted(const json& value) {
  return printable(value.dump(-1, ' ', false, json::error_handler_t::replace), 80);
}

// A spelling of a key; `section` is the object it lives in, empty for the root.
struct Spelling {
  const char* section;
  const char* key;

  std::string text() const { return *section ? fmt::format("{}.{}", section, key) : key; }
};
using Spellings = std::initializer_list<Spelling>;

// Reads typed values by any of their spellings. null counts as absent, as in published files.
class Reader {
 public:
  Reader(const json& root, const std::string& source) : root_(root), source_(source) {}

  [[noreturn]] void refuse(const std::string& reason) const {
    throw InputError(fmt::format("{}: config: {}", source_, reason));
  }

  const json* find(const char* section, const char* key) const {
    const json* object = &root_;
    if (*section) {
      object = find("", section);
      if (object == nullptr) return nullptr;
      if (!object->is_object()) refuse(fmt::format("{} must be an object, got {}", section, quoted(*object)));
    }
    const auto it = object->find(key);
    return it == object->end() || it->is_null() ? nullptr : &*it;
  }

  // The value and the spelling that gave it; null when no spelling is present.
  std::pair<const json*, std::string> find(Spellings spellings) const {
    const json* found = nullptr;
    std::string name = spellings.begin()->text();
    for (const Spelling& s : spellings) {
      const json* value = find(s.section, s.key);
      if (value == nullptr) continue;
      if (found != nullptr && *found != *value)
        refuse(fmt::format("{} is {}, but {} is {}", name, quoted(*found), s.text(), quoted(*value)));
      if (found == nullptr) found = value, name = s.text();
    }
    return {found, name};
  }

  std::int64_t integer(Spellings spellings, std::optional<std::int64_t> fallback, std::int64_t low,
                       std::int64_t high) const {
    const auto [value, name] = find(spellings);
    if (value == nullptr) return fallback ? *fallback : missing(spellings);
    if (!value->is_number_integer())
      refuse(fmt::format("{} must be an integer, got {}", name, quoted(*value)));
    const bool too_large = value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX;
    if (too_large || value->get<std::int64_t>() < low || value->get<std::int64_t>() > high)
      refuse(fmt::format("{} is {}, outside [{}, {}]", name, quoted(*value), low, high));
    return value->get<std::int64_t>();
  }

  std::int32_t int32(Spellings spellings, std::optional<std::int32_t> fallback = {}) const {
    return static_cast<std::int32_t>(integer(spellings, fallback, INT32_MIN, INT32_MAX));
  }

  double number(Spellings spellings, std::optional<double> fallback = {}) const {
    const auto [value, name] = find(spellings);
    if (value == nullptr) return fallback ? *fallback : missing(spellings);
    if (!value->is_number()) refuse(fmt::format("{} must be a number, got {}", name, quoted(*value)));
    return value->get<double>();
  }

  float number32(Spellings spellings, std::optional<float> fallback = {}) const {
    if (find(spellings).first == nullptr && fallback) return *fallback;
    const double value = number(spellings);
    if (!(std::abs(value) <= std::numeric_limits<float>::max()))
      refuse(fmt::format("{} is {}, beyond fp32", find(spellings).second, value));
    return static_cast<float>(value);
  }

  std::string string(Spellings spellings, const char* fallback) const {
    const auto [value, name] = find(spellings);
    if (value == nullptr) return fallback;
    if (!value->is_string()) refuse(fmt::format("{} must be a string, got {}", name, quoted(*value)));
    return value->get<std::string>();
  }

  bool boolean(const char* key, bool fallback) const {
    const json* value = find("", key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(fmt::format("{} must be true or false, got {}", key, quoted(*value)));
    return value->get<bool>();
  }

 private:
  [[noreturn]] std::int64_t missing(Spellings spellings) const {
    std::string names;
    for (const Spelling& s : spellings) names += (names.empty() ? "" : " (or ") + s.text();
    for (std::size_t i = 1; i < spellings.size(); ++i) names += ')';
    refuse(fmt::format("missing key {}", names));
  }

  const json& root_;
  const std::string& source_;
};

// Checkpoints that look alike and are not: V4.1 and DSpark.
void refuse_other_architectures(const json& root, const Reader& read) {
  constexpr std::array kPrefixes = {"engram",           "dspark",      "kv_source",    "index_source",
                                    "candidate_source", "text_config", "vision_config"};
  for (const auto& [key, value] : root.items())
    for (const std::string_view prefix : kPrefixes)
      if (key.starts_with(prefix) && !value.is_null())
        read.refuse(
            fmt::format("a V4.1 or DSpark checkpoint is not supported, only DeepSeek-V4 ({} is present)",
                        printable(key)));
  if (const std::string type = read.string({{"", "model_type"}}, "deepseek_v4"); type != "deepseek_v4")
    read.refuse(fmt::format(
        "model_type '{}' is not supported, only 'deepseek_v4' ({})", printable(type),
        type.starts_with("deepseek_v4") ? "a V4.1 or DSpark checkpoint?" : "another architecture"));
  for (const char* section : {"", "quantization_config"}) {
    const json* block = read.find(section, "weight_block_size");
    if (block != nullptr && *block != json::array({128, 128}))
      read.refuse(fmt::format("weight_block_size {} is not supported, only [128,128] (a V4.1 checkpoint?)",
                              quoted(*block)));
  }
}

// Published keys with one legal value: another one would change the arithmetic.
void refuse_other_arithmetic(const Reader& read) {
  const auto must_be = [&](Spellings spellings, const json& legal) {
    const auto [value, name] = read.find(spellings);
    if (value != nullptr && *value != legal)
      read.refuse(fmt::format("{} is {}, only {} is supported", name, quoted(*value), quoted(legal)));
  };
  must_be({{"", "score_func"}, {"", "scoring_func"}}, "sqrtsoftplus");
  must_be({{"", "hidden_act"}}, "silu");
  must_be({{"", "norm_topk_prob"}}, true);
  must_be({{"", "attention_bias"}}, false);
  must_be({{"", "num_key_value_heads"}}, 1);
  must_be({{"", "qk_nope_head_dim"}}, kNopeDim);
  must_be({{"rope_scaling", "type"}, {"rope_scaling", "rope_type"}}, "yarn");
}

void read_compress_ratios(const Reader& read, ModelConfig& c) {
  const json* ratios = read.find("", "compress_ratios");
  if (ratios == nullptr) read.refuse("missing key compress_ratios");
  if (!ratios->is_array())
    read.refuse(fmt::format("compress_ratios must be an array, got {}", quoted(*ratios)));
  const Spellings mtp = {{"", "n_mtp_layers"}, {"", "num_nextn_predict_layers"}};
  const std::size_t layers = static_cast<std::size_t>(c.layers);
  // Inference files leave the number of MTP blocks out: the list tells it.
  const bool told = read.find(mtp).first != nullptr;
  c.mtp_layers = told ? read.int32(mtp) : ratios->size() == layers + 1 ? 1 : 0;
  if (c.mtp_layers < 0 || c.mtp_layers > 1)
    read.refuse(fmt::format("{} is {}, must be 0 or 1", read.find(mtp).second, c.mtp_layers));
  const std::size_t blocks = layers + static_cast<std::size_t>(c.mtp_layers);
  if (ratios->size() != blocks)
    read.refuse(fmt::format("compress_ratios has {} entries, expected {} ({} layers, {} MTP blocks)",
                            ratios->size(), blocks, c.layers, c.mtp_layers));
  for (std::size_t i = 0; i < blocks; ++i) {
    const json& ratio = (*ratios)[i];
    if (!ratio.is_number_integer())
      read.refuse(fmt::format("compress_ratios[{}] must be an integer, got {}", i, quoted(ratio)));
    if (ratio != 0 && ratio != kCsaRatio && ratio != kHcaRatio)
      read.refuse(
          fmt::format("compress_ratios[{}] is {}, only 0, 4 and 128 are supported (a V4.1 checkpoint?)", i,
                      quoted(ratio)));
    c.compress_ratio[i] = ratio.get<std::int32_t>();
  }
}

NumericMode read_mode(const Reader& read) {
  const std::string mode = read.string({{"", "mode"}}, "deploy");
  if (mode == "exact") return NumericMode::kExact;
  if (mode != "deploy")
    read.refuse(fmt::format("mode is '{}', must be 'exact' or 'deploy'", printable(mode)));
  return NumericMode::kDeploy;
}

// Shortest decimal that reads back as the same float: 1e-06, not 9.999999974752427e-07.
double shortest(float value) { return std::stod(fmt::format("{}", value)); }

}  // namespace

ParsedConfig parse_config(std::string_view text, const std::string& source) {
  const json root = parse_json(text, fmt::format("{}: config", source));
  const Reader read(root, source);
  if (!root.is_object()) read.refuse(fmt::format("must be a JSON object, got {}", quoted(root)));
  refuse_other_architectures(root, read);
  refuse_other_arithmetic(read);

  ParsedConfig parsed;
  parsed.mode = read_mode(read);
  parsed.tie_word_embeddings = read.boolean("tie_word_embeddings", false);
  ModelConfig& c = parsed.config;
  c.vocab = read.int32({{"", "vocab_size"}});
  c.hidden = read.int32({{"", "dim"}, {"", "hidden_size"}});
  c.layers = read.int32({{"", "n_layers"}, {"", "num_hidden_layers"}});
  if (c.layers < 1 || c.layers >= kMaxBlocks)
    read.refuse(fmt::format("num_hidden_layers is {}, outside [1, {}]", c.layers, kMaxBlocks - 1));
  read_compress_ratios(read, c);
  bool compressed = false, indexed = false;
  for (std::int32_t b = 0; b < c.blocks(); ++b) {
    compressed = compressed || c.kind(b) != LayerKind::kSwa;
    indexed = indexed || c.kind(b) == LayerKind::kCsa;
  }
  c.hash_layers = read.int32({{"", "n_hash_layers"}, {"", "num_hash_layers"}});
  c.heads = read.int32({{"", "n_heads"}, {"", "num_attention_heads"}});
  c.q_lora_rank = read.int32({{"", "q_lora_rank"}});
  c.o_groups = read.int32({{"", "o_groups"}});
  c.o_lora_rank = read.int32({{"", "o_lora_rank"}});
  c.experts = read.int32({{"", "n_routed_experts"}});
  c.active_experts = read.int32({{"", "n_activated_experts"}, {"", "num_experts_per_tok"}});
  c.expert_inner = read.int32({{"", "moe_inter_dim"}, {"", "moe_intermediate_size"}});
  c.route_scale = read.number32({{"", "route_scale"}, {"", "routed_scaling_factor"}});
  c.swiglu_limit = read.number32({{"", "swiglu_limit"}});
  c.shared_swiglu_limit = read.number32({{"", "shared_swiglu_limit"}}, c.swiglu_limit);
  c.rope_theta = read.number({{"", "rope_theta"}});

  // Needed by some kinds of layer only.
  const auto needed = [](bool is_needed) { return is_needed ? std::nullopt : std::optional<int>(0); };
  c.index_heads = read.int32({{"", "index_n_heads"}}, needed(indexed));
  c.index_top_k = read.int32({{"", "index_topk"}}, needed(indexed));
  c.compress_rope_theta = read.number({{"", "compress_rope_theta"}}, needed(compressed));
  c.rope_factor = read.number({{"", "rope_factor"}, {"rope_scaling", "factor"}}, needed(compressed));
  c.rope_original_length =
      read.integer({{"", "original_seq_len"}, {"rope_scaling", "original_max_position_embeddings"}},
                   needed(compressed), 0, INT32_MAX);

  // The same in every V4 model, and left out of some files.
  c.score_function = ScoreFunction::kSqrtSoftplus;
  c.shared_experts = read.int32({{"", "n_shared_experts"}}, 1);
  c.head_dim = read.int32({{"", "head_dim"}}, kHeadDim);
  c.rope_dim = read.int32({{"", "rope_head_dim"}, {"", "qk_rope_head_dim"}}, kRopeDim);
  c.window = read.int32({{"", "window_size"}, {"", "sliding_window"}}, kWindow);
  c.index_head_dim = read.int32({{"", "index_head_dim"}}, kIndexDim);
  c.streams = read.int32({{"", "hc_mult"}}, kStreams);
  c.sinkhorn_iterations = read.int32({{"", "hc_sinkhorn_iters"}}, kFlash.sinkhorn_iterations);
  c.hc_eps = read.number32({{"", "hc_eps"}}, kFlash.hc_eps);
  c.norm_eps = read.number32({{"", "norm_eps"}, {"", "rms_norm_eps"}}, kFlash.norm_eps);
  c.rope_beta_fast = read.number({{"", "beta_fast"}, {"rope_scaling", "beta_fast"}}, kFlash.rope_beta_fast);
  c.rope_beta_slow = read.number({{"", "beta_slow"}, {"rope_scaling", "beta_slow"}}, kFlash.rope_beta_slow);
  c.max_positions = read.integer({{"", "max_seq_len"}, {"", "max_position_embeddings"}}, kFlash.max_positions,
                                 INT32_MIN, INT32_MAX);

  if (const Status status = validate(c); !status.ok()) {
    const bool about_number = status.value != 0 || status.limit != 0;
    throw InputError(fmt::format("{}: {}{}", source, status.what,
                                 about_number ? fmt::format(", got {}", status.value) : ""));
  }
  return parsed;
}

namespace {

// Every field under its inference name and its published one, in the order of the recordings.
template <class F>
void for_each_field(const ModelConfig& c, F&& f) {
  f("vocab_size", "vocab_size", c.vocab);
  f("dim", "hidden_size", c.hidden);
  f("moe_inter_dim", "moe_intermediate_size", c.expert_inner);
  f("n_layers", "num_hidden_layers", c.layers);
  f("n_hash_layers", "num_hash_layers", c.hash_layers);
  f("n_mtp_layers", "num_nextn_predict_layers", c.mtp_layers);
  f("n_heads", "num_attention_heads", c.heads);
  f("n_routed_experts", "n_routed_experts", c.experts);
  f("n_shared_experts", "n_shared_experts", c.shared_experts);
  f("n_activated_experts", "num_experts_per_tok", c.active_experts);
  f("route_scale", "routed_scaling_factor", c.route_scale);
  f("swiglu_limit", "swiglu_limit", c.swiglu_limit);
  f("shared_swiglu_limit", "shared_swiglu_limit", c.shared_swiglu_limit);
  f("q_lora_rank", "q_lora_rank", c.q_lora_rank);
  f("o_groups", "o_groups", c.o_groups);
  f("o_lora_rank", "o_lora_rank", c.o_lora_rank);
  f("index_n_heads", "index_n_heads", c.index_heads);
  f("index_topk", "index_topk", c.index_top_k);
  f("index_head_dim", "index_head_dim", c.index_head_dim);
  f("original_seq_len", "rope_scaling.original_max_position_embeddings", c.rope_original_length);
  f("compress_rope_theta", "compress_rope_theta", c.compress_rope_theta);
  f("rope_theta", "rope_theta", c.rope_theta);
  f("rope_factor", "rope_scaling.factor", c.rope_factor);
  f("beta_fast", "rope_scaling.beta_fast", c.rope_beta_fast);
  f("beta_slow", "rope_scaling.beta_slow", c.rope_beta_slow);
  f("max_seq_len", "max_position_embeddings", c.max_positions);
  f("head_dim", "head_dim", c.head_dim);
  f("rope_head_dim", "qk_rope_head_dim", c.rope_dim);
  f("window_size", "sliding_window", c.window);
  f("hc_mult", "hc_mult", c.streams);
  f("hc_sinkhorn_iters", "hc_sinkhorn_iters", c.sinkhorn_iterations);
  f("hc_eps", "hc_eps", c.hc_eps);
  f("norm_eps", "rms_norm_eps", c.norm_eps);
}

}  // namespace

std::string config_to_json(const ModelConfig& config, NumericMode mode) {
  nlohmann::ordered_json out;
  for_each_field(config, [&]<class T>(const char* inference, const char*, T value) {
    if constexpr (std::is_same_v<T, float>) {
      out[inference] = shortest(value);
    } else {
      out[inference] = value;
    }
  });
  const auto* ratios = config.compress_ratio.data();
  out["compress_ratios"] = std::vector<std::int32_t>(ratios, ratios + config.blocks());
  out["score_func"] = "sqrtsoftplus";
  out["mode"] = mode == NumericMode::kExact ? "exact" : "deploy";
  return out.dump();
}

std::string difference(const ModelConfig& config, const ModelConfig& expected) {
  struct Field {
    std::string name;
    double value;  // every field is exact in a double
    std::string text;
  };
  const auto fields = [](const ModelConfig& c) {
    std::vector<Field> out;
    for_each_field(c, [&](const char*, const char* published, auto value) {
      out.push_back({published, static_cast<double>(value), fmt::format("{}", value)});
    });
    return out;
  };
  const auto got = fields(config), want = fields(expected);
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i].value != want[i].value && got[i].name != "max_position_embeddings")
      return fmt::format("{} is {}, expected {}", got[i].name, got[i].text, want[i].text);
  for (std::size_t b = 0; b < static_cast<std::size_t>(config.blocks()); ++b)
    if (config.compress_ratio[b] != expected.compress_ratio[b])
      return fmt::format("compress_ratios[{}] is {}, expected {}", b, config.compress_ratio[b],
                         expected.compress_ratio[b]);
  return {};
}

}  // namespace dsv4::reference
