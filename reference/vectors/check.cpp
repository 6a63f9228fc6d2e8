// Checking an engine: see check.hpp.
#include "reference/vectors/check.hpp"

#include "reference/error.hpp"
#include "reference/mapped_file.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

namespace dsv4::reference::vectors {

namespace fs = std::filesystem;

namespace {

// The engine's outputs of every case; every tensor of its file must be one.
std::map<std::string, Outputs> outputs_of(const VectorFile& vectors, const SafetensorsFile& file,
                                          const CheckOptions& options, std::vector<std::string>& missing) {
  std::map<std::string, Outputs> got;
  std::set<std::string> known;
  for (const StoredCase& c : vectors.cases)
    for (const Expected& e : c.outputs) {
      const std::string name = c.given.name + "/" + e.name;
      known.insert(name);
      if (const StoredTensor* tensor = file.find(name); tensor != nullptr)
        got[c.given.name].emplace(e.name, output_of(*tensor, e));
      else if (options.partial)
        missing.push_back(name);
      else
        throw InputError(
            fmt::format("{}: no tensor '{}' (--partial compares what is there)", file.name(), name));
    }
  for (const StoredTensor& tensor : file.tensors())
    if (!known.contains(tensor.name))
      throw InputError(fmt::format("{} is no output of {} (they are named CASE/OUTPUT, such as '{}')",
                                   where(tensor), vectors.op->name, known.empty() ? "" : *known.begin()));
  return got;
}

struct Unit {  // one output of one case
  const StoredCase* vectors;
  const Expected* expected;
  const Outputs* got;
  bool ok;
};

std::int64_t merit(const Likely& l) { return l.explains - l.contradicts; }

// What a mistake explains and contradicts, the wrong outputs standing first among `units`. Nothing once its
// merit cannot reach `wanted` any more.
Likely tally(const Op& op, Mistake mistake, const std::vector<Unit>& units, double scale,
             std::int64_t wanted) {
  Likely likely{mistake};
  std::int64_t left = std::count_if(units.begin(), units.end(), [](const Unit& u) { return !u.ok; });
  const StoredCase* of = nullptr;
  std::vector<Expected> mistaken;
  for (const Unit& unit : units) {
    if (merit(likely) + left < wanted) return {mistake};
    if (unit.vectors != of) {
      of = unit.vectors, mistaken.clear();
      for (const Output& output : op.oracle(of->given.problem, mistake))
        mistaken.push_back(expected_of(output));
    }
    left -= unit.ok ? 0 : 1;
    const auto same = [&](const Expected& e) { return e.name == unit.expected->name; };
    const auto e = std::find_if(mistaken.begin(), mistaken.end(), same);
    if (e == mistaken.end() || e->array.shape != unit.expected->array.shape) continue;
    const bool gives = compare(*e, mistaken, *unit.got, scale).ok();
    if (gives && !unit.ok) ++likely.explains;
    if (!gives && unit.ok) ++likely.contradicts;
  }
  return likely;
}

// What each mistake of the op would have given, against what the engine gave: those that explain most.
std::vector<Likely> likely_mistakes(const Op& op, std::vector<Unit> units, double scale) {
  std::stable_partition(units.begin(), units.end(), [](const Unit& u) { return !u.ok; });
  // Those that explain the first wrong case are tried first: they set the mark that the others fall short of.
  std::vector<Unit> first;
  for (const Unit& u : units)
    if (!u.ok && u.vectors == units[0].vectors) first.push_back(u);
  std::vector<Likely> order;
  for (const Mistake mistake : op.mistakes) order.push_back(tally(op, mistake, first, scale, 0));
  std::stable_sort(order.begin(), order.end(),
                   [](const Likely& a, const Likely& b) { return a.explains > b.explains; });
  std::vector<Likely> best;
  std::int64_t mark = 1;
  for (const Likely& candidate : order) {
    const Likely likely = tally(op, candidate.mistake, units, scale, mark);
    if (merit(likely) < mark) continue;
    if (merit(likely) > mark) best.clear();
    mark = merit(likely);
    best.push_back(likely);
  }
  return best;
}

}  // namespace

std::int64_t OpResult::wrong() const {
  return std::count_if(outputs.begin(), outputs.end(), [](const OutputResult& r) { return !r.ok(); });
}

std::int64_t CheckResult::compared() const {
  return std::count_if(ops.begin(), ops.end(), [](const OpResult& op) { return !op.outputs.empty(); });
}

bool CheckResult::holds() const {
  return compared() > 0 &&
         std::all_of(ops.begin(), ops.end(), [](const OpResult& op) { return op.wrong() == 0; });
}

OpResult check_op(const VectorFile& vectors, const SafetensorsFile& outputs, const CheckOptions& options) {
  OpResult result;
  result.op = vectors.op->name, result.present = true;
  const std::map<std::string, Outputs> got = outputs_of(vectors, outputs, options, result.missing);
  std::vector<Unit> units;
  bool values_wrong = false;
  for (const StoredCase& c : vectors.cases) {
    const auto found = got.find(c.given.name);
    if (found == got.end()) continue;
    bool case_ok = true;
    for (const Expected& e : c.outputs) {
      if (!found->second.contains(e.name)) continue;
      OutputResult r{
          c.given.name, e.name, compare(e, c.outputs, found->second, options.tolerance_scale), false, {}};
      if (const auto other = got.find(c.given.same_as);
          other != got.end() && other->second.contains(e.name)) {
        r.same_as = c.given.same_as;
        r.depends_on_batch = !same_row(found->second.find(e.name)->second, 0,
                                       other->second.find(e.name)->second, c.given.same_row);
      }
      units.push_back({&c, &e, &found->second, r.comparison.ok()});
      values_wrong = values_wrong || !r.comparison.ok();
      case_ok = case_ok && r.ok();
      result.outputs.push_back(std::move(r));
    }
    if (!case_ok) result.catches.push_back(fmt::format("{}: {}", c.given.name, c.given.catches));
  }
  if (values_wrong) result.likely = likely_mistakes(*vectors.op, units, options.tolerance_scale);
  return result;
}

CheckResult check(const fs::path& vectors, const fs::path& outputs, const CheckOptions& options) {
  std::error_code ignored;
  std::vector<fs::path> files;
  if (fs::is_directory(vectors, ignored)) {
    for (const Op& op : ops())
      if (const fs::path file = vectors / fmt::format("{}.safetensors", op.name); fs::exists(file, ignored))
        files.push_back(file);
    if (files.empty())
      throw InputError(
          fmt::format("{}: no file of vectors (dsv4_vectors writes them)", printable_path(vectors)));
  } else {
    files.push_back(vectors);
  }
  const bool folder = fs::is_directory(outputs, ignored);
  if (!folder && files.size() > 1)
    throw InputError(
        fmt::format("{}: vectors of several ops need a folder of outputs", printable_path(outputs)));
  std::set<std::string> wanted(options.ops.begin(), options.ops.end());
  for (const std::string& name : wanted)
    if (find_op(name) == nullptr) throw InputError(fmt::format("--ops: unknown op '{}'", printable(name)));

  CheckResult result;
  for (const fs::path& file : files) {
    const VectorFile v = read_vectors(file);
    const std::string name(v.op->name);
    if (!options.ops.empty() && wanted.erase(name) == 0) continue;
    const fs::path path = folder ? outputs / (name + ".safetensors") : outputs;
    if (folder && options.ops.empty() && !fs::exists(path, ignored)) {
      result.ops.push_back({name, false, {}, {}, {}, {}});
      continue;
    }
    result.ops.push_back(check_op(v, SafetensorsFile::open(path), options));
  }
  if (!wanted.empty())
    throw InputError(fmt::format("{}: no vectors of {}", printable_path(vectors), *wanted.begin()));
  if (result.compared() == 0)
    throw InputError(
        fmt::format("{}: no outputs of any op (one file OP.safetensors each)", printable_path(outputs)));
  return result;
}

}  // namespace dsv4::reference::vectors
