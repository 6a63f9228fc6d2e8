// cp.async of the SIMT machine: what arrives, when, and which uses are errors.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/core/types.hpp>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/simt/policies.hpp"
#include "tests/support/catch.hpp"

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace dsv4;

using test::report_of;
using test::says;
using test::threads;

template <class F>
void for_each_async(F&& f) {
  for (const auto async : {simt::Async::kEager, simt::Async::kLazy, simt::Async::kRandom}) {
    CAPTURE(static_cast<int>(async));
    simt::Options o = simt::options();
    o.async = async;
    const simt::ScopedOptions scope(o);
    f();
  }
}

// Each thread copies source_bytes of its kBytes.
template <int kBytes>
void copy_kernel(const std::uint8_t* in, std::uint8_t* out, unsigned source_bytes) {
  DSV4_DYN_SMEM(std::uint8_t, s);
  const unsigned t = arch::thread_idx().x;
  arch::cp_async<kBytes>(s + t * kBytes, in + t * kBytes, source_bytes);
  arch::cp_async_wait_all();
  arch::sync_threads();
  // Another thread's bytes, so that the barrier matters.
  const unsigned other = (t + 1) % arch::block_dim().x;
  for (unsigned i = 0; i < kBytes; ++i) out[other * kBytes + i] = s[other * kBytes + i];
}

template <int kBytes>
void check_copy() {
  std::vector<std::uint8_t> in(64 * kBytes), out(in.size()), expected(in.size());
  for (unsigned source_bytes = 0; source_bytes <= kBytes; ++source_bytes) {
    CAPTURE(kBytes, source_bytes);
    for (std::size_t i = 0; i < in.size(); ++i) {
      in[i] = static_cast<std::uint8_t>(i * 7 + 1);
      expected[i] = i % kBytes < source_bytes ? in[i] : 0;
    }
    simt::launch("copy", copy_kernel<kBytes>, threads(64, in.size()), in.data(), out.data(), source_bytes);
    CHECK(out == expected);
  }
}

// Three groups of one copy each; what is there after waiting for all but `newest`, and after the full wait.
void groups_kernel(const float* in, float* after_wait, float* after_all, int newest) {
  DSV4_DYN_SMEM(float, s);
  for (int group = 0; group < 3; ++group) {
    arch::cp_async<4>(s + group, in + group);
    arch::cp_async_commit();
  }
  arch::cp_async<4>(s + 3, in + 3);  // in no group
  switch (newest) {
    case 0:
      arch::cp_async_wait<0>();
      break;
    case 1:
      arch::cp_async_wait<1>();
      break;
    case 2:
      arch::cp_async_wait<2>();
      break;
    default:
      arch::cp_async_wait<7>();
      break;
  }
  for (int i = 0; i < 4; ++i) after_wait[i] = s[i];
  arch::cp_async_wait_all();
  for (int i = 0; i < 4; ++i) after_all[i] = s[i];
}

// The source changes between issue and wait.
void late_source_kernel(float* in, float* out) {
  DSV4_DYN_SMEM(float, s);
  arch::cp_async<4>(s, in);
  *in = 2.0f;
  arch::cp_async_wait_all();
  *out = *s;
}

void unfinished_kernel(const float* in) {
  DSV4_DYN_SMEM(float, s);
  arch::cp_async<4>(s, in);
  arch::cp_async_commit();
}

void placed_kernel(const char* in, int shared_offset, unsigned source_bytes) {
  DSV4_DYN_SMEM(char, s);
  arch::cp_async<8>(s + shared_offset, in, source_bytes);
  arch::cp_async_wait_all();
}

void to_global_kernel(const float* in, float* out) {
  arch::cp_async<4>(out, in);
  arch::cp_async_wait_all();
}

}  // namespace

TEST_CASE("cp.async copies and zero-fills", "[simt][cp_async]") {
  for_each_async([] {
    check_copy<4>();
    check_copy<8>();
    check_copy<16>();
  });
}

TEST_CASE("cp.async is counted a thread", "[simt][cp_async][counters]") {
  std::vector<std::uint8_t> in(64 * 16), out(in.size());
  simt::reset_counters();
  simt::launch("copy", copy_kernel<16>, threads(64, in.size()), in.data(), out.data(), 16u);
  CHECK(simt::counters().cp_async == 64);
}

