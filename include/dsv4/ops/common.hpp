// What every op shares. An op is a host function
//     Status ops::name(const ops::NameParams& p, Stream stream) noexcept;
// of the flavour's inline namespace: ops::cuda_v0::name takes device pointers, ops::simt_v0::name host
// pointers. It checks its parameters (sizes, support, empty -> ok, pointers and alignment), launches, and
// returns. It never throws, allocates, synchronises, prints, or reads the environment or device memory, so it
// can be captured into a graph. Strides count elements, and a stride of 0 stands for contiguous rows.
#pragma once

#include <dsv4/core/config.hpp>
#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include <cstddef>
#include <cstdint>

// Marks what a shared library of kernels exports.
#if defined(__GNUC__)
#define DSV4_API __attribute__((visibility("default")))
#else
#define DSV4_API
#endif

namespace dsv4::ops {

/// Element type of activations. kF32 is compiled for the SIMT machine and with DSV4_KERNELS_F32: it serves
/// the exact mode of the tests, and is not tuned.
enum class DType : std::int32_t { kBf16 = 0, kF32 = 1 };

}  // namespace dsv4::ops
