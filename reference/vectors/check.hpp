// An engine's outputs against the vectors: verdicts, and the likely mistake behind a wrong one.
#pragma once

#include "reference/vectors/compare.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace dsv4::reference::vectors {

struct CheckOptions {
  std::vector<std::string> ops;  // only these; empty = all that there are vectors of
  double tolerance_scale = 1;
  bool partial = false;  // cases and outputs may be missing from a file
};

struct OutputResult {
  std::string case_name, output;
  Comparison comparison;
  // Where the case repeats a token of another: whether the bits are the same there.
  bool depends_on_batch = false;
  std::string same_as;

  bool ok() const { return comparison.ok() && !depends_on_batch; }
};

/// A mistake that gives what the engine gave.
struct Likely {
  Mistake mistake;
  std::int64_t explains = 0;     // wrong outputs that it gives, within tolerance
  std::int64_t contradicts = 0;  // right outputs that it would have made wrong
};

struct OpResult {
  std::string op;
  bool present = false;  // the engine has a file of it
  std::vector<OutputResult> outputs;
  std::vector<std::string> missing;  // CASE/OUTPUT; with `partial` alone
  std::vector<Likely> likely;        // the best; several where they cannot be told apart
  std::vector<std::string> catches;  // of the cases that failed, "CASE: sentence"

  std::int64_t wrong() const;
};

struct CheckResult {
  std::vector<OpResult> ops;

  std::int64_t compared() const;  // ops with outputs
  bool holds() const;             // at least one output, and none wrong
};

/// One op, from its open files. Throws InputError for a tensor of the engine that is no output of a case, one
/// that is missing (unless `partial`), and for wrong shapes and dtypes.
OpResult check_op(const VectorFile& vectors, const SafetensorsFile& outputs, const CheckOptions& options);

/// Folders of OP.safetensors, or a file of either kind. Throws InputError.
CheckResult check(const std::filesystem::path& vectors, const std::filesystem::path& outputs,
                  const CheckOptions& options);

}  // namespace dsv4::reference::vectors
