// Registers that move between warpgroups, and a grid that starts before its predecessor has finished.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/arch/registers.cuh>

#include "tests/arch/conformance/case.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

constexpr int kRegisterThreads = 384;

// Three warpgroups start with 168 registers a thread, a third of an SM's: the first gives up most of its own,
// the others take them.
DSV4_KERNEL_RESIDENT(kRegisterThreads, 1) registers_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  const unsigned t = arch::thread_idx().x;
  if (arch::warp_id() < 4) {
    arch::decrease_registers<40>();
    out[t] = scratch[t] + 1;
  } else {
    arch::increase_registers<232>();
    out[t] = scratch[t] * 3;
  }
}

constexpr int kBlocks = 16, kThreads = 128, kWords = kBlocks * kThreads;

DSV4_KERNEL(kThreads) first_kernel(std::uint32_t* scratch) {
  const unsigned i = arch::block_idx().x * kThreads + arch::thread_idx().x;
  arch::allow_next_grid();  // long before it has written
  std::uint32_t x = scratch[i];
  for (int n = 0; n < 2000; ++n) x = x * 1664525u + 1013904223u;
  scratch[i] = x;
}

// Reads what another block of first_kernel wrote.
DSV4_KERNEL(kThreads) second_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  const unsigned i = arch::block_idx().x * kThreads + arch::thread_idx().x;
  arch::wait_for_previous_grid();
  out[i] = scratch[kWords - 1 - i];
}

Status run_registers(Buffers buffers, Stream stream) noexcept {
  return arch::launch("registers", registers_kernel, {.grid = {}, .block = {kRegisterThreads, 1, 1}}, stream,
                      buffers.out, buffers.scratch);
}

Status run_overlap(Buffers buffers, Stream stream) noexcept {
  const Status first = arch::launch(
      "first", first_kernel, {.grid = {kBlocks, 1, 1}, .block = {kThreads, 1, 1}}, stream, buffers.scratch);
  if (!first.ok()) return first;
  return arch::launch("second", second_kernel,
                      {.grid = {kBlocks, 1, 1}, .block = {kThreads, 1, 1}, .overlap_previous = true}, stream,
                      buffers.out, buffers.scratch);
}

}  // namespace

std::vector<Case> grid_cases() {
  return {{"grid/setmaxnreg", Compare::kBits, 90, true, kRegisterThreads, kRegisterThreads, run_registers},
          {"grid/overlap", Compare::kBits, 90, false, kWords, kWords, run_overlap}};
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
