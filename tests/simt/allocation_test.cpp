// A switch from one CUDA thread to another allocates nothing.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/fiber.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/simt/policies.hpp"
#include "tests/support/catch.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

// Counts every allocation of this program, where no sanitizer wants to see them.
#if !defined(DSV4_SIMT_ASAN)
namespace {
std::atomic<std::uint64_t> allocations{0};
}
void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* p = std::malloc(bytes ? bytes : 1)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

using namespace dsv4;

namespace {

DSV4_KERNEL(256) switching_kernel(int rounds, int* out) {
  int v = arch::lane_id();
  for (int i = 0; i < rounds; ++i) {
    v += arch::shfl_xor(v, 1);
    arch::sync_threads();
    arch::sync_warp();
    arch::named_barrier_sync(1, 256);
  }
  out[arch::thread_idx().x] = v;
}

}  // namespace

TEST_CASE("switches allocate nothing", "[simt][launch]") {
  if (simt::Watch::kSeesPlain) {
    WARN("skipped: the race detector's clocks grow");
    return;
  }
  const auto schedule = GENERATE(simt::Schedule::kFifo, simt::Schedule::kLifo, simt::Schedule::kRandom);
  const simt::ScopedOptions scope(test::with(simt::Async::kLazy, schedule));
  int out[256];
  struct Cost {
    std::uint64_t switches, allocations;
  };
  const auto cost = [&](int rounds) {
    simt::reset_counters();
    const std::uint64_t before = allocations;
    simt::launch("switching_kernel", switching_kernel, test::threads(256), rounds, static_cast<int*>(out));
    return Cost{simt::counters().switches, allocations - before};
  };
  cost(1);  // stacks, arenas and tables of the first launch
  const Cost few = cost(1), many = cost(100);
  CHECK(many.switches > few.switches + 50000);
  CHECK(many.allocations == few.allocations);
}
#endif
