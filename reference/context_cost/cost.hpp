// What a context costs: arithmetic of one decoded token and bytes of cache, by the context's length.
//
// Counted are products: two operations a multiply-add of every weight matrix that a token passes, of the
// indexer's scores and of attention. Norms, rotations, transforms, quantisers, softmax, Sinkhorn and
// selection are left out (below 1 % together), and so is the MTP block, which drafts and decides nothing.
#pragma once

#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/model_config.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace dsv4::reference::context_cost {

/// What the tensor cores multiply: it decides how fast.
enum class Arithmetic : std::int32_t {
  kBf16,        // bf16 x bf16
  kFp8,         // e4m3 x e4m3
  kFp4Weights,  // e4m3 activations x e2m1 weights: routed experts
  kFp4,         // e2m1 x e2m1: the indexer's scores
};

/// How entries and index keys of V4 are stored. V3.2 keeps its own formats.
enum class KvFormat : std::int32_t { kFp8, kBf16 };
enum class KeyFormat : std::int32_t { kFp4, kFp8, kBf16 };

/// What the figures rest on. The defaults are those under which the published figures come out.
struct Assumptions {
  // Time of an operation in operations of e4m3 x e4m3 ("equivalent FP8 FLOPs").
  double bf16_rate = 2;
  double fp4_weights_rate = 1;  // the report, section 1: on existing hardware FP4 x FP8 peaks as FP8 x FP8
  double fp4_rate = 0.5;        // section 2.3.4: FP4 accelerates the indexer
  // Products by group or head with weights stored as FP8: V4's Wo_a, V3.2's absorbed Wkv_b. The published
  // inference code dequantises them and multiplies in bf16; engines have FP8 kernels.
  Arithmetic grouped = Arithmetic::kFp8;
  KvFormat kv = KvFormat::kFp8;
  KeyFormat keys = KeyFormat::kFp4;  // also the arithmetic of the scores
  bool count_window = true;          // the window's entries belong to the cache
};

/// Bytes of an entry [512] and of an index key [128] of V4.
constexpr int entry_bytes(KvFormat f) {
  return f == KvFormat::kFp8 ? attention::KvPagePool::kEntryBytes : kHeadDim * 2;
}
constexpr int key_bytes(KeyFormat f) {
  return f == KeyFormat::kFp4   ? attention::IndexFp4Pool::kEntryBytes
         : f == KeyFormat::kFp8 ? attention::IndexFp8Pool::kEntryBytes
                                : kIndexDim * 2;
}

/// Sizes of DeepSeek-V3.2, the model that the report compares with: multi-head latent attention and one
/// lightning indexer a layer, uncompressed.
struct V32Config {
  std::int32_t vocab, hidden, layers, dense_layers, heads, q_lora_rank;
  std::int32_t kv_lora_rank, rope_dim, nope_dim, value_dim;  // latent and rotary key; per-head sizes
  std::int32_t index_heads, index_head_dim, index_top_k;
  std::int32_t experts, active_experts, shared_experts, expert_inner, dense_inner;
};

/// As published: deepseek-ai/DeepSeek-V3.2-Exp, inference/config_671B_v3.2.json.
inline constexpr V32Config kV32 = {.vocab = 129280,
                                   .hidden = 7168,
                                   .layers = 61,
                                   .dense_layers = 3,
                                   .heads = 128,
                                   .q_lora_rank = 1536,
                                   .kv_lora_rank = 512,
                                   .rope_dim = 64,
                                   .nope_dim = 128,
                                   .value_dim = 128,
                                   .index_heads = 64,
                                   .index_head_dim = 128,
                                   .index_top_k = 2048,
                                   .experts = 256,
                                   .active_experts = 8,
                                   .shared_experts = 1,
                                   .expert_inner = 2048,
                                   .dense_inner = 18432};
/// Bytes of its cache, a token and layer: 512 e4m3, 4 f32 scales, 64 bf16 (FlashMLA's layout); a key of 128
/// e4m3 and an f32 scale.
inline constexpr int kV32EntryBytes = 512 + 4 * 4 + 64 * 2;
inline constexpr int kV32KeyBytes = 128 + 4;

struct Model {
  std::string name;
  std::variant<ModelConfig, V32Config> sizes;  // a ModelConfig satisfies dsv4::validate
};

/// V4-Flash, V4-Pro, V3.2.
std::vector<Model> published_models();

/// One kind of product, in all layers.
struct Term {
  std::string_view part;     // groups terms: "projections", "attention", ...
  std::string_view formula;  // of its multiply-adds, in the notation of terms()
  Arithmetic arithmetic;
  bool weights;  // a product with weights: its multiply-adds are active parameters
  double macs;   // a token
};

/// Products of the token at position n - 1, whose context is n tokens long, itself included.
///   n  1 .. kMaxTokens
std::vector<Term> terms(const Model& model, std::int64_t n, const Assumptions& a);

struct CacheBytes {
  double entries = 0;  // compressed entries (V3.2: every token's), grow with n
  double keys = 0;     // index keys, grow with n
  double window = 0;   // of the last 128 tokens, every layer
  double states = 0;   // what compressors remember beside the cache, without room for rollback; not in total
  double total = 0;    // entries, keys and, where counted, window
};

/// Bytes that a sequence of n tokens keeps.
CacheBytes cache_bytes(const Model& model, std::int64_t n, const Assumptions& a);

/// Largest context that is computed for.
inline constexpr std::int64_t kMaxTokens = std::int64_t{1} << 32;

struct Cost {
  std::int64_t tokens = 0;
  double flops = 0;      // 2 x multiply-adds, whatever the arithmetic
  double fp8_flops = 0;  // the same, each times its rate
  CacheBytes cache;
};
Cost cost(const Model& model, std::int64_t n, const Assumptions& a);

/// Time of one operation, in FP8 operations.
double rate(Arithmetic arithmetic, const Assumptions& a);

/// Weights that a token is multiplied with, without the embedding.
double active_weights(const Model& model);

}  // namespace dsv4::reference::context_cost
