// The race detector: every racy kernel is reported with both places, its ordered twin passes in silence. In
// builds that do not instrument kernels (DSV4_SIMT_RACE) a racy kernel has no report to assert on, and the
// case says that it skips it; the ordered twins run everywhere.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/types.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/support/catch.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace dsv4;
using simt::LaunchShape;

// What the machine says of the kernel; "" if nothing.
template <class... P, class... A>
std::string report_of(void (*kernel)(P...), const LaunchShape& shape, A... arguments) {
  try {
    simt::launch("kernel_under_test", kernel, shape, arguments...);
  } catch (const simt::KernelError& e) {
    return e.what();
  }
  return "";
}

// Expects a race between lines `one` and `other`, in either order.
void require_race(const std::string& report, const char* what, int one, int other) {
  if (!simt::Watch::kSeesPlain) {
    WARN("skipped: kernels are not instrumented in this build");
    return;
  }
  INFO(report);
  const auto has = [&report](const std::string& text) { return report.find(text) != std::string::npos; };
  CHECK(has("kernel kernel_under_test: RACE: "));
  CHECK(has(what));
  CHECK(has("race_test.cpp:" + std::to_string(one)));
  CHECK(has("race_test.cpp:" + std::to_string(other)));
  CHECK(has(" by block ("));
  CHECK(has("\n  at block ("));
}

// Lines that a kernel's accesses stand on, for the expected reports.
constexpr LaunchShape one_block(unsigned threads) { return {{1, 1, 1}, {threads, 1, 1}, {}, 0, false}; }
constexpr LaunchShape blocks(unsigned n, unsigned threads) { return {{n, 1, 1}, {threads, 1, 1}, {}, 0, false}; }

// ---- shared memory: barriers of a block ------------------------------------------------------------------
constexpr int kExchangeStore = __LINE__ + 6;
template <bool kBarrier>
DSV4_KERNEL(64)
exchange(int* out) {
  DSV4_SHARED(int[64], s);
  const unsigned t = arch::thread_idx().x;
  s[t] = static_cast<int>(t);
  if (kBarrier) arch::sync_threads();
  out[t] = s[63 - t];  // kExchangeStore + 2
}

TEST_CASE("race: a missing __syncthreads", "[simt][race]") {
  std::vector<int> out(64);
  require_race(report_of(exchange<false>, one_block(64), out.data()), "shared memory of block (0,0,0)", kExchangeStore,
               kExchangeStore + 2);
  CHECK(report_of(exchange<true>, one_block(64), out.data()) == "");
  CHECK(out[0] == 63);
}

}  // namespace
