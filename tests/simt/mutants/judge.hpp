// The main() of the small programs that mutants.sh compiles with a mutated kernel.
#pragma once

#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/launch.hpp>

#include <cstdio>

namespace dsv4::test {

/// Runs the kernel by largest_error(). Exit status of the program: 0 right, 10 a wrong result, 11 an error of
/// the machine, 12 bank conflicts where the kernel has none.
template <class F>
int judge(F&& largest_error, double bound) {
  try {
    const double error = largest_error();
    if (!(error <= bound)) {
      std::printf("WRONG RESULT: off by %g, allowed is %g\n", error, bound);
      return 10;
    }
    if (const auto conflicts = simt::counters().matrix_bank_conflicts) {
      std::printf("BANK CONFLICTS: %llu\n", static_cast<unsigned long long>(conflicts));
      return 12;
    }
    return 0;
  } catch (const simt::KernelError& e) {
    std::printf("%s\n", e.what());
    return 11;
  }
}

}  // namespace dsv4::test
