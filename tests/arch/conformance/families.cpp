// The families that are compiled in: CMake writes one line FAMILY(name) a file of this folder.
#include "tests/arch/conformance/harness.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {

std::vector<Case> all_cases() {
#define FAMILY(name) &name##_cases,
  std::vector<Case> (*const families[])() = {
#include <conformance_families.inc>
      nullptr};
#undef FAMILY
  std::vector<Case> all;
  for (const auto family : families)
    if (family != nullptr)
      for (const Case& c : family()) all.push_back(c);
  return all;
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
