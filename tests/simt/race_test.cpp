// The race detector: every racy kernel is reported with both places, and its ordered twin passes in silence.
// In builds that do not instrument kernels (without DSV4_SIMT_RACE) racy kernels have no report to assert
// on, and each such case says that it is skipped; the ordered twins run everywhere.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/support/catch.hpp"

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

namespace {

using namespace dsv4;
using arch::Order;
using arch::Scope;
using simt::LaunchShape;

// "race_test.cpp:123": the line of this file that ends in "// @mark".
std::string place(const std::string& mark) {
  std::ifstream source(DSV4_TEST_DATA_DIR "/../simt/race_test.cpp");
  REQUIRE(source);
  int number = 0;
  for (std::string line; std::getline(source, line);) {
    ++number;
    const std::string end = "// @" + mark;
    if (line.size() >= end.size() && line.compare(line.size() - end.size(), end.size(), end) == 0)
      return "race_test.cpp:" + std::to_string(number);
  }
  FAIL("no line ends in @" + mark);
  return "";
}

// What the machine says of the kernel; "" if nothing.
template <class... P, class... A>
std::string report_of(void (*kernel)(P...), unsigned grid, unsigned block, A... arguments) {
  try {
    simt::launch("kernel_under_test", kernel, {{grid, 1, 1}, {block, 1, 1}, {}, 0, false}, arguments...);
  } catch (const simt::KernelError& e) {
    return e.what();
  }
  return "";
}

// Expects a race of the two places, found at either of them, that says `what`.
void require_race(const std::string& report, const std::string& what, const char* one, const char* other) {
  if (!simt::Watch::kSeesPlain) {
    WARN("skipped: this build does not instrument kernels");
    return;
  }
  INFO(report);
  const auto has = [&report](const std::string& text) { return report.find(text) != std::string::npos; };
  CHECK(has("kernel kernel_under_test: RACE: "));
  CHECK(has(what));
  CHECK(has(place(one)));
  CHECK(has(place(other)));
  CHECK(has(" by block ("));
  CHECK(has("\n  at block ("));
}

// ---- shared memory ---------------------------------------------------------------------------------------
template <bool kOrdered>
DSV4_KERNEL(64)
reverse(int* out) {
  DSV4_SHARED(int[64], s);
  const unsigned t = arch::thread_idx().x;
  s[t] = static_cast<int>(t);  // @reverse-store
  if (kOrdered) arch::sync_threads();
  out[t] = s[63 - t];  // @reverse-load
}
TEST_CASE("race: a missing barrier between a store and a load", "[simt][race]") {
  std::vector<int> out(64);
  require_race(report_of(reverse<false>, 1, 64, out.data()), "shared memory of block (0,0,0)",
               "reverse-store", "reverse-load");
  CHECK(report_of(reverse<true>, 1, 64, out.data()) == "");
  CHECK(out[0] == 63);
}

template <bool kOrdered>
DSV4_KERNEL(64)
rounds(int* out) {
  DSV4_SHARED(int[64], s);
  const unsigned t = arch::thread_idx().x;
  int sum = 0;
  for (int round = 0; round < 3; ++round) {
    s[t] = static_cast<int>(t) + round;  // @rounds-store
    arch::sync_threads();
    sum += s[63 - t];  // @rounds-load
    if (kOrdered) arch::sync_threads();
  }
  out[t] = sum;
}
TEST_CASE("race: a missing barrier before a buffer is written again", "[simt][race]") {
  std::vector<int> out(64);
  require_race(report_of(rounds<false>, 1, 64, out.data()), "RACE: ", "rounds-load", "rounds-store");
  CHECK(report_of(rounds<true>, 1, 64, out.data()) == "");
  CHECK(out[63] == 3);
}

// A shuffle makes the lanes meet, and orders no memory.
template <bool kOrdered>
DSV4_KERNEL(32)
warp_exchange(int* out) {
  DSV4_SHARED(int[32], s);
  const int lane = arch::lane_id();
  s[lane] = lane;  // @warp-store
  if (kOrdered)
    arch::sync_warp();
  else
    static_cast<void>(arch::shfl_xor(lane, 1));
  out[lane] = s[lane ^ 1];  // @warp-load
}
TEST_CASE("race: a shuffle in place of __syncwarp", "[simt][race]") {
  std::vector<int> out(32);
  require_race(report_of(warp_exchange<false>, 1, 32, out.data()), "read after write", "warp-store",
               "warp-load");
  CHECK(report_of(warp_exchange<true>, 1, 32, out.data()) == "");
  CHECK(out[0] == 1);
}

// Warp 0 produces, warp 1 consumes; barrier 1 has both, or each has its own.
template <bool kOrdered>
DSV4_KERNEL(64)
named(int* out) {
  DSV4_SHARED(int[32], s);
  const int lane = arch::lane_id();
  if (arch::warp_id() == 0) {
    s[lane] = lane;  // @named-store
    if (kOrdered)
      arch::named_barrier_arrive(1, 64);
    else
      arch::named_barrier_sync(2, 32);
  } else {
    arch::named_barrier_sync(1, kOrdered ? 64 : 32);
    out[lane] = s[31 - lane];  // @named-load
  }
}
TEST_CASE("race: a named barrier that leaves the producer out", "[simt][race]") {
  std::vector<int> out(32);
  require_race(report_of(named<false>, 1, 64, out.data()), "RACE: ", "named-store", "named-load");
  CHECK(report_of(named<true>, 1, 64, out.data()) == "");
}

template <bool kOrdered>
DSV4_KERNEL(64)
async_copy(const int* in, int* out) {
  DSV4_SHARED(int[256], s);
  const unsigned t = arch::thread_idx().x;
  arch::cp_async<16>(s + 4 * t, in + 4 * t);  // @copy
  arch::cp_async_commit();
  arch::cp_async_wait<0>();
  if (kOrdered) arch::sync_threads();
  out[t] = s[255 - t];  // @copied
}
TEST_CASE("race: cp.async waited for by its issuer, but no barrier", "[simt][race]") {
  std::vector<int> in(256, 7), out(64);
  require_race(report_of(async_copy<false>, 1, 64, in.data(), out.data()), "RACE: ", "copy", "copied");
  CHECK(report_of(async_copy<true>, 1, 64, in.data(), out.data()) == "");
  CHECK(out[0] == 7);
}

template <bool kOrdered>
DSV4_KERNEL(64)
shared_counter(unsigned* out) {
  DSV4_SHARED(unsigned, n);
  if (arch::thread_idx().x == 0) n = 0;
  arch::sync_threads();
  if (kOrdered)
    arch::atomic_add<Order::kRelaxed, Scope::kBlock>(&n, 1);
  else
    n = n + 1;  // @increment
  arch::sync_threads();
  if (arch::thread_idx().x == 0) *out = n;
}
TEST_CASE("race: a shared counter without an atomic", "[simt][race]") {
  unsigned out = 0;
  require_race(report_of(shared_counter<false>, 1, 64, &out), "shared memory", "increment", "increment");
  CHECK(report_of(shared_counter<true>, 1, 64, &out) == "");
  CHECK(out == 64);
}

// ---- global memory ---------------------------------------------------------------------------------------
// Each thread owns some bytes of an 8-byte word: legal. Two threads own the same byte: not.
template <class T, bool kOrdered>
DSV4_KERNEL(64)
neighbours(T* out) {
  const unsigned t = arch::block_idx().x * 64 + arch::thread_idx().x;
  out[kOrdered ? t : t / 2] = static_cast<T>(1);  // @neighbours
}
TEST_CASE("race: neighbouring bytes of different threads do not race, one byte of two threads does",
          "[simt][race]") {
  std::vector<std::uint8_t> bytes(128);
  std::vector<std::uint16_t> halves(128);
  CHECK(report_of(neighbours<std::uint8_t, true>, 2, 64, bytes.data()) == "");
  CHECK(report_of(neighbours<std::uint16_t, true>, 2, 64, halves.data()) == "");
  // The same value twice is a race like any other.
  require_race(report_of(neighbours<std::uint8_t, false>, 2, 64, bytes.data()), "global memory at ",
               "neighbours", "neighbours");
  require_race(report_of(neighbours<std::uint16_t, false>, 2, 64, halves.data()), "write after write",
               "neighbours", "neighbours");
}

enum class Publish { kPlain, kRelaxed, kRelease, kFence, kNarrowFence, kBlockScope, kExchange };
// Block 0 writes a datum and raises a flag, block 1 waits for the flag.
template <Publish kHow>
DSV4_KERNEL(32)
publish(int* datum, unsigned* flag, int* out) {
  if (arch::thread_idx().x != 0) return;
  if (arch::block_idx().x == 0) {
    *datum = 42;  // @publish
    if (kHow == Publish::kPlain) *flag = 1;
    if (kHow == Publish::kRelaxed) arch::store_relaxed(flag, 1);
    if (kHow == Publish::kRelease) arch::store_release(flag, 1);
    if (kHow == Publish::kBlockScope) arch::store_release<Scope::kBlock>(flag, 1);
    if (kHow == Publish::kExchange) arch::atomic_exch<Order::kRelease>(flag, 1);
    if (kHow == Publish::kFence || kHow == Publish::kNarrowFence) {
      if (kHow == Publish::kFence)
        arch::fence();
      else
        arch::fence<Scope::kBlock>();
      arch::store_relaxed(flag, 1);
    }
  } else {
    if (kHow == Publish::kPlain) {
    } else if (kHow == Publish::kFence) {
      while (arch::load_relaxed(flag) == 0) arch::nanosleep(20);
      arch::fence();
    } else {
      while (arch::load_acquire(flag) == 0) {
      }
    }
    *out = *datum;  // @consume
  }
}
template <Publish kHow>
std::string publish_report() {
  int datum = 0, out = 0;
  unsigned flag = 0;
  std::string report = report_of(publish<kHow>, 2, 32, &datum, &flag, &out);
  if (report.empty() && kHow != Publish::kPlain) CHECK(out == 42);
  return report;
}
TEST_CASE("race: blocks that publish data through a flag", "[simt][race]") {
  simt::Options o = simt::options();
  o.resident_blocks = GENERATE(1, 2);  // ordered or not is no matter of what ran side by side
  const simt::ScopedOptions scope(o);
  CHECK(publish_report<Publish::kRelease>() == "");
  CHECK(publish_report<Publish::kFence>() == "");
  CHECK(publish_report<Publish::kExchange>() == "");
  require_race(publish_report<Publish::kPlain>(), "global memory at ", "publish", "consume");
  require_race(publish_report<Publish::kRelaxed>(), "read after write", "publish", "consume");
  if (o.resident_blocks == 1) {  // within a gang narrow scopes count as wide ones
    require_race(publish_report<Publish::kBlockScope>(), "read after write", "publish", "consume");
    require_race(publish_report<Publish::kNarrowFence>(), "read after write", "publish", "consume");
  }
}

enum class LastBlock { kOrdered, kNoFence, kNoAcquire, kFenceBeforeBarrier };
// The block that finishes last adds up what all blocks wrote.
template <LastBlock kHow>
DSV4_KERNEL(64)
last_block(int* part, unsigned* done, int* out) {
  DSV4_SHARED(bool, last);
  const unsigned t = arch::thread_idx().x, b = arch::block_idx().x, n = arch::grid_dim().x;
  part[b * 64 + t] = static_cast<int>(b);  // @part
  if (kHow == LastBlock::kFenceBeforeBarrier && t == 0) arch::fence();
  arch::sync_threads();
  if (t == 0) {
    if (kHow == LastBlock::kOrdered || kHow == LastBlock::kNoAcquire) arch::fence();
    last = arch::atomic_add(done, 1) == n - 1;
    if (kHow == LastBlock::kOrdered || kHow == LastBlock::kFenceBeforeBarrier) arch::fence();
  }
  arch::sync_threads();
  if (!last) return;
  int sum = 0;
  for (unsigned i = 0; i < n; ++i) sum += part[i * 64 + t];  // @sum
  out[t] = sum;
}
template <LastBlock kHow>
std::string last_block_report(unsigned blocks) {
  std::vector<int> part(64 * blocks), out(64);
  unsigned done = 0;
  const std::string report = report_of(last_block<kHow>, blocks, 64, part.data(), &done, out.data());
  if (report.empty()) CHECK(out[63] == static_cast<int>(blocks * (blocks - 1) / 2));
  return report;
}
TEST_CASE("race: the last block to arrive reads what the others wrote", "[simt][race]") {
  CHECK(last_block_report<LastBlock::kOrdered>(5) == "");
  require_race(last_block_report<LastBlock::kNoFence>(5), "global memory at ", "part", "sum");
  require_race(last_block_report<LastBlock::kNoAcquire>(5), "global memory at ", "part", "sum");
  // A fence speaks for its own thread: what the others of its block write is not yet ordered before it.
  require_race(last_block_report<LastBlock::kFenceBeforeBarrier>(5), "global memory at ", "part", "sum");
}

template <Order kOrder>
DSV4_KERNEL(32)
last_block_acq_rel(int* part, unsigned* done, int* out) {
  if (arch::thread_idx().x != 0) return;
  const unsigned b = arch::block_idx().x, n = arch::grid_dim().x;
  part[b] = 1;
  if (arch::atomic_add<kOrder>(done, 1) != n - 1) return;
  int sum = 0;
  for (unsigned i = 0; i < n; ++i) sum += part[i];
  *out = sum;
}
TEST_CASE("race: order of atomics themselves", "[simt][race]") {
  std::vector<int> part(9);
  int out = 0;
  unsigned done = 0;
  CHECK(report_of(last_block_acq_rel<Order::kAcqRel>, 9, 32, part.data(), &done, &out) == "");
  CHECK(out == 9);
  for (const bool release : {false, true}) {
    done = 0;
    const std::string report =
        release ? report_of(last_block_acq_rel<Order::kRelease>, 9, 32, part.data(), &done, &out)
                : report_of(last_block_acq_rel<Order::kAcquire>, 9, 32, part.data(), &done, &out);
    if (simt::Watch::kSeesPlain) CHECK(report.find("RACE: read after write") != std::string::npos);
  }
}

// Write after read between blocks, and atomics beside plain accesses.
DSV4_KERNEL(32)
write_after_read(const int* in, int* in_again, int* out) {
  const unsigned t = arch::thread_idx().x;
  if (arch::block_idx().x == 0)
    out[t] = in[t];  // @first-reads
  else
    arch::store(in_again + t, 5);  // @then-writes
}
DSV4_KERNEL(32)
mixed(unsigned* n, unsigned* out) {
  if (arch::thread_idx().x != 0) return;
  if (arch::block_idx().x == 0)
    arch::atomic_add(n, 1);  // @atomic
  else
    *out = *n;  // @plain
}
DSV4_KERNEL(32) atomics_alone(unsigned* n) {
  arch::atomic_add(n, 1);
  arch::atomic_max(n + 1, arch::thread_idx().x);
  static_cast<void>(arch::load_relaxed(n));
}
TEST_CASE("race: write after read, and a plain read of what atomics change", "[simt][race]") {
  std::vector<int> in(32), out(32);
  require_race(report_of(write_after_read, 2, 32, in.data(), in.data(), out.data()), "write after read",
               "first-reads", "then-writes");
  unsigned n[2] = {}, copy = 0;
  require_race(report_of(mixed, 2, 32, n, &copy), "read after atomic write", "atomic", "plain");
  n[0] = 0;
  CHECK(report_of(atomics_alone, 4, 32, n) == "");
  CHECK(n[0] == 128);
  CHECK(n[1] == 31);
}

DSV4_KERNEL(32) through_nc(int* data, int* out) {
  const unsigned t = arch::thread_idx().x;
  data[t] = 3;                                            // @own-store
  out[t] = arch::load<arch::Cache::kReadOnly>(data + t);  // @nc-load
}
TEST_CASE("race: a read-only load of what the launch wrote, even in order", "[simt][race]") {
  std::vector<int> data(32), out(32);
  require_race(report_of(through_nc, 1, 32, data.data(), out.data()), "a read-only load", "own-store",
               "nc-load");
}

// ---- launches --------------------------------------------------------------------------------------------
DSV4_KERNEL(256) fill(int* p, int v) { p[arch::block_idx().x * 256 + arch::thread_idx().x] = v; }
DSV4_KERNEL(256) shift(const int* in, int* out, unsigned n) {
  const unsigned i = arch::block_idx().x * 256 + arch::thread_idx().x;
  out[i] = in[(i + 256) % n];
}
TEST_CASE("race: launches are ordered", "[simt][race]") {
  constexpr unsigned kBlocks = 257;
  std::vector<int> a(kBlocks * 256), b(kBlocks * 256);
  for (int round = 1; round <= 2; ++round) {
    CHECK(report_of(fill, kBlocks, 256, a.data(), round) == "");
    CHECK(report_of(shift, kBlocks, 256, a.data(), b.data(), kBlocks * 256u) == "");
    CHECK(b[0] == round);
  }
}

TEST_CASE("race: a report names the offset in a watched range", "[simt][race]") {
  std::vector<std::uint8_t> bytes(128);
  const simt::Watch watch(bytes.data(), bytes.size());
  require_race(report_of(neighbours<std::uint8_t, false>, 1, 64, bytes.data()),
               "of a watched range of 128 bytes", "neighbours", "neighbours");
}

}  // namespace
