// Scans, reductions and sorts of a block on the SIMT machine against the standard library.
#include <dsv4/arch/block.cuh>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

namespace {

using namespace dsv4;

template <class T>
struct ScanOutput {
  T* exclusive;
  T* inclusive;
  T* total;
};

template <int kThreads, class T>
void scan_kernel(const T* in, ScanOutput<T> out) {
  using Scan = arch::BlockScan<kThreads, T>;
  DSV4_SHARED(typename Scan::Storage, storage);
  const unsigned i = arch::thread_idx().x;
  T total_exclusive, total_inclusive;
  out.exclusive[i] = Scan::exclusive_sum(storage, in[i], total_exclusive);
  out.inclusive[i] = Scan::inclusive_sum(storage, in[i], total_inclusive);
  out.total[i] = total_exclusive == total_inclusive ? total_exclusive : T{-1};
}

template <class T>
struct ReduceOutput {
  T* sum;
  T* min;
  T* max;
};

template <int kThreads, class T>
void reduce_kernel(const T* in, ReduceOutput<T> out) {
  using Reduce = arch::BlockReduce<kThreads, T>;
  DSV4_SHARED(typename Reduce::Storage, storage);
  const unsigned i = arch::thread_idx().x;
  out.sum[i] = Reduce::sum(storage, in[i]);
  out.min[i] = Reduce::min(storage, in[i]);
  out.max[i] = Reduce::max(storage, in[i]);
}

template <int kThreads, int kItems>
void sort_kernel(std::uint32_t* keys, std::uint32_t* values, int begin_bit, int end_bit, bool descending) {
  using Sort = arch::BlockSort<kThreads, kItems>;
  DSV4_SHARED(typename Sort::Storage, storage);
  const unsigned first = arch::thread_idx().x * kItems;
  std::uint32_t k[kItems], v[kItems];
  for (unsigned i = 0; i < kItems; ++i) {
    k[i] = keys[first + i];
    v[i] = values[first + i];
  }
  if (descending)
    Sort::descending(storage, k, v, begin_bit, end_bit);
  else
    Sort::ascending(storage, k, v, begin_bit, end_bit);
  for (unsigned i = 0; i < kItems; ++i) {
    keys[first + i] = k[i];
    values[first + i] = v[i];
  }
}

void divergent_kernel(int* out) {
  using Reduce = arch::BlockReduce<64>;
  DSV4_SHARED(Reduce::Storage, storage);
  if (arch::thread_idx().x < 32) *out = Reduce::sum(storage, 1);
}

simt::LaunchShape one_block(int threads) {
  simt::LaunchShape shape;
  shape.block.x = static_cast<unsigned>(threads);
  return shape;
}

template <class T>
std::vector<T> numbers(int n, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<T> v(static_cast<std::size_t>(n));
  for (T& x : v) x = static_cast<T>(random.integer(-1000, 1000));
  return v;
}

template <int kThreads, class T>
void check_scan() {
  const auto n = static_cast<std::size_t>(kThreads);
  const std::vector<T> in = numbers<T>(kThreads, 3);
  std::vector<T> exclusive(n), inclusive(n), total(n), expected(n);
  simt::launch("scan", scan_kernel<kThreads, T>, one_block(kThreads), in.data(),
               ScanOutput<T>{exclusive.data(), inclusive.data(), total.data()});
  std::partial_sum(in.begin(), in.end(), expected.begin());
  CHECK(inclusive == expected);
  CHECK(total == std::vector<T>(n, expected.back()));
  for (std::size_t i = 0; i < n; ++i) expected[i] -= in[i];
  CHECK(exclusive == expected);
}

template <int kThreads, class T>
void check_reduce() {
  const auto n = static_cast<std::size_t>(kThreads);
  const std::vector<T> in = numbers<T>(kThreads, 4);
  std::vector<T> sum(n), min(n), max(n);
  simt::launch("reduce", reduce_kernel<kThreads, T>, one_block(kThreads), in.data(),
               ReduceOutput<T>{sum.data(), min.data(), max.data()});
  CHECK(sum == std::vector<T>(n, std::accumulate(in.begin(), in.end(), T{0})));
  CHECK(min == std::vector<T>(n, *std::min_element(in.begin(), in.end())));
  CHECK(max == std::vector<T>(n, *std::max_element(in.begin(), in.end())));
}

template <int kThreads, int kItems>
void check_sort(std::uint32_t key_mask, int begin_bit, int end_bit, bool descending) {
  CAPTURE(kThreads, kItems, key_mask, begin_bit, end_bit, descending);
  constexpr std::size_t n = kThreads * kItems;
  test::Random random(5);
  std::vector<std::uint32_t> keys(n), values(n);
  for (std::size_t i = 0; i < n; ++i) {
    keys[i] = random.bits() & key_mask;
    values[i] = static_cast<std::uint32_t>(i);  // original place: shows whether equal keys kept their order
  }
  std::vector<std::uint32_t> order = values;
  const std::uint32_t field =
      end_bit - begin_bit == 32 ? ~0u : ((1u << (end_bit - begin_bit)) - 1) << begin_bit;
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    const std::uint32_t ka = keys[a] & field, kb = keys[b] & field;
    return descending ? ka > kb : ka < kb;
  });
  std::vector<std::uint32_t> expected;
  for (const std::uint32_t i : order) expected.push_back(keys[i]);
  simt::launch("sort", sort_kernel<kThreads, kItems>, one_block(kThreads), keys.data(), values.data(),
               begin_bit, end_bit, descending);
  CHECK(values == order);
  CHECK(keys == expected);
}

}  // namespace

