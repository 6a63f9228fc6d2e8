// mbarriers of the SIMT machine: phases, arrivals, expected bytes, and which uses are errors.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/bulk.cuh>
#include <dsv4/arch/cluster.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/mbarrier.cuh>
#include <dsv4/simt/counters.hpp>

#include "tests/simt/policies.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace dsv4;
using namespace dsv4::test;

// Warp 0 produces numbers, warp 1 adds them up, through two buffers.
struct PipelineShared {
  arch::Mbarrier full[2], empty[2];
  int data[2][32];
};
void pipeline_kernel(int* out, int rounds) {
  DSV4_DYN_SMEM(PipelineShared, s);
  const int thread = static_cast<int>(arch::thread_idx().x), lane = thread % 32;
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) {
      arch::mbarrier_init(s->full[i], 32);
      arch::mbarrier_init(s->empty[i], 16);  // of 8 lanes, two each
    }
    arch::fence_mbarrier_init();
  }
  arch::sync_threads();
  int sum = 0;
  for (int r = 0; r < rounds; ++r) {
    const int slot = r % 2;
    const auto parity = static_cast<unsigned>(r / 2 % 2);
    if (thread < 32) {
      arch::mbarrier_wait(s->empty[slot], parity ^ 1);
      s->data[slot][lane] = r * 100 + lane;
      arch::mbarrier_arrive(s->full[slot]);
    } else {
      while (!arch::mbarrier_try_wait(s->full[slot], parity)) {
      }
      sum += s->data[slot][(lane + 1) % 32];
      arch::sync_warp();
      if (lane % 4 == 0) arch::mbarrier_arrive(s->empty[slot], 2);
    }
  }
  if (thread >= 32) out[lane] = sum;
}

// What test_wait says before and after each arrival of a phase of two, for both parities.
void phases_kernel(int* out) {
  DSV4_SHARED(arch::Mbarrier, b);
  arch::mbarrier_init(b, 2);
  int n = 0;
  const auto look = [&] {
    out[n++] = arch::mbarrier_test_wait(b, 0);
    out[n++] = arch::mbarrier_test_wait(b, 1);
  };
  look();
  for (int i = 0; i < 4; ++i) {
    arch::mbarrier_arrive(b);
    look();
  }
  arch::mbarrier_invalidate(b);
  arch::mbarrier_init(b, 1);  // the memory may serve again
  arch::mbarrier_arrive(b);
  arch::mbarrier_wait(b, 0);
}

void peer_kernel(int* out) {
  DSV4_SHARED(arch::Mbarrier, b);
  DSV4_SHARED(int, inbox);
  const std::uint32_t rank = arch::cluster_rank(), size = arch::cluster_size();
  if (arch::thread_idx().x == 0) {
    arch::mbarrier_init(b, 1);
    arch::fence_mbarrier_init();
  }
  arch::cluster_sync();
  if (arch::thread_idx().x == 0) {
    const std::uint32_t next = (rank + 1) % size;
    arch::peer_store(&inbox, next, static_cast<int>(100 + rank));
    arch::mbarrier_arrive_peer(b, next);
  }
  arch::mbarrier_wait_cluster(b, 0);
  if (arch::thread_idx().x == 1) out[rank] = inbox;
  arch::cluster_sync();
}

