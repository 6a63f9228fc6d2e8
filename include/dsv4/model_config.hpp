// What a DeepSeek-V4 checkpoint is shaped like. A configuration is data: the library compiles in only the
// sizes that define the architecture (the constants below), and validate() says so in one line.
#pragma once

#include <dsv4/core/status.hpp>

#include <array>
#include <cstdint>

namespace dsv4 {

inline constexpr int kStreams = 4;                        // residual streams S (hc_mult)
inline constexpr int kMixes = (2 + kStreams) * kStreams;  // mHC mixes: 4 pre, 4 post, 16 comb
inline constexpr int kHeadDim = 512;                      // c, one shared key-value head
inline constexpr int kRopeDim = 64;                       // r, the LAST 64 channels of a head
inline constexpr int kNopeDim = kHeadDim - kRopeDim;
inline constexpr int kWindow = 128;     // sliding window W
inline constexpr int kIndexDim = 128;   // lightning indexer head dim
inline constexpr int kCsaRatio = 4;     // m of compressed sparse attention
inline constexpr int kHcaRatio = 128;   // m of heavily compressed attention
inline constexpr int kMaxBlocks = 256;  // layers plus MTP blocks a configuration can name

/// Attention kind of a block, by its compression ratio.
enum class LayerKind : std::int32_t {
  kSwa,  // ratio 0: sliding window alone
  kCsa,  // ratio 4: window plus the indexer's top-k compressed entries
  kHca,  // ratio 128: window plus every compressed entry
};

enum class ScoreFunction : std::int32_t { kSqrtSoftplus };

/// Sizes and scalars of one model. Every field must be set; validate() refuses what cannot be computed.
struct ModelConfig {
  std::int32_t vocab = 0;
  std::int32_t hidden = 0;  // D
  std::int32_t layers = 0;
  std::int32_t mtp_layers = 0;   // 0 or 1
  std::int32_t hash_layers = 0;  // the first layers route by token id
  std::int32_t heads = 0;        // H query heads
  std::int32_t q_lora_rank = 0;
  std::int32_t o_groups = 0;  // g
  std::int32_t o_lora_rank = 0;
  std::int32_t index_heads = 0;  // needed when a layer is CSA
  std::int32_t index_top_k = 0;
  std::int32_t experts = 0;         // routed
  std::int32_t active_experts = 0;  // routed, a token
  std::int32_t shared_experts = 0;  // 1
  std::int32_t expert_inner = 0;
  ScoreFunction score_function = ScoreFunction::kSqrtSoftplus;
  float route_scale = 0;
  float swiglu_limit = 0;                // routed experts; 0 = no clamp
  float shared_swiglu_limit = 0;         // shared expert; 0 = no clamp
  std::int32_t head_dim = 0;             // kHeadDim
  std::int32_t rope_dim = 0;             // kRopeDim
  std::int32_t window = 0;               // kWindow
  std::int32_t index_head_dim = 0;       // kIndexDim
  std::int32_t streams = 0;              // kStreams
  std::int32_t sinkhorn_iterations = 0;  // column steps in all
  float hc_eps = 0;
  float norm_eps = 0;
  double rope_theta = 0;           // ratio 0 blocks, no YaRN
  double compress_rope_theta = 0;  // ratio 4 and 128 blocks, with YaRN
  double rope_factor = 0;          // YaRN; 1 = none
  std::int64_t rope_original_length = 0;
  double rope_beta_fast = 0;
  double rope_beta_slow = 0;
  std::int64_t max_positions = 0;
  std::array<std::int32_t, kMaxBlocks> compress_ratio{};  // per layer, then per MTP block

  constexpr std::int32_t blocks() const { return layers + mtp_layers; }

  /// Kind of block `b` < blocks(); MTP blocks follow the layers.
  constexpr LayerKind kind(std::int32_t b) const {
    const std::int32_t m = compress_ratio[static_cast<std::size_t>(b)];
    return m == 0 ? LayerKind::kSwa : m == kCsaRatio ? LayerKind::kCsa : LayerKind::kHca;
  }
  /// Whether layer `b` takes its experts from the token-id table. An MTP block never does.
  constexpr bool hashed(std::int32_t b) const { return b < hash_layers && b < layers; }

