// Barriers of a block and of a warp.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>

#include "tests/arch/conformance/case.hpp"

#include <cstdint>
#include <vector>

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

using Kernel = void (*)(std::uint32_t*);
constexpr int kThreads = 128;

Status one_block(const char* name, Kernel kernel, Buffers b, Stream stream) noexcept {
  return arch::launch(name, kernel, {.grid = {1, 1, 1}, .block = {kThreads, 1, 1}}, stream, b.out);
}

DSV4_KERNEL(kThreads) sync_threads(std::uint32_t* out) {
  DSV4_SHARED(std::uint32_t[kThreads], s);
  const unsigned t = arch::thread_idx().x;
  std::uint32_t v = scratch_word(t);
  for (int round = 0; round < 4; ++round) {
    s[t] = v;
    arch::sync_threads();
    v = v * 3 + s[(t + 37) % kThreads];
    arch::sync_threads();
  }
  out[t] = v;
}

DSV4_KERNEL(kThreads) sync_threads_reduce(std::uint32_t* out) {
  const unsigned t = arch::thread_idx().x;
  const bool odd = (scratch_word(t) & 1) != 0;
  const auto count = static_cast<std::uint32_t>(arch::sync_threads_count(odd));
  const bool none = arch::sync_threads_or(t == kThreads), one = arch::sync_threads_or(t == 5);
  const bool every = arch::sync_threads_and(t < kThreads), not_all = arch::sync_threads_and(t != 5);
  out[t] = count << 8 | std::uint32_t{none} << 3 | std::uint32_t{one} << 2 | std::uint32_t{every} << 1 |
           std::uint32_t{not_all};
}

// Warps 0 and 1 produce, 2 and 3 consume, two buffers: each barrier is arrived at by one side and waited for
// by the other.
DSV4_KERNEL(kThreads) named(std::uint32_t* out) {
  DSV4_SHARED(std::uint32_t[2][kThreads / 2], s);
  constexpr std::uint32_t kFull = 1, kEmpty = 3;
  const unsigned t = arch::thread_idx().x, mine = t % (kThreads / 2);
  std::uint32_t sum = 0;
  for (unsigned round = 0; round < 6; ++round) {
    const unsigned buffer = round % 2;
    if (t < kThreads / 2) {
      if (round >= 2) arch::named_barrier_sync(kEmpty + buffer, kThreads);
      s[buffer][mine] = scratch_word(round * 64 + mine);
      arch::named_barrier_arrive(kFull + buffer, kThreads);
    } else {
      arch::named_barrier_sync(kFull + buffer, kThreads);
      sum = sum * 5 + s[buffer][kThreads / 2 - 1 - mine];
      if (round + 2 < 6) arch::named_barrier_arrive(kEmpty + buffer, kThreads);
    }
  }
  out[t] = sum;
}

DSV4_KERNEL(kThreads) sync_warp(std::uint32_t* out) {
  DSV4_SHARED(std::uint32_t[kThreads], s);
  const unsigned t = arch::thread_idx().x, warp = t / 32 * 32;
  s[t] = scratch_word(t);
  arch::sync_warp();
  std::uint32_t v = s[warp + (t + 9) % 32];
  arch::sync_warp();  // every lane has read
  if (t % 32 < 16) {
    arch::sync_warp(0xffffu);
    s[t] = v;
    arch::sync_warp(0xffffu);
    v += s[t ^ 3];
  }
  out[t] = v;
}

}  // namespace

std::vector<Case> barrier_cases() {
#define DSV4_CASE(kernel)                                                                                  \
  Case {                                                                                                   \
    "barrier/" #kernel, Compare::kBits, 80, false, kThreads, 0,                                            \
        [](Buffers b, Stream stream) noexcept { return one_block("barrier/" #kernel, kernel, b, stream); } \
  }
  return {DSV4_CASE(sync_threads), DSV4_CASE(sync_threads_reduce), DSV4_CASE(named), DSV4_CASE(sync_warp)};
#undef DSV4_CASE
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
