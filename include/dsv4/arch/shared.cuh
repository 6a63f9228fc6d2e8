// Addresses in the shared window. PTX ISA, "cvta":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#data-movement-and-conversion-instructions-cvta
#pragma once

#include <dsv4/arch/config.cuh>

#include <cstdint>

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// 32-bit shared address of p, which must point into the calling block's shared memory.
DSV4_DEVICE std::uint32_t shared_address(const void* p DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
  return simt::shared_address(p, "shared_address", loc);
#else
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
