// The calls of a recording through the ops of the flavour that this is compiled for.
#pragma once

#include "reference/op_backend/op_backend.hpp"
#include "reference/validate/run_calls.hpp"

namespace dsv4::reference::validation::inline DSV4_FLAVOUR {

inline void run_ops(const Run& run) {
  const auto run_as = [&run]<class T>(T) {
    OpBackend<T> backend(run.model, run.options.threads, run.options.fused);
    run_calls<T>(backend, run);
  };
  if (run.recording.mode == NumericMode::kExact)
    run_as(float{});
  else
    run_as(bf16{});
}

}  // namespace dsv4::reference::validation::inline DSV4_FLAVOUR