enum class Fault {
  kWrongParity,
  kNeverInitialised,
  kInitialisedTwice,
  kCountZero,
  kParityTwo,
  kMisaligned,
  kOverwritten,
  kTooManyArrivals,
  kBytesNeverCome,
  kTooManyBytes,
  kNotFenced,
  kInvalidatedInUse,
};
struct FaultShared {
  alignas(16) char data[64];
  arch::Mbarrier b;
};
void fault_kernel(Fault fault, const char* in) {
  DSV4_DYN_SMEM(FaultShared, s);
  arch::Mbarrier& b = s->b;
  const unsigned thread = arch::thread_idx().x;
  if (fault == Fault::kNeverInitialised) arch::mbarrier_arrive(b);
  if (fault == Fault::kMisaligned)  // no reference may be bound to it
    simt::mbarrier_init(reinterpret_cast<char*>(s) + 4, 1, simt::Loc::current());
  if (thread == 0) {
    arch::mbarrier_init(b, fault == Fault::kCountZero ? 0 : 1);
    if (fault == Fault::kInitialisedTwice) arch::mbarrier_init(b, 1);
    if (fault != Fault::kNotFenced) arch::fence_mbarrier_init();
  }
  arch::sync_threads();
  switch (fault) {
    case Fault::kWrongParity:
      if (thread == 0) arch::mbarrier_arrive(b);
      arch::sync_threads();
      if (thread >= 32) arch::mbarrier_wait(b, 1);
      break;
    case Fault::kParityTwo:
      arch::mbarrier_wait(b, 2);
      break;
    case Fault::kOverwritten:
      if (thread == 0) b.state = 0;
      arch::sync_threads();
      arch::mbarrier_wait(b, 0);
      break;
    case Fault::kTooManyArrivals:
      if (thread == 0) arch::mbarrier_arrive(b, 2);
      break;
    case Fault::kBytesNeverCome:
      if (thread == 0) arch::mbarrier_arrive_expect_tx(b, 64);
      break;
    case Fault::kTooManyBytes:
      if (thread == 0)
        for (int i = 0; i < 3; ++i) arch::mbarrier_expect_tx(b, 500000);
      break;
    case Fault::kNotFenced:
      if (thread == 0) arch::bulk_load(s->data, in, 64, b);
      break;
    case Fault::kInvalidatedInUse:
      if (thread != 0) arch::mbarrier_wait(b, 0);
      for (int i = 0; i < 4; ++i) simt::yield_poll("test", simt::Loc::current());
      arch::mbarrier_invalidate(b);
      break;
    default:
      break;
  }
}

std::string fault_report(Fault fault, unsigned n = 64) {
  alignas(16) const char in[64] = {};
  return report_of([&] { simt::launch("fault", fault_kernel, threads(n, sizeof(FaultShared)), fault, in); });
}

// Phases end without regard to a waiter that is slow to look.
void missed_phase_kernel() {
  DSV4_SHARED(arch::Mbarrier, b);
  if (arch::thread_idx().x == 0) arch::mbarrier_init(b, 1);
  arch::sync_threads();
  if (arch::thread_idx().x == 1) {
    arch::mbarrier_wait(b, 0);
  } else if (arch::thread_idx().x == 0) {
    for (int i = 0; i < 4; ++i) simt::yield_poll("test", simt::Loc::current());
    arch::mbarrier_arrive(b);
    arch::mbarrier_arrive(b);
  }
}

void count_waits_kernel() {
  DSV4_SHARED(arch::Mbarrier, b);
  if (arch::thread_idx().x == 0) arch::mbarrier_init(b, 32);
  arch::sync_threads();
  arch::mbarrier_arrive(b);
  arch::mbarrier_wait(b, 0);
}

}  // namespace

TEST_CASE("mbarriers hand data from producers to consumers", "[simt][mbarrier]") {
  for_each_policy([] {
    std::vector<int> out(32), expected(32);
    const int rounds = 11;
    for (int lane = 0; lane < 32; ++lane)
      for (int r = 0; r < rounds; ++r) expected[static_cast<std::size_t>(lane)] += r * 100 + (lane + 1) % 32;
    simt::launch("pipeline", pipeline_kernel, threads(64, sizeof(PipelineShared)), out.data(), rounds);
    CHECK(out == expected);
  });
}

TEST_CASE("mbarrier phases alternate", "[simt][mbarrier]") {
  int out[10];
  simt::launch("phases", phases_kernel, threads(1), out);
  // Pairs of (parity 0 has completed, parity 1 has completed); before phase 0 ends parity 1 counts as over.
  const int expected[10] = {0, 1, 0, 1, 1, 0, 1, 0, 0, 1};
  for (int i = 0; i < 10; ++i) {
    CAPTURE(i);
    CHECK(out[i] == expected[i]);
  }
}

