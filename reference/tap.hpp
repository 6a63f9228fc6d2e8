// Taps: where a forward pass can be watched, and its stages fed with other inputs.
#pragma once

#include "reference/batch.hpp"
#include "reference/tensor.hpp"

#include <cstdint>

namespace dsv4::reference {

/// Experts of a batch.
struct Route {
  Tensor<std::int32_t> idx;  // [T, active] expert ids, -1 = dropped
  Tensor<float> weights;     // [T, active]
};

/// What each token of a batch attends to.
struct Selected {
  Tensor<std::int32_t> window;   // [T, 128] positions, oldest first, -1 padded
  Tensor<std::int32_t> entries;  // [T, K] entry indices, -1 padded; no columns in an SWA layer
};

/// A tap that does nothing. Others offer the same members; each may replace what it is given by recorded
/// values, and the pass then goes on from those.
///   operator()(block, site, name, tensor)  a stage's result; `site` + `name` is the tap's name in a
///   recording, block
///                                          kModel for the model's own (final_norm, logits)
///   cache(block, batch, kv)                the batch's key-value rows [T, 512] as cached; entries and index
///   keys are
///                                          reached through the states
///   selection, route                       selected rows and entries; experts and their weights
struct NoTap {
  static constexpr int kModel = -1;

  template <class T>
  void operator()(int, const char*, const char*, Tensor<T>&) {}
  template <class T>
  void cache(int, Batch&, Tensor<T>&) {}
  void selection(int, const Batch&, Selected&) {}
  void route(int, const Batch&, Route&) {}
};

}  // namespace dsv4::reference
