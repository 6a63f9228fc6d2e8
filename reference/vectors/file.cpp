// Files of vectors: see file.hpp.
#include "reference/vectors/file.hpp"

#include "reference/error.hpp"
#include "reference/json.hpp"
#include "reference/printable.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

namespace dsv4::reference::vectors {

namespace {

constexpr const char* kFormat = "dsv4-vectors 1";

constexpr std::array<std::string_view, 7> kForms = {"plain",     "e4m3", "e2m1",  "kv_entry",
                                                    "index_key", "set",  "paired"};

Form form_of(const std::string& name, const std::string& where) {
  for (std::size_t i = 0; i < kForms.size(); ++i)
    if (kForms[i] == name) return static_cast<Form>(i);
  throw InputError(fmt::format("{}: unknown form '{}'", where, printable(name)));
}

float rounded_up(double x) {
  const auto f = static_cast<float>(x);
  return double{f} < x ? std::nextafter(f, std::numeric_limits<float>::infinity()) : f;
}

nlohmann::json describe(const Case& c, const std::vector<Expected>& outputs) {
  nlohmann::json about = {
      {"catches", c.catches}, {"scalars", nlohmann::json::object()}, {"outputs", nlohmann::json::object()}};
  for (const auto& [name, value] : c.problem.scalars) about["scalars"][name] = value;
  for (const Expected& e : outputs) {
    about["outputs"][e.name] = {{"form", kForms[static_cast<std::size_t>(e.form)]}};
    if (!e.paired_with.empty()) about["outputs"][e.name]["paired_with"] = e.paired_with;
  }
  if (!c.same_as.empty()) about["same_as"] = c.same_as, about["same_row"] = c.same_row;
  return about;
}

}  // namespace

Expected expected_of(const Output& output) {
  Expected e{output.name, output.form, output.paired_with, {output.dtype, output.shape, output.bytes}, {}};
  if (output.form == Form::kSet) return e;
  const std::vector<double> stored = decoded(output.form, e.array);
  bool exact = true;
  for (std::size_t i = 0; i < stored.size(); ++i) {
    const Num& want = output.want[i];
    const double w = stored[i];
    double bound = 0;
    if (!std::isnan(w) && !(want.lo == w && want.hi == w)) bound = std::max(want.hi - w, w - want.lo);
    e.bound.push_back(rounded_up(std::max(bound, 0.0)));
    exact = exact && e.bound.back() == 0;
  }
  if (exact) e.bound.clear();
  return e;
}

std::vector<std::byte> vectors_bytes(const Op& op, const Sizes& sizes, const std::string& config,
                                     std::uint64_t seed) {
  SafetensorsWriter writer;
  nlohmann::json names = nlohmann::json::array();
  for (const Case& c : op.cases(sizes, seed)) {
    names.push_back(c.name);
    std::vector<Expected> outputs;
    for (const Output& output : op.oracle(c.problem, Mistake::kNone)) outputs.push_back(expected_of(output));
    const auto add = [&](const std::string& name, const Array& a) {
      writer.add(fmt::format("{}/{}", c.name, name), a.dtype, a.shape, a.bytes);
    };
    for (const auto& [name, array] : c.problem.in) add("in/" + name, array);
    for (const Expected& e : outputs) {
      add("out/" + e.name, e.array);
      if (e.bound.empty()) continue;
      std::vector<std::int64_t> shape = e.array.shape;
      if (e.form != Form::kPlain && e.form != Form::kPaired)
        shape = {static_cast<std::int64_t>(e.bound.size())};
      writer.add<float>(fmt::format("{}/bound/{}", c.name, e.name), shape, e.bound);
    }
    writer.metadata("case." + c.name, describe(c, outputs).dump());
  }
  writer.metadata("format", kFormat);
  writer.metadata("op", std::string(op.name));
  writer.metadata("about", std::string(op.about));
  writer.metadata("config", config);
  writer.metadata("seed", fmt::format("{}", seed));
  writer.metadata("cases", names.dump());
  return writer.bytes();
}

namespace {

class Reader {
 public:
  explicit Reader(SafetensorsFile file) : file_(std::move(file)) {}

  VectorFile read() const {
    if (metadata("format") != kFormat)
      throw InputError(fmt::format("{}: not a file of '{}'", file_.name(), kFormat));
    VectorFile f;
    f.name = file_.name();
    f.op = find_op(metadata("op"));
    if (f.op == nullptr)
      throw InputError(fmt::format("{}: unknown op '{}'", file_.name(), printable(metadata("op"))));
    f.config = metadata("config");
    const std::string& seed = metadata("seed");
    const auto [end, error] = std::from_chars(seed.data(), seed.data() + seed.size(), f.seed);
    if (error != std::errc() || end != seed.data() + seed.size())
      throw InputError(fmt::format("{}: the seed '{}' is no number", file_.name(), printable(seed)));
    try {
      for (const auto& name : parse_json(metadata("cases"), file_.name() + ": metadata 'cases'"))
        f.cases.push_back(read_case(name.get<std::string>()));
    } catch (const nlohmann::json::exception&) {
      throw InputError(fmt::format("{}: the metadata does not describe the cases", file_.name()));
    }
    return f;
  }

 private:
  const std::string& metadata(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    if (found == file_.metadata().end())
      throw InputError(
          fmt::format("{}: no metadata '{}': not a file of vectors", file_.name(), printable(key)));
    return found->second;
  }

  static Array array_of(const StoredTensor& t) {
    return {t.dtype, t.shape, {t.bytes.begin(), t.bytes.end()}};
  }

  StoredCase read_case(const std::string& name) const {
    const std::string at = fmt::format("{}: metadata 'case.{}'", file_.name(), printable(name));
    const nlohmann::json about = parse_json(metadata("case." + name), at);
    StoredCase c;
    c.given.name = name;
    c.given.catches = about.at("catches").get<std::string>();
    c.given.same_as = about.value("same_as", std::string());
    c.given.same_row = about.value("same_row", std::int64_t{0});
    for (const auto& [key, value] : about.at("scalars").items())
      c.given.problem.scalars[key] = value.get<double>();
    const std::string prefix = name + "/in/";
    for (const StoredTensor& t : file_.tensors())
      if (t.name.starts_with(prefix)) c.given.problem.in[t.name.substr(prefix.size())] = array_of(t);
    for (const auto& [key, value] : about.at("outputs").items()) {
      const StoredTensor& out = file_.at(fmt::format("{}/out/{}", name, key));
      Expected e{key,
                 form_of(value.at("form").get<std::string>(), at),
                 value.value("paired_with", std::string()),
                 array_of(out),
                 {}};
      if (const StoredTensor* bound = file_.find(fmt::format("{}/bound/{}", name, key)); bound != nullptr) {
        e.bound = values<float>(*bound);
        const std::size_t wanted = decoded(e.form, e.array).size();
        if (e.bound.size() != wanted)
          throw InputError(fmt::format("{}: {} bounds for {} values", where(*bound), e.bound.size(), wanted));
      }
      c.outputs.push_back(std::move(e));
    }
    return c;
  }

  SafetensorsFile file_;
};

}  // namespace

VectorFile parse_vectors(const SafetensorsFile& file) { return Reader(file).read(); }

VectorFile read_vectors(const std::filesystem::path& path) {
  return parse_vectors(SafetensorsFile::open(path));
}

}  // namespace dsv4::reference::vectors
