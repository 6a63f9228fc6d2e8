// Mirrors include/dsv4/model_config.hpp.
#include <dsv4/model_config.hpp>

#include "tests/support/catch.hpp"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

using namespace dsv4;

namespace {

constexpr std::int32_t kMax = std::numeric_limits<std::int32_t>::max();

// Breaks one rule of a valid configuration.
struct Violation {
  const char* name;
  std::function<void(ModelConfig&)> apply;
  Code code;
  const char* field;  // what the message must name
  std::int64_t value = 0, limit = 0;
};

void expect(const ModelConfig& base, const Violation& v) {
  ModelConfig c = base;
  v.apply(c);
  const Status s = validate(c);
  CAPTURE(v.name, s.what);
  REQUIRE(s.code == v.code);
  REQUIRE(std::string(s.what).rfind("config: ", 0) == 0);
  REQUIRE(std::string(s.what).find(v.field) != std::string::npos);
  REQUIRE(std::string(s.what).find('\n') == std::string::npos);
  REQUIRE(s.value == v.value);
  REQUIRE(s.limit == v.limit);
}

// The smallest configuration: one sliding-window layer, every size 1.
ModelConfig smallest() {
  ModelConfig c;
  c.vocab = c.hidden = c.layers = c.heads = c.q_lora_rank = c.o_groups = c.o_lora_rank = 1;
  c.experts = c.active_experts = c.shared_experts = c.expert_inner = 1;
  c.head_dim = 512, c.rope_dim = 64, c.window = 128, c.streams = 4, c.sinkhorn_iterations = 1;
  c.route_scale = 1;
  c.rope_theta = 10000;
  c.max_positions = 1;
  return c;
}

constexpr std::int64_t kSize = 1 << 24;

}  // namespace

TEST_CASE("the published configurations are valid", "[model_config]") {
  REQUIRE(validate(kFlash).ok());
  REQUIRE(validate(kPro).ok());
  REQUIRE(!(kFlash == kPro));
}

TEST_CASE("the published configurations hold the published numbers", "[model_config]") {
  // From the model's table, written out again.
  REQUIRE(kFlash.vocab == 129280);
  REQUIRE(kFlash.hidden == 4096);
  REQUIRE(kFlash.layers == 43);
  REQUIRE(kFlash.heads == 64);
  REQUIRE(kFlash.q_lora_rank == 1024);
  REQUIRE(kFlash.o_groups == 8);
  REQUIRE(kFlash.o_lora_rank == 1024);
  REQUIRE(kFlash.index_top_k == 512);
  REQUIRE(kFlash.experts == 256);
  REQUIRE(kFlash.expert_inner == 2048);
  REQUIRE(kFlash.route_scale == 1.5f);
  REQUIRE(kPro.vocab == 129280);
  REQUIRE(kPro.hidden == 7168);
  REQUIRE(kPro.layers == 61);
  REQUIRE(kPro.heads == 128);
  REQUIRE(kPro.q_lora_rank == 1536);
  REQUIRE(kPro.o_groups == 16);
  REQUIRE(kPro.o_lora_rank == 1024);
  REQUIRE(kPro.index_top_k == 1024);
  REQUIRE(kPro.experts == 384);
  REQUIRE(kPro.expert_inner == 3072);
  REQUIRE(kPro.route_scale == 2.5f);
  for (const ModelConfig& c : {kFlash, kPro}) {
    REQUIRE(c.mtp_layers == 1);
    REQUIRE(c.hash_layers == 3);
    REQUIRE(c.index_heads == 64);
    REQUIRE(c.active_experts == 6);
    REQUIRE(c.shared_experts == 1);
    REQUIRE(c.score_function == ScoreFunction::kSqrtSoftplus);
    REQUIRE(c.swiglu_limit == 10.0f);
    REQUIRE(c.shared_swiglu_limit == 10.0f);
    REQUIRE(c.head_dim == 512);
    REQUIRE(c.rope_dim == 64);
    REQUIRE(c.window == 128);
    REQUIRE(c.index_head_dim == 128);
    REQUIRE(c.streams == 4);
    REQUIRE(c.sinkhorn_iterations == 20);
    REQUIRE(c.hc_eps == 1e-6f);
    REQUIRE(c.norm_eps == 1e-6f);
    REQUIRE(c.rope_theta == 10000.0);
    REQUIRE(c.compress_rope_theta == 160000.0);
    REQUIRE(c.rope_factor == 16.0);
    REQUIRE(c.rope_original_length == 65536);
    REQUIRE(c.rope_beta_fast == 32.0);
    REQUIRE(c.rope_beta_slow == 1.0);
    REQUIRE(c.max_positions == 1048576);
  }
  REQUIRE((kStreams == 4 && kMixes == 24 && kHeadDim == 512 && kRopeDim == 64 && kNopeDim == 448));
  REQUIRE((kWindow == 128 && kIndexDim == 128 && kCsaRatio == 4 && kHcaRatio == 128));
}

