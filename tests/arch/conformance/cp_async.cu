// cp.async: every size with every number of source bytes, and groups.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>

#include "tests/arch/conformance/case.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 64;

// Thread t copies t % (kBytes + 1) bytes.
template <int kBytes>
DSV4_KERNEL(kThreads)
copy_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  constexpr int kWords = kBytes / 4;
  DSV4_DYN_SMEM(std::uint32_t, s);
  const int t = static_cast<int>(arch::thread_idx().x);
  for (int i = 0; i < kWords; ++i) s[t * kWords + i] = 0xffffffffu;
  arch::cp_async<kBytes>(s + t * kWords, scratch + t * kWords, static_cast<std::uint32_t>(t % (kBytes + 1)));
  arch::cp_async_wait_all();
  arch::sync_threads();
  const int other = (t + 1) % kThreads;
  for (int i = 0; i < kWords; ++i) out[other * kWords + i] = s[other * kWords + i];
}

// Four groups through two buffers.
DSV4_KERNEL(kThreads) groups_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  const int t = static_cast<int>(arch::thread_idx().x);
  arch::cp_async<4>(s + t, scratch + t);
  arch::cp_async_commit();
  for (int group = 0; group < 4; ++group) {
    if (group + 1 < 4)
      arch::cp_async<4>(s + (group + 1) % 2 * kThreads + t, scratch + (group + 1) * kThreads + t);
    arch::cp_async_commit();
    arch::cp_async_wait<1>();
    arch::sync_threads();
    out[group * kThreads + t] = s[group % 2 * kThreads + kThreads - 1 - t];
    arch::sync_threads();
  }
}

template <int kBytes>
Status run_copy(Buffers buffers, Stream stream) noexcept {
  return arch::launch("cp_async", copy_kernel<kBytes>,
                      {.grid = {}, .block = {kThreads, 1, 1}, .shared_bytes = kThreads * kBytes}, stream,
                      buffers.out, buffers.scratch);
}

Status run_groups(Buffers buffers, Stream stream) noexcept {
  return arch::launch("cp_async_groups", groups_kernel,
                      {.grid = {}, .block = {kThreads, 1, 1}, .shared_bytes = 2 * kThreads * 4}, stream,
                      buffers.out, buffers.scratch);
}

}  // namespace

std::vector<Case> cp_async_cases() {
  return {{"cp_async/4_bytes", Compare::kBits, 80, false, kThreads, kThreads, run_copy<4>},
          {"cp_async/8_bytes", Compare::kBits, 80, false, 2 * kThreads, 2 * kThreads, run_copy<8>},
          {"cp_async/16_bytes", Compare::kBits, 80, false, 4 * kThreads, 4 * kThreads, run_copy<16>},
          {"cp_async/groups", Compare::kBits, 80, false, 4 * kThreads, 4 * kThreads, run_groups}};
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
