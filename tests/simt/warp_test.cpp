// Exchanges between the lanes of a warp on the machine, and what it says where they are misused.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/simt/counters.hpp>

#include "tests/simt/policies.hpp"

#include <cstdint>
#include <vector>

namespace {

using namespace dsv4;
using test::report_of;
using test::says;
using test::threads;

constexpr unsigned kWarps = 3;

// Every collective against a direct computation, in each warp of a block, with partial masks too.
DSV4_KERNEL(96) collectives(unsigned* errors) {
  const unsigned t = arch::thread_idx().x, lane = t % 32, warp = t / 32;
  const auto value = [warp](unsigned l) { return l * l * 7 + warp * 1000; };
  unsigned wrong = 0;
  const auto expect = [&wrong](bool ok) { wrong += ok ? 0 : 1; };

  for (int width = 1; width <= 32; width *= 2) {
    const unsigned w = static_cast<unsigned>(width), base = lane & ~(w - 1);
    for (unsigned d = 0; d < w; ++d) {
      const int distance = static_cast<int>(d);
      expect(arch::shfl(value(lane), distance, width) == value(base + d));
      expect(arch::shfl_xor(value(lane), distance, width) == value(lane ^ d));
      expect(arch::shfl_up(value(lane), distance, width) == value(lane - base >= d ? lane - d : lane));
      expect(arch::shfl_down(value(lane), distance, width) == value(lane + d < base + w ? lane + d : lane));
    }
  }
  const double x = arch::shfl(0.5 * lane, 31);
  expect(x == 15.5);

  // Threes of lanes, in three masks at once.
  const unsigned kind = lane % 3;
  unsigned mask = 0;
  for (unsigned l = kind; l < 32; l += 3) mask |= 1u << l;
  unsigned sum = 0, all_or = 0;
  for (unsigned l = kind; l < 32; l += 3) {
    sum += value(l);
    all_or |= value(l);
  }
  expect(arch::reduce_add(value(lane), mask) == sum);
  expect(arch::reduce_or(value(lane), mask) == all_or);
  expect(arch::reduce_min(value(lane), mask) == value(kind));
  expect(arch::reduce_max(value(lane), mask) == value(31 - (31 - kind) % 3));
  expect(arch::reduce_min(-static_cast<int>(lane), mask) == -static_cast<int>(31 - (31 - kind) % 3));
  expect(arch::ballot(lane < 16, mask) == (mask & 0xffffu));
  expect(arch::any(lane == 4, mask) == (kind == 1));
  expect(arch::all(lane != 4, mask) == (kind != 1));
  expect(arch::match_all(kind, mask) == mask);
  expect(arch::match_any(lane / 16, mask) == (mask & (lane < 16 ? 0xffffu : 0xffff0000u)));
  unsigned equal = 0;
  for (unsigned l = 0; l < 32; ++l) equal |= unsigned{l % 5 == lane % 5} << l;
  expect(arch::match_any(std::uint64_t{lane % 5} << 33) == equal);
  expect(arch::match_all(lane) == 0);
  expect(arch::ballot(arch::elect_one()) == 1);
  errors[t] = wrong;
}

TEST_CASE("collectives give what they define, for full and partial masks", "[simt][warp]") {
  test::for_each_policy([] {
    std::vector<unsigned> errors(32 * kWarps, 99);
    simt::launch("collectives", collectives, threads(32 * kWarps), errors.data());
    for (const unsigned e : errors) REQUIRE(e == 0);
  });
}

// A block whose last warp has 8 threads.
DSV4_KERNEL(64) short_warp(unsigned* out) {
  const unsigned t = arch::thread_idx().x, mask = t < 32 ? 0xffffffffu : 0xffu;
  out[t] = arch::reduce_add(t, mask);
}
TEST_CASE("a warp of fewer than 32 threads", "[simt][warp]") {
  std::vector<unsigned> out(40);
  simt::launch("short_warp", short_warp, threads(40), out.data());
  CHECK(out[0] == 496);
  CHECK(out[39] == 32 + 33 + 34 + 35 + 36 + 37 + 38 + 39);
}

DSV4_KERNEL(32) counted(unsigned* out) {
  unsigned v = arch::shfl_xor(arch::thread_idx().x, 1);
  arch::sync_warp();
  v += arch::ballot(true, 0xffffffffu);
  out[arch::thread_idx().x] = v;
}
TEST_CASE("collectives are counted once a warp", "[simt][warp][counters]") {
  std::vector<unsigned> out(64);
  simt::reset_counters();
  simt::launch("counted", counted, threads(32), out.data());
  CHECK(simt::counters().warp_collectives == 3);
}

// ---- misuse ----------------------------------------------------------------------------------------------
enum class Misuse {
  kShuffleAndReduce,
  kShuffleAndVote,
  kTwoReductions,
  kHalfExits,
  kExitWhileOthersWait,
  kForeignMask,
  kAbsentLane,
  kReadsOutsideMask,
  kDifferentMasks,
};
DSV4_KERNEL(32) misuse(Misuse what, unsigned* out) {
  const unsigned lane = arch::thread_idx().x;
  const bool half = lane < 16;
  unsigned v = lane;
  switch (what) {
    case Misuse::kShuffleAndReduce:
      v = half ? arch::shfl_xor(v, 1, 32, 0xffffffffu) : arch::reduce_add(v);
      break;
    case Misuse::kShuffleAndVote:
      v = half ? arch::shfl_xor(v, 1) : arch::ballot(true);
      break;
    case Misuse::kTwoReductions:
      v = half ? arch::reduce_min(v) : arch::reduce_max(v);
      break;
    case Misuse::kHalfExits:
      if (half) return;
      v = arch::reduce_add(v);
      break;
    case Misuse::kExitWhileOthersWait:
      if (lane == 31) return;
      v = arch::shfl(v, 0);
      break;
    case Misuse::kForeignMask:
      v = arch::reduce_add(v, 0x0000ffffu);
      break;
    case Misuse::kAbsentLane:
      v = arch::shfl(v, 20, 32, half ? 0xffffu : 0xffff0000u);
      break;
    case Misuse::kReadsOutsideMask:
      if (half) v = arch::shfl_down(v, 8, 32, 0xffffu);
      break;
    case Misuse::kDifferentMasks:
      v = arch::shfl(v, half ? 0 : 16, 32, half ? 0xffffffffu : 0xffff0000u);
      break;
  }
  out[lane] = v;
}

TEST_CASE("misuse of collectives is reported at its line", "[simt][warp]") {
  const auto said = [](Misuse what) {
    std::vector<unsigned> out(32);
    return report_of([&] { simt::launch("misuse", misuse, threads(32), what, out.data()); });
  };
  const auto diverges = [&](Misuse what, const char* one, const char* other) {
    const std::string report = said(what);
    INFO(report);
    CHECK(says(report, "kernel misuse: WARP DIVERGENCE: "));
    CHECK(says(report, one));
    CHECK(says(report, other));
    CHECK(says(report, "warp_test.cpp:"));
    CHECK(says(report, "[warp 0 lane "));
  };
  diverges(Misuse::kShuffleAndReduce, "shfl.bfly", "redux.sync");
  diverges(Misuse::kShuffleAndVote, "shfl.bfly", "vote.ballot");
  diverges(Misuse::kTwoReductions, "redux.sync", "redux.sync");
  diverges(Misuse::kHalfExits, "exited", "redux.sync");
  diverges(Misuse::kExitWhileOthersWait, "shfl.idx", "exited");
  CHECK(says(said(Misuse::kForeignMask), "mask 0x0000ffff does not name the calling lane"));
  CHECK(says(said(Misuse::kReadsOutsideMask), "which is not in mask 0x0000ffff"));
  CHECK(says(said(Misuse::kAbsentLane), "lane 0 reads lane 20, which is not in mask 0x0000ffff"));
  // The upper half goes on and leaves; the lower half waits for it for ever.
  const std::string report = said(Misuse::kDifferentMasks);
  INFO(report);
  CHECK(says(report, "WARP DIVERGENCE: "));
}

}  // namespace
