// Limits that the project sets itself, judged at the end of a benchmark run.
#pragma once

#include <benchmark/benchmark.h>

namespace dsv4::bench {

/// Marks the benchmark with the seconds an iteration may take on two cores. No mark for `seconds` 0 or for a
/// run on another number of threads. bench/support/main.cpp prints the verdicts.
inline void set_bar(benchmark::State& state, double seconds, int threads) {
  if (seconds > 0 && threads == 2) state.counters["bar"] = seconds;
}

}  // namespace dsv4::bench
