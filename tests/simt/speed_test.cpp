// What the machine costs. Hidden: dsv4_test_simt "[.speed]".
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/simt/kernels/sparse_attention_problem.hpp"
#include "tests/simt/policies.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>
#include <cstdio>
#include <ctime>

using namespace dsv4;

namespace {

// CPU time of f(), so that other processes do not count.
template <class F>
double milliseconds(F&& f) {
  const std::clock_t start = std::clock();
  f();
  return static_cast<double>(std::clock() - start) * 1e3 / CLOCKS_PER_SEC;
}

// The best of ten.
template <class F>
double best_milliseconds(F&& f) {
  double best = milliseconds(f);
  for (int i = 0; i < 9; ++i) best = std::min(best, milliseconds(f));
  return best;
}

DSV4_KERNEL(256) barriers_kernel(int rounds) {
  for (int i = 0; i < rounds; ++i) arch::sync_threads();
}

DSV4_KERNEL(256) shuffles_kernel(int rounds, int* out) {
  int v = arch::lane_id();
  for (int i = 0; i < rounds; ++i) v = arch::shfl_xor(v, 1);
  out[arch::thread_idx().x] = v;
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
    problem.run<8>();
    const simt::Counters c = simt::counters();
    const double best = best_milliseconds([&] { problem.run<8>(); });
    std::printf(
        "sparse attention, rounding %d: %.1f ms a query on one core (best of 10); %.2f M switches, "
        "%llu mma, %llu ldmatrix, %llu cp.async\n",
        static_cast<int>(rounding), best, static_cast<double>(c.switches) * 1e-6,
        static_cast<unsigned long long>(c.mma), static_cast<unsigned long long>(c.ldmatrix),
        static_cast<unsigned long long>(c.cp_async));
  }
}

TEST_CASE("speed of barriers and shuffles of 256 threads", "[.speed]") {
  simt::Options o = simt::options();
  o.workers = 1;
  const simt::ScopedOptions scope(o);
  static constexpr int kRounds = 10000;
  int out[256];
  const double barrier = best_milliseconds(
      [] { simt::launch("barriers_kernel", barriers_kernel, test::threads(256), kRounds); });
  const double shuffle = best_milliseconds([&out] {
    simt::launch("shuffles_kernel", shuffles_kernel, test::threads(256), kRounds, static_cast<int*>(out));
  });
  std::printf("__syncthreads of 256 threads: %.2f us; a shuffle of one warp: %.2f us (best of 10)\n",
              barrier * 1e3 / kRounds, shuffle * 1e3 / kRounds / 8);
  CHECK(out[33] == 1);  // swapped an even number of times
}
