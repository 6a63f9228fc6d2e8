// Runs a model over a recording and compares every tap.
#pragma once

#include "reference/model.hpp"
#include "reference/validate/limits.hpp"
#include "reference/validate/recording.hpp"
#include "reference/validate/verdict.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace dsv4::reference::validation {

struct Run;  // run_calls.hpp

/// Runs the calls of a recording through one backend.
using Runner = void (*)(const Run& run);
void run_on_cpu(const Run& run);

struct Options {
  Runner runner = run_on_cpu;
  RunMode run = RunMode::kFree;
  std::string until;            // last tap to compare in each call; "" = all
  std::int64_t first_call = 0;  // numbers of the calls to compare; earlier ones run, later ones do not
  std::int64_t last_call = -1;  // -1 = to the end
  int threads = 0;              // 0 = one for each hardware thread
  bool fused = false;           // ops: fused ones where there are any
  double tolerance_scale = 1;
  std::filesystem::path dump;  // where to write what was computed; empty = nowhere
  /// Called before each call with its place and how many will run; may be empty.
  std::function<void(std::int64_t call, std::int64_t calls)> progress;
};

/// Loads the weights for a recording. Throws InputError for unusable weights, and where their configuration
/// or numeric mode is not the recording's.
Model load_model_for(const Recording& recording, const std::filesystem::path& weights);

/// Runs every call in order and judges what was found. Throws InputError for options or recorded values that
/// cannot be used.
Verdict validate_recording(const Model& model, const Recording& recording, const Options& options);

}  // namespace dsv4::reference::validation
