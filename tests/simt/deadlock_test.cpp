// Kernels that cannot end, and grids whose blocks wait for each other.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/simt/watch.hpp>

#include "tests/simt/policies.hpp"

#include <vector>

namespace {

using namespace dsv4;
using arch::Order;
using test::report_of;
using test::says;
using test::threads;

DSV4_KERNEL(96) three_waits() {
  const unsigned t = arch::thread_idx().x;
  if (t < 32) arch::named_barrier_sync(4, 64);
  if (t >= 32 && t < 64) arch::named_barrier_sync(5, 96);
  if (t >= 64) arch::named_barrier_arrive(6, 64);
}
TEST_CASE("a deadlock report lists every wait by place and threads", "[simt][deadlock]") {
  test::for_each_policy([] {
    const std::string report = report_of([] { simt::launch("three_waits", three_waits, threads(96, 0, 2)); });
    INFO(report);
    REQUIRE(says(report, "kernel three_waits: DEADLOCK: no thread can run"));
    REQUIRE(says(report, "bar.sync (0x4, 64) at "));
    REQUIRE(says(report, "deadlock_test.cpp:"));
    REQUIRE(says(report, ": threads 0-31"));
    REQUIRE(says(report, "bar.sync (0x5, 96) at "));
    REQUIRE(says(report, ": threads 32-63"));
    REQUIRE(says(report, "exited: threads 64-95"));
    REQUIRE(says(report, "barrier 4: 32 of 64 arrived"));
    REQUIRE(says(report, "barrier 5: 32 of 96 arrived"));
    REQUIRE(says(report, "barrier 6: 32 of 64 arrived"));
  });
}

// ---- polling ---------------------------------------------------------------------------------------------
enum class Spin { kSleep, kAcquire, kRelaxed, kLock };
DSV4_KERNEL(64) spin(Spin how, unsigned* flag) {
  switch (how) {
    case Spin::kSleep:
      while (true) arch::nanosleep(10);
    case Spin::kAcquire:
      while (arch::load_acquire(flag) == 0) {
      }
      break;
    case Spin::kRelaxed:
      while (arch::load_relaxed(flag) == 0) {
      }
      break;
    case Spin::kLock:  // nobody unlocks
      while (arch::atomic_cas<Order::kAcquire>(flag, 1, 2) != 1) {
      }
      break;
  }
}
TEST_CASE("a kernel that only polls is a livelock", "[simt][deadlock]") {
  test::for_each_policy([] {
    const auto said = [](Spin how) {
      unsigned flag = how == Spin::kLock ? 2 : 0;
      return report_of([&] { simt::launch("spin", spin, threads(64), how, &flag); });
    };
    for (const Spin how : {Spin::kSleep, Spin::kAcquire, Spin::kRelaxed, Spin::kLock}) {
      const std::string report = said(how);
      INFO(report);
      REQUIRE(says(report, "kernel spin: LIVELOCK: every thread that can run only polls"));
      REQUIRE(says(report, "deadlock_test.cpp:"));
      REQUIRE(says(report, ": threads 0-63"));
    }
    CHECK(says(said(Spin::kSleep), "nanosleep at "));
    CHECK(says(said(Spin::kAcquire), "ld.acquire at "));
    CHECK(says(said(Spin::kLock), "atom.cas at "));
  });
}

DSV4_KERNEL(64) critical_section(unsigned* lock, unsigned* count) {
  while (arch::atomic_cas<Order::kAcquire>(lock, 0, 1) != 0) {
  }
  *count += 1;
  arch::store_release(lock, 0);
}
TEST_CASE("a spin lock between all threads of a grid", "[simt][deadlock]") {
  test::for_each_policy([] {
    unsigned lock = 0, count = 0;
    simt::launch("critical_section", critical_section, threads(64, 0, 4), &lock, &count);
    REQUIRE(count == 256);
    REQUIRE(lock == 0);
  });
}

// ---- blocks that wait for each other ---------------------------------------------------------------------
DSV4_DEVICE void grid_barrier(unsigned* arrived, unsigned generation) {
  arch::sync_threads();
  if (arch::thread_idx().x == 0) {
    const unsigned all = arch::grid_dim().x * generation;
    if (arch::atomic_add<Order::kAcqRel>(arrived, 1) + 1 < all)
      while (arch::load_acquire(arrived) < all) {
      }
  }
  arch::sync_threads();
}
DSV4_KERNEL(64) grid_rounds(unsigned* arrived, int* data, int* out) {
  const unsigned n = arch::grid_dim().x, b = arch::block_idx().x, t = arch::thread_idx().x;
  int v = static_cast<int>(b);
  for (unsigned round = 0; round < 3; ++round) {
    data[b * 64 + t] = v;
    grid_barrier(arrived, 2 * round + 1);
    v = data[(b + 1) % n * 64 + t];
    grid_barrier(arrived, 2 * round + 2);
  }
  out[b * 64 + t] = v;
}
std::string grid_report(unsigned blocks, bool cooperative, std::vector<int>& out) {
  std::vector<int> data(64 * blocks);
  out.assign(64 * blocks, -1);
  unsigned arrived = 0;
  simt::LaunchShape shape = threads(64, 0, blocks);
  shape.cooperative = cooperative;
  return report_of(
      [&] { simt::launch("grid_rounds", grid_rounds, shape, &arrived, data.data(), out.data()); });
}
TEST_CASE("a grid barrier works in a cooperative launch, or with enough resident blocks",
          "[simt][deadlock]") {
  std::vector<int> out;
  test::for_each_policy([&] {
    REQUIRE(grid_report(6, true, out) == "");
    for (unsigned b = 0; b < 6; ++b) REQUIRE(out[b * 64] == static_cast<int>((b + 3) % 6));
  });
  simt::Options o = simt::options();
  o.resident_blocks = 6;
  {
    const simt::ScopedOptions scope(o);
    CHECK(grid_report(6, false, out) == "");
    CHECK(out[0] == 3);
  }
  o.resident_blocks = 2;  // the blocks that wait keep the others out
  o.workers = 1;
  const simt::ScopedOptions scope(o);
  const std::string report = grid_report(6, false, out);
  INFO(report);
  CHECK(says(report, "kernel grid_rounds: LIVELOCK: "));
  CHECK(says(report, "block (1,0,0): "));
  CHECK(says(report, "ld.acquire at "));
}

TEST_CASE("gangs of several OS threads wait for each other's writes", "[simt][deadlock]") {
  simt::Options o = simt::options();
  o.workers = 3;
  o.resident_blocks = 1;
  const simt::ScopedOptions scope(o);
  std::vector<int> out;
  const std::string report = grid_report(3, false, out);
  INFO(report);
  if (simt::Watch::kSeesPlain) {  // instrumented builds have one OS thread
    CHECK(says(report, "LIVELOCK: "));
    return;
  }
  CHECK(report == "");
  for (unsigned b = 0; b < 3; ++b) CHECK(out[b * 64 + 63] == static_cast<int>(b));
}

}  // namespace