TEST_CASE("block scans give prefix sums and the total", "[arch][block]") {
  check_scan<32, int>();
  check_scan<128, int>();
  check_scan<96, long long>();
  check_scan<1024, int>();
}

TEST_CASE("block reductions give every thread the result", "[arch][block]") {
  check_reduce<32, int>();
  check_reduce<256, long long>();
  check_reduce<1024, int>();
}

TEST_CASE("unsigned block sums wrap, and order as unsigned", "[arch][block]") {
  std::vector<unsigned> in(64, 0x90000000u), sum(64), min(64), max(64);
  in[7] = 5;
  simt::launch("reduce", reduce_kernel<64, unsigned>, one_block(64), in.data(),
               ReduceOutput<unsigned>{sum.data(), min.data(), max.data()});
  unsigned expected = 0;
  for (const unsigned x : in) expected += x;
  CHECK(sum == std::vector<unsigned>(64, expected));
  CHECK(min == std::vector<unsigned>(64, 5u));
  CHECK(max == std::vector<unsigned>(64, 0x90000000u));
}

TEST_CASE("block sorts are stable", "[arch][block]") {
  const bool descending = GENERATE(false, true);
  check_sort<32, 1>(~0u, 0, 32, descending);
  check_sort<128, 4>(~0u, 0, 32, descending);
  check_sort<128, 3>(7u, 0, 32, descending);  // many equal keys
  check_sort<256, 8>(0xffffu, 4, 9, descending);
  check_sort<1024, 2>(0xffu, 0, 8, descending);
}

TEST_CASE("block primitives work under every schedule", "[arch][block]") {
  for (const auto schedule : {simt::Schedule::kFifo, simt::Schedule::kLifo, simt::Schedule::kRandom}) {
    simt::Options o = simt::options();
    o.schedule = schedule;
    const simt::ScopedOptions scope(o);
    check_scan<128, int>();
    check_reduce<128, int>();
    check_sort<128, 2>(31u, 0, 32, false);
  }
}

TEST_CASE("a block primitive that not all threads call is an error", "[arch][block]") {
  int out = 0;
  std::string report;
  try {
    simt::launch("divergent", divergent_kernel, one_block(64), &out);
  } catch (const simt::KernelError& e) {
    report = e.what();
  }
  CHECK(report.find("BARRIER DIVERGENCE") != std::string::npos);
  CHECK(report.find("block_test.cpp") != std::string::npos);
}
