#include "reference/validate/check_tap.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <type_traits>

namespace dsv4::reference::validation {

template <class T>
CheckTap<T>::CheckTap(const Model& model, const Recording& recording, RunMode run, int until,
                      Findings& findings, Dump* dump_or_null)
    : model_(model),
      recording_(recording),
      run_(run),
      until_(until),
      findings_(findings),
      dump_or_null_(dump_or_null),
      history_(static_cast<std::size_t>(recording.config.blocks())) {}

template <class T>
void CheckTap<T>::begin_call(int call, bool compare) {
  call_ = call;
  compare_ = compare;
  for (int v = 0; v < kValues; ++v) mark_followed(static_cast<Value>(v), false);
  if (this->call().start == 0) history_.assign(history_.size(), {});
}

// The staging table: a tap's inputs, and which input of later stages its value is.
template <class T>
const typename CheckTap<T>::Stage& CheckTap<T>::stage(int block, std::string_view suffix) {
  static const Stage kStages[] = {
      {"hc_attn.mixes", {kIncoming}, kNothing},
      {"hc_attn.pre", {kIncoming}, kNothing},
      {"hc_attn.post", {kIncoming}, kPost},
      {"hc_attn.comb", {kIncoming}, kComb},
      {"hc_attn.in", {kIncoming}, kCollapsed},
      {"attn.in", {kCollapsed}, kNormed},
      {"attn.qr", {kNormed}, kQLora},
      {"attn.q", {kQLora}, kQuery},
      {"attn.indexer.q", {kQLora}, kIndexQuery},
      {"attn.indexer.weights", {kNormed}, kIndexWeights},
      {"attn.indexer.scores", {kIndexQuery, kIndexWeights, kIndexKeys}, kScores},
      {"attn.o", {kQuery, kIdx, kKeyValues}, kOutput},
      {"attn.out", {kOutput}, kHalf},
      {"hc_attn.out", {kHalf, kIncoming, kPost, kComb}, kIncoming},
      {"hc_ffn.mixes", {kIncoming}, kNothing},
      {"hc_ffn.pre", {kIncoming}, kNothing},
      {"hc_ffn.post", {kIncoming}, kPost},
      {"hc_ffn.comb", {kIncoming}, kComb},
      {"hc_ffn.in", {kIncoming}, kCollapsed},
      {"ffn.in", {kCollapsed}, kNormed},
      {"ffn.shared", {kNormed}, kShared},
      {"ffn.out", {kNormed, kExperts, kExpertWeights, kShared}, kHalf},
      {"hc_ffn.out", {kHalf, kIncoming, kPost, kComb}, kIncoming},
      {"final_norm", {kIncoming}, kFinal},
  };
  static const Stage kMainLogits{"logits", {kFinal}, kNothing};
  static const Stage kMtpLogits{"logits", {kIncoming}, kNothing};
  for (const Stage& s : kStages)
    if (s.suffix == suffix) return s;
  return block == kModel ? kMainLogits : kMtpLogits;
}

template <class T>
std::string_view CheckTap<T>::name_of(Value value) {
  switch (value) {
    case kIncoming:
      return "the streams that enter";
    case kPost:
      return "post";
    case kComb:
      return "comb";
    case kCollapsed:
      return "the collapsed stream (hc_*.in)";
    case kNormed:
      return "the half's input (attn.in, ffn.in)";
    case kQLora:
      return "attn.qr";
    case kQuery:
      return "attn.q";
    case kIndexQuery:
      return "attn.indexer.q";
    case kIndexWeights:
      return "attn.indexer.weights";
    case kIndexKeys:
      return "attn.indexer.keys";
    case kScores:
      return "attn.indexer.scores";
    case kIdx:
      return "attn.idx";
    case kKeyValues:
      return "selected key-value rows (attn.kv, attn.cache)";
    case kOutput:
      return "attn.o";
    case kHalf:
      return "the half's output (attn.out, ffn.out)";
    case kExperts:
      return "ffn.gate.indices";
    case kExpertWeights:
      return "ffn.gate.weights";
    case kShared:
      return "ffn.shared";
    case kFinal:
      return "final_norm";
    case kValues:
      break;
  }
  return "";
}

template <class T>
int CheckTap<T>::order(int block, std::string_view suffix) const {
  const std::string prefix = block_name(recording_.config, block);
  return recording_.plan.order(prefix.empty() ? std::string(suffix) : prefix + "." + std::string(suffix));
}

template <class T>
const StoredTensor* CheckTap<T>::recorded(int order) const {
  const auto it = call().taps.find(order);
  return it == call().taps.end() ? nullptr : it->second;
}

template <class T>
typename CheckTap<T>::Mask CheckTap<T>::inputs_recorded(std::initializer_list<Value> inputs) const {
  Mask out(static_cast<std::size_t>(call().count()), 1);
  if (!staged()) return out;
  for (const Value v : inputs)
    for (std::size_t t = 0; t < out.size(); ++t) out[t] = out[t] && masks_[v][t];
  return out;
}

template <class T>
std::string CheckTap<T>::missing(std::initializer_list<Value> inputs) const {
  for (const Value v : inputs)
    if (std::none_of(masks_[v].begin(), masks_[v].end(), [](std::uint8_t r) { return r != 0; }))
      return fmt::format("input not recorded: {}", name_of(v));
  return "no token has all its inputs recorded";
}

template <class T>
void CheckTap<T>::finish(int order, CallStats stats, const std::string& reason_if_none) {
  if (!compare_ || (until_ >= 0 && order > until_)) return;
  stats.call = call_;
  if (stats.rows == 0 && recorded(order)->count() > 0)
    findings_.list(call_, order, reason_if_none);
  else
    findings_.compared(order, stats);
}

template <class T>
template <class U>
void CheckTap<T>::operator()(int block, const char* site, const char* name, Tensor<U>& x) {
  const std::string suffix = std::string(site) + name;
  const int order = this->order(block, suffix);
  if (order < 0) throw std::logic_error("a stage whose tap the plan does not have: " + suffix);
  const TapInfo& info = *recording_.plan.tap(order).info;
  const bool streams_in = suffix == "in";
  if constexpr (std::is_same_v<U, T>)
    if (suffix == "ffn.in") gate_input_ = &x;

  // Which of the call's tokens the recorded rows are.
  std::vector<std::int64_t> tokens = call().rows;
  if (info.rows == TapRows::kTokens) {
    tokens.resize(static_cast<std::size_t>(call().count()));
    for (std::size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<std::int64_t>(t);
  } else if (info.rows == TapRows::kLast) {
    tokens = {call().count() - 1};
  }
  const auto computed_row = [&](std::int64_t token) {
    return x.row(info.rows == TapRows::kLast ? 0 : token);
  };
  const std::int64_t cols = x.cols();

  // The streams of layers after the first are the previous block's `hc_ffn.out`.
  if (dump_or_null_ != nullptr && (!streams_in || block == 0 || block == recording_.config.layers)) {
    std::vector<U> rows(tokens.size() * static_cast<std::size_t>(cols));
    for (std::size_t i = 0; i < tokens.size(); ++i)
      std::copy_n(computed_row(tokens[i]), cols, rows.data() + static_cast<std::int64_t>(i) * cols);
    dump<U>(order, rows);
  }

  const std::initializer_list<Value> from_streams = {kIncoming}, from_tokens = {};
  const Stage* const stage = streams_in ? nullptr : &CheckTap::stage(block, suffix);
  const auto inputs = stage != nullptr ? stage->inputs : block == 0 ? from_tokens : from_streams;
  const Value result = stage != nullptr ? stage->result : kIncoming;
  const StoredTensor* const tensor = recorded(order);
  if (tensor != nullptr) {
    const std::vector<U> rec = values<U>(*tensor);
    const Mask usable = inputs_recorded(inputs);
    std::vector<RowPair<U>> pairs;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      if (usable[static_cast<std::size_t>(tokens[i])])
        pairs.push_back({computed_row(tokens[i]), rec.data() + static_cast<std::int64_t>(i) * cols,
                         static_cast<std::int64_t>(i)});
    finish(order, compare_rows<U>(pairs, cols), missing(inputs));
    if (staged())
      for (std::size_t i = 0; i < tokens.size(); ++i)
        std::copy_n(rec.data() + static_cast<std::int64_t>(i) * cols, cols, computed_row(tokens[i]));
  }
  if constexpr (std::is_same_v<U, float>)
    if (suffix == "attn.indexer.scores" && (recorded(this->order(block, "attn.idx")) != nullptr ||
                                            recorded(this->order(block, "attn.indexer.topk")) != nullptr)) {
      scores_ = Tensor<float>(x.rows(), cols);
      std::copy_n(x.data(), x.size(), scores_.data());
    }
  if (result == kNothing) return;
  if (streams_in && tensor == nullptr) {
    // Embeddings are looked up from recorded tokens; later layers go on from the previous block's result.
    if (block == 0) mark_followed(kIncoming, true);
    if (block == recording_.config.layers) mark_followed(kIncoming, false);
    return;
  }
  mark_followed(result, false);
  if (tensor != nullptr)
    for (const std::int64_t t : tokens) masks_[result][static_cast<std::size_t>(t)] = 1;
}

template class CheckTap<float>;
template void CheckTap<float>::operator()(int, const char*, const char*, Tensor<float>&);
template class CheckTap<bf16>;
template void CheckTap<bf16>::operator()(int, const char*, const char*, Tensor<float>&);
template void CheckTap<bf16>::operator()(int, const char*, const char*, Tensor<bf16>&);

}  // namespace dsv4::reference::validation
