// The calls of a recording through the forward pass of one backend, every tap checked.
#pragma once

#include "reference/batch.hpp"
#include "reference/error.hpp"
#include "reference/forward.hpp"
#include "reference/validate/check_tap.hpp"
#include "reference/validate/dump.hpp"
#include "reference/validate/findings.hpp"
#include "reference/validate/validate.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <optional>

namespace dsv4::reference::validation {

/// One run of the first `calls` calls.
struct Run {
  const Model& model;
  const Recording& recording;
  const Options& options;
  int until;  // order of the last tap to compare, -1 = all
  std::int64_t calls;
  Findings& findings;
  Dump* dump_or_null;
};

template <class T, class Backend>
void run_calls(Backend& backend, const Run& run) {
  const Recording& recording = run.recording;
  const auto require = [&recording](const Call& call, const Status& status) {
    if (!status.ok())
      throw InputError(fmt::format("{}: {}tokens: {} (value {}, limit {})", recording.file.name(),
                                   call.prefix(), status.what, status.value, status.limit));
  };
  CheckTap<T> tap(run.model, recording, run.options.run, run.until, run.findings, run.dump_or_null);
  const StateOptions state_options{.max_rollback = recording.max_rollback, .mtp = recording.mtp};
  std::optional<SequenceState> state;
  for (std::int64_t c = 0; c < run.calls; ++c) {
    const Call& call = recording.calls[static_cast<std::size_t>(c)];
    if (run.options.progress) run.options.progress(c, run.calls);
    if (call.start == 0)
      state.emplace(run.model.config, run.model.mode, state_options);
    else if (call.start < state->length())
      require(call, state->rollback(call.start));
    const Append append{&*state, call.tokens, call.next_tokens};
    Batch batch;
    require(call, make_batch(run.model, {&append, 1}, &batch));
    tap.begin_call(static_cast<int>(c), call.number >= run.options.first_call);
    forward(backend, run.model, batch, tap);
  }
}

}  // namespace dsv4::reference::validation
