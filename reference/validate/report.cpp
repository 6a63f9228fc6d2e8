#include "reference/validate/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

namespace dsv4::reference::validation {

namespace {

const char* name_of(NumericMode mode) { return mode == NumericMode::kExact ? "exact" : "deploy"; }
const char* name_of(RunMode run) { return run == RunMode::kFree ? "free" : "staged"; }

const char* name_of(Measure measure) {
  switch (measure) {
    case Measure::kCallL2:
      return "call_l2";
    case Measure::kPooledL2:
      return "pooled_l2";
    case Measure::kMedianL2:
      return "median_l2";
    case Measure::kRowL2:
      return "row_l2";
    case Measure::kEqual:
      return "equal";
    case Measure::kSet:
      return "set";
    case Measure::kNone:
      break;
  }
  return "none";
}

bool judged_by(const TapVerdict& v, Measure measure) {
  return std::any_of(v.limits.begin(), v.limits.end(), [&](const Limit& l) { return l.measure == measure; });
}

// Short forms for the table's column.
std::string limits_text(const TapVerdict& v) {
  std::string out;
  for (const Limit& l : v.limits) {
    if (!out.empty()) out += ", ";
    switch (l.measure) {
      case Measure::kCallL2:
        out += fmt::format("call {:.2g}", l.value);
        break;
      case Measure::kPooledL2:
        out += fmt::format("all {:.2g}", l.value);
        break;
      case Measure::kMedianL2:
        out += fmt::format("median {:.2g}", l.value);
        break;
      case Measure::kRowL2:
        out += fmt::format("row {:.2g}", l.value);
        break;
      case Measure::kEqual:
        out += fmt::format("differ {:.3g}%", 100 * (1 - l.value));
        break;
      case Measure::kSet:
        out += "same set";
        break;
      case Measure::kNone:
        out += "-";
        break;
    }
  }
  return out;
}

std::string number(double x) { return x == 0 ? "0" : fmt::format("{:.2e}", x); }

std::string differing_text(const TapVerdict& v) {
  if (v.selection)
    return v.swaps > 0 ? fmt::format("{} ({} swaps)", v.differing, v.swaps) : fmt::format("{}", v.differing);
  if (v.differing == 0) return "0";
  return fmt::format("{} ({:.3g}%)", v.differing,
                     100 * static_cast<double>(v.differing) / static_cast<double>(v.elements));
}

const char* verdict_text(const TapVerdict& v) {
  return !v.holds ? "FAIL" : judged_by(v, Measure::kNone) ? "info" : "ok";
}

// The relative L2 that the limits speak of: pooled where they bound that or the bits, else of the worst call.
double shown_l2(const TapVerdict& v) {
  return judged_by(v, Measure::kPooledL2) || judged_by(v, Measure::kEqual) ? v.pooled_l2 : v.largest_l2;
}

// JSON has no infinity.
nlohmann::ordered_json finite(double x) {
  if (std::isfinite(x)) return x;
  return std::isnan(x) ? "nan" : x > 0 ? "inf" : "-inf";
}

}  // namespace

std::string table(const Verdict& verdict) {
  std::string out;
  const auto to = std::back_inserter(out);
  std::size_t width = 3;
  for (const TapVerdict& v : verdict.taps) width = std::max(width, v.tap.size());
  fmt::format_to(to, "{:<{}}  {:>5}  {:>9}  {:>9}  {:>18}  {:<22}  verdict\n", "tap", width, "calls",
                 "rel. L2", "worst row", "differing", "limit");
  for (const TapVerdict& v : verdict.taps)
    fmt::format_to(to, "{:<{}}  {:>5}  {:>9}  {:>9}  {:>18}  {:<22}  {}\n", v.tap, width, v.calls,
                   v.selection ? "-" : number(shown_l2(v)), v.selection ? "-" : number(v.worst_row),
                   differing_text(v), limits_text(v), verdict_text(v));

  for (const TapVerdict& v : verdict.taps)
    if (judged_by(v, Measure::kMedianL2))
      fmt::format_to(to, "{}: median relative L2 of the calls {}\n", v.tap, number(v.median_l2));
  std::int64_t swaps = 0;
  for (const TapVerdict& v : verdict.taps) swaps += v.swaps;
  if (swaps > 0)
    fmt::format_to(to, "{} members of selections were swapped for others of the same score\n", swaps);
  if (!verdict.listed.empty()) {
    fmt::format_to(to, "\nnot compared, and why:\n");
    for (const ListedGroup& g : verdict.listed)
      fmt::format_to(to, "  {:>5} x {:<22} {}\n", g.count, g.tap, g.reason);
  }
  if (!verdict.unexplained.empty()) {
    fmt::format_to(to, "\nunexplained tensors, which no stage produced:\n");
    constexpr std::size_t kShown = 10;
    for (std::size_t i = 0; i < std::min(kShown, verdict.unexplained.size()); ++i)
      fmt::format_to(to, "  {}\n", verdict.unexplained[i]);
    if (verdict.unexplained.size() > kShown)
      fmt::format_to(to, "  ... and {} more\n", verdict.unexplained.size() - kShown);
  }
  fmt::format_to(to, "\n{} tensors: {} inputs, {} compared, {} listed as not comparable, {} unexplained\n",
                 verdict.tensors, verdict.inputs, verdict.compared, verdict.not_compared,
                 verdict.unexplained.size());
  if (!verdict.first_failure.empty()) fmt::format_to(to, "first failing tap: {}\n", verdict.first_failure);
  const std::string what =
      fmt::format("{}, {}, {} calls", name_of(verdict.mode), name_of(verdict.run), verdict.calls);
  if (verdict.holds() && verdict.taps.empty())
    fmt::format_to(to, "PASS: nothing to compare ({})\n", what);
  else if (verdict.holds())
    fmt::format_to(to, "PASS: all {} taps hold ({})\n", verdict.taps.size(), what);
  else
    fmt::format_to(to, "FAIL: {} of {} taps do not hold, {} tensors unexplained{} ({})\n", verdict.failing(),
                   verdict.taps.size(), verdict.unexplained.size(),
                   verdict.compared == 0 ? ", nothing compared" : "", what);
  return out;
}

std::string report_json(const Verdict& verdict, const std::string& recording, const std::string& weights) {
  using json = nlohmann::ordered_json;
  json taps = json::array();
  for (const TapVerdict& v : verdict.taps) {
    json limits = json::array();
    for (const Limit& l : v.limits) limits.push_back({{"measure", name_of(l.measure)}, {"value", l.value}});
    json tap = {{"tap", v.tap}, {"calls", v.calls}, {"elements", v.elements}, {"differing", v.differing}};
    if (v.selection) {
      tap["swaps"] = v.swaps;
    } else {
      tap["nonfinite"] = v.nonfinite;
      tap["largest_call_l2"] = finite(v.largest_l2);
      tap["median_call_l2"] = finite(v.median_l2);
      tap["pooled_l2"] = finite(v.pooled_l2);
      tap["worst_row_l2"] = finite(v.worst_row);
    }
    tap["limits"] = std::move(limits);
    tap["verdict"] = verdict_text(v);
    if (!v.violation.empty()) tap["violation"] = v.violation;
    taps.push_back(std::move(tap));
  }
  json listed = json::array();
  for (const ListedGroup& g : verdict.listed)
    listed.push_back({{"tap", g.tap}, {"reason", g.reason}, {"count", g.count}});
  const json out = {{"recording", recording},
                    {"weights", weights},
                    {"numeric_mode", name_of(verdict.mode)},
                    {"run_mode", name_of(verdict.run)},
                    {"tolerance_scale", verdict.scale},
                    {"calls", verdict.calls},
                    {"holds", verdict.holds()},
                    {"first_failure", verdict.first_failure},
                    {"tensors", verdict.tensors},
                    {"inputs", verdict.inputs},
                    {"compared", verdict.compared},
                    {"not_compared", verdict.not_compared},
                    {"taps", std::move(taps)},
                    {"listed", std::move(listed)},
                    {"unexplained", verdict.unexplained}};
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace dsv4::reference::validation
