// Greedy decoding: the smallest use of the whole forward pass.
#pragma once

#include "reference/model.hpp"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace dsv4::reference {

/// What `generate` reports while it runs and when it is done.
struct Generation {
  std::vector<std::int32_t> tokens;  // the ids that were generated
  std::int64_t prompt_done = 0;      // prompt tokens processed so far
  double prefill_seconds = 0;
  double decode_seconds = 0;  // of all steps after the first token, which the prefill gives
};

/// Processes `prompt` in chunks (chunk_limit), then appends the token with the largest logit, the lowest id
/// among equals, `steps` times. Deterministic, whatever the threads.
///   prompt    at least one id; prompt.size() + steps - 1 <= max_positions
///   progress  called after every prompt chunk and every token; null = not wanted
///   threads   0 = one for each hardware thread
/// Throws InputError for a bad argument or if every logit of a step is NaN.
Generation generate(const Model& model, std::span<const std::int32_t> prompt, std::int64_t steps,
                    int threads = 0, const std::function<void(const Generation&)>& progress = nullptr);

}  // namespace dsv4::reference
