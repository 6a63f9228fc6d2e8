// The one table of limits: what agreement a comparison asks of every tap.
#pragma once

#include "reference/model.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::reference::validation {

/// Where stages get their inputs: kFree = from the tokens on, kStaged = recorded ones, stage by stage.
enum class RunMode : std::uint8_t { kFree, kStaged };

/// What a limit bounds. L2 = sqrt(sum d^2) / sqrt(sum recorded^2).
enum class Measure : std::uint8_t {
  kCallL2,    // L2 of each call
  kPooledL2,  // L2 over all calls together
  kMedianL2,  // median over the calls of their L2
  kRowL2,     // L2 of each row
  kEqual,     // fraction of elements with the same bits, over all calls together (a lower bound)
  kSet,       // selections equal as sets, but for swaps of equal scores
  kNone,      // nothing: compared and shown
};

struct Limit {
  std::string_view pattern;  // of the tap's full name; '*' matches any run of characters
  Measure measure;
  double value = 0;
};

/// Limits of one numeric mode and run mode. Every limit of the FIRST group whose pattern matches a tap
/// applies to it; limits of one group stand together and share their pattern.
std::span<const Limit> limits(NumericMode mode, RunMode run);

/// The limits of one tap, scaled: bounds times `scale`, kEqual as 1 - (1 - value) * scale.
std::vector<Limit> limits_of(NumericMode mode, RunMode run, std::string_view tap, double scale);

/// Whether `name` matches `pattern`.
bool matches(std::string_view pattern, std::string_view name);

/// "L2 of each call <= 4e-06".
std::string describe(const Limit& limit);

/// The whole table, for --help-limits.
std::string limits_text();

}  // namespace dsv4::reference::validation
