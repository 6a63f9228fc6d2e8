// Steps on one row that several oracles share: norm, rotation, Hadamard transform, block quantisation.
#pragma once

#include "reference/vectors/problem.hpp"
#include "reference/vectors/random.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::reference::vectors {

/// row[i] = weight[i] * row[i] * rsqrt(mean(row^2) + eps), not rounded; weight empty = none.
void rms_norm(Nums& row, const Nums& weight, double eps, Mistake mistake);

/// The scalars of a problem that fix its rotation: "ratio" of the layer (0, 4, 128) and both kinds' bases.
void put_rope(Problem& problem, const Sizes& sizes, int ratio);

/// cos and sin of the 32 pairs at one position, for the layer's kind.
struct Rotation {
  std::vector<Num> cos, sin;
};
Rotation rotation(const Problem& problem, std::int64_t position, Mistake mistake);

/// Rotates the last 64 channels of a row, each result rounded to bf16.
void rotate(Nums& row, const Rotation& rotation, bool inverse, Mistake mistake);

/// row = bf16(128^-0.5 * sum_j (-1)^popcount(i & j) row[j]), 128 channels.
void hadamard(Nums& row, Mistake mistake);

/// Blocks of a row in a quantised format.
struct Quantised {
  Nums values;                      // dequantised
  Nums scales;                      // scale byte of each block, as a number
  std::vector<std::uint8_t> codes;  // e4m3, or e2m1 packed in pairs
  std::vector<std::uint8_t> scale_bytes;
};
/// e4m3 in blocks of `block` channels; e2m1 in blocks of 32. Values of a block with a NaN or inf are NaN.
Quantised quantise_fp8(const Nums& row, std::int64_t block, Mistake mistake);
Quantised quantise_fp4(const Nums& row, Mistake mistake);

/// Row [512] as a 584-byte entry, row [128] as a 68-byte key: bytes appended to the output, and what they
/// decode to.
void append_kv_entry(Output& out, const Nums& row, Mistake mistake);
void append_index_key(Output& out, const Nums& row, Mistake mistake);

/// bf16 or f32 values of a normal distribution.
Array normal(Random& random, DType dtype, std::vector<std::int64_t> shape, double sigma = 1, double mean = 0);

/// Eps of the model, with the digits of its fp32 value.
inline double eps_of(float eps) { return static_cast<double>(eps); }

}  // namespace dsv4::reference::vectors
