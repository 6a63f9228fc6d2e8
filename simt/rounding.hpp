// How a tensor core adds up products. PTX leaves order and rounding of the sum over k open; devices align the
// products and the addend to the largest exponent among them, cut each off at `fraction_bits`, add exactly
// and cut the sum off at `result_bits`, `terms` products at a time. Parameters as published for real devices
// by MMA-Sim (arXiv 2511.10909).
#pragma once

#include <dsv4/simt/options.hpp>

#include <cstdint>

namespace dsv4::simt {

/// Element of a tensor-core operand.
enum class MatrixElement : std::uint8_t { kBf16, kE4m3, kTf32 };

/// How one instruction adds.
struct SumModel {
  int terms = 0;          // products added at once; 0: an fp32 chain in ascending k
  int fraction_bits = 0;  // kept of an aligned product, below the largest exponent
  int result_bits = 0;    // fraction bits of a sum
  int element_bits = 0;   // fraction bits of an operand
  int min_exponent = 0;   // of a normal operand; smaller ones are subnormal and keep this exponent
};

/// The model of mma.sync. For kAmpere, e4m3 is that of sm_89, the first chip that has it. Hopper has no fp8
/// mma.sync of its own: the compiler converts to fp16 and multiplies 16 deep twice, of which the published
/// models say nothing; the lower half of k is taken to come first.
SumModel mma_sums(Rounding rounding, MatrixElement element);
/// The model of wgmma, of which bf16 and e4m3 are modelled; kAmpere, which has none, is as kHopper.
SumModel wgmma_sums(Rounding rounding, MatrixElement element);

/// D += A B over dense row-major fp32 matrices: a rows x k, b k x columns, d rows x columns; rows, columns
/// and k are multiples of 8, k at most 32. The operands hold values of the model's element exactly. Where an
/// operand or the addend of a sum is not finite, that sum is the fp32 chain's.
void multiply_accumulate(const SumModel& model, int rows, int columns, int k, const float* a, const float* b,
                         float* d);

}  // namespace dsv4::simt
