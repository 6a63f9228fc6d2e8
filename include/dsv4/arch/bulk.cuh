// Linear asynchronous copies of any multiple of 16 bytes between 16-byte aligned addresses, sm_90; code for
// older chips traps. One thread issues. Copies INTO shared memory complete at an mbarrier that was told to
// expect their bytes; stores FROM shared memory belong to groups that the issuing thread closes and waits
// for. Plain writes to the source need fence_proxy_async() first. PTX ISA, "cp.async.bulk":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async-bulk
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/mbarrier.cuh>
#include <dsv4/arch/shared.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>
#include <type_traits>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/tma.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// What L2 shall do with the lines of a load. PTX ISA, "createpolicy" (these are its encoded results):
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-createpolicy
enum class L2Hint : std::uint64_t {
  kNone = 0,
  kEvictNormal = 0x1000000000000000,
  kEvictFirst = 0x12f0000000000000,
  kEvictLast = 0x14f0000000000000,
};

/// Global to shared memory; `bytes` complete at `barrier`.
DSV4_DEVICE void bulk_load(void* shared, const void* global, std::uint32_t bytes, Mbarrier& barrier,
                           L2Hint hint = L2Hint::kNone DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  static_cast<void>(hint);
  simt::bulk_load(shared, global, bytes, &barrier, loc);
#elif __CUDA_ARCH__ >= 900
  if (hint == L2Hint::kNone)
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(&barrier))
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
        "[%3], %4;" ::"r"(shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(&barrier)), "l"(static_cast<std::uint64_t>(hint))
        : "memory");
#else
  __trap();
#endif
}

/// Shared memory of this block to the place that `shared` has in block `rank` of the cluster; completes at
/// the mbarrier that has the place of `barrier` there.
DSV4_DEVICE void bulk_copy_to_peer(void* shared, std::uint32_t rank, const void* source, std::uint32_t bytes,
                                   Mbarrier& barrier DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::bulk_copy_to_peer(shared, rank, source, bytes, &barrier, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n\t"
      ".reg .b32 to, at;\n\t"
      "mapa.shared::cluster.u32 to, %0, %1;\n\t"
      "mapa.shared::cluster.u32 at, %4, %1;\n\t"
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [to], [%2], %3, [at];\n\t"
      "}" ::"r"(shared_address(shared)),
      "r"(rank), "r"(shared_address(source)), "r"(bytes), "r"(shared_address(&barrier))
      : "memory");
#else
  __trap();
#endif
}

/// Shared to global memory, in the thread's current group.
DSV4_DEVICE void bulk_store(void* global, const void* shared, std::uint32_t bytes DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  simt::bulk_store(global, shared, bytes, simt::Element::kOther, loc);
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

/// Adds `bytes` bytes of elements (float, bf16 or uint32) in shared memory to those in global memory, each
/// atomically; several blocks' additions come in any order, so that sums of floats vary. In the thread's
/// current group. PTX ISA, "cp.reduce.async.bulk":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-reduce-async-bulk
template <class T>
DSV4_DEVICE void bulk_reduce_add(T* global, const T* shared, std::uint32_t bytes DSV4_LOC) {
  constexpr bool kF32 = std::is_same_v<T, float>, kBf16 = std::is_same_v<T, bf16>;
  static_assert(kF32 || kBf16 || std::is_same_v<T, std::uint32_t>, "bulk_reduce_add: float, bf16 or uint32");
#if defined(DSV4_SIMT_EMULATION)
  constexpr auto kElement = kF32 ? simt::Element::kF32 : kBf16 ? simt::Element::kBf16 : simt::Element::kU32;
  simt::bulk_store(global, shared, bytes, kElement, loc);
#elif __CUDA_ARCH__ >= 900
  if constexpr (kF32)
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(global),
                 "r"(shared_address(shared)), "r"(bytes)
                 : "memory");
  else if constexpr (kBf16)
    asm volatile(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.noftz.bf16 [%0], [%1], %2;" ::"l"(global),
        "r"(shared_address(shared)), "r"(bytes)
        : "memory");
  else
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%0], [%1], %2;" ::"l"(global),
                 "r"(shared_address(shared)), "r"(bytes)
                 : "memory");
#else
  __trap();
#endif
}

/// Closes the stores that the thread has issued since the last commit into a group. PTX ISA,
/// "cp.async.bulk.commit_group":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async-bulk-commit-group
DSV4_DEVICE void bulk_commit() {
#if defined(DSV4_SIMT_EMULATION)
  simt::bulk_commit();
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  __trap();
#endif
}

/// Waits until at most the kGroups newest of the thread's groups are in flight: the others' results are in
/// global memory. PTX ISA, "cp.async.bulk.wait_group":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async-bulk-wait-group
template <int kGroups>
DSV4_DEVICE void bulk_wait() {
  static_assert(kGroups >= 0, "bulk_wait: a number of groups");
#if defined(DSV4_SIMT_EMULATION)
  simt::bulk_wait(kGroups, false);
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  __trap();
#endif
}

/// The same for reading the sources, which may then be overwritten, or vanish as the block exits.
template <int kGroups>
DSV4_DEVICE void bulk_wait_read() {
  static_assert(kGroups >= 0, "bulk_wait_read: a number of groups");
#if defined(DSV4_SIMT_EMULATION)
  simt::bulk_wait(kGroups, true);
#elif __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroups) : "memory");
#else
  __trap();
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
