// Launches of the SIMT machine: shapes, arguments, options, counters, OS threads, and errors as values.
#include <dsv4/arch/atomic.cuh>
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/support/catch.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using namespace dsv4;

namespace {

struct Message {
  int a, b;
};

DSV4_KERNEL(1024) index_kernel(int* out, Message m) {
  const auto t = arch::thread_idx(), d = arch::block_dim(), b = arch::block_idx(), g = arch::grid_dim();
  const unsigned thread = (t.z * d.y + t.y) * d.x + t.x, block = (b.z * g.y + b.y) * g.x + b.x;
  out[block * d.x * d.y * d.z + thread] = static_cast<int>(block * 10000 + thread) + m.a * m.b;
}

DSV4_KERNEL(64) trap_kernel(unsigned bad_block) {
  arch::sync_threads();
  if (arch::block_idx().x == bad_block && arch::thread_idx().x == 33)
    simt::trap("told to", simt::Loc::current());
  arch::sync_threads();
}

/// Each lane takes a place in `order` as it comes by, before and after a barrier; the atomic count keeps the
/// places apart.
DSV4_KERNEL(32) order_kernel(int* order, unsigned* count) {
  order[arch::atomic_add(count, 1u)] = arch::lane_id();
  arch::sync_threads();
  order[arch::atomic_add(count, 1u)] = arch::lane_id();
}

std::string error_of(const simt::LaunchShape& shape) {
  try {
    simt::launch("index_kernel", index_kernel, shape, static_cast<int*>(nullptr), Message{});
  } catch (const simt::KernelError& e) {
    return e.what();
  }
  return "";
}

struct Environment {
  const char* name;
  Environment(const char* n, const char* value) : name(n) { ::setenv(n, value, 1); }
  ~Environment() { ::unsetenv(name); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
};

}  // namespace

TEST_CASE("every thread of a grid runs once, with its indices and a copy of the arguments",
          "[simt][launch]") {
  const int workers = GENERATE(1, 2, 3), resident = GENERATE(1, 2, 5);
  simt::Options o = simt::options();
  o.workers = workers;
  o.resident_blocks = resident;
  const simt::ScopedOptions scope(o);
  std::vector<int> out(2 * 3 * 2 * 4 * 5 * 3, -1);
  simt::launch("index_kernel", index_kernel, {.grid = {2, 3, 2}, .block = {4, 5, 3}}, out.data(),
               Message{6, 7});
  for (int i = 0; i < static_cast<int>(out.size()); ++i)
    REQUIRE(out[static_cast<std::size_t>(i)] == i / 60 * 10000 + i % 60 + 42);
}

TEST_CASE("a launch is refused for what a device would refuse", "[simt][launch]") {
  CHECK(error_of({.grid = {1}, .block = {1025}}).find("1025") != std::string::npos);
  CHECK(error_of({.grid = {1}, .block = {1, 1, 65}}).find("z at most 64") != std::string::npos);
  CHECK(error_of({.grid = {0}, .block = {32}}).find("grid of 0 x 1 x 1") != std::string::npos);
  CHECK(error_of({.grid = {1, 65536}, .block = {32}}).find("65536") != std::string::npos);
  CHECK(error_of({.grid = {3}, .block = {32}, .cluster = {2}}).find("multiple of the cluster") !=
        std::string::npos);
  CHECK(error_of({.grid = {1}, .block = {32}, .shared_bytes = 232449}).find("232449") != std::string::npos);
}

TEST_CASE("an error names kernel, block, thread, warp, lane and line, and stops the launch",
          "[simt][launch]") {
  const unsigned bad = GENERATE(0u, 3u);
  std::string what;
  try {
    simt::launch("trap_kernel", trap_kernel, {.grid = {5}, .block = {64}}, bad);
  } catch (const simt::KernelError& e) {
    what = e.what();
  }
  CAPTURE(what);
  CHECK(what.find("kernel trap_kernel: told to") != std::string::npos);
  CHECK(what.find("launch_test.cpp:") != std::string::npos);
  CHECK(what.find("block (" + std::to_string(bad) + ",0,0) thread (33,0,0) [warp 1 lane 1]") !=
        std::string::npos);
  // The machine is whole afterwards.
  simt::launch("trap_kernel", trap_kernel, {.grid = {5}, .block = {64}}, 99u);
}

TEST_CASE("arch::launch turns an error into a Status that carries the report", "[simt][launch]") {
  const Status bad =
      arch::launch("trap_kernel", trap_kernel, {.grid = {2, 1, 1}, .block = {64, 1, 1}}, nullptr, 1u);
  CHECK(bad.code == Code::kCuda);
  CHECK(std::string(bad.what).find("told to") != std::string::npos);
  CHECK(arch::launch("trap_kernel", trap_kernel, {.grid = {2, 1, 1}, .block = {64, 1, 1}}, nullptr, 9u).ok());
}

TEST_CASE("schedules: fifo in order, lifo in reverse, random by seed", "[simt][launch]") {
  const auto order = [](simt::Schedule schedule, std::uint64_t seed) {
    simt::Options o;
    o.schedule = schedule;
    o.seed = seed;
    o.workers = 1;
    const simt::ScopedOptions scope(o);
    std::vector<int> lanes(64, -1);
    unsigned count = 0;
    simt::launch("order_kernel", order_kernel, {.grid = {1}, .block = {32}}, lanes.data(), &count);
    return lanes;
  };
  const std::vector<int> fifo = order(simt::Schedule::kFifo, 1), lifo = order(simt::Schedule::kLifo, 1);
  for (int i = 0; i < 32; ++i) CHECK(fifo[static_cast<std::size_t>(i)] == i);
  REQUIRE(lifo.size() == 64);
  CHECK(lifo != fifo);
  CHECK(lifo[1] == 31);  // the first to run is the first made ready; then the last
  CHECK(order(simt::Schedule::kRandom, 5) == order(simt::Schedule::kRandom, 5));
  CHECK(order(simt::Schedule::kRandom, 5) != order(simt::Schedule::kRandom, 6));
}

TEST_CASE("counters add up over blocks and workers", "[simt][launch]") {
  simt::reset_counters();
  simt::launch("trap_kernel", trap_kernel, {.grid = {7}, .block = {64}}, 99u);
  simt::launch("trap_kernel", trap_kernel, {.grid = {2}, .block = {64}}, 99u);
  const simt::Counters c = simt::counters();
  CHECK(c.launches == 2);
  CHECK(c.blocks == 9);
  CHECK(c.barriers == 18);
  CHECK(c.warp_collectives == 0);
}

TEST_CASE("launches from several host threads take turns", "[simt][launch]") {
  std::vector<std::vector<int>> out(4, std::vector<int>(256, -1));
  std::vector<std::thread> threads;
  for (auto& o : out)
    threads.emplace_back([&o] {
      for (int i = 0; i < 20; ++i)
        simt::launch("index_kernel", index_kernel, {.grid = {4}, .block = {64}}, o.data(), Message{1, i});
    });
  for (std::thread& t : threads) t.join();
  for (const auto& o : out)
    for (int i = 0; i < 256; ++i) REQUIRE(o[static_cast<std::size_t>(i)] == i / 64 * 10000 + i % 64 + 19);
}

TEST_CASE("options come from the environment, and a bad variable is named", "[simt][launch]") {
  {
    const Environment async("DSV4_SIMT_ASYNC", "random"), schedule("DSV4_SIMT_SCHEDULE", "lifo"),
        rounding("DSV4_SIMT_ROUNDING", "hopper"), seed("DSV4_SIMT_SEED", "77"),
        spurious("DSV4_SIMT_SPURIOUS", "0.25"), workers("DSV4_SIMT_WORKERS", "3"),
        resident("DSV4_SIMT_RESIDENT", "4");
    const simt::Options o = simt::Options::from_environment();
    CHECK(o.async == simt::Async::kRandom);
    CHECK(o.schedule == simt::Schedule::kLifo);
    CHECK(o.rounding == simt::Rounding::kHopper);
    CHECK(o.seed == 77);
    CHECK(o.spurious_try_wait == 0.25);
    CHECK(o.workers == 3);
    CHECK(o.resident_blocks == 4);
  }
  const auto refused = [](const char* name, const char* value) {
    const Environment e(name, value);
    try {
      simt::Options::from_environment();
    } catch (const std::invalid_argument& error) {
      return std::string(error.what()).find(std::string(name) + "=" + value) != std::string::npos;
    }
    return false;
  };
  CHECK(refused("DSV4_SIMT_ASYNC", "sometimes"));
  CHECK(refused("DSV4_SIMT_SCHEDULE", "FIFO"));
  CHECK(refused("DSV4_SIMT_WORKERS", "many"));
  CHECK(refused("DSV4_SIMT_SPURIOUS", "1"));
}
