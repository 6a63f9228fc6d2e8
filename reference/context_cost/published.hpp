// The report's figures, and what else they would be.
#pragma once

#include "reference/context_cost/cost.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::reference::context_cost {

/// The context of the report's figures. Not 2^20: there V4-Flash's FLOPs would be 9.9x lower, not 9.8x.
inline constexpr std::int64_t kPublishedTokens = 1'000'000;

/// A figure of the report (arXiv 2606.19348) beside ours.
struct PublishedFigure {
  std::string what;    // "V4-Pro FLOPs of V3.2"
  std::string source;  // where the report says so
  double computed;     // in `unit`
  int decimals;        // that the report gives
  std::string unit;    // "%", "x", "B"
  std::string said;    // "27", "3.7"

  std::string rounded() const;  // computed, with the report's decimals
  bool agrees() const { return rounded() == said; }
};

/// All of them, under `a`.
std::vector<PublishedFigure> published_figures(const Assumptions& a);

/// One assumption changed from `a`, and what becomes of the shares at `tokens`.
struct Variant {
  std::string what;
  Assumptions assumptions;
  std::int64_t tokens;
};
std::vector<Variant> variants(const Assumptions& a);

}  // namespace dsv4::reference::context_cost
