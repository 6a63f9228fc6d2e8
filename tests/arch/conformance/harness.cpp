#include "tests/arch/conformance/harness.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace dsv4::conformance {
namespace {

constexpr const char* kCompareNames[] = {"bits", "two_ulp"};  // by Compare
constexpr std::size_t kWordsALine = 8;

float as_float(std::uint32_t u) {
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
}

/// Where x lies among the fp32 values in ascending order; both zeros at 0.
std::int64_t place(std::uint32_t u) {
  const auto magnitude = static_cast<std::int64_t>(u & 0x7fffffffu);
  return (u >> 31) != 0 ? -magnitude : magnitude;
}

bool close(std::uint32_t a, std::uint32_t b) {
  if (std::isnan(as_float(a)) || std::isnan(as_float(b)))
    return std::isnan(as_float(a)) && std::isnan(as_float(b));
  const std::int64_t distance = place(a) - place(b);
  return distance >= -2 && distance <= 2;
}

}  // namespace

ExpectedWords read_expected(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  ExpectedWords all;
  Expected* current = nullptr;
  std::size_t missing = 0;
  int number = 0;
  const auto bad = [&](const std::string& what) {
    return std::runtime_error(path + ":" + std::to_string(number) + ": " + what);
  };
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty() || line[0] == '#') continue;
    std::istringstream in(line);
    if (missing == 0) {
      std::string name, compare;
      if (!(in >> name >> compare >> missing)) throw bad("a line 'name bits|two_ulp count' is expected");
      if (compare != kCompareNames[0] && compare != kCompareNames[1])
        throw bad("'" + compare + "' is neither bits nor two_ulp");
      if (all.count(name) != 0) throw bad(name + " stands here twice");
      current = &all[name];
      current->compare = compare == kCompareNames[0] ? Compare::kBits : Compare::kTwoUlp;
      continue;
    }
    for (std::uint32_t word = 0; missing > 0 && in >> std::hex >> word; --missing)
      current->words.push_back(word);
    in.clear();
    std::string rest;
    if (in >> rest) throw bad("'" + rest + "' is not a word in hex, or one too many");
  }
  if (missing != 0) throw bad("the file ends within a case");
  return all;
}

void write_expected(const std::string& path, const ExpectedWords& expected) {
  std::ofstream file(path);
  file << "# What every conformance case gives (tests/arch/conformance): name, comparison, number of words, "
          "words.\n"
          "# Written by the SIMT machine: dsv4_conformance --write FILE.\n";
  char word[16];
  for (const auto& [name, e] : expected) {
    file << name << ' ' << kCompareNames[static_cast<int>(e.compare)] << ' ' << e.words.size() << '\n';
    for (std::size_t i = 0; i < e.words.size(); ++i) {
      std::snprintf(word, sizeof word, "%08x", static_cast<unsigned>(e.words[i]));
      file << word << (i % kWordsALine == kWordsALine - 1 || i + 1 == e.words.size() ? '\n' : ' ');
    }
  }
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
}

std::string difference(Compare compare, const Words& expected, const Words& got) {
  char text[192];
  if (expected.size() != got.size()) {
    std::snprintf(text, sizeof text, "%zu words expected, %zu found", expected.size(), got.size());
    return text;
  }
  std::size_t first = expected.size(), count = 0;
  for (std::size_t i = expected.size(); i-- > 0;) {
    const bool same = compare == Compare::kBits ? expected[i] == got[i] : close(expected[i], got[i]);
    if (!same) first = i, ++count;
  }
  if (count == 0) return "";
  std::snprintf(text, sizeof text, "%zu of %zu words differ, the first is %zu: 0x%08x expected, 0x%08x found",
                count, expected.size(), first, static_cast<unsigned>(expected[first]),
                static_cast<unsigned>(got[first]));
  return text;
}

inline namespace DSV4_FLAVOUR {

bool supports(const Executor& e, const Case& c) { return c.only_sm90 ? e.sm == 90 : e.sm >= c.min_sm; }

}  // namespace DSV4_FLAVOUR
}  // namespace dsv4::conformance
