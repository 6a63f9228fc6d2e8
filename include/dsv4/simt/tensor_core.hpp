// Warp-level matrix instructions on the SIMT machine: what the host halves of arch/mma.cuh and
// arch/matrix.cuh call. Every lane of the full warp calls.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstdint>

namespace dsv4::simt {

enum class Mma : std::uint8_t { kM16N8K16Bf16, kM16N8K32E4m3, kM16N8K8Tf32 };

/// d = a b + c, the calling lane's fragments: a of 4 registers, b of 2, c and d of 4 floats (d may be c).
void mma(Mma shape, float* d, const std::uint32_t* a, const std::uint32_t* b, const float* c, Loc loc);

/// fp32 bits of x rounded to 10 mantissa bits, to nearest, ties away from zero.
std::uint32_t to_tf32(float x);

/// r[0 .. matrices): 8 x 8 matrices of 2-byte elements; `row` of lane 8 m + i is row i of matrix m.
void load_matrices(std::uint32_t* r, int matrices, bool transposed, const void* row, Loc loc);
void store_matrices(void* row, int matrices, bool transposed, const std::uint32_t* r, Loc loc);

}  // namespace dsv4::simt
