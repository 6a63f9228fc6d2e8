#include "reference/validate/validate.hpp"

#include "reference/cpu_backend.hpp"
#include "reference/error.hpp"
#include "reference/json.hpp"
#include "reference/printable.hpp"
#include "reference/validate/dump.hpp"
#include "reference/validate/findings.hpp"
#include "reference/validate/run_calls.hpp"
#include "reference/weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

namespace dsv4::reference::validation {

namespace {

const char* name_of(NumericMode mode) { return mode == NumericMode::kExact ? "exact" : "deploy"; }

}  // namespace

void run_on_cpu(const Run& run) {
  const auto run_as = [&run]<class T>(T) {
    CpuBackend<T> backend(run.model.config, run.options.threads);
    run_calls<T>(backend, run);
  };
  if (run.recording.mode == NumericMode::kExact)
    run_as(float{});
  else
    run_as(bf16{});
}

Model load_model_for(const Recording& recording, const std::filesystem::path& weights) {
  const Checkpoint checkpoint = Checkpoint::open(weights);
  Model model = load_model(checkpoint, &recording.config);
  // Published checkpoints name no numeric mode: the recording decides. One that names another was not
  // recorded from.
  if (const std::string* config = checkpoint.metadata("config")) {
    const auto json = parse_json(*config, checkpoint.name());
    if (json.contains("mode") && model.mode != recording.mode)
      throw InputError(fmt::format("{}: config: mode is {}, but {} has {}", checkpoint.name(),
                                   name_of(model.mode), recording.file.name(), name_of(recording.mode)));
  }
  model.mode = recording.mode;
  return model;
}

Verdict validate_recording(const Model& model, const Recording& recording, const Options& options) {
  const int until = options.until.empty() ? -1 : recording.plan.order(options.until);
  if (!options.until.empty() && until < 0)
    throw InputError(fmt::format("--until: '{}' is no tap of this model", printable(options.until)));
  std::int64_t calls = 0;
  for (const Call& call : recording.calls)
    if (options.last_call < 0 || call.number <= options.last_call) ++calls;
  if (calls == 0 || recording.calls[static_cast<std::size_t>(calls - 1)].number < options.first_call)
    throw InputError(fmt::format("--calls: {} has no call in {}..{}, its calls are {}..{}",
                                 recording.file.name(), options.first_call,
                                 options.last_call < 0 ? recording.calls.back().number : options.last_call,
                                 recording.calls.front().number, recording.calls.back().number));

  const bool taps = std::any_of(recording.calls.begin(), recording.calls.end(),
                                [](const Call& call) { return !call.taps.empty(); });
  if (!taps && recording.unknown.empty() && options.dump.empty())
    throw InputError(fmt::format("{}: holds inputs alone, nothing to compare (--dump records them)",
                                 recording.file.name()));

  Findings findings(recording);
  std::unique_ptr<Dump> dump;
  if (!options.dump.empty()) dump = std::make_unique<Dump>(recording, calls);
  options.runner({model, recording, options, until, calls, findings, dump.get()});
  if (dump != nullptr) dump->write(options.dump);

  for (std::size_t c = 0; c < recording.calls.size(); ++c)
    for (const auto& [order, tensor] : recording.calls[c].taps)
      if (static_cast<std::int64_t>(c) >= calls || recording.calls[c].number < options.first_call)
        findings.list(static_cast<int>(c), order, "not requested (--calls)");
      else if (until >= 0 && order > until)
        findings.list(static_cast<int>(c), order, "not requested (--until)");
  Verdict verdict = judge(recording, findings, recording.mode, options.run, options.tolerance_scale);
  verdict.calls = calls;
  return verdict;
}

}  // namespace dsv4::reference::validation
