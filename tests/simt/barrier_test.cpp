// Barriers of a block on the machine: reductions, named barriers as producer and consumer, and misuse.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/simt/counters.hpp>

#include "tests/simt/policies.hpp"

#include <vector>

namespace {

using namespace dsv4;
using test::report_of;
using test::says;
using test::threads;

DSV4_KERNEL(1024) rotate(int* out, int rounds) {
  DSV4_SHARED(int[1024], s);
  const unsigned t = arch::thread_idx().x, n = arch::block_dim().x;
  int v = static_cast<int>(t);
  for (int r = 0; r < rounds; ++r) {
    s[t] = v;
    arch::sync_threads();
    v = s[(t + 1) % n];
    arch::sync_threads();
  }
  out[t] = v;
}
TEST_CASE("__syncthreads orders and holds every thread", "[simt][barrier]") {
  test::for_each_policy([] {
    for (const unsigned n : {1u, 32u, 33u, 1024u}) {
      std::vector<int> out(n);
      simt::reset_counters();
      simt::launch("rotate", rotate, threads(n), out.data(), 5);
      for (unsigned t = 0; t < n; ++t) REQUIRE(out[t] == static_cast<int>((t + 5) % n));
      REQUIRE(simt::counters().barriers == 10);
    }
  });
}

DSV4_KERNEL(96) reductions(int* out) {
  const unsigned t = arch::thread_idx().x;
  int bits = arch::sync_threads_count(t % 3 == 0);
  bits = bits * 2 + arch::sync_threads_or(t == 95);
  bits = bits * 2 + arch::sync_threads_or(t == 96);
  bits = bits * 2 + arch::sync_threads_and(t < 96);
  bits = bits * 2 + arch::sync_threads_and(t < 95);
  out[t] = bits;
}
TEST_CASE("__syncthreads with a reduction gives every thread the result", "[simt][barrier]") {
  test::for_each_policy([] {
    std::vector<int> out(96);
    simt::launch("reductions", reductions, threads(96), out.data());
    for (const int o : out) REQUIRE(o == 32 * 16 + 8 + 2);
  });
}

// Warp 0 fills two buffers in turn for warps 1 and 2, who hand them back.
DSV4_KERNEL(96) producer_consumer(int* out, int rounds) {
  DSV4_SHARED(int[2][32], s);
  const unsigned t = arch::thread_idx().x, lane = t % 32;
  for (int r = 0; r < rounds; ++r) {
    const unsigned full = 1 + static_cast<unsigned>(r) % 2, empty = full + 2;
    if (t < 32) {
      if (r >= 2) arch::named_barrier_sync(empty, 96);
      s[r % 2][lane] = r * 100 + static_cast<int>(lane);
      arch::named_barrier_arrive(full, 96);
    } else {
      arch::named_barrier_sync(full, 96);
      out[r * 64 + static_cast<int>(t) - 32] = s[r % 2][31 - lane];
      if (r + 2 < rounds) arch::named_barrier_arrive(empty, 96);
    }
  }
}
TEST_CASE("named barriers between a producer and its consumers", "[simt][barrier]") {
  test::for_each_policy([] {
    std::vector<int> out(64 * 7);
    simt::launch("producer_consumer", producer_consumer, threads(96), out.data(), 7);
    for (int r = 0; r < 7; ++r)
      for (int t = 0; t < 64; ++t)
        REQUIRE(out[static_cast<std::size_t>(r * 64 + t)] == r * 100 + 31 - t % 32);
  });
}

// ---- misuse ----------------------------------------------------------------------------------------------
enum class Misuse {
  kCountsDiffer,
  kKindsDiffer,
  kNoWholeWarps,
  kTooMany,
  kNoSuchBarrier,
  kExitsWhileOthersWait,
  kSyncAfterExit,
  kBranch,
};
DSV4_KERNEL(64) misuse(Misuse what) {
  const bool first_warp = arch::thread_idx().x < 32;
  switch (what) {
    case Misuse::kCountsDiffer:
      arch::named_barrier_sync(1, first_warp ? 64 : 32);
      break;
    case Misuse::kKindsDiffer:
      if (first_warp)
        arch::sync_threads();
      else
        static_cast<void>(arch::sync_threads_or(true));
      break;
    case Misuse::kNoWholeWarps:
      arch::named_barrier_sync(1, 40);
      break;
    case Misuse::kTooMany:
      arch::named_barrier_sync(1, 96);
      break;
    case Misuse::kNoSuchBarrier:
      arch::named_barrier_sync(16, 64);
      break;
    case Misuse::kExitsWhileOthersWait:
      if (!first_warp) return;
      arch::sync_threads();
      break;
    case Misuse::kSyncAfterExit:
      if (first_warp) return;
      arch::named_barrier_sync(1, 32);
      arch::sync_threads();
      break;
    case Misuse::kBranch:  // one warp is at another barrier
      if (first_warp)
        arch::named_barrier_sync(2, 64);
      else
        arch::named_barrier_sync(3, 64);
      break;
  }
}
TEST_CASE("misuse of barriers is reported with both places", "[simt][barrier]") {
  const auto said = [](Misuse what) {
    std::string report = report_of([&] { simt::launch("misuse", misuse, threads(64), what); });
    CHECK(says(report, "kernel misuse: "));
    CHECK(says(report, "barrier_test.cpp:"));
    return report;
  };
  CHECK(says(said(Misuse::kCountsDiffer), "BARRIER MISMATCH: bar.sync: barrier 1 was entered for "));
  CHECK(says(said(Misuse::kKindsDiffer), "BARRIER MISMATCH: "));
  CHECK(says(said(Misuse::kNoWholeWarps), "40 threads; a barrier counts whole warps of the block's 64"));
  CHECK(says(said(Misuse::kTooMany), "96 threads; a barrier counts whole warps of the block's 64"));
  CHECK(says(said(Misuse::kNoSuchBarrier), "barrier 16 (a block has 0 to 15)"));
  const std::string exits = said(Misuse::kExitsWhileOthersWait), after = said(Misuse::kSyncAfterExit);
  CHECK(says(exits, "BARRIER DIVERGENCE: "));
  CHECK(says(after, "BARRIER DIVERGENCE: "));
  const std::string branch = said(Misuse::kBranch);
  CHECK(says(branch, "DEADLOCK: "));
  CHECK(says(branch, "barrier 2: 32 of 64 arrived"));
  CHECK(says(branch, "barrier 3: 32 of 64 arrived"));
}

}  // namespace
