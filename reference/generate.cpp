#include "reference/generate.hpp"

#include <dsv4/lm_head/lm_head.hpp>

#include "reference/cpu_backend.hpp"
#include "reference/error.hpp"
#include "reference/forward.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace dsv4::reference {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

template <class T>
Generation generate_as(const Model& model, std::span<const std::int32_t> prompt, std::int64_t steps,
                       int threads, const std::function<void(const Generation&)>& progress) {
  CpuBackend<T> backend(model.config, threads);
  SequenceState state(model.config, model.mode, {.max_rollback = 0});
  Generation g;
  // Appends ids and returns the greedy choice after the last of them.
  const auto append = [&](std::span<const std::int32_t> ids) {
    const Append one{&state, ids, {}};
    Batch batch;
    if (const Status status = make_batch(model, {&one, 1}, &batch); !status.ok())
      throw InputError(fmt::format("{}: {} (limit {})", status.what, status.value, status.limit));
    NoTap tap;
    const Output out = forward(backend, model, batch, tap);
    const std::int32_t id = lm_head::greedy(out.logits.row(0), model.config.vocab);
    if (id < 0) throw InputError(fmt::format("position {}: every logit is NaN", state.length() - 1));
    return id;
  };
  const auto report = [&] {
    if (progress) progress(g);
  };

  auto start = std::chrono::steady_clock::now();
  std::int32_t id = 0;
  while (!prompt.empty()) {
    const auto chunk = prompt.first(
        std::min(prompt.size(), static_cast<std::size_t>(chunk_limit(model.config, state.length()))));
    id = append(chunk);
    prompt = prompt.subspan(chunk.size());
    g.prompt_done = state.length();
    g.prefill_seconds = seconds_since(start);
    if (!prompt.empty()) report();
  }
  start = std::chrono::steady_clock::now();
  for (std::int64_t step = 0; step < steps; ++step) {
    if (step > 0) id = append({&id, 1});
    g.tokens.push_back(id);
    g.decode_seconds = seconds_since(start);
    report();
  }
  return g;
}

}  // namespace

Generation generate(const Model& model, std::span<const std::int32_t> prompt, std::int64_t steps, int threads,
                    const std::function<void(const Generation&)>& progress) {
  const auto count = static_cast<std::int64_t>(prompt.size());
  const std::int64_t most = model.config.max_positions;
  if (count == 0) throw InputError("tokens: at least one is needed");
  if (steps < 0) throw InputError(fmt::format("steps: {} is negative", steps));
  if (count > most || steps - 1 > most - count)
    throw InputError(fmt::format("tokens and steps: {} + {} are more than max_position_embeddings, {}", count,
                                 steps, most));
  for (const std::int32_t id : prompt)
    if (id < 0 || id >= model.config.vocab)
      throw InputError(
          fmt::format("tokens: id {} is not in the vocabulary, [0, {})", id, model.config.vocab));
  return model.mode == NumericMode::kDeploy ? generate_as<bf16>(model, prompt, steps, threads, progress)
                                            : generate_as<float>(model, prompt, steps, threads, progress);
}

}  // namespace dsv4::reference
