// From findings to verdicts.
#pragma once

#include "reference/validate/findings.hpp"
#include "reference/validate/limits.hpp"
#include "reference/validate/recording.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::reference::validation {

/// A tap over all its calls.
struct TapVerdict {
  int order = 0;  // place in Plan::taps()
  std::string tap;
  std::int64_t calls = 0;
  std::int64_t elements = 0;
  std::int64_t differing = 0;
  std::int64_t swaps = 0;
  std::int64_t nonfinite = 0;
  double pooled_l2 = 0;
  double largest_l2 = 0;  // of a call
  double median_l2 = 0;   // of the calls
  double worst_row = 0;
  bool selection = false;     // the L2s mean nothing
  std::vector<Limit> limits;  // that apply, scaled
  bool holds = true;
  std::string violation;  // "L2 of a call 3.1e-05 > 4e-06"; empty if it holds
  CallStats culprit;      // the call that violates first (pooled limits: that contributes most)
  Spot spot;              // its worst element
};

/// Why recorded tensors of one tap were not compared.
struct ListedGroup {
  std::string tap;  // without its block where several blocks share the reason
  std::string reason;
  std::int64_t count = 0;
};

struct Verdict {
  NumericMode mode = NumericMode::kExact;
  RunMode run = RunMode::kFree;
  double scale = 1;
  std::vector<TapVerdict> taps;  // compared, in order of execution
  std::vector<ListedGroup> listed;
  std::vector<std::string> unexplained;  // recorded tensors that were neither compared nor listed
  std::int64_t calls = 0;                // run
  std::int64_t tensors = 0;              // of the file: inputs + compared + not_compared + unexplained
  std::int64_t inputs = 0, compared = 0, not_compared = 0;
  std::string first_failure;  // one line: tap, call, token, head, channel, values; empty if all hold

  std::int64_t failing() const;
  /// A recording of inputs alone holds; one of whose taps nothing was compared does not.
  bool holds() const { return failing() == 0 && unexplained.empty() && (compared > 0 || not_compared == 0); }
};

Verdict judge(const Recording& recording, const Findings& findings, NumericMode mode, RunMode run,
              double scale);

/// "call 3, token 5 (position 12), head 1, channel 40: computed 0.5, recorded 0.25".
std::string locate(const Recording& recording, const PlannedTap& tap, const CallStats& stats,
                   const Spot& spot);

}  // namespace dsv4::reference::validation
