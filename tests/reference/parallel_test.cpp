#include "reference/parallel.hpp"

#include "tests/support/catch.hpp"

#include <atomic>
#include <stdexcept>
#include <vector>

using dsv4::reference::Scratch;
using dsv4::reference::ThreadPool;

TEST_CASE("ThreadPool: every item once, whatever the threads and the grain", "[parallel]") {
  const int threads = GENERATE(1, 2, 5);
  const std::int64_t grain = GENERATE(0, 1, 7, 1000);
  ThreadPool pool(threads);
  REQUIRE(pool.threads() == threads);
  for (const std::int64_t count : {0, 1, 2, 7, 8, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
    pool.run(count, grain, [&](std::int64_t begin, std::int64_t end, Scratch& scratch) {
      float* mine = scratch.floats(end - begin);
      for (std::int64_t i = begin; i < end; ++i) mine[i - begin] = static_cast<float>(i);
      for (std::int64_t i = begin; i < end; ++i) calls[static_cast<std::size_t>(mine[i - begin])]++;
    });
    for (const auto& c : calls) REQUIRE(c == 1);
  }
}

TEST_CASE("ThreadPool: an exception reaches the caller and the pool goes on", "[parallel]") {
  ThreadPool pool(3);
  const auto fail = [](std::int64_t begin, std::int64_t, Scratch&) {
    if (begin == 40) throw std::runtime_error("item 40");
  };
  for (int i = 0; i < 20; ++i) REQUIRE_THROWS_AS(pool.run(100, 1, fail), std::runtime_error);
  std::atomic<int> sum = 0;
  pool.run(100, 1,
           [&](std::int64_t begin, std::int64_t end, Scratch&) { sum += static_cast<int>(end - begin); });
  REQUIRE(sum == 100);
}

TEST_CASE("ThreadPool: many short loops in a row", "[parallel]") {
  ThreadPool pool(2);
  std::int64_t total = 0;
  for (int i = 0; i < 20000; ++i) {
    std::atomic<std::int64_t> sum = 0;
    pool.run(2, 1, [&](std::int64_t begin, std::int64_t end, Scratch&) { sum += begin + end; });
    total += sum;
  }
  REQUIRE(total == 20000 * 4);
}
