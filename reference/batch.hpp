// The tokens of one forward pass: any number of sequences, any number of new tokens each.
#pragma once

#include "reference/model.hpp"
#include "reference/state.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace dsv4::reference {

/// What the caller appends to one sequence. `tokens` may be empty.
struct Append {
  SequenceState* state = nullptr;
  std::span<const std::int32_t> tokens;
  /// Input of the MTP block, as many as `tokens`: the token that FOLLOWS each. Empty iff the state has no MTP
  /// block.
  std::span<const std::int32_t> next_tokens = {};
};

/// Consecutive rows of a batch that belong to one sequence.
struct Segment {
  SequenceState* state;
  std::int64_t first;  // row of its first token
  std::int64_t count;
  std::int64_t start;  // position of its first token
};

/// Rows of all appends, one after the other. T = rows().
struct Batch {
  std::vector<std::int32_t> tokens;       // [T]
  std::vector<std::int32_t> next_tokens;  // [T], or empty: no MTP block
  std::vector<std::int64_t> position;     // [T]
  std::vector<std::int32_t> segment_of;   // [T]
  std::vector<Segment> segments;

  std::int64_t rows() const { return static_cast<std::int64_t>(tokens.size()); }
  bool mtp() const { return !next_tokens.empty(); }
};

/// Lays out a batch after checking it: token ids in the vocabulary, lengths within max_positions, one append
/// a sequence, states of this model's mode and block count, next_tokens given for all or for none. On failure
/// `batch` is untouched.
Status make_batch(const Model& model, std::span<const Append> appends, Batch* batch);

/// Most tokens to append to a sequence of `length` in one go so that activations and index scores stay below
/// about 128 MB. Splitting a prompt changes no bit of the results.
std::int64_t chunk_limit(const ModelConfig& config, std::int64_t length);

}  // namespace dsv4::reference
