// Barriers in shared memory that count arrivals and bytes of asynchronous copies, sm_90; code for older
// chips traps. A phase completes when all arrivals and all expected bytes are in; phases alternate in parity,
// the first has parity 0. PTX ISA, "mbarrier":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier
//
// The usual life: one thread initialises, fence_mbarrier_init(), a barrier of the block (of the cluster where
// peers use it), then any thread arrives and waits. A waiter learns all that those who arrived had done.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/shared.cuh>

#include <cstdint>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/mbarrier.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// An mbarrier object; lives in shared memory, only the functions below touch it.
struct Mbarrier {
  std::uint64_t state;
};

/// Begins phase 0, which `arrivals` (1 to 2^20 - 1) arrivals complete. The memory must not hold a live
/// mbarrier. PTX ISA, "mbarrier.init":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-init
DSV4_DEVICE void mbarrier_init(Mbarrier& barrier, std::uint32_t arrivals DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_init(&barrier, arrivals, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals)
               : "memory");
#else
  __trap();
#endif
}

/// Ends the object's life, so that its memory may serve otherwise. Nobody may wait for it. PTX ISA,
/// "mbarrier.inval":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-inval
DSV4_DEVICE void mbarrier_invalidate(Mbarrier& barrier DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_invalidate(&barrier, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(&barrier)) : "memory");
#else
  __trap();
#endif
}

/// Makes the caller's mbarrier_init calls visible to the cluster and to asynchronous copies; a barrier must
/// follow. PTX ISA, "fence.mbarrier_init":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-membar
DSV4_DEVICE void fence_mbarrier_init(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_fence_init(loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  __trap();
#endif
}

/// `count` arrivals (release). PTX ISA, "mbarrier.arrive":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-arrive
DSV4_DEVICE void mbarrier_arrive(Mbarrier& barrier, std::uint32_t count = 1 DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_arrive(&barrier, count, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(count)
               : "memory");
#else
  __trap();
#endif
}

/// Arrives (release, cluster) at the mbarrier of the same offset in block `rank` of the cluster.
DSV4_DEVICE void mbarrier_arrive_peer(Mbarrier& barrier, std::uint32_t rank,
                                      std::uint32_t count = 1 DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_arrive_peer(&barrier, rank, count, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n\t"
      ".reg .b32 peer;\n\t"
      "mapa.shared::cluster.u32 peer, %0, %1;\n\t"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [peer], %2;\n\t"
      "}" ::"r"(shared_address(&barrier)),
      "r"(rank), "r"(count)
      : "memory");
#else
  __trap();
#endif
}

/// The current phase waits for `bytes` more bytes of asynchronous copies, below 2^20 altogether. PTX ISA,
/// "mbarrier.expect_tx":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-expect-tx
DSV4_DEVICE void mbarrier_expect_tx(Mbarrier& barrier, std::uint32_t bytes DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_expect_tx(&barrier, bytes, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

/// mbarrier_expect_tx, then one arrival: what the issuer of copies does, before it issues them or after.
DSV4_DEVICE void mbarrier_arrive_expect_tx(Mbarrier& barrier, std::uint32_t bytes DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_arrive_expect_tx(&barrier, bytes, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
      "r"(bytes)
      : "memory");
#else
  __trap();
#endif
}

/// Has the phase of parity `parity` completed (acquire)? May sleep for a while first, and may return false
/// although it has: call it in a loop. PTX ISA, "mbarrier.try_wait":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-mbarrier-test-wait-try-wait
DSV4_DEVICE bool mbarrier_try_wait(const Mbarrier& barrier, std::uint32_t parity DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::mbarrier_try_wait(&barrier, parity, loc);
#elif __CUDA_ARCH__ >= 900
  std::uint32_t done;
  asm volatile(
      "{\n\t"
      ".reg .pred p;\n\t"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t"
      "}"
      : "=r"(done)
      : "r"(shared_address(&barrier)), "r"(parity)
      : "memory");
  return done != 0;
#else
  __trap();
  return false;
#endif
}

/// The same without sleeping.
DSV4_DEVICE bool mbarrier_test_wait(const Mbarrier& barrier, std::uint32_t parity DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::mbarrier_test_wait(&barrier, parity, loc);
#elif __CUDA_ARCH__ >= 900
  std::uint32_t done;
  asm volatile(
      "{\n\t"
      ".reg .pred p;\n\t"
      "mbarrier.test_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t"
      "}"
      : "=r"(done)
      : "r"(shared_address(&barrier)), "r"(parity)
      : "memory");
  return done != 0;
#else
  __trap();
  return false;
#endif
}

/// Waits until the phase of parity `parity` has completed (acquire). On a fresh mbarrier parity 1 passes at
/// once: so a producer waits for an empty buffer.
DSV4_DEVICE void mbarrier_wait(const Mbarrier& barrier, std::uint32_t parity DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_wait(&barrier, parity, loc);
#else
  while (!mbarrier_try_wait(barrier, parity)) {
  }
#endif
}

/// mbarrier_wait that also acquires what arrivals from other blocks of the cluster released.
DSV4_DEVICE void mbarrier_wait_cluster(const Mbarrier& barrier, std::uint32_t parity DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::mbarrier_wait(&barrier, parity, loc);
#elif __CUDA_ARCH__ >= 900
  std::uint32_t done;
  do {
    asm volatile(
        "{\n\t"
        ".reg .pred p;\n\t"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t"
        "}"
        : "=r"(done)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
  } while (!done);
#else
  __trap();
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
