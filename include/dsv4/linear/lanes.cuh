// Rows in the registers of a warp: each lane holds kN neighbouring channels, as wide as one load allows.
// The row ops are made of these; so are kernels that quantise what they computed.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/quant.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// Values of T that one 16-byte access moves.
template <class T>
inline constexpr int kVectorOf = 16 / static_cast<int>(sizeof(T));

/// Where a pointer points: loads of global memory are instructions of their own.
enum class Memory { kGlobal, kShared };

/// v[i] = p[i] for i < count, 0 for the rest. kVector promises that p is aligned to kN values and that count
/// is not between 0 and kN. One thread's.
template <bool kVector, Memory kMemory = Memory::kGlobal, int kN, class T>
DSV4_DEVICE void load_values(float (&v)[kN], const T* p, std::int64_t count) {
  if constexpr (kVector) {
    arch::Vec<T, kN> raw = {};
    const auto* from = reinterpret_cast<const arch::Vec<T, kN>*>(p);
    if (count > 0) raw = kMemory == Memory::kGlobal ? arch::load(from) : *from;
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) v[i] = to_float(raw[i]);
  } else {
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) v[i] = i < count ? to_float(p[i]) : 0.0f;
  }
}

/// p[i] = values[i] for i < count, with the same promise.
template <bool kVector, int kN, class T>
DSV4_DEVICE void store_values(T* p, const arch::Vec<T, kN>& values, std::int64_t count) {
  if constexpr (kVector) {
    if (count > 0) arch::store(reinterpret_cast<arch::Vec<T, kN>*>(p), values);
  } else {
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i)
      if (i < count) p[i] = values[i];
  }
}

template <class T, int kN>
DSV4_DEVICE arch::Vec<T, kN> rounded(const float (&v)[kN]) {
  arch::Vec<T, kN> r;
  DSV4_UNROLL
  for (int i = 0; i < kN; ++i) r[i] = from_float<T>(v[i]);
  return r;
}

/// Bits of the largest |v| over kLanes neighbouring lanes (a power of two; quant.hpp's amax_bits). All lanes
/// of the warp call.
template <int kLanes, int kN>
DSV4_DEVICE std::uint32_t amax_bits(const float (&v)[kN]) {
  std::uint32_t m = 0;
  DSV4_UNROLL
  for (int i = 0; i < kN; ++i) {
    const std::uint32_t bits = bits_as<std::uint32_t>(v[i]) & 0x7fffffffu;
    m = bits > m ? bits : m;
  }
  DSV4_UNROLL
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const std::uint32_t other = arch::shfl_xor(m, distance);
    m = other > m ? other : m;
  }
  return m;
}

/// Quantises blocks of kBlock channels held by kBlock / kN neighbouring lanes to FP8, bit for bit
/// quant::fp8_block; channels beyond the end of a row are zeros. Returns the lane's block's scale. All lanes
/// of the warp call.
template <int kBlock, int kN>
DSV4_DEVICE e8m0 fp8_codes(arch::Vec<e4m3, kN>& codes, const float (&v)[kN]) {
  static_assert(kBlock % kN == 0 && kBlock / kN <= arch::kWarpThreads, "a block lies within one warp");
  const e8m0 s = quant::fp8_scale(amax_bits<kBlock / kN>(v));
  const float inverse = quant::inverse_scale(s);
  DSV4_UNROLL
  for (int i = 0; i < kN; ++i) codes[i] = to_e4m3(quant::scaled(v[i], inverse));
  return s;
}

/// The same in FP4, bit for bit quant::fp4_block.
template <int kBlock, int kN>
DSV4_DEVICE e8m0 fp4_codes(arch::Vec<e2m1x2, kN / 2>& codes, const float (&v)[kN]) {
  static_assert(kN % 2 == 0, "two codes a byte");
  static_assert(kBlock % kN == 0 && kBlock / kN <= arch::kWarpThreads, "a block lies within one warp");
  const e8m0 s = quant::fp4_scale(amax_bits<kBlock / kN>(v));
  const float inverse = quant::inverse_scale(s);
  DSV4_UNROLL
  for (int i = 0; i < kN / 2; ++i) {
    const std::uint32_t low = to_e2m1(quant::scaled(v[2 * i], inverse));
    const std::uint32_t high = to_e2m1(quant::scaled(v[2 * i + 1], inverse));
    codes[i] = {static_cast<std::uint8_t>(low | (high << 4))};
  }
  return s;
}

/// Where scales are written: that of block b of row r is element r * row_stride + b * block_stride.
struct Scales {
  void* data;  // e8m0, or f32
  std::int64_t row_stride, block_stride;
  bool f32;

  DSV4_DEVICE void put(std::int64_t row, std::int64_t block, e8m0 s) const {
    const std::int64_t i = row * row_stride + block * block_stride;
    if (f32)
      static_cast<float*>(data)[i] = to_float(s);
    else
      static_cast<e8m0*>(data)[i] = s;
  }
};

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
