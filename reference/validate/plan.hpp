// The taps of a recording: their names, shapes and element types, in the order in which a forward pass
// produces them.
#pragma once

#include "reference/model.hpp"
#include "reference/safetensors.hpp"

#include <dsv4/model_config.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dsv4::reference::validation {

/// What the rows (first dimension) of a recorded tensor are. T = tokens of the call.
enum class TapRows : std::uint8_t {
  kTokens,      // [T]
  kListed,      // the tokens listed in `call.NNN.rows`, all T where there is no such list
  kLast,        // no row dimension: the call's last token
  kKeyValues,   // [T + entries] window rows of the call's tokens, then every entry
  kEntries,     // [entries]
  kNewEntries,  // [entries that the call completes]
  kCache,       // [128 + entries] ring slots (position % 128), then every entry
};

/// What a row holds. D hidden, H heads, Hi index heads, V vocabulary.
enum class TapColumns : std::uint8_t {
  kMixes,       // 24
  kFour,        // 4
  kComb,        // 4, 4
  kHidden,      // D
  kStreams,     // 4, D
  kQLora,       // q_lora_rank
  kHeads,       // H, 512
  kKeyValue,    // 512
  kIndexQuery,  // Hi, 128
  kIndexKey,    // 128
  kIndexHeads,  // Hi
  kEntries,     // one an entry
  kActive,      // one an active expert
  kVocab,       // V
  kAny,         // a list padded with -1
};

enum class TapElements : std::uint8_t {
  kActivation,  // BF16 in deploy mode, F32 in exact mode
  kF32,         // F32 in both
  kIndex,       // I32: a selection, compared as a set
};

/// A kind of tap; `suffix` is the name without its block ("attn.q").
struct TapInfo {
  std::string_view suffix;
  TapRows rows;
  TapColumns columns;
  TapElements elements;
};

/// One tap of one model: TapInfo of a block, or of the model itself (block -1).
struct PlannedTap {
  std::string name;
  int block;
  const TapInfo* info;
};

/// Which part of a sequence a call appends.
struct CallSpan {
  std::int64_t start = 0;
  std::int64_t tokens = 0;
  std::int64_t listed = 0;  // rows of TapRows::kListed
};

/// Every tap that a recording of a model can hold, in order of execution.
class Plan {
 public:
  /// mtp: whether the MTP block runs.
  Plan(const ModelConfig& config, NumericMode mode, bool mtp);

  const std::vector<PlannedTap>& taps() const { return taps_; }
  const PlannedTap& tap(int order) const { return taps_[static_cast<std::size_t>(order)]; }
  /// Place of a tap in the order of execution, -1 for an unknown name.
  int order(std::string_view name) const;

  DType dtype(const PlannedTap& tap) const;
  /// Shape of a tap in a call; -1 where any size will do.
  std::vector<std::int64_t> shape(const PlannedTap& tap, const CallSpan& span) const;

 private:
  std::int64_t entries(int block, const CallSpan& span) const;

  ModelConfig config_;
  NumericMode mode_;
  std::vector<PlannedTap> taps_;
  std::unordered_map<std::string, int> order_;
};

/// "layers.3" or "mtp.0"; "" for block -1.
std::string block_name(const ModelConfig& config, int block);

}  // namespace dsv4::reference::validation
