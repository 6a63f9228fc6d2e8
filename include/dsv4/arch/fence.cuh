// Order between plain accesses and the async proxy, through which TMA, bulk copies and wgmma reach memory,
// sm_90; code for older chips traps. (Order between plain accesses of threads: fence() of memory.cuh.) PTX
// ISA, "fence.proxy.async":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-membar
#pragma once

#include <dsv4/arch/config.cuh>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/cluster.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// The caller's writes to shared memory so far become readable to copies and wgmma that are issued after it.
/// Where another thread issues them: every writer fences, then a barrier, then the issue.
DSV4_DEVICE void fence_proxy_async(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::fence_proxy_async(loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}

/// The same for shared memory of the cluster and for global memory too: before a TMA load of data that this
/// kernel has written.
DSV4_DEVICE void fence_proxy_async_all(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::fence_proxy_async(loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async;" ::: "memory");
#else
  __trap();
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
