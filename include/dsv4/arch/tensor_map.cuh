// Tensor maps: what TMA must know of a tensor in global memory, made on the host and handed to a kernel as a
// `const DSV4_GRID_CONSTANT TensorMap` parameter. CUDA driver API, "Tensor Map Object Management":
// https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TENSOR__MEMORY.html
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/swizzle.hpp>
#include <dsv4/core/status.hpp>

#include <cstdint>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/tma.hpp>
#else
#include <cuda.h>
#include <cuda_runtime_api.h>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

#if defined(DSV4_SIMT_EMULATION)
using TensorMap = simt::TensorMap;
#else
using TensorMap = CUtensorMap;
#endif

/// Elements of a tensor. kU8 serves e4m3, e2m1 pairs and UE8M0; kU16 any 2-byte type that is not added to.
enum class TensorType : std::uint8_t { kU8, kU16, kU32, kI32, kF32, kBf16 };

constexpr std::uint32_t tensor_type_bytes(TensorType t) {
  return t == TensorType::kU8 ? 1 : t == TensorType::kU16 || t == TensorType::kBf16 ? 2 : 4;
}

/// A tensor of `rank` (1 to 5) dimensions, the contiguous one first, and the box that one load or store
/// moves.
struct TensorMapShape {
  TensorType type = TensorType::kU8;
  int rank = 1;
  std::uint64_t dim[5] = {};           // elements, 1 to 2^32
  std::uint64_t stride_bytes[4] = {};  // of dimensions 1 to rank - 1: multiples of 16 below 2^40
  std::uint32_t box[5] = {};           // elements, 1 to 256; a row box[0] is a multiple of 16 bytes
  Swizzle swizzle = Swizzle::kNone;    // else a row box[0] is exactly swizzle_row_bytes(swizzle)
};

/// Checks that `shape` at `base` (16-byte aligned) can be a tensor map. Shorter rows than the swizzle's are
/// refused, although the driver takes them.
inline Status check_tensor_map(const void* base, const TensorMapShape& shape) noexcept {
  const auto integer = [](std::uint64_t x) { return static_cast<std::int64_t>(x); };
  const std::uint32_t bytes = tensor_type_bytes(shape.type);
  DSV4_REQUIRE(base != nullptr, invalid_argument("make_tensor_map: base is null"));
  DSV4_REQUIRE(reinterpret_cast<std::uintptr_t>(base) % 16 == 0,
               invalid_argument("make_tensor_map: base must be 16-byte aligned",
                                integer(reinterpret_cast<std::uintptr_t>(base) % 16), 16));
  DSV4_REQUIRE(shape.rank >= 1 && shape.rank <= 5,
               invalid_argument("make_tensor_map: rank must be 1 to 5", shape.rank, 5));
  for (int i = 0; i < shape.rank; ++i) {
    DSV4_REQUIRE(shape.dim[i] >= 1 && shape.dim[i] <= std::uint64_t{1} << 32,
                 invalid_argument("make_tensor_map: dim must be 1 to 2^32", integer(shape.dim[i]),
                                  std::int64_t{1} << 32));
    DSV4_REQUIRE(shape.box[i] >= 1 && shape.box[i] <= 256,
                 invalid_argument("make_tensor_map: box must be 1 to 256", shape.box[i], 256));
  }
  for (int i = 0; i + 1 < shape.rank; ++i) {
    DSV4_REQUIRE(shape.stride_bytes[i] % 16 == 0,
                 invalid_argument("make_tensor_map: stride_bytes must be a multiple of 16",
                                  integer(shape.stride_bytes[i]), 16));
    DSV4_REQUIRE(shape.stride_bytes[i] < std::uint64_t{1} << 40,
                 invalid_argument("make_tensor_map: stride_bytes must be below 2^40",
                                  integer(shape.stride_bytes[i]), std::int64_t{1} << 40));
  }
  const std::uint32_t row = shape.box[0] * bytes;
  DSV4_REQUIRE(row % 16 == 0,
               invalid_argument("make_tensor_map: a row of the box must be a multiple of 16 bytes", row, 16));
  if (shape.swizzle != Swizzle::kNone)
    DSV4_REQUIRE(row == swizzle_row_bytes(shape.swizzle),
                 invalid_argument("make_tensor_map: a row of the box must be as long as the swizzle's", row,
                                  swizzle_row_bytes(shape.swizzle)));
  return {};
}

/// Sets `map` to the tensor `shape` at `base`: memory of the device, or of the host in the SIMT flavour.
/// Coordinates outside the tensor load as zeros and store nothing. kInvalidArgument for a shape that breaks
/// the rules above; kCuda where the driver is too old for TMA or refuses.
inline Status make_tensor_map(TensorMap& map, const void* base, const TensorMapShape& shape) noexcept {
  if (const Status s = check_tensor_map(base, shape); !s.ok()) return s;
#if defined(DSV4_SIMT_EMULATION)
  map = {};
  map.base = base;
  map.rank = static_cast<std::uint8_t>(shape.rank);
  map.element_bytes = static_cast<std::uint8_t>(tensor_type_bytes(shape.type));
  for (int i = 0; i < shape.rank; ++i) {
    map.dim[i] = shape.dim[i];
    map.box[i] = shape.box[i];
    map.stride[i] = i ? shape.stride_bytes[i - 1] : map.element_bytes;
  }
  map.swizzle = static_cast<std::uint8_t>(shape.swizzle);
  switch (shape.type) {
    case TensorType::kF32:
      map.element = simt::Element::kF32;
      break;
    case TensorType::kBf16:
      map.element = simt::Element::kBf16;
      break;
    case TensorType::kU32:
      map.element = simt::Element::kU32;
      break;
    default:
      map.element = simt::Element::kOther;
  }
  map.magic = TensorMap::kMagic;
  return {};
#else
  // Through the runtime, so that nothing links against libcuda.
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t e =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t e = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
  if (e != cudaSuccess || found != cudaDriverEntryPointSuccess || !entry)
    return {Code::kCuda, static_cast<std::int32_t>(e),
            "make_tensor_map: the driver has no cuTensorMapEncodeTiled"};
  constexpr CUtensorMapDataType kTypes[] = {
      CU_TENSOR_MAP_DATA_TYPE_UINT8, CU_TENSOR_MAP_DATA_TYPE_UINT16,  CU_TENSOR_MAP_DATA_TYPE_UINT32,
      CU_TENSOR_MAP_DATA_TYPE_INT32, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16};
  constexpr CUtensorMapSwizzle kSwizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                              CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B};
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  cuuint64_t dim[5], stride[4];
  for (int i = 0; i < 5; ++i) dim[i] = shape.dim[i];
  for (int i = 0; i < 4; ++i) stride[i] = shape.stride_bytes[i];
  const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry)(
      &map, kTypes[static_cast<int>(shape.type)], static_cast<cuuint32_t>(shape.rank),
      const_cast<void*>(base), dim, stride, shape.box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      kSwizzles[static_cast<int>(shape.swizzle)], CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    return {Code::kCuda, static_cast<std::int32_t>(result), "make_tensor_map: cuTensorMapEncodeTiled"};
  return {};
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