TEST_CASE("mbarriers of peers in a cluster", "[simt][mbarrier][cluster]") {
  for_each_policy([] {
    std::vector<int> out(4);
    simt::launch("peer", peer_kernel, threads(64, 0, 4, 4), out.data());
    CHECK(out == std::vector<int>{103, 100, 101, 102});
  });
}

TEST_CASE("a deadlock report names mbarriers and waits", "[simt][mbarrier]") {
  const simt::ScopedOptions scope(with(simt::Async::kLazy));
  const std::string report = fault_report(Fault::kWrongParity);
  CAPTURE(report);
  CHECK(says(report, "kernel fault: DEADLOCK"));
  CHECK(says(report, "mbarrier.try_wait (0x440, 1) at"));
  CHECK(says(report, "mbarrier_test.cpp:"));
  CHECK(says(report, "threads 32-63"));
  CHECK(says(report, "mbarrier 0x440: phase 1, 1 of 1 arrivals and 0 bytes missing"));
}

TEST_CASE("misuse of mbarriers is reported", "[simt][mbarrier]") {
  const simt::ScopedOptions scope(with(simt::Async::kLazy));
  const auto expect = [](Fault fault, const char* text, unsigned n = 64) {
    const std::string report = fault_report(fault, n);
    CAPTURE(report, text);
    CHECK(says(report, text));
    CHECK(says(report, "mbarrier_test.cpp"));
  };
  expect(Fault::kNeverInitialised, "no mbarrier was initialised at shared address 0x440");
  expect(Fault::kInitialisedTwice, "holds an mbarrier already");
  expect(Fault::kCountZero, "a count of 0");
  expect(Fault::kParityTwo, "parity 2");
  expect(Fault::kMisaligned, "is not a multiple of 8");
  expect(Fault::kOverwritten, "has been overwritten");
  expect(Fault::kTooManyArrivals, "2 arrivals at the mbarrier");
  expect(Fault::kBytesNeverCome, "had 64 bytes still to come", 1);
  expect(Fault::kTooManyBytes, "1500000 bytes outstanding");
  expect(Fault::kNotFenced, "without fence_mbarrier_init");
  expect(Fault::kInvalidatedInUse, "is still in use", 2);
}

TEST_CASE("a phase that ends unseen is reported", "[simt][mbarrier]") {
  const simt::ScopedOptions scope(with(simt::Async::kLazy));
  const std::string report = report_of([] { simt::launch("missed", missed_phase_kernel, threads(2)); });
  CAPTURE(report);
  CHECK(says(report, "MISSED PHASE"));
}

TEST_CASE("mbarrier waits are counted", "[simt][mbarrier][counters]") {
  simt::reset_counters();
  simt::launch("count", count_waits_kernel, threads(32));
  CHECK(simt::counters().mbarrier_waits == 32);
}

#if defined(DSV4_SIMT_RACE)
namespace {
void unsynchronised_kernel() {
  DSV4_SHARED(arch::Mbarrier, b);
  if (arch::thread_idx().x == 0) {
    arch::mbarrier_init(b, 1);
    arch::mbarrier_arrive(b);
  } else {
    for (int i = 0; i < 4; ++i) simt::yield_poll("test", simt::Loc::current());
    arch::mbarrier_wait(b, 0);
  }
}
}  // namespace
TEST_CASE("an mbarrier used with no barrier since its initialisation is a race", "[simt][mbarrier][race]") {
  const simt::ScopedOptions scope(with(simt::Async::kLazy));
  const std::string report =
      report_of([] { simt::launch("unsynchronised", unsynchronised_kernel, threads(64)); });
  CAPTURE(report);
  CHECK(says(report, "RACE"));
  CHECK(says(report, "no barrier since its initialisation"));
}
#endif
