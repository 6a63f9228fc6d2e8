// mbarriers on the SIMT machine: what the host halves of arch/mbarrier.cuh call. `barrier` is the 8-byte
// object in the calling block's shared memory.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstdint>

namespace dsv4::simt {

/// Phase 0 begins, `count` arrivals complete it. An error where one is alive already.
void mbarrier_init(void* barrier, std::uint32_t count, Loc loc);
void mbarrier_invalidate(void* barrier, Loc loc);
/// The caller's initialisations become visible to the cluster and to the async proxy.
void mbarrier_fence_init(Loc loc);

/// `count` arrivals, at the barrier of the same offset in block `rank` of the cluster for the second.
void mbarrier_arrive(void* barrier, std::uint32_t count, Loc loc);
void mbarrier_arrive_peer(void* barrier, std::uint32_t rank, std::uint32_t count, Loc loc);
/// The current phase also waits for `bytes` bytes of asynchronous copies; then one arrival for the second.
void mbarrier_expect_tx(void* barrier, std::uint32_t bytes, Loc loc);
void mbarrier_arrive_expect_tx(void* barrier, std::uint32_t bytes, Loc loc);

/// Has the phase of this parity completed? When not, others run first; try_wait may also fail without cause
/// (Options::spurious_try_wait).
bool mbarrier_try_wait(const void* barrier, std::uint32_t parity, Loc loc);
bool mbarrier_test_wait(const void* barrier, std::uint32_t parity, Loc loc);
/// Sleeps until the phase of this parity has completed.
void mbarrier_wait(const void* barrier, std::uint32_t parity, Loc loc);

}  // namespace dsv4::simt
