// wgmma instructions in flight. Each warp executes its own 16 rows of a product at its own wait: the latest
// moment that its threads allow, which the other warps' waits say nothing about.
#pragma once

#include <dsv4/simt/loc.hpp>
#include <dsv4/simt/wgmma.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dsv4::simt {

struct Thread;

/// What the four warps must agree on: the instructions that the first of their threads to get there issued.
struct Warpgroup {
  struct Call {
    Wgmma instruction;
    Loc loc;
  };
  std::vector<Call> calls;  // from number `first` on
  std::uint64_t first = 0;
  std::uint64_t executed[4] = {};  // instructions, by warp
  bool exited = false;             // a thread of it has
};

/// One thread's share.
struct WgmmasInFlight {
  struct Issue {
    float* d;
    std::uint32_t a[4];
    std::uint32_t group;  // number of commits before it
  };
  // Accumulators in flight: their values are kept here while d holds NaNs.
  struct Accumulator {
    float* d;
    std::uint32_t count;
    std::size_t offset;  // in `values`
  };
  std::vector<Issue> issues;  // not executed
  std::vector<Accumulator> accumulators;
  std::vector<float> values;
  std::uint64_t issued = 0;
  std::uint32_t commits = 0;
  bool fenced = false;

  void reset() {
    issues.clear();
    accumulators.clear();
    values.clear();
    issued = 0;
    commits = 0;
    fenced = false;
  }
};

/// An error if `t` has wgmmas in flight, or if other warps of its warpgroup have issued more.
void check_wgmmas_finished(Thread& t);

}  // namespace dsv4::simt
