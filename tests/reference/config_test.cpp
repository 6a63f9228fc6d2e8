#include "reference/config.hpp"

#include "reference/safetensors.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/support/random_model.hpp"

#include <nlohmann/json.hpp>

#include <string>
#include <utility>
#include <vector>

using namespace dsv4;
using dsv4::reference::config_to_json;
using dsv4::reference::difference;
using dsv4::reference::NumericMode;
using dsv4::reference::parse_config;
using nlohmann::json;

namespace {

// A published config.json, with the keys a loader has no use for.
json published(const ModelConfig& c) {
  json out = {{"architectures", {"DeepseekV4ForCausalLM"}},
              {"attention_bias", false},
              {"attention_dropout", 0.0},
              {"bos_token_id", 0},
              {"expert_dtype", "fp4"},
              {"hc_eps", 1e-06},
              {"hc_mult", 4},
              {"hc_sinkhorn_iters", 20},
              {"head_dim", 512},
              {"hidden_act", "silu"},
              {"hidden_size", c.hidden},
              {"index_head_dim", 128},
              {"index_n_heads", c.index_heads},
              {"index_topk", c.index_top_k},
              {"max_position_embeddings", 1048576},
              {"model_type", "deepseek_v4"},
              {"moe_intermediate_size", c.expert_inner},
              {"n_routed_experts", c.experts},
              {"n_shared_experts", 1},
              {"norm_topk_prob", true},
              {"num_attention_heads", c.heads},
              {"num_experts_per_tok", c.active_experts},
              {"num_hidden_layers", c.layers},
              {"num_hash_layers", c.hash_layers},
              {"num_key_value_heads", 1},
              {"num_nextn_predict_layers", 1},
              {"o_groups", c.o_groups},
              {"o_lora_rank", c.o_lora_rank},
              {"q_lora_rank", c.q_lora_rank},
              {"qk_rope_head_dim", 64},
              {"quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}}},
              {"rms_norm_eps", 1e-06},
              {"rope_scaling",
               {{"beta_fast", 32},
                {"beta_slow", 1},
                {"factor", 16},
                {"original_max_position_embeddings", 65536},
                {"type", "yarn"}}},
              {"rope_theta", 10000},
              {"routed_scaling_factor", c.route_scale},
              {"scoring_func", "sqrtsoftplus"},
              {"sliding_window", 128},
              {"swiglu_limit", 10.0},
              {"tie_word_embeddings", false},
              {"vocab_size", 129280},
              {"compress_rope_theta", 160000}};
  out["compress_ratios"] = std::vector<int>(c.compress_ratio.data(), c.compress_ratio.data() + c.blocks());
  return out;
}

json tiny() { return json::parse(config_to_json(test::tiny_config(), NumericMode::kExact)); }

std::string error_of(const std::string& text) {
  const std::string error = test::input_error([&] { (void)parse_config(text, "c.json"); });
  REQUIRE(error.substr(0, 8) == "c.json: ");
  return error.substr(8);
}

// Error of tiny() with one key replaced by JSON text.
std::string error_with(const std::string& key, const std::string& value) {
  json changed = tiny();
  changed[key] = "@";
  std::string text = changed.dump();
  return error_of(text.replace(text.find("\"@\""), 3, value));
}

std::string error_without(const std::string& key) {
  json changed = tiny();
  REQUIRE(changed.erase(key) == 1);
  return error_of(changed.dump());
}

}  // namespace

TEST_CASE("published configurations are read", "[reference][config]") {
  for (const ModelConfig* model : {&kFlash, &kPro}) {
    const auto parsed = parse_config(published(*model).dump(), "c.json");
    CHECK(difference(parsed.config, *model) == "");
    CHECK(parsed.config == *model);
    CHECK(parsed.mode == NumericMode::kDeploy);
    CHECK(!parsed.tie_word_embeddings);
  }
  json tied = published(kFlash);
  tied["tie_word_embeddings"] = true;
  tied["rope_scaling"]["factor"] = 8.5;
  const auto parsed = parse_config(tied.dump(), "c.json");
  CHECK(parsed.tie_word_embeddings);
  CHECK(parsed.config.rope_factor == 8.5);
}

TEST_CASE("the recordings' configurations are read", "[reference][config]") {
  for (const auto& [name, mode] :
       {std::pair("tiny-exact", NumericMode::kExact), {"tiny-deploy", NumericMode::kDeploy}}) {
    const auto file = reference::SafetensorsFile::open(std::string(DSV4_TEST_DATA_DIR "/") + name +
                                                       ".recording.safetensors");
    const auto parsed = parse_config(file.metadata().at("config"), file.name());
    CHECK(parsed.mode == mode);
    ModelConfig expected = test::tiny_config();
    if (mode == NumericMode::kDeploy)
      expected.hidden = 128, expected.expert_inner = 256, expected.q_lora_rank = 256,
      expected.o_lora_rank = 64;
    CHECK(difference(parsed.config, expected) == "");
    CHECK(parsed.config == expected);
  }
}

TEST_CASE("a configuration written is read back", "[reference][config]") {
  ModelConfig odd = test::tiny_config();
  odd.hidden = 31, odd.mtp_layers = 0, odd.hash_layers = 0, odd.active_experts = 1, odd.experts = 3;
  odd.swiglu_limit = 0, odd.shared_swiglu_limit = 0.1f, odd.route_scale = 1.0f / 3.0f, odd.norm_eps = 1e-20f;
  odd.hc_eps = 0, odd.rope_theta = 1e4 / 3, odd.compress_ratio = {128, 0, 4};
  ModelConfig window = odd;  // nothing compressed: the indexer and YaRN need not be there
  window.compress_ratio = {}, window.index_heads = 0, window.index_top_k = 0, window.compress_rope_theta = 0;
  window.rope_factor = 0, window.rope_original_length = 0;
  for (const ModelConfig& c : {kFlash, kPro, test::tiny_config(), odd, window})
    for (const NumericMode mode : {NumericMode::kExact, NumericMode::kDeploy}) {
      REQUIRE(validate(c).ok());
      const auto parsed = parse_config(config_to_json(c, mode), "c.json");
      CHECK(difference(parsed.config, c) == "");
      CHECK(parsed.config == c);
      CHECK(parsed.mode == mode);
    }
  CHECK(config_to_json(kFlash, NumericMode::kDeploy).find("\"hc_eps\":1e-06") != std::string::npos);
}

TEST_CASE("keys may be left out where the model fixes or implies them", "[reference][config]") {
  json c = tiny();
  for (const char* key : {"head_dim", "rope_head_dim", "window_size", "index_head_dim", "hc_mult", "hc_eps",
                          "norm_eps", "hc_sinkhorn_iters", "beta_fast", "beta_slow", "score_func",
                          "n_shared_experts", "mode", "n_mtp_layers", "shared_swiglu_limit", "max_seq_len"})
    c.erase(key);
  const auto parsed = parse_config(c.dump(), "c.json");
  ModelConfig expected = test::tiny_config();
  expected.shared_swiglu_limit = expected.swiglu_limit;
  expected.max_positions = 1 << 20;
  CHECK(parsed.config == expected);
  CHECK(parsed.mode == NumericMode::kDeploy);

  c["compress_ratios"] = {0, 4, 128};  // one entry a layer: no MTP block
  CHECK(parse_config(c.dump(), "c.json").config.mtp_layers == 0);
  c["compress_ratios"] = {0, 4, 128, 0, 0};
  CHECK(error_of(c.dump()) == "config: compress_ratios has 5 entries, expected 3 (3 layers, 0 MTP blocks)");

  c = tiny();
  for (const auto& [key, value] : std::vector<std::pair<std::string, json>>{{"n_group", nullptr},
                                                                            {"rope_scaling", nullptr},
                                                                            {"torch_dtype", "bfloat16"},
                                                                            {"kv_lora_rank", nullptr},
                                                                            {"engram_layer_ids", nullptr},
                                                                            {"hidden_size", nullptr}})
    c[key] = value;
  CHECK(parse_config(c.dump(), "c.json").config == test::tiny_config());
}

TEST_CASE("missing keys are named with their spellings", "[reference][config]") {
  CHECK(error_without("vocab_size") == "config: missing key vocab_size");
  CHECK(error_without("dim") == "config: missing key dim (or hidden_size)");
  CHECK(error_without("n_layers") == "config: missing key n_layers (or num_hidden_layers)");
  CHECK(error_without("rope_factor") == "config: missing key rope_factor (or rope_scaling.factor)");
  CHECK(error_without("original_seq_len") ==
        "config: missing key original_seq_len (or rope_scaling.original_max_position_embeddings)");
  for (const char* key :
       {"moe_inter_dim", "n_hash_layers", "n_heads", "n_routed_experts", "n_activated_experts", "route_scale",
        "swiglu_limit", "q_lora_rank", "o_groups", "o_lora_rank", "compress_ratios", "index_n_heads",
        "index_topk", "compress_rope_theta", "rope_theta"}) {
    CAPTURE(key);
    CHECK(error_without(key).find(std::string("config: missing key ") + key) == 0);
  }
}

TEST_CASE("values of the wrong kind are refused", "[reference][config]") {
  CHECK(error_with("dim", "64.0") == "config: dim must be an integer, got 64.0");
  CHECK(error_with("dim", "true") == "config: dim must be an integer, got true");
  CHECK(error_with("dim", "\"64\"") == "config: dim must be an integer, got \"64\"");
  CHECK(error_with("dim", "[64]") == "config: dim must be an integer, got [64]");
  CHECK(error_with("dim", "4294967360") == "config: dim is 4294967360, outside [-2147483648, 2147483647]");
  CHECK(error_with("dim", "18446744073709551615") ==
        "config: dim is 18446744073709551615, outside [-2147483648, 2147483647]");
  CHECK(error_with("dim", "1e30") == "config: dim must be an integer, got 1e+30");
  CHECK(error_with("dim", "-64") == "config: hidden_size must be in [1, 2^24], got -64");
  CHECK(error_with("n_layers", "0") == "config: num_hidden_layers is 0, outside [1, 255]");
  CHECK(error_with("n_layers", "2000000000") == "config: num_hidden_layers is 2000000000, outside [1, 255]");
  CHECK(error_with("rope_theta", "true") == "config: rope_theta must be a number, got true");
  CHECK(error_with("rope_theta", "\"1e4\"") == "config: rope_theta must be a number, got \"1e4\"");
  CHECK(error_with("rope_theta", "1e400").find("config: invalid JSON: number overflow") == 0);
  CHECK(error_with("rope_theta", "NaN").find("config: invalid JSON: ") == 0);
  CHECK(error_with("rope_theta", "Infinity").find("config: invalid JSON: ") == 0);
  CHECK(error_with("route_scale", "1e39") == "config: route_scale is 1e+39, beyond fp32");
  CHECK(error_with("route_scale", "-1e300") == "config: route_scale is -1e+300, beyond fp32");
  CHECK(error_with("mode", "\"fast\\n\"") == "config: mode is 'fast\\x0a', must be 'exact' or 'deploy'");
  CHECK(error_with("mode", "1") == "config: mode must be a string, got 1");
  CHECK(error_with("tie_word_embeddings", "1") == "config: tie_word_embeddings must be true or false, got 1");
  CHECK(error_with("rope_scaling", "16") == "config: rope_scaling must be an object, got 16");
  CHECK(error_with("compress_ratios", "4") == "config: compress_ratios must be an array, got 4");
  CHECK(error_with("compress_ratios", "[0,4,128,\"0\"]") ==
        "config: compress_ratios[3] must be an integer, got \"0\"");
  CHECK(error_with("compress_ratios", "[0,4,128]") ==
        "config: compress_ratios has 3 entries, expected 4 (3 layers, 1 MTP blocks)");
  CHECK(error_with("n_mtp_layers", "2") == "config: n_mtp_layers is 2, must be 0 or 1");
  CHECK(error_with("n_mtp_layers", "-1") == "config: n_mtp_layers is -1, must be 0 or 1");
  CHECK(error_with("max_seq_len", "99999999999").find("config: max_seq_len is 99999999999, outside ") == 0);
  CHECK(error_with("head_dim", "128") == "config: head_dim must be 512, got 128");
  CHECK(error_with("n_hash_layers", "4") ==
        "config: num_hash_layers must be in [0, num_hidden_layers], got 4");
  CHECK(error_with("o_groups", "3") == "config: o_groups must divide num_attention_heads, got 3");

  CHECK(error_of("").find("config: invalid JSON: ") == 0);
  CHECK(error_of("[]") == "config: must be a JSON object, got []");
  CHECK(error_of("{\"dim\":1,\"dim\":1}") == "config: duplicate key 'dim'");
  CHECK(error_of(std::string(100'000, '[')) == "config: JSON nested deeper than 16 levels");
  CHECK(error_of("{\"a\xff\":1}").find("config: invalid JSON: ") == 0);
}

TEST_CASE("two spellings of a key must agree", "[reference][config]") {
  CHECK(error_with("hidden_size", "65") == "config: dim is 64, but hidden_size is 65");
  CHECK(error_with("rope_scaling", "{\"factor\":17}") ==
        "config: rope_factor is 16.0, but rope_scaling.factor is 17");
  json both = tiny();
  both["hidden_size"] = 64, both["rope_scaling"] = {{"factor", 16}, {"type", "yarn"}};
  CHECK(parse_config(both.dump(), "c.json").config == test::tiny_config());
}

TEST_CASE("models of another architecture are refused by name", "[reference][config]") {
  for (const char* key :
       {"engram_layer_ids", "engram_num_embeddings", "dspark_block_size", "kv_source_layer_ids",
        "index_source_layers", "candidate_source_layer", "text_config", "vision_config"}) {
    CHECK(error_with(key, "[1]") == std::string("config: a V4.1 or DSpark checkpoint is not supported, only "
                                                "DeepSeek-V4 (") +
                                        key + " is present)");
  }
  CHECK(error_with("model_type", "\"deepseek_v41\"") ==
        "config: model_type 'deepseek_v41' is not supported, only 'deepseek_v4' (a V4.1 or DSpark "
        "checkpoint?)");
  CHECK(error_with("model_type", "\"deepseek_v3\"") ==
        "config: model_type 'deepseek_v3' is not supported, only 'deepseek_v4' (another architecture)");
  CHECK(error_with("quantization_config", "{\"weight_block_size\":[32,32]}") ==
        "config: weight_block_size [32,32] is not supported, only [128,128] (a V4.1 checkpoint?)");
  CHECK(error_with("compress_ratios", "[0,2,1,0]") ==
        "config: compress_ratios[1] is 2, only 0, 4 and 128 are supported (a V4.1 checkpoint?)");
  CHECK(error_with("scoring_func", "\"sigmoid\"") ==
        "config: score_func is \"sqrtsoftplus\", but scoring_func is \"sigmoid\"");
  CHECK(error_with("score_func", "\"sigmoid\"") ==
        "config: score_func is \"sigmoid\", only \"sqrtsoftplus\" is supported");
  CHECK(error_with("hidden_act", "\"gelu\"") == "config: hidden_act is \"gelu\", only \"silu\" is supported");
  CHECK(error_with("norm_topk_prob", "false") == "config: norm_topk_prob is false, only true is supported");
  CHECK(error_with("attention_bias", "true") == "config: attention_bias is true, only false is supported");
  CHECK(error_with("num_key_value_heads", "2") == "config: num_key_value_heads is 2, only 1 is supported");
  CHECK(error_with("qk_nope_head_dim", "128") == "config: qk_nope_head_dim is 128, only 448 is supported");
  CHECK(error_with("rope_scaling", "{\"type\":\"linear\"}") ==
        "config: rope_scaling.type is \"linear\", only \"yarn\" is supported");
}

TEST_CASE("configurations are compared field by field", "[reference][config]") {
  const ModelConfig a = test::tiny_config();
  ModelConfig b = a;
  b.max_positions = 7;  // of no consequence for the weights or the arithmetic
  CHECK(difference(b, a) == "");
  b.norm_eps = 1e-5f;
  CHECK(difference(b, a) == "rms_norm_eps is 1e-05, expected 1e-06");
  b = a, b.hidden = 65;
  CHECK(difference(b, a) == "hidden_size is 65, expected 64");
  b = a, b.compress_ratio[1] = 128;
  CHECK(difference(b, a) == "compress_ratios[1] is 128, expected 4");
  b = a, b.shared_swiglu_limit = 0;
  CHECK(difference(b, a) == "shared_swiglu_limit is 0, expected 1");
}