TEST_CASE("cp.async waits complete the oldest groups only", "[simt][cp_async]") {
  const simt::ScopedOptions scope(test::with(simt::Async::kLazy));
  const float in[4] = {1, 2, 3, 4};
  for (const int newest : {0, 1, 2, 7}) {
    CAPTURE(newest);
    float after_wait[4], after_all[4];
    simt::launch("groups", groups_kernel, threads(1, 16), in, after_wait, after_all, newest);
    for (int i = 0; i < 4; ++i) {
      CAPTURE(i);
      if (i < 3 - newest)
        CHECK(after_wait[i] == in[i]);
      else
        CHECK(std::isnan(after_wait[i]));  // in flight, or in no group
      CHECK(after_all[i] == in[i]);
    }
  }
}

TEST_CASE("cp.async reads its source at issue or as late as the wait", "[simt][cp_async]") {
  const auto result = [](simt::Async async, std::uint64_t seed) {
    simt::Options o = simt::options();
    o.async = async;
    o.seed = seed;
    const simt::ScopedOptions scope(o);
    float in = 1.0f, out = 0.0f;
    simt::launch("late", late_source_kernel, threads(1, 16), &in, &out);
    return out;
  };
  CHECK(result(simt::Async::kEager, 1) == 1.0f);
  CHECK(result(simt::Async::kLazy, 1) == 2.0f);
  int early = 0;
  for (std::uint64_t seed = 1; seed <= 64; ++seed) early += result(simt::Async::kRandom, seed) == 1.0f;
  CHECK(early > 8);
  CHECK(early < 56);
}

TEST_CASE("cp.async leaves the destination alone until it lands, without poison", "[simt][cp_async]") {
  simt::Options o = test::with(simt::Async::kLazy);
  o.poison = false;
  const simt::ScopedOptions scope(o);
  const float in[4] = {1, 2, 3, 4};
  float after_wait[4], after_all[4];
  simt::launch("groups", groups_kernel, threads(1, 16), in, after_wait, after_all, 0);
  for (int i = 0; i < 4; ++i) CHECK(after_all[i] == in[i]);
  simt::launch("groups", groups_kernel, threads(1, 16), in, after_wait, after_all, 7);
  for (int i = 0; i < 4; ++i) CHECK(after_all[i] == in[i]);
}

TEST_CASE("a thread that exits without waiting for its cp.async is an error", "[simt][cp_async]") {
  for_each_async([] {
    const float in = 1;
    const std::string report =
        report_of([&] { simt::launch("unfinished", unfinished_kernel, threads(1, 16), &in); });
    CHECK(says(report, "exited without waiting for 1 of its copies"));
    CHECK(says(report, "cp_async_test.cpp"));
  });
}

TEST_CASE("cp.async refuses what a device would trap at", "[simt][cp_async]") {
  alignas(16) const char in[32] = {};
  const auto with = [&](const char* source, int shared_offset, unsigned source_bytes) {
    return report_of(
        [&] { simt::launch("placed", placed_kernel, threads(1, 64), source, shared_offset, source_bytes); });
  };
  CHECK(with(in, 56, 8).empty());
  CHECK(says(with(in + 4, 0, 8), "not aligned"));
  CHECK(says(with(in, 4, 8), "not aligned"));
  CHECK(says(with(in + 4, 0, 0), "not aligned"));
  CHECK(says(with(in, 0, 9), "9 source bytes for a copy of 8"));
  CHECK(says(with(in, 64, 8), "shared memory out of bounds"));
  float value = 1, out = 0;
  CHECK(says(report_of([&] { simt::launch("to_global", to_global_kernel, threads(1, 16), &value, &out); }),
             "not in this block's shared memory"));
}

#if defined(__SANITIZE_ADDRESS__)
TEST_CASE("cp.async refuses a source outside the kernel's memory", "[simt][cp_async]") {
  const auto with = [](unsigned source_bytes) {
    const auto in = std::make_unique<char[]>(8 + 4);
    return report_of(
        [&] { simt::launch("placed", placed_kernel, threads(1, 64), in.get() + 8, 0, source_bytes); });
  };
  CHECK(with(4).empty());
  CHECK(says(with(8), "global memory out of bounds"));
}
#endif
