// The tap that holds a forward pass against a recording.
#pragma once

#include "reference/model.hpp"
#include "reference/tap.hpp"
#include "reference/tensor.hpp"
#include "reference/validate/dump.hpp"
#include "reference/validate/findings.hpp"
#include "reference/validate/limits.hpp"
#include "reference/validate/recording.hpp"

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::reference::validation {

/// Compares every stage's result with the recording. With RunMode::kStaged it then REPLACES the result by the
/// recorded one, so that each stage computes from recorded inputs; a result is compared only in rows whose
/// inputs were all recorded, and listed with the input that was not where there is no such row. With
/// RunMode::kFree everything recorded is compared and nothing replaced, except selections that differ by
/// permitted swaps: the pass then follows the recorded choice, as what comes after depends on it. T:
/// activations, float (exact) or bf16 (deploy). For batches of one sequence.
template <class T>
class CheckTap {
 public:
  static constexpr int kModel = -1;

  /// References must outlive the tap.
  ///   until  place in the plan of the last tap to compare in each call; -1 = all
  CheckTap(const Model& model, const Recording& recording, RunMode run, int until, Findings& findings,
           Dump* dump_or_null);

  /// Announces the next call (a place in Recording::calls). compare: whether its results count.
  void begin_call(int call, bool compare);

  template <class U>
  void operator()(int block, const char* site, const char* name, Tensor<U>& x);
  void cache(int block, Batch& batch, Tensor<T>& kv);
  void selection(int block, const Batch& batch, Selected& selected);
  void route(int block, const Batch& batch, Route& route);

 private:
  // What a stage computes from. A mask tells of each of the call's tokens whether the value that the pass
  // goes on from is recorded.
  enum Value {
    kIncoming,  // streams that enter the half of the block
    kPost,
    kComb,
    kCollapsed,  // hc_*.in
    kNormed,     // attn.in, ffn.in
    kQLora,
    kQuery,
    kIndexQuery,
    kIndexWeights,
    kIndexKeys,
    kScores,
    kIdx,
    kKeyValues,  // all that the token attends to
    kOutput,
    kHalf,  // attn.out, ffn.out
    kExperts,
    kExpertWeights,
    kShared,
    kFinal,
    kValues,
    kNothing = kValues
  };
  using Mask = std::vector<std::uint8_t>;

  struct Stage {
    std::string_view suffix;
    std::initializer_list<Value> inputs;
    Value result;
  };
  static const Stage& stage(int block, std::string_view suffix);
  static std::string_view name_of(Value value);

  // What is known of one block's state. `by position` and `by entry` vectors are as long as the sequence.
  struct History {
    Mask normed;  // by position: attn.in was recorded
    Mask window;  // by position: the state holds the recorded row
    Mask entry;   // by entry: the state holds the recorded entry
    Mask key;     // by entry: the state holds the recorded index key
    // Staged: what was computed, before the recorded values took its place; ring of kWindow positions.
    Mask sourced;  // by entry: computed from recorded attn.in alone
    std::vector<T> window_rows, entry_rows, key_rows;
  };

  const Call& call() const { return recording_.calls[static_cast<std::size_t>(call_)]; }
  bool staged() const { return run_ == RunMode::kStaged; }
  Mask& mask(Value value) { return masks_[value]; }
  // The recorded tensor of a tap in this call, or null. order -1: null.
  const StoredTensor* recorded(int order) const;
  int order(int block, std::string_view suffix) const;

  // Rows of this call whose inputs are all recorded (in a free run: all).
  Mask inputs_recorded(std::initializer_list<Value> inputs) const;
  std::string missing(std::initializer_list<Value> inputs) const;
  void finish(int order, CallStats stats, const std::string& reason_if_none);
  template <class U>
  void dump(int order, std::span<const U> elements, std::int64_t columns = 0) {
    if (dump_or_null_ != nullptr && !elements.empty())
      dump_or_null_->add<U>(call(), recording_.plan.tap(order), elements, columns);
  }
  void mark_followed(Value value, bool recorded) {
    masks_[value].assign(static_cast<std::size_t>(call().count()), recorded);
  }

  // check_cache.cpp
  void note_new_rows(int block, const SequenceState& state, const Tensor<T>& kv);
  void compare_cache(int block, const SequenceState& state, const Tensor<T>& kv);
  void dump_cache(int block, const SequenceState& state, const Tensor<T>& kv);
  void replace_cache(int block, SequenceState& state, Tensor<T>& kv);
  std::vector<T> stored_rows(const RowStore& store, std::int64_t begin, std::int64_t end) const;
  std::int64_t position_of_slot(std::int64_t slot, std::int64_t last) const;

  // check_selection.cpp
  using Members = std::vector<std::vector<std::int64_t>>;  // of each row
  Members read_topk(const StoredTensor& tensor, int block) const;
  Members read_idx(const StoredTensor& tensor, int block) const;
  std::int64_t entries_of(int block) const;
  template <class ScoreOf>
  bool compare_members(int order, Members& computed, const Members& rec, std::initializer_list<Value> inputs,
                       const ScoreOf& score_of);
  void dump_selection(int block, const Selected& selected);
  std::vector<double> gate_scores(int block, std::int64_t row) const;

  const Model& model_;
  const Recording& recording_;
  const RunMode run_;
  const int until_;
  Findings& findings_;
  Dump* const dump_or_null_;

  int call_ = 0;
  bool compare_ = true;
  std::array<Mask, kValues> masks_;  // of the call's tokens
  std::vector<History> history_;     // of each block
  // Of the block that runs, for swaps: the indexer's scores where a selection is recorded (a copy: the pass
  // has let go of them by then), and the gate's input.
  Tensor<float> scores_;
  const Tensor<T>* gate_input_ = nullptr;
};

extern template class CheckTap<float>;
extern template class CheckTap<bf16>;

}  // namespace dsv4::reference::validation
