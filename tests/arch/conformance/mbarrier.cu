// mbarriers: when phases end, and data handed over through them.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/mbarrier.cuh>
#include <dsv4/arch/warp.cuh>

#include "tests/arch/conformance/case.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

// Whether each parity's phase counts as over, before and after each step of one thread.
DSV4_KERNEL(1) phases_kernel(std::uint32_t* out) {
  DSV4_SHARED(arch::Mbarrier, b);
  int n = 0;
  const auto look = [&] {
    out[n++] = arch::mbarrier_test_wait(b, 0) ? 1 : 0;
    out[n++] = arch::mbarrier_test_wait(b, 1) ? 1 : 0;
  };
  arch::mbarrier_init(b, 3);
  look();
  arch::mbarrier_arrive(b, 2);
  look();
  arch::mbarrier_arrive(b);
  look();
  arch::mbarrier_arrive(b, 3);
  look();
  arch::mbarrier_invalidate(b);
  arch::mbarrier_init(b, 1);
  look();
  arch::mbarrier_arrive_expect_tx(b, 0);
  look();
}

// Warp 0 writes a stage, warp 1 reads it, through two buffers; the reader polls.
struct Stage {
  arch::Mbarrier full, empty;
  std::uint32_t data[32];
};
DSV4_KERNEL(64) pipeline_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  DSV4_SHARED(Stage[2], stages);
  const int lane = arch::lane_id();
  if (arch::thread_idx().x == 0) {
    for (int i = 0; i < 2; ++i) {
      arch::mbarrier_init(stages[i].full, 32);
      arch::mbarrier_init(stages[i].empty, 1);
    }
    arch::fence_mbarrier_init();
  }
  arch::sync_threads();
  for (int round = 0; round < 8; ++round) {
    Stage& s = stages[round % 2];
    const auto parity = static_cast<unsigned>(round / 2 % 2);
    if (arch::warp_id() == 0) {
      arch::mbarrier_wait(s.empty, parity ^ 1);
      s.data[lane] = scratch[round * 32 + lane];
      arch::mbarrier_arrive(s.full);
    } else {
      while (!arch::mbarrier_try_wait(s.full, parity)) {
      }
      out[round * 32 + lane] = s.data[31 - lane];
      arch::sync_warp();
      if (lane == 0) arch::mbarrier_arrive(s.empty);
    }
  }
}

Status run_phases(Buffers buffers, Stream stream) noexcept {
  return arch::launch("phases", phases_kernel, {.grid = {}, .block = {}}, stream, buffers.out);
}

Status run_pipeline(Buffers buffers, Stream stream) noexcept {
  return arch::launch("pipeline", pipeline_kernel, {.grid = {}, .block = {64, 1, 1}}, stream, buffers.out,
                      buffers.scratch);
}

}  // namespace

std::vector<Case> mbarrier_cases() {
  return {{"mbarrier/phases", Compare::kBits, 90, false, 12, 0, run_phases},
          {"mbarrier/pipeline", Compare::kBits, 90, false, 256, 256, run_pipeline}};
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