TEST_CASE("the kind of every block of the published models", "[model_config]") {
  // Flash: 0,0, then 4,128 alternating, last 4; then the MTP block's 0. Pro: the same after 128,128.
  std::vector<int> flash{0, 0}, pro{128, 128};
  while (flash.size() < 43) flash.push_back(flash.size() % 2 == 0 ? 4 : 128);
  while (pro.size() < 61) pro.push_back(pro.size() % 2 == 0 ? 4 : 128);
  REQUIRE((flash.back() == 4 && pro.back() == 4));
  flash.push_back(0);
  pro.push_back(0);
  const auto check = [](const ModelConfig& c, const std::vector<int>& ratios) {
    REQUIRE(c.blocks() == static_cast<std::int32_t>(ratios.size()));
    for (std::int32_t b = 0; b < c.blocks(); ++b) {
      const int ratio = ratios[static_cast<std::size_t>(b)];
      CAPTURE(b, ratio);
      REQUIRE(c.compress_ratio[static_cast<std::size_t>(b)] == ratio);
      REQUIRE(ratio_of(c.kind(b)) == ratio);
      REQUIRE(c.kind(b) == (ratio == 0 ? LayerKind::kSwa : ratio == 4 ? LayerKind::kCsa : LayerKind::kHca));
    }
    for (std::size_t b = ratios.size(); b < c.compress_ratio.size(); ++b) REQUIRE(c.compress_ratio[b] == 0);
  };
  check(kFlash, flash);
  check(kPro, pro);
  REQUIRE(ratio_of(LayerKind::kSwa) == 0);
  REQUIRE(ratio_of(LayerKind::kCsa) == 4);
  REQUIRE(ratio_of(LayerKind::kHca) == 128);
}

TEST_CASE("the first layers are hashed, an MTP block never", "[model_config]") {
  for (std::int32_t b = 0; b < kFlash.blocks(); ++b) REQUIRE(kFlash.hashed(b) == (b < 3));
  ModelConfig c = smallest();
  c.layers = 2, c.hash_layers = 2, c.mtp_layers = 1;
  REQUIRE(c.blocks() == 3);
  REQUIRE(c.hashed(1));
  REQUIRE(!c.hashed(2));  // the MTP block
  c.hash_layers = 3;      // more than there are layers: validate refuses it, and still no MTP block is hashed
  REQUIRE(!c.hashed(2));
  c.hash_layers = 0;
  REQUIRE(!c.hashed(0));
}

