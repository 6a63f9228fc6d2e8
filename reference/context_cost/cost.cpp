#include "reference/context_cost/cost.hpp"

#include <dsv4/attention/compressor_state.hpp>

#include <algorithm>

namespace dsv4::reference::context_cost {

namespace {

struct Layers {
  double all = 0, csa = 0, hca = 0, swa = 0;
};

Layers count(const ModelConfig& c) {
  Layers n;
  n.all = c.layers;  // without the MTP block
  for (std::int32_t l = 0; l < c.layers; ++l)
    ++(c.kind(l) == LayerKind::kCsa ? n.csa : c.kind(l) == LayerKind::kHca ? n.hca : n.swa);
  return n;
}

Arithmetic arithmetic_of(KeyFormat f) {
  return f == KeyFormat::kFp4   ? Arithmetic::kFp4
         : f == KeyFormat::kFp8 ? Arithmetic::kFp8
                                : Arithmetic::kBf16;
}

// V4, a token, its context n. D hidden, H heads of c = 512, Q q_lora_rank, g groups of rank G; per layer:
//   Wq_a Q D, Wq_b H c Q, Wkv c D, Wo_a [G] x [H c / g] for each of g groups = G H c, Wo_b D g G
//   compressor: Wkv_c and Wgate, width c (HCA) or 2 c (CSA: the overlap) each; the indexer's own likewise
//   indexer: Wq_b' [index heads x 128] from the q latent, Wproj from x; scores: q . K over n/4 keys
//   attention: the window's min(128, n) rows and the selected ones; every row once as key, once as value
//   mHC: 24 mixes of 4 D streams at two sites a layer, and 4 of the head
// The visible entries are the complete ones, n/m rounded down (attention/visibility.hpp).
std::vector<Term> terms_of(const ModelConfig& cfg, std::int64_t tokens, const Assumptions& a) {
  const Layers layers = count(cfg);
  const double D = cfg.hidden, H = cfg.heads, Q = cfg.q_lora_rank, c = kHeadDim;
  const double g = cfg.o_groups, G = cfg.o_lora_rank;
  const double hI = cfg.index_heads, cI = kIndexDim;
  const double E = cfg.experts, A = cfg.active_experts, S = cfg.shared_experts, I = cfg.expert_inner;
  const double window = static_cast<double>(std::min<std::int64_t>(tokens, kWindow));
  const double csa_entries = static_cast<double>(tokens / kCsaRatio);
  const double hca_entries = static_cast<double>(tokens / kHcaRatio);
  const double selected = std::min(csa_entries, double{1} * cfg.index_top_k);
  const double attended = layers.all * window + layers.csa * selected + layers.hca * hca_entries;
  using enum Arithmetic;
  return {
      {"projections", "layers (D Q + Q H c + D c + g G D)", kFp8, true,
       layers.all * (D * Q + Q * H * c + D * c + g * G * D)},
      {"output groups", "layers (G H c)", a.grouped, true, layers.all * G * H * c},
      {"compressors", "csa (4 D c) + hca (2 D c) + csa (4 D cI)", kBf16, true,
       layers.csa * 4 * D * (c + cI) + layers.hca * 2 * D * c},
      {"indexer projections", "csa (Q hI cI)", kFp8, true, layers.csa * Q * hI * cI},
      {"indexer weights", "csa (D hI)", kBf16, true, layers.csa * D * hI},
      {"indexer scores", "csa (n/4 hI cI)", arithmetic_of(a.keys), false, layers.csa * csa_entries * hI * cI},
      {"attention", "(layers min(128, n) + csa min(k, n/4) + hca n/128) H 2 c", kBf16, false,
       attended * H * 2 * c},
      {"gate", "layers (D E)", kBf16, true, layers.all * D * E},
      {"routed experts", "layers (A 3 D I)", kFp4Weights, true, layers.all * A * 3 * D * I},
      {"shared expert", "layers (S 3 D I)", kFp8, true, layers.all * S * 3 * D * I},
      {"mHC", "layers (2 24 4 D) + 4 4 D", kBf16, true,
       layers.all * 2 * kMixes * kStreams * D + kStreams * kStreams * D},
      {"head", "D V", kBf16, true, D * cfg.vocab},
  };
}

// V3.2 in decode, absorbed form: each head's query goes through the key half of Wkv_b into the latent space
// (nope -> rank), attention runs over the latent and the rotary key, its output comes back through the value
// half (rank -> value). One indexer a layer scores every token; dense FFNs in the first layers.
std::vector<Term> terms_of(const V32Config& cfg, std::int64_t tokens, const Assumptions& a) {
  const double L = cfg.layers, D = cfg.hidden, H = cfg.heads, Q = cfg.q_lora_rank;
  const double r = cfg.kv_lora_rank, rope = cfg.rope_dim, nope = cfg.nope_dim, v = cfg.value_dim;
  const double hI = cfg.index_heads, cI = cfg.index_head_dim;
  const double moe = cfg.layers - cfg.dense_layers, n = static_cast<double>(tokens);
  const double selected = std::min(n, double{1} * cfg.index_top_k);
  using enum Arithmetic;
  return {
      {"projections", "layers (D Q + Q H (nope + rope) + D (r + rope) + H v D)", kFp8, true,
       L * (D * Q + Q * H * (nope + rope) + D * (r + rope) + H * v * D)},
      {"absorbed Wkv_b", "layers H r (nope + v)", a.grouped, true, L * H * r * (nope + v)},
      {"indexer projections", "layers (Q hI cI + D cI)", kFp8, true, L * (Q * hI * cI + D * cI)},
      {"indexer weights", "layers (D hI)", kBf16, true, L * D * hI},
      {"indexer scores", "layers (n hI cI)", kFp8, false, L * n * hI * cI},
      {"attention", "layers min(k, n) H (2 r + rope)", kBf16, false, L * selected * H * (2 * r + rope)},
      {"gate", "moe (D E)", kBf16, true, moe * D * cfg.experts},
      {"experts", "moe ((A + S) 3 D I) + dense (3 D Id)", kFp8, true,
       moe * (cfg.active_experts + cfg.shared_experts) * 3 * D * cfg.expert_inner +
           cfg.dense_layers * 3 * D * cfg.dense_inner},
      {"head", "D V", kBf16, true, D * cfg.vocab},
  };
}

CacheBytes cache_of(const ModelConfig& cfg, std::int64_t n, const Assumptions& a) {
  const Layers layers = count(cfg);
  const double entry = entry_bytes(a.kv), key = key_bytes(a.keys);
  const double csa_entries = static_cast<double>(n / kCsaRatio);
  const double hca_entries = static_cast<double>(n / kHcaRatio);
  const auto state = [](int ratio, int dim) {
    return static_cast<double>(attention::CompressorLayout{{ratio, dim}, 0}.bytes());
  };
  CacheBytes b;
  b.entries = (layers.csa * csa_entries + layers.hca * hca_entries) * entry;
  b.keys = layers.csa * csa_entries * key;
  b.window = layers.all * static_cast<double>(std::min<std::int64_t>(n, kWindow)) * entry;
  b.states = layers.csa * (state(kCsaRatio, kHeadDim) + state(kCsaRatio, kIndexDim)) +
             layers.hca * state(kHcaRatio, kHeadDim);
  b.total = b.entries + b.keys + (a.count_window ? b.window : 0);
  return b;
}

CacheBytes cache_of(const V32Config& cfg, std::int64_t n, const Assumptions&) {
  CacheBytes b;
  b.entries = double{1} * cfg.layers * static_cast<double>(n) * kV32EntryBytes;
  b.keys = double{1} * cfg.layers * static_cast<double>(n) * kV32KeyBytes;
  b.total = b.entries + b.keys;
  return b;
}

}  // namespace

std::vector<Model> published_models() { return {{"V4-Flash", kFlash}, {"V4-Pro", kPro}, {"V3.2", kV32}}; }

std::vector<Term> terms(const Model& model, std::int64_t n, const Assumptions& a) {
  return std::visit([&](const auto& sizes) { return terms_of(sizes, n, a); }, model.sizes);
}

CacheBytes cache_bytes(const Model& model, std::int64_t n, const Assumptions& a) {
  return std::visit([&](const auto& sizes) { return cache_of(sizes, n, a); }, model.sizes);
}

double rate(Arithmetic arithmetic, const Assumptions& a) {
  switch (arithmetic) {
    case Arithmetic::kBf16:
      return a.bf16_rate;
    case Arithmetic::kFp4Weights:
      return a.fp4_weights_rate;
    case Arithmetic::kFp4:
      return a.fp4_rate;
    case Arithmetic::kFp8:
      break;
  }
  return 1;
}

Cost cost(const Model& model, std::int64_t n, const Assumptions& a) {
  Cost c;
  c.tokens = n;
  for (const Term& t : terms(model, n, a)) {
    c.flops += 2 * t.macs;
    c.fp8_flops += 2 * t.macs * rate(t.arithmetic, a);
  }
  c.cache = cache_bytes(model, n, a);
  return c;
}

double active_weights(const Model& model) {
  double sum = 0;
  for (const Term& t : terms(model, 1, {}))
    if (t.weights) sum += t.macs;
  return sum;
}

}  // namespace dsv4::reference::context_cost
