// One layer of a published model with random weights, and a sequence whose context was never computed: what
// it takes to time a layer at its real size.
#pragma once

#include "reference/batch.hpp"
#include "reference/model.hpp"
#include "reference/state.hpp"
#include "reference/tensor.hpp"

#include <dsv4/core/types.hpp>
#include <dsv4/model_config.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dsv4::bench {

/// A model of one layer, deploy mode: FP8 linears, FP4 experts, the rest bf16 and f32 as published. Values
/// are random and of sane size, no NaN among them. All `experts` of the configuration exist, but share
/// `blocks` distinct ones, so that a layer fits into memory: expert e has the weights of e % blocks.
class RandomLayer {
 public:
  /// `published` is kFlash or kPro; every one of its sizes is kept except vocab and layers.
  RandomLayer(const ModelConfig& published, LayerKind kind, int blocks);

  const reference::Model& model() const { return model_; }
  const reference::BlockWeights& block() const { return model_.layers[0]; }

  /// Bytes in memory; shared experts count once.
  std::int64_t bytes() const { return bytes_; }
  /// Bytes that one token reads: everything but the routed experts, and `active_experts` of those.
  std::int64_t bytes_a_token() const;

 private:
  reference::Model model_;
  std::int64_t bytes_ = 0;
};

/// A sequence of `length` tokens with random rows wherever the layer will read.
reference::SequenceState random_state(const ModelConfig& config, std::int64_t length);

/// Residual streams [tokens, 4, D] of order one.
reference::Tensor<bf16> random_streams(const ModelConfig& config, std::int64_t tokens, std::uint64_t seed);

/// A batch that appends `tokens` to `state`.
reference::Batch append(const reference::Model& model, reference::SequenceState& state, std::int64_t tokens);

}  // namespace dsv4::bench
