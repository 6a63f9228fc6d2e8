// dsv4_conformance (SIMT machine), dsv4_conformance_cuda (GPU): every case against the expected words.
#include "tests/arch/conformance/harness.hpp"

#include <cstdio>
#include <exception>
#include <string>
#include <string_view>

namespace {

using namespace dsv4;
using namespace dsv4::conformance;

constexpr int kSkipped = 77;  // what ctest takes for "skipped"

int usage(const char* program) {
  std::fprintf(stderr,
               "usage: %s [--write] FILE\n"
               "Compares every case with FILE; --write writes FILE instead.\n"
               "Exit: 0 all agree, 1 some do not, 2 unusable, 77 nothing to run them on.\n",
               program);
  return 2;
}

int write(const std::string& path) {
  ExpectedWords expected;
  for (const Case& c : all_cases()) {
    Expected& e = expected[c.name];
    e.compare = c.compare;
    const Status s = run_case(c, e.words);
    if (!s.ok()) {
      std::printf("%s: %s (cuda %d)\n", c.name, s.what, s.cuda);
      return 1;
    }
  }
  write_expected(path, expected);
  std::printf("%zu cases written to %s\n", expected.size(), path.c_str());
  return 0;
}

int compare(const std::string& path, const Executor& e) {
  const ExpectedWords expected = read_expected(path);
  int passed = 0, failed = 0, skipped = 0;
  for (const Case& c : all_cases()) {
    if (!supports(e, c)) {
      std::printf("skipped  %s (needs sm_%d%s)\n", c.name, c.min_sm, c.only_sm90 ? "a alone" : "");
      ++skipped;
      continue;
    }
    const auto found = expected.find(c.name);
    Words words;
    const Status s = run_case(c, words);
    std::string problem;
    if (!s.ok())
      problem = std::string(s.what) + " (cuda " + std::to_string(s.cuda) + ")";
    else if (found == expected.end())
      problem = "not in " + path;
    else
      problem = difference(c.compare, found->second.words, words);
    if (problem.empty()) {
      ++passed;
    } else {
      std::printf("FAILED   %s: %s\n", c.name, problem.c_str());
      ++failed;
    }
  }
  std::printf("conformance on %s (sm_%d): %d passed, %d failed, %d skipped\n", e.name.c_str(), e.sm, passed,
              failed, skipped);
  if (failed > 0) return 1;
  return passed > 0 ? 0 : kSkipped;
}

}  // namespace

int main(int argc, char** argv) {
  const bool writes = argc == 3 && std::string_view(argv[1]) == "--write";
  if (argc != 2 && !writes) return usage(argv[0]);
  try {
    const Executor e = executor();
    if (!e.missing.empty()) {
      std::printf("skipped: %s\n", e.missing.c_str());
      return kSkipped;
    }
    return writes ? write(argv[2]) : compare(argv[1], e);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
