// Blocks of a cluster, sm_90: their barrier, and shared memory of peers. Code for older chips traps. A launch
// without a cluster has clusters of one block. PTX ISA, "barrier.cluster":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-barrier-cluster
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/shared.cuh>

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/cluster.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// The calling block's number in its cluster. PTX ISA, "%cluster_ctarank":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#special-registers-cluster-ctarank
DSV4_DEVICE std::uint32_t cluster_rank() {
#if defined(DSV4_SIMT_EMULATION)
  return simt::cluster_rank();
#elif __CUDA_ARCH__ >= 900
  std::uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  __trap();
  return 0;
#endif
}

/// Blocks of the cluster. PTX ISA, "%cluster_nctarank":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#special-registers-cluster-nctarank
DSV4_DEVICE std::uint32_t cluster_size() {
#if defined(DSV4_SIMT_EMULATION)
  return simt::cluster_size();
#elif __CUDA_ARCH__ >= 900
  std::uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
#else
  __trap();
  return 0;
#endif
}

/// First half of the cluster's barrier (release). Every thread that has not exited arrives, then waits; other
/// work may lie between. Whole warps.
DSV4_DEVICE void cluster_arrive(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::cluster_arrive(true, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  __trap();
#endif
}

/// The same without release: it orders nothing, and shows only that the threads have come this far.
DSV4_DEVICE void cluster_arrive_relaxed(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::cluster_arrive(false, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#else
  __trap();
#endif
}

/// Second half of the cluster's barrier (acquire).
DSV4_DEVICE void cluster_wait(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::cluster_wait(true, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __trap();
#endif
}

/// Barrier of all threads of the cluster; orders their memory accesses. A block must not exit while peers
/// may still access its shared memory: the last act of a kernel that uses peers' memory is cluster_sync().
DSV4_DEVICE void cluster_sync(DSV4_LOC_ONLY) {
#if defined(DSV4_SIMT_EMULATION)
  simt::cluster_arrive(true, loc);
  simt::cluster_wait(true, loc);
#else
  cluster_arrive();
  cluster_wait();
#endif
}

/// What p, in the caller's shared memory, is in block `rank`: a generic pointer that plain loads and stores
/// may use. PTX ISA, "mapa":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-mapa
template <class T>
DSV4_DEVICE T* map_shared(T* p, std::uint32_t rank DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return static_cast<T*>(simt::cluster_map(p, rank, loc));
#elif __CUDA_ARCH__ >= 900
  T* peer;
  asm("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(p), "r"(rank));
  return peer;
#else
  __trap();
  return p;
#endif
}

/// *p as it is in block `rank`; T has 4, 8 or 16 bytes, aligned to its size. Cheaper than through map_shared,
/// whose pointer the compiler does not know to be shared. PTX ISA, "ld":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-ld
template <class T>
DSV4_DEVICE T peer_load(const T* p, std::uint32_t rank DSV4_LOC) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "peer_load: 4, 8 or 16 bytes");
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
#if defined(DSV4_SIMT_EMULATION)
  simt::peer_load(&value, p, rank, sizeof value, loc);
#elif __CUDA_ARCH__ >= 900
  std::uint32_t word[sizeof(T) / 4];
  std::uint32_t peer;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(shared_address(p)), "r"(rank));
  if constexpr (sizeof(T) == 4)
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(word[0]) : "r"(peer) : "memory");
  else if constexpr (sizeof(T) == 8)
    asm volatile("ld.shared::cluster.v2.u32 {%0, %1}, [%2];"
                 : "=r"(word[0]), "=r"(word[1])
                 : "r"(peer)
                 : "memory");
  else
    asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "r"(peer)
                 : "memory");
  memcpy(&value, word, sizeof value);
#else
  value = *p;
  __trap();
#endif
  return value;
}

/// *p = value in block `rank`; likewise. PTX ISA, "st":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-st
template <class T>
DSV4_DEVICE void peer_store(T* p, std::uint32_t rank, T value DSV4_LOC) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "peer_store: 4, 8 or 16 bytes");
  static_assert(std::is_trivially_copyable_v<T>);
#if defined(DSV4_SIMT_EMULATION)
  simt::peer_store(p, rank, &value, sizeof value, loc);
#elif __CUDA_ARCH__ >= 900
  std::uint32_t word[sizeof(T) / 4];
  memcpy(word, &value, sizeof value);
  std::uint32_t peer;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(shared_address(p)), "r"(rank));
  if constexpr (sizeof(T) == 4)
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(peer), "r"(word[0]) : "memory");
  else if constexpr (sizeof(T) == 8)
    asm volatile("st.shared::cluster.v2.u32 [%0], {%1, %2};" ::"r"(peer), "r"(word[0]), "r"(word[1])
                 : "memory");
  else
    asm volatile("st.shared::cluster.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(peer), "r"(word[0]), "r"(word[1]),
                 "r"(word[2]), "r"(word[3])
                 : "memory");
#else
  __trap();
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
