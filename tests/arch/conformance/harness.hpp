// Runs conformance cases and compares what they give with the expected words. Needs no other library, so that
// a machine with a GPU can build it.
#pragma once

#include "tests/arch/conformance/case.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dsv4::conformance {

using Words = std::vector<std::uint32_t>;

struct Expected {
  Compare compare = Compare::kBits;
  Words words;
};

/// Name of a case -> what it must give.
using ExpectedWords = std::map<std::string, Expected>;

/// A text file: for each case a line "name bits|two_ulp count", then its words in hex, eight a line; empty
/// lines and lines that begin with '#' do not count. Throws std::runtime_error naming file and line.
ExpectedWords read_expected(const std::string& path);
void write_expected(const std::string& path, const ExpectedWords& expected);

/// The first difference, or "" where there is none. kTwoUlp: as fp32 at most 2 units in the last place apart,
/// zeros of both signs equal, every NaN equal to every NaN.
std::string difference(Compare compare, const Words& expected, const Words& got);

inline namespace DSV4_FLAVOUR {

/// Every case of every family, in the families' alphabetical order.
std::vector<Case> all_cases();

/// What executes cases of this flavour: an architecture as in Case::min_sm, or "why" there is none.
struct Executor {
  int sm = 0;
  std::string name;
  std::string missing;
};
Executor executor();

/// Can it execute the case?
bool supports(const Executor& e, const Case& c);

/// Runs one case in fresh memory, waits for its end, and returns its output.
Status run_case(const Case& c, Words& out);

}  // namespace DSV4_FLAVOUR
}  // namespace dsv4::conformance