TEST_CASE("validate names the rule that is broken", "[model_config]") {
  const Code invalid = Code::kInvalidArgument, other = Code::kUnsupported;
  const float nan = std::nanf("");
  const std::vector<Violation> violations{
      {"vocab 0", [](auto& c) { c.vocab = 0; }, invalid, "vocab_size", 0, kSize},
      {"vocab large", [](auto& c) { c.vocab = kSize + 1; }, invalid, "vocab_size", kSize + 1, kSize},
      {"hidden 0", [](auto& c) { c.hidden = 0; }, invalid, "hidden_size", 0, kSize},
      {"hidden negative", [](auto& c) { c.hidden = -4096; }, invalid, "hidden_size", -4096, kSize},
      {"hidden large", [](auto& c) { c.hidden = kMax; }, invalid, "hidden_size", kMax, kSize},
      {"layers 0", [](auto& c) { c.layers = 0; }, invalid, "num_hidden_layers", 0, 1},
      {"layers negative", [](auto& c) { c.layers = -1; }, invalid, "num_hidden_layers", -1, 1},
      {"layers 256", [](auto& c) { c.layers = 256, c.mtp_layers = 0; }, other, "num_hidden_layers", 256, 255},
      {"layers overflow", [](auto& c) { c.layers = kMax; }, other, "num_hidden_layers", kMax, 255},
      {"mtp 2", [](auto& c) { c.mtp_layers = 2; }, other, "num_nextn_predict_layers", 2, 1},
      {"mtp -1", [](auto& c) { c.mtp_layers = -1; }, other, "num_nextn_predict_layers", -1, 1},
      {"hash -1", [](auto& c) { c.hash_layers = -1; }, invalid, "num_hash_layers", -1, 43},
      {"hash 44", [](auto& c) { c.hash_layers = 44; }, invalid, "num_hash_layers", 44, 43},
      {"heads 0", [](auto& c) { c.heads = 0; }, invalid, "num_attention_heads", 0, 1024},
      {"heads large", [](auto& c) { c.heads = 1032; }, invalid, "num_attention_heads", 1032, 1024},
      {"q rank 0", [](auto& c) { c.q_lora_rank = 0; }, invalid, "q_lora_rank", 0, kSize},
      {"q rank large", [](auto& c) { c.q_lora_rank = kSize + 1; }, invalid, "q_lora_rank", kSize + 1, kSize},
      {"groups 0", [](auto& c) { c.o_groups = 0; }, invalid, "o_groups", 0, 64},
      {"groups -8", [](auto& c) { c.o_groups = -8; }, invalid, "o_groups", -8, 64},
      {"groups 7", [](auto& c) { c.o_groups = 7; }, invalid, "o_groups", 7, 64},
      {"groups 128", [](auto& c) { c.o_groups = 128; }, invalid, "o_groups", 128, 64},
      {"o rank 0", [](auto& c) { c.o_lora_rank = 0; }, invalid, "o_lora_rank", 0, kSize},
      {"o rank large", [](auto& c) { c.o_lora_rank = kMax; }, invalid, "o_lora_rank", kMax, kSize},
      {"experts 0", [](auto& c) { c.experts = 0; }, invalid, "n_routed_experts", 0, 65536},
      {"experts large", [](auto& c) { c.experts = 65537; }, invalid, "n_routed_experts", 65537, 65536},
      {"active 0", [](auto& c) { c.active_experts = 0; }, invalid, "num_experts_per_tok", 0, 256},
      {"active 257", [](auto& c) { c.active_experts = 257; }, invalid, "num_experts_per_tok", 257, 256},
      {"shared 0", [](auto& c) { c.shared_experts = 0; }, other, "n_shared_experts", 0, 1},
      {"shared 2", [](auto& c) { c.shared_experts = 2; }, other, "n_shared_experts", 2, 1},
      {"inner 0", [](auto& c) { c.expert_inner = 0; }, invalid, "moe_intermediate_size", 0, kSize},
      {"inner large", [](auto& c) { c.expert_inner = kSize + 1; }, invalid, "moe_intermediate_size",
       kSize + 1, kSize},
      {"scale 0", [](auto& c) { c.route_scale = 0; }, invalid, "routed_scaling_factor"},
      {"scale NaN", [nan](auto& c) { c.route_scale = nan; }, invalid, "routed_scaling_factor"},
      {"limit", [](auto& c) { c.swiglu_limit = -1; }, invalid, "swiglu_limit"},
      {"limit NaN", [nan](auto& c) { c.swiglu_limit = nan; }, invalid, "swiglu_limit"},
      {"shared limit", [](auto& c) { c.shared_swiglu_limit = -1; }, invalid, "swiglu_limit"},
      {"shared limit NaN", [nan](auto& c) { c.shared_swiglu_limit = nan; }, invalid, "swiglu_limit"},
      {"head dim", [](auto& c) { c.head_dim = 128; }, other, "head_dim", 128, 512},
      {"rope dim", [](auto& c) { c.rope_dim = 128; }, other, "qk_rope_head_dim", 128, 64},
      {"window", [](auto& c) { c.window = 127; }, other, "sliding_window", 127, 128},
      {"streams", [](auto& c) { c.streams = 2; }, other, "hc_mult", 2, 4},
      {"sinkhorn 0", [](auto& c) { c.sinkhorn_iterations = 0; }, invalid, "hc_sinkhorn_iters", 0, 1000},
      {"sinkhorn large", [](auto& c) { c.sinkhorn_iterations = 1001; }, invalid, "hc_sinkhorn_iters", 1001,
       1000},
      {"norm eps", [](auto& c) { c.norm_eps = -1e-6f; }, invalid, "norm_eps"},
      {"norm eps NaN", [nan](auto& c) { c.norm_eps = nan; }, invalid, "norm_eps"},
      {"hc eps", [](auto& c) { c.hc_eps = -1e-6f; }, invalid, "hc_eps"},
      {"positions 0", [](auto& c) { c.max_positions = 0; }, invalid, "max_position_embeddings", 0, 1 << 22},
      {"positions large", [](auto& c) { c.max_positions = (1 << 22) + 1; }, invalid,
       "max_position_embeddings", (1 << 22) + 1, 1 << 22},
      {"ratio 8", [](auto& c) { c.compress_ratio[2] = 8; }, other, "compress_ratios", 8, 128},
      {"ratio -4", [](auto& c) { c.compress_ratio[0] = -4; }, other, "compress_ratios", -4, 128},
      {"ratio of the last layer", [](auto& c) { c.compress_ratio[42] = 64; }, other, "compress_ratios", 64,
       128},
      {"ratio of the MTP block", [](auto& c) { c.compress_ratio[43] = 2; }, other, "compress_ratios", 2, 128},
      {"theta 1", [](auto& c) { c.rope_theta = 1; }, invalid, "config: rope_theta"},
      {"theta NaN", [nan](auto& c) { c.rope_theta = nan; }, invalid, "config: rope_theta"},
      {"compressed theta", [](auto& c) { c.compress_rope_theta = 0; }, invalid, "compress_rope_theta"},
      {"factor", [](auto& c) { c.rope_factor = 0.5; }, invalid, "rope_scaling"},
      {"original length", [](auto& c) { c.rope_original_length = 0; }, invalid, "rope_scaling"},
      {"beta fast", [](auto& c) { c.rope_beta_fast = 0; }, invalid, "rope_scaling"},
      {"beta slow", [](auto& c) { c.rope_beta_slow = -1; }, invalid, "rope_scaling"},
      {"index heads 0", [](auto& c) { c.index_heads = 0; }, invalid, "index_n_heads", 0, 1024},
      {"index heads large", [](auto& c) { c.index_heads = 1025; }, invalid, "index_n_heads", 1025, 1024},
      {"index dim", [](auto& c) { c.index_head_dim = 64; }, other, "index_head_dim", 64, 128},
      {"top-k 0", [](auto& c) { c.index_top_k = 0; }, invalid, "index_topk", 0, 1 << 20},
      {"top-k large", [](auto& c) { c.index_top_k = (1 << 20) + 1; }, invalid, "index_topk", (1 << 20) + 1,
       1 << 20},
  };
  for (const Violation& v : violations) expect(kFlash, v);
  REQUIRE(validate(ModelConfig{}).code == Code::kInvalidArgument);
}

