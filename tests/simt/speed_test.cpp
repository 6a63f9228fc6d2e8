// What the machine costs. Hidden: dsv4_test_simt "[.speed]".
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/simt/kernels/sparse_attention_problem.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>
#include <cstdio>
#include <ctime>

using namespace dsv4;

namespace {

// CPU time, so that other processes do not count.
double milliseconds(test::SparseAttentionProblem& problem) {
  const std::clock_t start = std::clock();
  problem.run<8>();
  return static_cast<double>(std::clock() - start) * 1e3 / CLOCKS_PER_SEC;
}

}  // namespace

TEST_CASE("speed of one query of 64 heads over 640 keys of 512", "[.speed]") {
  simt::Options o = simt::options();
  o.workers = 1;
  for (const auto rounding : {simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper}) {
    o.rounding = rounding;
    const simt::ScopedOptions scope(o);
    test::SparseAttentionProblem problem(1, 640);
    problem.run<8>();
    CHECK(problem.largest_error() < 0.01);
    simt::reset_counters();
    double best = milliseconds(problem);
    const simt::Counters c = simt::counters();
    for (int i = 0; i < 9; ++i) best = std::min(best, milliseconds(problem));
    std::printf(
        "sparse attention, rounding %d: %.1f ms a query on one core (best of 10); %.2f M switches, "
        "%llu mma, %llu ldmatrix, %llu cp.async\n",
        static_cast<int>(rounding), best, static_cast<double>(c.switches) * 1e-6,
        static_cast<unsigned long long>(c.mma), static_cast<unsigned long long>(c.ldmatrix),
        static_cast<unsigned long long>(c.cp_async));
  }
}
