// The weights of one model as the forward pass reads them: views into the mapped checkpoint, one struct a
// stage.
#pragma once

#include <dsv4/linear/weight.hpp>
#include <dsv4/model_config.hpp>

#include <cstdint>
#include <memory>
#include <vector>

namespace dsv4::reference {

using linear::WeightView;

/// Numbers of a forward pass: kExact = fp32 throughout, nothing quantised; kDeploy = the rounding chain of a
/// deployed model (bf16 activations, FP8/FP4 activation and cache quantisation).
enum class NumericMode { kExact, kDeploy };

/// One mHC site. D = hidden.
struct HcWeights {
  WeightView fn;             // [24, 4*D] f32: rows 0-3 pre, 4-7 post, 8-23 comb (4*j+k)
  std::vector<float> base;   // [24]
  std::vector<float> scale;  // [3]: pre, post, comb
};

/// The head's mHC collapse.
struct HcHeadWeights {
  WeightView fn;             // [4, 4*D] f32
  std::vector<float> base;   // [4]
  std::vector<float> scale;  // [1]
};

/// A compressor of a CSA or HCA layer; d = 512 (main) or 128 (index), w = 2 for ratio 4, 1 for ratio 128.
struct CompressorWeights {
  WeightView wkv, wgate;    // [w*d, D]
  std::vector<float> ape;   // [ratio, w*d]
  std::vector<float> norm;  // [d]
};

/// The lightning indexer of a CSA layer.
struct IndexerWeights {
  WeightView wq_b;          // [index_heads*128, q_lora]
  WeightView weights_proj;  // [index_heads, D]
  CompressorWeights compressor;
};

struct AttentionWeights {
  WeightView wq_a;               // [q_lora, D]
  std::vector<float> q_norm;     // [q_lora]
  WeightView wq_b;               // [H*512, q_lora]
  WeightView wkv;                // [512, D]
  std::vector<float> kv_norm;    // [512]
  WeightView wo_a;               // [g*o_lora, H*512/g]: rows of group i are i*o_lora ..
  WeightView wo_b;               // [D, g*o_lora]
  std::vector<float> sink;       // [H]
  CompressorWeights compressor;  // CSA, HCA
  IndexerWeights indexer;        // CSA
};

struct ExpertWeights {
  WeightView w1, w3;  // [inner, D] gate, up
  WeightView w2;      // [D, inner]
};

struct FfnWeights {
  WeightView gate;                     // [E, D]
  std::vector<float> bias;             // [E], empty in a hashed layer
  std::vector<std::int32_t> tid2eid;   // [V, active], every value in [0, E); empty unless hashed
  std::vector<ExpertWeights> experts;  // [E]
  ExpertWeights shared;
};

/// One block: a layer, or the body of the MTP block.
struct BlockWeights {
  HcWeights hc_attn;
  std::vector<float> attn_norm;  // [D]
  AttentionWeights attn;
  HcWeights hc_ffn;
  std::vector<float> ffn_norm;  // [D]
  FfnWeights ffn;
};

struct MtpWeights {
  std::vector<float> enorm, hnorm;  // [D]
  WeightView e_proj, h_proj;        // [D, D]
  BlockWeights block;
  HcHeadWeights hc_head;
  std::vector<float> norm;  // [D]
};

/// A whole model. Copies share the mapped files.
struct Model {
  ModelConfig config;
  NumericMode mode = NumericMode::kDeploy;
  WeightView embed;                  // [V, D]
  std::vector<BlockWeights> layers;  // [config.layers]
  std::vector<MtpWeights> mtp;       // [config.mtp_layers]
  HcHeadWeights hc_head;
  std::vector<float> norm;              // [D]
  WeightView head;                      // [V, D]
  std::shared_ptr<const void> storage;  // keeps the mapped files and converted vectors alive
};

}  // namespace dsv4::reference
