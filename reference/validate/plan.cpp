#include "reference/validate/plan.hpp"

#include <fmt/format.h>

namespace dsv4::reference::validation {

namespace {

using R = TapRows;
using C = TapColumns;
using E = TapElements;

constexpr TapInfo kIn{"in", R::kTokens, C::kStreams, E::kActivation};

constexpr TapInfo kAttentionHc[] = {
    {"hc_attn.mixes", R::kTokens, C::kMixes, E::kF32},      {"hc_attn.pre", R::kTokens, C::kFour, E::kF32},
    {"hc_attn.post", R::kTokens, C::kFour, E::kF32},        {"hc_attn.comb", R::kTokens, C::kComb, E::kF32},
    {"hc_attn.in", R::kTokens, C::kHidden, E::kActivation},
};
constexpr TapInfo kProjections[] = {
    {"attn.in", R::kTokens, C::kHidden, E::kActivation},
    {"attn.qr", R::kTokens, C::kQLora, E::kActivation},
    {"attn.q", R::kListed, C::kHeads, E::kActivation},
    {"attn.kv", R::kKeyValues, C::kKeyValue, E::kActivation},
    {"attn.kv_new", R::kTokens, C::kKeyValue, E::kActivation},
};
constexpr TapInfo kEntryNew{"attn.entry_new", R::kNewEntries, C::kKeyValue, E::kActivation};
constexpr TapInfo kKeys{"attn.indexer.keys", R::kEntries, C::kIndexKey, E::kActivation};
constexpr TapInfo kCache{"attn.cache", R::kCache, C::kKeyValue, E::kActivation};
constexpr TapInfo kIndexer[] = {
    {"attn.indexer.q", R::kListed, C::kIndexQuery, E::kActivation},
    {"attn.indexer.weights", R::kTokens, C::kIndexHeads, E::kActivation},
    {"attn.indexer.scores", R::kTokens, C::kEntries, E::kF32},
    {"attn.indexer.topk", R::kTokens, C::kAny, E::kIndex},
};
constexpr TapInfo kRest[] = {
    {"attn.idx", R::kTokens, C::kAny, E::kIndex},
    {"attn.o", R::kListed, C::kHeads, E::kActivation},
    {"attn.out", R::kTokens, C::kHidden, E::kActivation},
    {"hc_attn.out", R::kTokens, C::kStreams, E::kActivation},
    {"hc_ffn.mixes", R::kTokens, C::kMixes, E::kF32},
    {"hc_ffn.pre", R::kTokens, C::kFour, E::kF32},
    {"hc_ffn.post", R::kTokens, C::kFour, E::kF32},
    {"hc_ffn.comb", R::kTokens, C::kComb, E::kF32},
    {"hc_ffn.in", R::kTokens, C::kHidden, E::kActivation},
    {"ffn.in", R::kTokens, C::kHidden, E::kActivation},
    {"ffn.gate.indices", R::kTokens, C::kActive, E::kIndex},
    {"ffn.gate.weights", R::kTokens, C::kActive, E::kF32},
    {"ffn.shared", R::kTokens, C::kHidden, E::kActivation},
    {"ffn.out", R::kTokens, C::kHidden, E::kActivation},
    {"hc_ffn.out", R::kTokens, C::kStreams, E::kActivation},
};
constexpr TapInfo kFinalNorm{"final_norm", R::kTokens, C::kHidden, E::kActivation};
constexpr TapInfo kLogits{"logits", R::kLast, C::kVocab, E::kF32};

}  // namespace

std::string block_name(const ModelConfig& config, int block) {
  if (block < 0) return {};
  return block < config.layers ? fmt::format("layers.{}", block)
                               : fmt::format("mtp.{}", block - config.layers);
}

Plan::Plan(const ModelConfig& config, NumericMode mode, bool mtp) : config_(config), mode_(mode) {
  const auto add = [&](int block, const TapInfo& info) {
    const std::string prefix = block_name(config_, block);
    taps_.push_back({prefix.empty() ? std::string(info.suffix) : fmt::format("{}.{}", prefix, info.suffix),
                     block, &info});
  };
  const auto add_block = [&](int b) {
    const LayerKind kind = config_.kind(b);
    add(b, kIn);
    for (const TapInfo& info : kAttentionHc) add(b, info);
    for (const TapInfo& info : kProjections) add(b, info);
    if (kind != LayerKind::kSwa) add(b, kEntryNew);
    if (kind == LayerKind::kCsa) add(b, kKeys);
    add(b, kCache);
    if (kind == LayerKind::kCsa)
      for (const TapInfo& info : kIndexer) add(b, info);
    for (const TapInfo& info : kRest) add(b, info);
  };
  for (int b = 0; b < config_.layers; ++b) add_block(b);
  add(-1, kFinalNorm);
  add(-1, kLogits);
  if (mtp) {
    add_block(config_.layers);
    add(config_.layers, kLogits);
  }
  for (std::size_t i = 0; i < taps_.size(); ++i) order_.emplace(taps_[i].name, static_cast<int>(i));
}

int Plan::order(std::string_view name) const {
  const auto it = order_.find(std::string(name));
  return it == order_.end() ? -1 : it->second;
}

DType Plan::dtype(const PlannedTap& tap) const {
  switch (tap.info->elements) {
    case TapElements::kActivation:
      return mode_ == NumericMode::kDeploy ? DType::kBf16 : DType::kF32;
    case TapElements::kF32:
      return DType::kF32;
    case TapElements::kIndex:
      break;
  }
  return DType::kI32;
}

std::int64_t Plan::entries(int block, const CallSpan& span) const {
  const int ratio = block < 0 ? 0 : ratio_of(config_.kind(block));
  return ratio == 0 ? 0 : (span.start + span.tokens) / ratio;
}

std::vector<std::int64_t> Plan::shape(const PlannedTap& tap, const CallSpan& span) const {
  std::vector<std::int64_t> shape;
  const std::int64_t entries = this->entries(tap.block, span);
  switch (tap.info->rows) {
    case R::kTokens:
      shape = {span.tokens};
      break;
    case R::kListed:
      shape = {span.listed};
      break;
    case R::kLast:
      break;
    case R::kKeyValues:
      shape = {span.tokens + entries};
      break;
    case R::kEntries:
      shape = {entries};
      break;
    case R::kNewEntries:
      shape = {entries - this->entries(tap.block, {span.start, 0, 0})};
      break;
    case R::kCache:
      shape = {kWindow + entries};
      break;
  }
  switch (tap.info->columns) {
    case C::kMixes:
      shape.push_back(kMixes);
      break;
    case C::kFour:
      shape.push_back(kStreams);
      break;
    case C::kComb:
      shape.insert(shape.end(), {kStreams, kStreams});
      break;
    case C::kHidden:
      shape.push_back(config_.hidden);
      break;
    case C::kStreams:
      shape.insert(shape.end(), {kStreams, config_.hidden});
      break;
    case C::kQLora:
      shape.push_back(config_.q_lora_rank);
      break;
    case C::kHeads:
      shape.insert(shape.end(), {config_.heads, kHeadDim});
      break;
    case C::kKeyValue:
      shape.push_back(kHeadDim);
      break;
    case C::kIndexQuery:
      shape.insert(shape.end(), {config_.index_heads, kIndexDim});
      break;
    case C::kIndexKey:
      shape.push_back(kIndexDim);
      break;
    case C::kIndexHeads:
      shape.push_back(config_.index_heads);
      break;
    case C::kEntries:
      shape.push_back(entries);
      break;
    case C::kActive:
      shape.push_back(config_.active_experts);
      break;
    case C::kVocab:
      shape.push_back(config_.vocab);
      break;
    case C::kAny:
      shape.push_back(-1);
      break;
  }
  return shape;
}

}  // namespace dsv4::reference::validation