TEST_CASE("validate accepts what can be computed, up to the limits", "[model_config]") {
  REQUIRE(validate(smallest()).ok());
  const std::vector<std::function<void(ModelConfig&)>> changes{
      [](auto& c) { c.vocab = c.hidden = c.q_lora_rank = c.o_lora_rank = c.expert_inner = kSize; },
      [](auto& c) { c.mtp_layers = 0; },
      [](auto& c) { c.layers = 255; },  // with one MTP block: as many as the table holds
      [](auto& c) { c.hash_layers = 0; },
      [](auto& c) { c.hash_layers = c.layers; },
      [](auto& c) { c.heads = 1024, c.o_groups = 1024; },
      [](auto& c) { c.heads = 7, c.o_groups = 1; },
      [](auto& c) { c.experts = 65536, c.active_experts = 65536; },
      [](auto& c) { c.swiglu_limit = c.shared_swiglu_limit = 0; },  // no clamp
      [](auto& c) { c.norm_eps = c.hc_eps = 0; },
      [](auto& c) { c.sinkhorn_iterations = 1000; },
      [](auto& c) { c.max_positions = 1 << 22; },
      [](auto& c) { c.rope_factor = 1; },  // no YaRN
      [](auto& c) { c.index_heads = 1024, c.index_top_k = 1 << 20; },
      [](auto& c) { c.compress_ratio[0] = 128, c.compress_ratio[43] = 4; },
      [](auto& c) { c.compress_ratio[200] = 99; },  // beyond the blocks: not looked at
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    ModelConfig c = kFlash;
    changes[i](c);
    CAPTURE(i, validate(c).what);
    REQUIRE(validate(c).ok());
  }
}

TEST_CASE("what no layer uses is not asked for", "[model_config]") {
  ModelConfig window = smallest();  // no compressed layer: neither its RoPE nor the indexer
  REQUIRE(window.compress_rope_theta == 0);
  REQUIRE(window.index_heads == 0);
  REQUIRE(validate(window).ok());
  ModelConfig hca = window;
  hca.compress_ratio[0] = 128;
  expect(hca, {"HCA without its theta", [](auto&) {}, Code::kInvalidArgument, "compress_rope_theta"});
  hca.compress_rope_theta = 160000, hca.rope_factor = 1, hca.rope_original_length = 1;
  hca.rope_beta_fast = hca.rope_beta_slow = 1;
  REQUIRE(validate(hca).ok());  // no indexer
  ModelConfig csa = hca;
  csa.compress_ratio[0] = 4;
  expect(csa, {"CSA without an indexer", [](auto&) {}, Code::kInvalidArgument, "index_n_heads", 0, 1024});
}

TEST_CASE("configurations are equal when every field is", "[model_config]") {
  ModelConfig c = kFlash;
  REQUIRE(c == kFlash);
  c.compress_ratio[7] = 4;
  REQUIRE(!(c == kFlash));
  c = kFlash;
  c.norm_eps = 2e-6f;
  REQUIRE(!(c == kFlash));
}
