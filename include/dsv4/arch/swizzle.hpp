// How TMA, and wgmma after it, spread the rows of a tile over the banks of shared memory.
#pragma once

#include <dsv4/core/config.hpp>

#include <cstdint>

namespace dsv4::arch {

/// Bytes of a tile's row over which 16-byte chunks are permuted; a row is exactly so long. PTX ISA,
/// "Swizzling modes":
/// https://docs.nvidia.com/cuda/parallel-thread-execution/#tensor-swizzling-modes
enum class Swizzle : std::uint8_t { kNone, k32, k64, k128 };

/// Length of a row; of kNone that of a core matrix's.
DSV4_HD constexpr std::uint32_t swizzle_row_bytes(Swizzle s) { return 16u << static_cast<unsigned>(s); }

/// Where byte `offset` of a tile lies: bits 4.. of the address are XORed with bits 7... The tile begins where
/// the pattern does, at a multiple of 8 rows (k128: 1024, k64: 512, k32: 256 bytes).
DSV4_HD constexpr std::uint32_t swizzled(Swizzle s, std::uint32_t offset) {
  return offset ^ ((offset >> 3) & ((swizzle_row_bytes(s) - 1) & 0x70u));
}

}  // namespace dsv4::arch
