// The report of a check: see report.hpp.
#include "reference/vectors/report.hpp"

#include "reference/printable.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace dsv4::reference::vectors {

namespace {

std::string verdict_of(const OutputResult& r) {
  if (r.comparison.nonfinite > 0) return "NONFINITE";
  if (!r.comparison.ok()) return "WRONG";
  return r.depends_on_batch ? "BATCH" : "ok";
}

std::string likely_text(const OpResult& op, const Likely& l) {
  const MistakeInfo& m = info(l.mistake);
  std::int64_t wrong = 0;
  for (const OutputResult& r : op.outputs) wrong += r.comparison.ok() ? 0 : 1;
  std::string text =
      fmt::format("  likely: {}: {} (gives {} of {} wrong outputs", m.name, m.sentence, l.explains, wrong);
  if (l.contradicts > 0) text += fmt::format("; {} right ones contradict it", l.contradicts);
  return text + ")\n";
}

// JSON has no NaN or infinity.
nlohmann::json number(double x) {
  if (std::isfinite(x)) return x;
  return std::isnan(x) ? "nan" : x > 0 ? "inf" : "-inf";
}

}  // namespace

std::string report_text(const CheckResult& result) {
  std::string text = fmt::format("{:<18} {:<20} {:<12} {:<10} {:>16}  {}\n", "op", "case", "output",
                                 "verdict", "wrong / values", "worst");
  std::int64_t outputs = 0;
  for (const OpResult& op : result.ops) {
    for (const OutputResult& r : op.outputs) {
      const Comparison& c = r.comparison;
      ++outputs;
      text += fmt::format("{:<18} {:<20} {:<12} {:<10} {:>16}", op.op, printable(r.case_name),
                          printable(r.output), verdict_of(r), fmt::format("{} / {}", c.wrong, c.values));
      if (c.worst >= 0)
        text += fmt::format("  {}: got {:.9g}, want {:.9g} +- {:.3g}", c.where, c.got, c.want, c.bound);
      if (r.depends_on_batch)
        text += fmt::format("  other bits than the same token in '{}'", printable(r.same_as));
      text += '\n';
    }
    for (const std::string& line : op.catches) text += fmt::format("  case {}\n", printable(line, 400));
    for (const Likely& l : op.likely) text += likely_text(op, l);
    for (const std::string& name : op.missing)
      text += fmt::format("{:<18} {}: missing\n", op.op, printable(name));
    if (!op.present) text += fmt::format("{:<18} no outputs\n", op.op);
  }
  std::int64_t wrong = 0;
  for (const OpResult& op : result.ops) wrong += op.wrong();
  text += fmt::format("{} of {} ops compared, {} outputs\n", result.compared(), result.ops.size(), outputs);
  text += result.holds() ? "PASS\n" : fmt::format("FAIL: {} outputs are wrong\n", wrong);
  return text;
}

std::string report_json(const CheckResult& result) {
  using json = nlohmann::ordered_json;
  json all = {{"holds", result.holds()}, {"ops", json::array()}};
  for (const OpResult& op : result.ops) {
    json one = {{"op", op.op},
                {"present", op.present},
                {"outputs", json::array()},
                {"likely", json::array()},
                {"missing", op.missing}};
    for (const OutputResult& r : op.outputs) {
      const Comparison& c = r.comparison;
      json output = {{"case", r.case_name},
                     {"output", r.output},
                     {"verdict", verdict_of(r)},
                     {"values", c.values},
                     {"wrong", c.wrong},
                     {"nonfinite", c.nonfinite},
                     {"depends_on_batch", r.depends_on_batch}};
      if (c.worst >= 0)
        output["worst"] = {{"index", c.worst},
                           {"where", c.where},
                           {"got", number(c.got)},
                           {"want", number(c.want)},
                           {"bound", number(c.bound)}};
      one["outputs"].push_back(std::move(output));
    }
    for (const Likely& l : op.likely)
      one["likely"].push_back({{"mistake", info(l.mistake).name},
                               {"sentence", info(l.mistake).sentence},
                               {"explains", l.explains},
                               {"contradicts", l.contradicts}});
    all["ops"].push_back(std::move(one));
  }
  return all.dump(2) + "\n";
}

}  // namespace dsv4::reference::vectors
