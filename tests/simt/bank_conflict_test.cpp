// Bank conflicts of plain shared accesses, which instrumented builds count.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/support/catch.hpp"

#include <cstdint>
#include <vector>

namespace {

using namespace dsv4;

struct Conflicts {
  std::uint64_t wavefronts, conflicts;
};

template <class... P, class... A>
Conflicts measure(void (*kernel)(P...), unsigned threads, A... arguments) {
  simt::reset_counters();
  simt::launch("kernel_under_test", kernel, {{1, 1, 1}, {threads, 1, 1}, {}, 0, false}, arguments...);
  const simt::Counters c = simt::counters();
  return {c.shared_wavefronts, c.shared_bank_conflicts};
}

bool counted() {
  if (!simt::Watch::kSeesPlain) WARN("skipped: this build does not instrument kernels");
  return simt::Watch::kSeesPlain;
}

// 32 x 32 words by 8 warps: rows in, columns out.
template <int kPitch>
DSV4_KERNEL(256)
transpose(const int* in, int* out) {
  DSV4_SHARED(int[32 * kPitch], tile);
  const int lane = arch::lane_id(), warp = static_cast<int>(arch::thread_idx().x) / 32;
  for (int r = warp; r < 32; r += 8) tile[r * kPitch + lane] = in[r * 32 + lane];
  arch::sync_threads();
  for (int r = warp; r < 32; r += 8) out[r * 32 + lane] = tile[lane * kPitch + r];
}

TEST_CASE("bank conflicts: a transpose with and without padding", "[simt][banks]") {
  std::vector<int> in(1024), out(1024);
  for (int i = 0; i < 1024; ++i) in[static_cast<std::size_t>(i)] = i;
  const Conflicts padded = measure(transpose<33>, 256, in.data(), out.data());
  CHECK(out[1] == 32);
  const Conflicts plain = measure(transpose<32>, 256, in.data(), out.data());
  if (!counted()) return;
  CHECK(padded.wavefronts == 64);
  CHECK(padded.conflicts == 0);
  CHECK(plain.wavefronts == 32 + 32 * 32);  // every column lies in one bank
  CHECK(plain.conflicts == 32 * 31);
}

// Lanes that a different predicate holds for in each round store one after the other.
DSV4_KERNEL(32) compaction(const int* in, int* out) {
  DSV4_SHARED(int[128], kept);
  const int lane = arch::lane_id();
  int at = 0;
  for (int round = 0; round < 4; ++round) {
    const bool keep = in[round * 32 + lane] % (round + 2) == 0;
    const unsigned keeps = arch::ballot(keep);
    if (keep) kept[at + arch::count_lanes(keeps & arch::lanes_before())] = in[round * 32 + lane];
    at += arch::count_lanes(keeps);
  }
  arch::sync_warp();
  for (int i = lane; i < at; i += 32) out[i] = kept[i];
}

TEST_CASE("bank conflicts: a vote tells the rounds of a loop apart", "[simt][banks]") {
  std::vector<int> in(128), out(128), want;
  for (int i = 0; i < 128; ++i) {
    in[static_cast<std::size_t>(i)] = i * 7 % 128;
    if (i * 7 % 128 % (i / 32 + 2) == 0) want.push_back(i * 7 % 128);
  }
  const Conflicts c = measure(compaction, 32, in.data(), out.data());
  out.resize(want.size());
  CHECK(out == want);
  if (counted()) CHECK(c.conflicts == 0);
}

template <class Word, int kStride>
DSV4_KERNEL(32)
strided(int* out) {
  DSV4_SHARED(Word[32 * kStride], s);
  const int lane = arch::lane_id();
  s[lane * kStride] = Word{};
  if (lane == 0) *out = 1;
}

TEST_CASE("bank conflicts: strides and widths", "[simt][banks]") {
  int out = 0;
  const auto of = [&out](void (*kernel)(int*)) { return measure(kernel, 32, &out); };
  struct Expected {
    void (*kernel)(int*);
    std::uint64_t wavefronts, conflicts;
  };
  using Half = std::uint16_t;
  using Wide = arch::Vec<int, 2>;
  using Wider [[maybe_unused]] = arch::Vec<int, 4>;
  const Expected cases[] = {
    {strided<int, 1>, 1, 0},
    {strided<int, 2>, 2, 1},
    {strided<int, 3>, 1, 0},
    {strided<int, 32>, 32, 31},
    {strided<Half, 1>, 1, 0},  // two lanes share a word
    {strided<Wide, 1>, 2, 0},  // a wavefront for each half of the warp
    {strided<Wide, 2>, 4, 2},
#if !defined(__clang__)         // clang 14 makes a call of it, which is not seen
    {strided<Wider, 1>, 4, 0},  // and for each quarter
#endif
  };
  for (const Expected& e : cases) {
    const Conflicts c = of(e.kernel);
    if (!counted()) return;
    CAPTURE(&e - cases);
    CHECK(c.wavefronts == e.wavefronts);
    CHECK(c.conflicts == e.conflicts);
  }
}

// Half of the lanes skip a round: those that are there still access together.
DSV4_KERNEL(32) broadcast_and_partial(int* out) {
  DSV4_SHARED(int[64], s);
  const int lane = arch::lane_id();
  s[lane] = lane;
  arch::sync_warp();
  int sum = s[5];  // all lanes, one word
  arch::sync_warp();
  if (lane < 16) sum += s[2 * lane];
  arch::sync_warp();
  out[lane] = sum + s[lane ^ 1];
}

TEST_CASE("bank conflicts: broadcasts and absent lanes", "[simt][banks]") {
  std::vector<int> out(32);
  const Conflicts c = measure(broadcast_and_partial, 32, out.data());
  CHECK(out[0] == 5 + 0 + 1);
  if (!counted()) return;
  CHECK(c.wavefronts == 4);
  CHECK(c.conflicts == 0);
}

}  // namespace
