// Sums of rows whose pieces many blocks add up: the last block of a row to finish adds the blocks' partial
// sums. A kernel for the machine's own tests: global memory shared between blocks.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>

#include <cstdint>

namespace dsv4::test::inline DSV4_FLAVOUR {

inline constexpr int kSplitThreads = 128, kSplitPiece = 512;  // of a block; elements of a block

struct SplitSumParams {
  const std::int32_t* in;  // [rows, splits * 512]
  std::int32_t* out;       // [rows]
  std::int32_t* partial;   // [rows, splits]
  std::uint32_t* done;     // [rows], zeros
  int splits;
};

/// Grid: (splits, rows).
DSV4_KERNEL(kSplitThreads) split_sum(const SplitSumParams p) {
  DSV4_SHARED(std::int32_t[kSplitThreads / 32], of_warp);
  DSV4_SHARED(bool, last);
  const int thread = static_cast<int>(arch::thread_idx().x), warp = thread / 32, lane = thread % 32;
  const int split = static_cast<int>(arch::block_idx().x), row = static_cast<int>(arch::block_idx().y);
  const std::int32_t* in = p.in + (static_cast<std::int64_t>(row) * p.splits + split) * kSplitPiece;
  using Four = arch::Vec<std::int32_t, 4>;
  const Four v = arch::load<arch::Cache::kStreaming>(reinterpret_cast<const Four*>(in) + thread);
  const std::int32_t sum = arch::reduce_add(v[0] + v[1] + v[2] + v[3]);
  if (lane == 0) of_warp[warp] = sum;
  arch::sync_threads();
  if (thread == 0) {
    std::int32_t total = 0;
    for (int w = 0; w < kSplitThreads / 32; ++w) total += of_warp[w];
    p.partial[row * p.splits + split] = total;
    arch::fence();  // release: the partial sum before the ticket
    last = arch::atomic_add(p.done + row, 1) == static_cast<std::uint32_t>(p.splits) - 1;
    arch::fence();  // acquire: the ticket before the others' partial sums
  }
  arch::sync_threads();
  if (!last || warp != 0) return;
  std::int32_t total = 0;
  for (int s = lane; s < p.splits; s += 32) total += p.partial[row * p.splits + s];
  total = arch::reduce_add(total);
  if (lane == 0) p.out[row] = total;
}

}  // namespace dsv4::test::inline DSV4_FLAVOUR
