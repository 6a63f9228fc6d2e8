#include "reference/validate/verdict.hpp"

#include "reference/printable.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

namespace dsv4::reference::validation {

namespace {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Names of the columns of a recorded row.
std::string column_text(TapColumns columns, std::int64_t column, std::int64_t last_dim) {
  const std::int64_t a = column / std::max<std::int64_t>(1, last_dim),
                     b = column % std::max<std::int64_t>(1, last_dim);
  switch (columns) {
    case TapColumns::kMixes:
      return fmt::format("mix {}", column);
    case TapColumns::kFour:
      return fmt::format("stream {}", column);
    case TapColumns::kComb:
      return fmt::format("comb[{}][{}]", a, b);
    case TapColumns::kStreams:
      return fmt::format("stream {}, channel {}", a, b);
    case TapColumns::kHeads:
    case TapColumns::kIndexQuery:
      return fmt::format("head {}, channel {}", a, b);
    case TapColumns::kIndexHeads:
      return fmt::format("head {}", column);
    case TapColumns::kEntries:
      return fmt::format("entry {}", column);
    case TapColumns::kActive:
      return fmt::format("slot {}", column);
    case TapColumns::kVocab:
      return fmt::format("vocabulary id {}", column);
    case TapColumns::kHidden:
    case TapColumns::kQLora:
    case TapColumns::kKeyValue:
    case TapColumns::kIndexKey:
    case TapColumns::kAny:
      break;
  }
  return fmt::format("channel {}", column);
}

std::string row_text(const Call& call, const PlannedTap& tap, const ModelConfig& config, std::int64_t row) {
  const auto token = [&](std::int64_t t) { return fmt::format("token {} (position {})", t, call.start + t); };
  const int ratio = tap.block < 0 ? 0 : ratio_of(config.kind(tap.block));
  switch (tap.info->rows) {
    case TapRows::kTokens:
      return token(row);
    case TapRows::kListed:
      return token(call.rows[static_cast<std::size_t>(row)]);
    case TapRows::kLast:
      return token(call.count() - 1);
    case TapRows::kKeyValues:
      return row < call.count() ? token(row) : fmt::format("entry {}", row - call.count());
    case TapRows::kEntries:
      return fmt::format("entry {}", row);
    case TapRows::kNewEntries:
      return fmt::format("entry {}", call.start / std::max(1, ratio) + row);
    case TapRows::kCache:
      break;
  }
  return row < kWindow ? fmt::format("ring slot {}", row) : fmt::format("entry {}", row - kWindow);
}

// Takes `stats` as the culprit of a violation that has none yet.
void blame(TapVerdict& v, const CallStats& stats, const Spot& spot, std::string violation) {
  if (!v.holds) return;
  v.holds = false;
  v.culprit = stats;
  v.spot = spot;
  v.violation = std::move(violation);
}

void apply(TapVerdict& v, const Limit& limit, const std::vector<CallStats>& stats) {
  const auto most = [&](const auto& measure) -> const CallStats& {
    return *std::max_element(stats.begin(), stats.end(),
                             [&](const CallStats& a, const CallStats& b) { return measure(a) < measure(b); });
  };
  switch (limit.measure) {
    case Measure::kCallL2:
      for (const CallStats& s : stats)
        if (!(s.relative() <= limit.value))
          blame(v, s, s.largest, fmt::format("L2 of a call {:.3g} > {:.3g}", s.relative(), limit.value));
      break;
    case Measure::kPooledL2:
      if (!(v.pooled_l2 <= limit.value)) {
        const CallStats& s = most([](const CallStats& c) { return c.error2; });
        blame(v, s, s.largest, fmt::format("L2 over all calls {:.3g} > {:.3g}", v.pooled_l2, limit.value));
      }
      break;
    case Measure::kMedianL2:
      if (!(v.median_l2 <= limit.value)) {
        const CallStats& s = most([](const CallStats& c) { return c.relative(); });
        blame(v, s, s.largest,
              fmt::format("median L2 of the calls {:.3g} > {:.3g}", v.median_l2, limit.value));
      }
      break;
    case Measure::kRowL2:
      for (const CallStats& s : stats)
        if (!(s.worst_row <= limit.value))
          blame(v, s, s.in_worst_row, fmt::format("L2 of a row {:.3g} > {:.3g}", s.worst_row, limit.value));
      break;
    case Measure::kEqual: {
      const double equal =
          v.elements == 0 ? 1
                          : static_cast<double>(v.elements - v.differing) / static_cast<double>(v.elements);
      if (!(equal >= limit.value)) {
        const CallStats& s = most([](const CallStats& c) { return c.worst_row; });
        blame(v, s, s.in_worst_row,
              fmt::format("bit-equal elements {:.4g} % < {:.4g} %", 100 * equal, 100 * limit.value));
      }
      break;
    }
    case Measure::kSet:
      for (const CallStats& s : stats)
        if (s.differing > 0) blame(v, s, s.largest, fmt::format("{} members differ", s.differing));
      break;
    case Measure::kNone:
      break;
  }
}

TapVerdict judge_tap(const Recording& recording, int order, const std::vector<CallStats>& stats,
                     std::vector<Limit> limits) {
  const PlannedTap& tap = recording.plan.tap(order);
  TapVerdict v;
  v.order = order;
  v.tap = tap.name;
  v.limits = std::move(limits);
  v.selection = tap.info->elements == TapElements::kIndex;
  double error2 = 0, recorded2 = 0;
  std::vector<double> of_calls;
  for (const CallStats& s : stats) {
    ++v.calls;
    v.elements += s.elements;
    v.differing += s.differing;
    v.swaps += s.swaps;
    v.nonfinite += s.nonfinite;
    v.worst_row = std::max(v.worst_row, s.worst_row);
    v.largest_l2 = std::max(v.largest_l2, s.relative());
    error2 += s.error2;
    recorded2 += s.recorded2;
    of_calls.push_back(s.relative());
  }
  v.pooled_l2 = CallStats::ratio(error2, recorded2);
  v.median_l2 = median(std::move(of_calls));
  for (const CallStats& s : stats)
    if (s.nonfinite > 0)
      blame(v, s, s.largest, fmt::format("NaN or infinity in {} places on one side alone", s.nonfinite));
  for (const Limit& limit : v.limits) apply(v, limit, stats);
  return v;
}

std::string without_block(const PlannedTap& tap) { return std::string(tap.info->suffix); }

}  // namespace

std::string locate(const Recording& recording, const PlannedTap& tap, const CallStats& stats,
                   const Spot& spot) {
  const Call& call = recording.calls[static_cast<std::size_t>(stats.call)];
  if (spot.row < 0) return fmt::format("call {}", call.number);
  std::string out = fmt::format("call {}, {}", call.number, row_text(call, tap, recording.config, spot.row));
  if (tap.info->elements == TapElements::kIndex) {
    const char* kind = tap.info->columns == TapColumns::kActive ? "expert"
                       : spot.column == 0                       ? "position"
                                                                : "entry";
    if (spot.computed >= 0) out += fmt::format(", only computed: {} {}", kind, spot.computed);
    if (spot.recorded >= 0) out += fmt::format(", only recorded: {} {}", kind, spot.recorded);
    return out;
  }
  const std::vector<std::int64_t> shape = recording.plan.shape(tap, call.span());
  return fmt::format("{}, {}: computed {:.9g}, recorded {:.9g}", out,
                     column_text(tap.info->columns, spot.column, shape.back()), spot.computed, spot.recorded);
}

std::int64_t Verdict::failing() const {
  return std::count_if(taps.begin(), taps.end(), [](const TapVerdict& v) { return !v.holds; });
}

Verdict judge(const Recording& recording, const Findings& findings, NumericMode mode, RunMode run,
              double scale) {
  Verdict out;
  out.mode = mode;
  out.run = run;
  out.scale = scale;
  for (const PlannedTap& tap : recording.plan.taps()) {
    const int order = recording.plan.order(tap.name);
    const std::vector<CallStats>& stats = findings.stats(order);
    if (stats.empty()) continue;
    out.compared += static_cast<std::int64_t>(stats.size());
    out.taps.push_back(judge_tap(recording, order, stats, limits_of(mode, run, tap.name, scale)));
  }

  std::map<std::pair<int, std::string>, ListedGroup> groups;  // by suffix in order of execution, and reason
  std::map<std::string_view, int> first_order;
  for (const PlannedTap& tap : recording.plan.taps())
    first_order.emplace(tap.info->suffix, recording.plan.order(tap.name));
  for (const Listed& l : findings.listed()) {
    const PlannedTap& tap = recording.plan.tap(l.order);
    ListedGroup& group = groups[{first_order[tap.info->suffix], l.reason}];
    group.tap = without_block(tap);
    group.reason = l.reason;
    ++group.count;
  }
  for (auto& [key, group] : groups) out.listed.push_back(std::move(group));
  out.not_compared = static_cast<std::int64_t>(findings.listed().size());

  for (std::size_t c = 0; c < recording.calls.size(); ++c) {
    const Call& call = recording.calls[c];
    out.inputs += call.inputs;
    for (const auto& [order, tensor] : call.taps)
      if (!findings.settled(static_cast<int>(c), order)) out.unexplained.push_back(printable(tensor->name));
  }
  for (const std::string& name : recording.unknown) out.unexplained.push_back(printable(name));
  out.tensors = static_cast<std::int64_t>(recording.file.tensors().size());

  // Staged stages stand each for themselves: the first in order of execution. In a free run the first call
  // that goes wrong spoils those after it.
  const TapVerdict* first = nullptr;
  for (const TapVerdict& v : out.taps)
    if (!v.holds && (first == nullptr || (run == RunMode::kFree && v.culprit.call < first->culprit.call)))
      first = &v;
  if (first != nullptr)
    out.first_failure =
        fmt::format("{}: {}; worst at {}", first->tap, first->violation,
                    locate(recording, recording.plan.tap(first->order), first->culprit, first->spot));
  return out;
}

}  // namespace dsv4::reference::validation
