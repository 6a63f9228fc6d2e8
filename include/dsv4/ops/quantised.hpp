// Quantised activations as ops write them: codes, and one scale a block of channels.
#pragma once

#include <dsv4/ops/common.hpp>

#include <cstdint>

namespace dsv4::ops {

/// How a scale is stored. Every scale is a power of two, or NaN for a block that holds a NaN or an infinity.
enum class ScaleType : std::int32_t {
  kUe8m0 = 0,  // one byte: value 2^(byte - 127), 255 = NaN
  kF32 = 1,
};

enum class ScaleLayout : std::int32_t {
  kRowMajor = 0,     // [rows, blocks]: a row's scales side by side
  kColumnMajor = 1,  // [blocks, rows]: a block's scales of all rows side by side, as TMA-fed GEMMs read them
};

/// Optional FP8 output of an op that produces rows [rows, n]: e4m3 codes and a scale for every 128 channels
/// (a shorter last block is legal). Same rounding as op act_quant.
struct Fp8Output {
  void* codes = nullptr;   // [rows, n] e4m3; null = no quantised output
  void* scales = nullptr;  // ceil(n/128) scales a row, scale_type and scale_layout; aligned to their size
  std::int64_t codes_stride = 0;   // between rows; 0 = n
  std::int64_t scales_stride = 0;  // between rows of [rows, blocks] or [blocks, rows]; 0 = contiguous
  ScaleType scale_type = ScaleType::kUe8m0;
  ScaleLayout scale_layout = ScaleLayout::kRowMajor;
};

}  // namespace dsv4::ops
