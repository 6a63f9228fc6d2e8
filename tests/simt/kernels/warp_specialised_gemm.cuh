// C (m x n, fp32) = A (m x k) B^T (B: n x k), bf16, sm_90a: one producer warpgroup drives TMA through a ring
// of four stages, two consumer warpgroups run wgmma. A test of the machine with everything that a Hopper
// kernel has, not a kernel of the library.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/matrix.cuh>
#include <dsv4/arch/mbarrier.cuh>
#include <dsv4/arch/registers.cuh>
#include <dsv4/arch/tma.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/arch/wgmma.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::test {

inline constexpr int kGemmM = 128, kGemmN = 64, kGemmK = 64;  // of a block's tile, and of a stage
inline constexpr int kGemmStages = 4, kGemmThreads = 384;

struct alignas(1024) GemmShared {
  bf16 a[kGemmStages][kGemmM * kGemmK];
  bf16 b[kGemmStages][kGemmN * kGemmK];
  arch::Mbarrier full[kGemmStages], empty[kGemmStages];
};

/// A from shared memory, or through registers: ldmatrix of the swizzled tile.
enum class GemmOperandA { kShared, kRegisters };

/// map_a: boxes of 64 x 128, map_b: 64 x 64, both swizzled by 128 bytes. k is a multiple of 64, n even; m and
/// n need not fill the tiles. Grid: tiles of n, tiles of m.
template <GemmOperandA kOperandA>
DSV4_KERNEL_RESIDENT(kGemmThreads, 1)
warp_specialised_gemm(const DSV4_GRID_CONSTANT arch::TensorMap map_a,
                      const DSV4_GRID_CONSTANT arch::TensorMap map_b, float* c, int m, int n, int k) {
  using arch::Swizzle;
  DSV4_DYN_SMEM(GemmShared, s);
  const int thread = static_cast<int>(arch::thread_idx().x), warp = arch::warp_id(), lane = arch::lane_id();
  const int m0 = static_cast<int>(arch::block_idx().y) * kGemmM;
  const int n0 = static_cast<int>(arch::block_idx().x) * kGemmN;
  const int k_blocks = k / kGemmK;
  if (thread == 0) {
    for (int i = 0; i < kGemmStages; ++i) {
      arch::mbarrier_init(s->full[i], 1);
      arch::mbarrier_init(s->empty[i], 8);  // warps of the consumers
    }
    arch::fence_mbarrier_init();
  }
  arch::sync_threads();

  if (warp < 4) {
    arch::decrease_registers<40>();
    if (warp == 0 && arch::elect_one()) {
      arch::tma_prefetch(map_a);
      arch::tma_prefetch(map_b);
      for (int i = 0; i < k_blocks; ++i) {
        const int stage = i % kGemmStages;
        arch::mbarrier_wait(s->empty[stage], static_cast<unsigned>(i / kGemmStages & 1) ^ 1);
        arch::mbarrier_arrive_expect_tx(s->full[stage], sizeof s->a[0] + sizeof s->b[0]);
        arch::tma_load(s->a[stage], map_a, s->full[stage], {i * kGemmK, m0});
        arch::tma_load(s->b[stage], map_b, s->full[stage], {i * kGemmK, n0}, arch::L2Hint::kEvictLast);
      }
    }
    return;
  }

  arch::increase_registers<232>();
  const int consumer = warp / 4 - 1, warp_row = 64 * consumer + 16 * (warp % 4);
  float d[kGemmN / 2];
  for (int i = 0; i < k_blocks; ++i) {
    const int stage = i % kGemmStages;
    arch::mbarrier_wait(s->full[stage], static_cast<unsigned>(i / kGemmStages & 1));
    const std::uint64_t b = arch::wgmma_rows<Swizzle::k128>(s->b[stage]);
    if constexpr (kOperandA == GemmOperandA::kRegisters) {
      std::uint32_t a[kGemmK / 16][4];
      DSV4_UNROLL
      for (int step = 0; step < kGemmK / 16; ++step) {
        const int row = warp_row + lane % 16, column = 16 * step + lane / 16 * 8;
        const auto offset = static_cast<std::uint32_t>((row * kGemmK + column) * 2);
        arch::ldmatrix(a[step],
                       reinterpret_cast<const char*>(s->a[stage]) + arch::swizzled(Swizzle::k128, offset));
      }
      arch::wgmma_fence();
      DSV4_UNROLL
      for (int step = 0; step < kGemmK / 16; ++step)
        arch::wgmma_bf16<kGemmN>(d, a[step], arch::wgmma_advance(b, 32 * static_cast<unsigned>(step)),
                                 i + step > 0);
      arch::wgmma_commit();
      arch::wgmma_wait<0>();
      arch::sync_warp();  // lane 0 answers for what ldmatrix read for the others
      if (lane == 0) arch::mbarrier_arrive(s->empty[stage]);
    } else {
      const std::uint64_t a = arch::wgmma_rows<Swizzle::k128>(s->a[stage] + 64 * consumer * kGemmK);
      arch::wgmma_fence();
      DSV4_UNROLL
      for (int step = 0; step < kGemmK / 16; ++step) {
        const unsigned bytes = 32 * static_cast<unsigned>(step);
        arch::wgmma_bf16<kGemmN>(d, arch::wgmma_advance(a, bytes), arch::wgmma_advance(b, bytes),
                                 i + step > 0);
      }
      arch::wgmma_commit();
      arch::wgmma_wait<1>();  // the previous stage has been read
      if (lane == 0 && i > 0) arch::mbarrier_arrive(s->empty[(i - 1) % kGemmStages]);
    }
  }
  arch::wgmma_wait<0>();
  arch::wgmma_pin(d);

  const int row = m0 + warp_row + lane / 4, column = n0 + 2 * (lane % 4);
  DSV4_UNROLL
  for (int j = 0; j < kGemmN / 2; j += 2) {
    const int y = row + 4 * (j & 2), x = column + j / 4 * 8;
    if (y < m && x < n) {
      c[static_cast<std::int64_t>(y) * n + x] = d[j];
      c[static_cast<std::int64_t>(y) * n + x + 1] = d[j + 1];
    }
  }
}

}  // namespace dsv4::test
