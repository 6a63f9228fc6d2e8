// What a run of the validator has seen, tap by tap and call by call.
#pragma once

#include "reference/validate/compare.hpp"
#include "reference/validate/recording.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dsv4::reference::validation {

/// A recorded tensor that was not compared, and why that is in order.
struct Listed {
  int call;   // place in Recording::calls
  int order;  // place in Plan::taps()
  std::string reason;
};

class Findings {
 public:
  explicit Findings(const Recording& recording) : stats_(recording.plan.taps().size()) {}

  void compared(int order, const CallStats& stats) {
    stats_[static_cast<std::size_t>(order)].push_back(stats);
    settled_.insert(key(stats.call, order));
  }
  void list(int call, int order, std::string reason) {
    if (settled_.insert(key(call, order)).second) listed_.push_back({call, order, std::move(reason)});
  }
  /// Whether a recorded tensor was compared or listed.
  bool settled(int call, int order) const { return settled_.contains(key(call, order)); }

  /// In order of calls.
  const std::vector<CallStats>& stats(int order) const { return stats_[static_cast<std::size_t>(order)]; }
  const std::vector<Listed>& listed() const { return listed_; }

 private:
  static std::uint64_t key(int call, int order) {
    return static_cast<std::uint64_t>(call) << 32 | static_cast<std::uint32_t>(order);
  }

  std::vector<std::vector<CallStats>> stats_;  // by order
  std::vector<Listed> listed_;
  std::unordered_set<std::uint64_t> settled_;
};

}  // namespace dsv4::reference::validation
