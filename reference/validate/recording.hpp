// A file of recorded activations, checked against its own configuration before use.
#pragma once

#include "reference/model.hpp"
#include "reference/safetensors.hpp"
#include "reference/validate/plan.hpp"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace dsv4::reference::validation {

/// One forward pass of a recording.
struct Call {
  std::int64_t number = 0;  // NNN of `call.NNN.`
  std::int64_t start = 0;   // position of the first token
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> next_tokens;  // empty: no MTP block
  std::vector<std::int64_t> rows;         // tokens that `attn.q`, `attn.o` and `attn.indexer.q` hold
  bool has_rows = false;                  // `rows` was in the file (else it lists every token)
  int inputs = 0;                         // input tensors in the file

  std::map<int, const StoredTensor*> taps;  // by place in Plan::taps()

  std::int64_t count() const { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t end() const { return start + count(); }
  CallSpan span() const { return {start, count(), static_cast<std::int64_t>(rows.size())}; }
  /// "call.007."
  std::string prefix() const;
};

struct Recording {
  SafetensorsFile file;
  ModelConfig config;
  NumericMode mode;
  bool mtp = false;               // calls have the MTP block's input
  std::int32_t max_rollback = 0;  // deepest step back that a call takes
  Plan plan;
  std::vector<Call> calls;           // in order of their numbers
  std::vector<std::string> unknown;  // tensors of no meaning
};

/// Opens a recording: configuration and mode from the metadata key "config", tensors `call.NNN.` + tap. Token
/// ids, positions, listed rows, dtypes and shapes are checked. A call starts where the sequence ends, at an
/// earlier position (a rollback, at most kMaxRollback tokens), or at 0 (a new sequence). Throws InputError:
/// one line with file, tensor, value and limit. Tensors with names of no tap are not an error here: they are
/// listed in `unknown`.
Recording open_recording(const std::filesystem::path& path);
Recording read_recording(SafetensorsFile file);

inline constexpr std::int64_t kMaxRollback = 4096;

}  // namespace dsv4::reference::validation
