// What the machine counted, for tests to assert on.
#pragma once

#include <cstdint>

namespace dsv4::simt {

/// Events of the launches since the last reset, summed over all blocks.
struct Counters {
  std::uint64_t launches = 0;
  std::uint64_t blocks = 0;
  std::uint64_t switches = 0;          // from one CUDA thread to another
  std::uint64_t warp_collectives = 0;  // shuffles, votes, reductions, matches, __syncwarp, ldmatrix, mma
  std::uint64_t barriers = 0;          // completed barriers of a block, __syncthreads included
  std::uint64_t cluster_barriers = 0;
  std::uint64_t mma = 0;       // mma.sync instructions of a warp
  std::uint64_t wgmma = 0;     // wgmma instructions of a warpgroup
  std::uint64_t ldmatrix = 0;  // ldmatrix and stmatrix instructions of a warp
  std::uint64_t cp_async = 0;  // cp.async instructions of a thread
  std::uint64_t tma = 0;       // TMA and bulk copies
  std::uint64_t mbarrier_waits = 0;
  std::uint64_t atomics = 0;
  std::uint64_t matrix_bank_conflicts =
      0;  // 8-row phases of ldmatrix and stmatrix with two rows in one bank group
  std::uint64_t shared_bank_conflicts = 0;  // extra wavefronts of plain shared accesses (instrumented builds)
  std::uint64_t shared_wavefronts = 0;      // wavefronts of plain shared accesses (instrumented builds)

  Counters& operator+=(const Counters& o);
};

/// Totals since reset_counters() or the start of the process.
Counters counters();
void reset_counters();

}  // namespace dsv4::simt
