// What the benchmarks have the GPU do beside the ops: fill memory, and show how fast its tensor cores are.
#pragma once

#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include <cstdint>

namespace dsv4::gpu {

/// What fills memory. Values depend on the seed and on where they lie; none is a NaN.
enum class Pattern : std::int32_t {
  kBf16,      // uniform in [-1, 1)
  kF32,       // uniform in [-1, 1)
  kE4m3,      // codes +-(2^-3 .. 1.875)
  kE8m0,      // scales 1 and 2
  kE2m1,      // any codes
  kKv584,     // pages of 584-byte entries
  kIndexFp4,  // pages of 68-byte keys
  kIndexFp8,  // pages of 132-byte keys
};

/// Fills `bytes` (a multiple of 4) at p, 4-byte aligned.
///   page_rows, page_stride  of the paged patterns; else unused
Status fill(void* p, std::int64_t bytes, Pattern pattern, std::uint64_t seed, std::int32_t page_rows,
            std::int64_t page_stride, Stream stream);

/// Multiplies bf16 tiles in registers with mma.sync, as fast as the tensor cores take them.
///   scratch  one float, device memory
///   flops    where to say how many floating-point operations that is
Status multiply_bf16(float* scratch, int multiprocessors, double& flops, Stream stream);

}  // namespace dsv4::gpu
