// Copies from global to shared memory that overlap with computation, sm_80. A thread issues copies, closes
// them into a group (commit) and waits for its OWN groups; a barrier then shows the data to other threads.
// PTX ISA, "cp.async":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cp-async
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/shared.cuh>

#include <cstdint>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/cp_async.hpp>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// Copies source_bytes (0 to kBytes) from `global` and zero-fills the rest of the kBytes (4, 8 or 16) at
/// `shared`. Both are kBytes-aligned, `global` also where source_bytes is 0. 16 bytes bypass L1.
template <int kBytes>
DSV4_DEVICE void cp_async(void* shared, const void* global, std::uint32_t source_bytes = kBytes DSV4_LOC) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp_async: 4, 8 or 16 bytes");
#if defined(DSV4_SIMT_EMULATION)
  simt::cp_async(shared, global, kBytes, source_bytes, loc);
#else
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(source_bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "n"(kBytes), "r"(source_bytes)
                 : "memory");
#endif
}

/// Closes the copies issued since the last commit into a group; a group may be empty.
DSV4_DEVICE void cp_async_commit() {
#if defined(DSV4_SIMT_EMULATION)
  simt::cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most the kGroups newest of the thread's groups are in flight.
template <int kGroups>
DSV4_DEVICE void cp_async_wait() {
  static_assert(kGroups >= 0, "cp_async_wait: a number of groups");
#if defined(DSV4_SIMT_EMULATION)
  simt::cp_async_wait(kGroups);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

/// Waits for every copy of the thread, committed or not.
DSV4_DEVICE void cp_async_wait_all() {
#if defined(DSV4_SIMT_EMULATION)
  simt::cp_async_wait_all();
#else
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
