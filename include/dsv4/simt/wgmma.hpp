// wgmma on the SIMT machine: what the host halves of arch/wgmma.cuh call.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstdint>

namespace dsv4::simt {

/// One m64nNk instruction; all threads of the warpgroup issue the same.
struct Wgmma {
  std::uint16_t n = 0;
  bool e4m3 = false;  // k 32; else bf16, k 16
  bool a_in_registers = false;
  bool a_mn_major = false, b_mn_major = false;
  bool accumulate = false;               // D = A B + D, else D = A B
  std::uint64_t a_tile = 0, b_tile = 0;  // descriptors

  friend bool operator==(const Wgmma&, const Wgmma&) = default;
};

/// Issues it with the caller's fragments: d of n / 2 floats, a of 4 registers or null. Until the wait, d
/// holds NaNs (Options::poison).
void wgmma(const Wgmma& instruction, float* d, const std::uint32_t* a, Loc loc);
void wgmma_fence();
void wgmma_commit(Loc loc);
/// Executes the calling warp's share of all but the `groups` newest groups. Whole warps call.
void wgmma_wait(std::uint32_t groups, Loc loc);

}  // namespace dsv4::simt
