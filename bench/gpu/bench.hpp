// Benchmarks of ops on this machine's GPU: each is checked once, then timed, and set against what the
// algorithm must move and compute.
#pragma once

#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include "bench/gpu/arena.hpp"
#include "bench/gpu/timer.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dsv4::gpu {

/// What the algorithm must do: each operand moved once, each product and sum counted.
struct Work {
  double bytes = 0, flops = 0;
};

/// What the op should reach; 0 = nothing stated.
struct Bar {
  double us = 0;          // at most
  double copy_share = 0;  // at least
};

enum class Timing {
  kCold,   // one launch, none of its operands in L2
  kGraph,  // many launches in a graph, one after the other, as a decoding step runs them
};

struct Result {
  std::string name;
  double us = 0;
  Work work;
  Bar bar;
};

struct Options {
  bool all = false;    // every shape; else those that a quick look needs
  std::string filter;  // only names that contain it
  std::string save;    // JSON file, or empty
  double seconds = 0;  // no further benchmark begins after so long; 0 = no limit
};

class Bench {
 public:
  explicit Bench(const Options& options);

  /// Is a shape to be measured? common: also without --all. None is once the time is over.
  bool wanted(const std::string& name, bool common);

  /// Is there device memory for that much (and some more)? Says so where there is not.
  bool fits(const std::string& name, double bytes) const;

  /// Copies of an operand of `bytes` that launches in a graph should take turns with, so that it does not
  /// stay in L2: up to 8.
  int copies(double bytes) const;

  using Launch = std::function<Status(Stream, int turn)>;
  using Verify = std::function<std::string()>;

  /// Launches once (turn 0), has the result verified ("" = right), then times launches by turns.
  void measure(const std::string& name, Timing timing, const Work& work, const Launch& launch,
               const Verify& verify, const Bar& bar = {});

  /// Prints the table and writes it as JSON. Being above a bar is printed, and is no failure.
  void report() const;
  bool failed() const { return failed_; }

 private:
  Options options_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  bool too_late_ = false;
  Timer timer_;
  double copy_gb_s_ = 0, mma_tflop_s_ = 0;
  std::vector<Result> results_;
  bool failed_ = false;
};

// The benchmarks, by stage.
void bench_rows(Bench& bench);     // embed, norms, quantisers, RoPE, Hadamard, head
void bench_mhc(Bench& bench);      // before and after a sublayer
void bench_linear(Bench& bench);   // linear_multi, linear_fp8, attn_out_proj
void bench_prepare(Bench& bench);  // attn_qk_prep, attn_compress
void bench_indexer(Bench& bench);  // attn_index_scores, attn_select, attn_index_select
void bench_attend(Bench& bench);   // attn_attend
void bench_moe(Bench& bench);      // moe_gate, moe_dispatch, moe_experts, moe_combine, moe_fused

}  // namespace dsv4::gpu
