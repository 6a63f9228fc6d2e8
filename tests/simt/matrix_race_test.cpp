// Races of the instructions that access memory on a thread's behalf: ldmatrix, stmatrix, cp.async. They need
// a build with the race detector.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/matrix.cuh>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/support/catch.hpp"

#include <cstdint>
#include <string>

namespace {

using namespace dsv4;

// Warp 0 writes a matrix, warp 1 loads it.
void load_kernel(bool with_barrier, std::uint32_t* out) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  const int lane = arch::lane_id();
  if (arch::warp_id() == 0) s[lane] = static_cast<std::uint32_t>(lane);
  if (with_barrier) arch::sync_threads();
  if (arch::warp_id() == 1) {
    std::uint32_t r[1];
    arch::ldmatrix(r, s + lane % 8 * 4);
    out[lane] = r[0];
  }
}

// Warp 0 stores a matrix, warp 1 reads it.
void store_kernel(bool with_barrier, std::uint32_t* out) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  const int lane = arch::lane_id();
  if (arch::warp_id() == 0) {
    const std::uint32_t r[1] = {static_cast<std::uint32_t>(lane)};
    arch::stmatrix(s + lane % 8 * 4, r);
  }
  if (with_barrier) arch::sync_threads();
  if (arch::warp_id() == 1) out[lane] = s[lane];
}

enum class Wait { kBeforeBarrier, kAfterBarrier };

// Warp 0 copies, warp 1 reads the copy.
void copy_kernel(Wait wait, const std::uint32_t* in, std::uint32_t* out) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  const int lane = arch::lane_id();
  if (arch::warp_id() == 0) arch::cp_async<4>(s + lane, in + lane);
  if (wait == Wait::kBeforeBarrier) arch::cp_async_wait_all();
  arch::sync_threads();
  if (arch::warp_id() == 1) out[lane] = s[lane];
  if (wait == Wait::kAfterBarrier) arch::cp_async_wait_all();
}

// Warp 1 overwrites the source of warp 0's copy.
void source_kernel(Wait wait, std::uint32_t* in) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  const int lane = arch::lane_id();
  if (arch::warp_id() == 0) arch::cp_async<4>(s + lane, in + lane);
  if (wait == Wait::kBeforeBarrier) arch::cp_async_wait_all();
  arch::sync_threads();
  if (arch::warp_id() == 1) in[lane] = 7;
  if (wait == Wait::kAfterBarrier) arch::cp_async_wait_all();
}

// The lanes issue copies into a buffer that another warp still reads.
void reuse_kernel(bool with_barrier, const std::uint32_t* in, std::uint32_t* out) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  const int lane = arch::lane_id();
  if (arch::warp_id() == 0) s[lane] = 1;
  arch::sync_threads();
  if (arch::warp_id() == 1) out[lane] = s[lane];
  if (with_barrier) arch::sync_threads();
  if (arch::warp_id() == 0) {
    arch::cp_async<4>(s + lane, in + lane);
    arch::cp_async_wait_all();
  }
}

template <class... P, class... A>
bool races(void (*kernel)(P...), A... arguments) {
  simt::LaunchShape shape;
  shape.block.x = 64;
  shape.shared_bytes = 128;
  try {
    simt::launch("race", kernel, shape, arguments...);
  } catch (const simt::KernelError& e) {
    const std::string report = e.what();
    INFO(report);
    CHECK(report.find("RACE") != std::string::npos);
    CHECK(report.find("matrix_race_test.cpp") != std::string::npos);
    return true;
  }
  return false;
}

}  // namespace

TEST_CASE("races of ldmatrix, stmatrix and cp.async are found, whenever a copy happens", "[simt][race]") {
  if (!simt::Watch::kSeesPlain) {
    WARN("skipped: this build does not instrument kernels");
    return;
  }
  std::uint32_t in[32] = {}, out[32];
  std::uint32_t* const in_p = in;
  std::uint32_t* const out_p = out;
  for (const auto async : {simt::Async::kEager, simt::Async::kLazy, simt::Async::kRandom})
    for (const auto schedule : {simt::Schedule::kFifo, simt::Schedule::kLifo}) {
      CAPTURE(static_cast<int>(async), static_cast<int>(schedule));
      simt::Options o = simt::options();
      o.async = async;
      o.schedule = schedule;
      const simt::ScopedOptions scope(o);
      CHECK_FALSE(races(load_kernel, true, out_p));
      CHECK(races(load_kernel, false, out_p));
      CHECK_FALSE(races(store_kernel, true, out_p));
      CHECK(races(store_kernel, false, out_p));
      CHECK_FALSE(races(copy_kernel, Wait::kBeforeBarrier, in_p, out_p));
      CHECK(races(copy_kernel, Wait::kAfterBarrier, in_p, out_p));
      CHECK_FALSE(races(source_kernel, Wait::kBeforeBarrier, in_p));
      CHECK(races(source_kernel, Wait::kAfterBarrier, in_p));
      CHECK_FALSE(races(reuse_kernel, true, in_p, out_p));
      CHECK(races(reuse_kernel, false, in_p, out_p));
    }
}