  constexpr bool operator==(const ModelConfig&) const = default;
};

/// Compression ratio of a kind: 0, 4 or 128.
constexpr int ratio_of(LayerKind kind) {
  return kind == LayerKind::kSwa ? 0 : kind == LayerKind::kCsa ? kCsaRatio : kHcaRatio;
}

/// Ok, or the first rule that the configuration breaks: invalid_argument for an impossible size,
/// unsupported for a model of another architecture. Pure; host only.
constexpr Status validate(const ModelConfig& c) {
  constexpr std::int32_t kLimit = 1 << 24;  // products of two sizes stay far inside int64
  const auto in_range = [](std::int32_t v) { return v >= 1 && v <= kLimit; };
  DSV4_REQUIRE(in_range(c.vocab),
               invalid_argument("config: vocab_size must be in [1, 2^24]", c.vocab, kLimit));
  DSV4_REQUIRE(in_range(c.hidden),
               invalid_argument("config: hidden_size must be in [1, 2^24]", c.hidden, kLimit));
  DSV4_REQUIRE(c.layers >= 1, invalid_argument("config: num_hidden_layers must be at least 1", c.layers, 1));
  DSV4_REQUIRE(c.mtp_layers == 0 || c.mtp_layers == 1,
               unsupported("config: num_nextn_predict_layers must be 0 or 1", c.mtp_layers, 1));
  DSV4_REQUIRE(c.layers < kMaxBlocks,
               unsupported("config: num_hidden_layers too large", c.layers, kMaxBlocks - 1));
  DSV4_REQUIRE(
      c.hash_layers >= 0 && c.hash_layers <= c.layers,
      invalid_argument("config: num_hash_layers must be in [0, num_hidden_layers]", c.hash_layers, c.layers));
  DSV4_REQUIRE(c.heads >= 1 && c.heads <= 1024,
               invalid_argument("config: num_attention_heads must be in [1, 1024]", c.heads, 1024));
  DSV4_REQUIRE(in_range(c.q_lora_rank),
               invalid_argument("config: q_lora_rank must be in [1, 2^24]", c.q_lora_rank, kLimit));
  DSV4_REQUIRE(c.o_groups >= 1 && c.heads % c.o_groups == 0,
               invalid_argument("config: o_groups must divide num_attention_heads", c.o_groups, c.heads));
  DSV4_REQUIRE(in_range(c.o_lora_rank),
               invalid_argument("config: o_lora_rank must be in [1, 2^24]", c.o_lora_rank, kLimit));
  DSV4_REQUIRE(in_range(c.experts) && c.experts <= 65536,
               invalid_argument("config: n_routed_experts must be in [1, 65536]", c.experts, 65536));
  DSV4_REQUIRE(c.active_experts >= 1 && c.active_experts <= c.experts,
               invalid_argument("config: num_experts_per_tok must be in [1, n_routed_experts]",
                                c.active_experts, c.experts));
  DSV4_REQUIRE(c.shared_experts == 1, unsupported("config: n_shared_experts must be 1", c.shared_experts, 1));
  DSV4_REQUIRE(
      in_range(c.expert_inner),
      invalid_argument("config: moe_intermediate_size must be in [1, 2^24]", c.expert_inner, kLimit));
  DSV4_REQUIRE(c.route_scale > 0 && c.route_scale < 1e6f,
               invalid_argument("config: routed_scaling_factor must be in (0, 1e6)"));
  DSV4_REQUIRE(c.swiglu_limit >= 0 && c.shared_swiglu_limit >= 0,
               invalid_argument("config: swiglu_limit must not be negative (0 = no clamp)"));
  DSV4_REQUIRE(c.head_dim == kHeadDim, unsupported("config: head_dim must be 512", c.head_dim, kHeadDim));
  DSV4_REQUIRE(c.rope_dim == kRopeDim,
               unsupported("config: qk_rope_head_dim must be 64", c.rope_dim, kRopeDim));
  DSV4_REQUIRE(c.window == kWindow, unsupported("config: sliding_window must be 128", c.window, kWindow));
  DSV4_REQUIRE(c.streams == kStreams, unsupported("config: hc_mult must be 4", c.streams, kStreams));
  DSV4_REQUIRE(
      c.sinkhorn_iterations >= 1 && c.sinkhorn_iterations <= 1000,
      invalid_argument("config: hc_sinkhorn_iters must be in [1, 1000]", c.sinkhorn_iterations, 1000));
  DSV4_REQUIRE(c.norm_eps >= 0 && c.hc_eps >= 0,
               invalid_argument("config: norm_eps and hc_eps must not be negative"));
  DSV4_REQUIRE(
      c.max_positions >= 1 && c.max_positions <= (1 << 22),
      invalid_argument("config: max_position_embeddings must be in [1, 2^22]", c.max_positions, 1 << 22));
  bool compressed = false, indexed = false;
  for (std::int32_t b = 0; b < c.blocks(); ++b) {
    const std::int32_t m = c.compress_ratio[static_cast<std::size_t>(b)];
    DSV4_REQUIRE(
        m == 0 || m == kCsaRatio || m == kHcaRatio,
        unsupported("config: compress_ratios must be 0, 4 or 128 (another architecture?)", m, kHcaRatio));
    compressed = compressed || m != 0;
    indexed = indexed || m == kCsaRatio;
  }
  DSV4_REQUIRE(c.rope_theta > 1, invalid_argument("config: rope_theta must be above 1"));
  DSV4_REQUIRE(!compressed || c.compress_rope_theta > 1,
               invalid_argument("config: compress_rope_theta must be above 1"));
  DSV4_REQUIRE(
      !compressed ||
          (c.rope_factor >= 1 && c.rope_original_length >= 1 && c.rope_beta_fast > 0 && c.rope_beta_slow > 0),
      invalid_argument("config: rope_scaling needs factor >= 1 and positive original length and betas"));
  DSV4_REQUIRE(!indexed || (c.index_heads >= 1 && c.index_heads <= 1024),
               invalid_argument("config: index_n_heads must be in [1, 1024]", c.index_heads, 1024));
  DSV4_REQUIRE(!indexed || c.index_head_dim == kIndexDim,
               unsupported("config: index_head_dim must be 128", c.index_head_dim, kIndexDim));
  DSV4_REQUIRE(!indexed || (c.index_top_k >= 1 && c.index_top_k <= (1 << 20)),
               invalid_argument("config: index_topk must be in [1, 2^20]", c.index_top_k, 1 << 20));
  return {};
}

namespace detail {
// Ratios 4, 128, 4, ... from layer 2 to the last layer; the MTP block's entry stays 0.
constexpr ModelConfig published(ModelConfig c, std::int32_t first_ratio) {
  for (std::int32_t l = 0; l < c.layers; ++l)
    c.compress_ratio[static_cast<std::size_t>(l)] = l < 2 ? first_ratio : l % 2 == 0 ? kCsaRatio : kHcaRatio;
  return c;
}
}  // namespace detail

/// DeepSeek-V4-Flash, as published.
inline constexpr ModelConfig kFlash = detail::published({.vocab = 129280,
                                                         .hidden = 4096,
                                                         .layers = 43,
                                                         .mtp_layers = 1,
                                                         .hash_layers = 3,
                                                         .heads = 64,
                                                         .q_lora_rank = 1024,
                                                         .o_groups = 8,
                                                         .o_lora_rank = 1024,
                                                         .index_heads = 64,
                                                         .index_top_k = 512,
                                                         .experts = 256,
                                                         .active_experts = 6,
                                                         .shared_experts = 1,
                                                         .expert_inner = 2048,
                                                         .route_scale = 1.5f,
                                                         .swiglu_limit = 10,
                                                         .shared_swiglu_limit = 10,
                                                         .head_dim = kHeadDim,
                                                         .rope_dim = kRopeDim,
                                                         .window = kWindow,
                                                         .index_head_dim = kIndexDim,
                                                         .streams = kStreams,
                                                         .sinkhorn_iterations = 20,
                                                         .hc_eps = 1e-6f,
                                                         .norm_eps = 1e-6f,
                                                         .rope_theta = 10000,
                                                         .compress_rope_theta = 160000,
                                                         .rope_factor = 16,
                                                         .rope_original_length = 65536,
                                                         .rope_beta_fast = 32,
                                                         .rope_beta_slow = 1,
                                                         .max_positions = 1 << 20},
                                                        0);

/// DeepSeek-V4-Pro, as published.
inline constexpr ModelConfig kPro = [] {
  ModelConfig c = kFlash;
  c.hidden = 7168, c.layers = 61, c.heads = 128, c.q_lora_rank = 1536, c.o_groups = 16;
  c.index_top_k = 1024, c.experts = 384, c.expert_inner = 3072, c.route_scale = 2.5f;
  c.compress_ratio = {};
  return detail::published(c, kHcaRatio);
}();

static_assert(validate(kFlash).ok() && validate(kPro).ok());

}  // namespace dsv4
