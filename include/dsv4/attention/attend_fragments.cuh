// Cached rows as tensor-core operands: they lie in shared memory as they were stored, FP8 codes and all, and
// become bf16 on their way into registers, for the scores as well as for the values.
//
// A quantised row is 36 units of 16 bytes (28 of e4m3, 8 of bf16), a plain one 64. A unit of row r lies
// permuted with its neighbours, so that none of the accesses below meets a bank twice:
//   8 rows, one unit          ldmatrix, of values
//   4 neighbouring rows, 2    8-byte loads of codes, for scores
//   2 neighbouring rows, 4    16-byte loads of bf16, for scores
//   4 even (or odd) rows, 2   4-byte loads of bf16, for values
#pragma once

#include <dsv4/arch/arithmetic.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/convert.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/matrix.cuh>
#include <dsv4/arch/memory.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

inline constexpr int kUnitBytes = 16;

/// Where unit u of row r lies among the row's units, for rows of a multiple of 8 units.
DSV4_DEVICE int swizzled(int r, int u) { return u ^ (((r ^ (r >> 2)) & 1) << 2 | (r & 2) | (r >> 2 & 1)); }

/// A tile of rows of kUnits units.
template <int kUnits>
struct RowTile {
  static_assert(kUnits % 8 == 0 || kUnits % 8 == 4);

  /// Address of a unit. Of rows of 4 (mod 8) units every second starts in the other half of the banks, so
  /// only units of the same four change places.
  DSV4_DEVICE static std::uint8_t* unit(std::uint8_t* tile, int r, int u) {
    const int place = kUnits % 8 == 0 ? swizzled(r, u) : u ^ ((r & 2) | (r >> 2 & 1));
    return tile + (r * kUnits + place) * kUnitBytes;
  }
};

// ---- pieces of operands ----------------------------------------------------------------------------------

/// (low half of a, low half of b), and the same of the high halves.
DSV4_DEVICE std::uint32_t low_halves(std::uint32_t a, std::uint32_t b) { return (a & 0xffffu) | b << 16; }
DSV4_DEVICE std::uint32_t high_halves(std::uint32_t a, std::uint32_t b) {
  return a >> 16 | (b & 0xffff0000u);
}

/// bf16 bits of the scale 2^(e - 127); e = 255 gives inf (the row's scores, and so its weights, are NaN).
DSV4_DEVICE std::uint16_t scale_bits(std::uint32_t e) {
  return static_cast<std::uint16_t>(e == 0 ? 0x40u : e << 7);
}

// ---- operands of scores ----------------------------------------------------------------------------------
// Scores are Q (16 heads) times rows (8), 16 channels a product. A lane holds 8 neighbouring channels of a
// row, c .. c+7, c = 32 h + 8 (lane % 4), the operands of two products j: the first takes c + {0, 2}, c + {1,
// 3} where PTX has channels 2t + {0, 1}, 2t + 8 + {0, 1}; the second c + 4 + the same. Codes are converted
// two at a time in just these pairs, and queries are stored in this order.

/// b[j] of 32 channels from 8 codes; unscaled. NaN codes become +-480, and `nan` nonzero.
DSV4_DEVICE void score_operands_e4m3(std::uint32_t (&b)[2][2], std::uint32_t& nan, const void* codes) {
  const auto w = *static_cast<const arch::Vec<std::uint32_t, 2>*>(codes);
  DSV4_UNROLL
  for (int j = 0; j < 2; ++j) {
    b[j][0] = arch::e4m3_even_to_bf16(w[j]), b[j][1] = arch::e4m3_odd_to_bf16(w[j]);
  }
  nan |= arch::e4m3_nans(w.v);
}

/// The same from 8 bf16; of queries too.
DSV4_DEVICE void score_operands_bf16(std::uint32_t (&b)[2][2], const arch::Vec<std::uint32_t, 4>& w) {
  DSV4_UNROLL
  for (int j = 0; j < 2; ++j) {
    b[j][0] = low_halves(w[2 * j], w[2 * j + 1]);
    b[j][1] = high_halves(w[2 * j], w[2 * j + 1]);
  }
}

// ---- operands of values ----------------------------------------------------------------------------------
// Values are weights (16 heads x 16 rows) times rows (16 x 8 channels). 16 channels are two products e.
// Interleaved, product e takes channels 2n + e as its columns n = 0 .. 7: what transposed pairs of codes
// give. Split, it takes 8e + n: what transposed bf16 give. A warp keeps to one order for all of its rows.

/// b[e] of 16 rows of 16 codes, interleaved, scaled.
///   unit    this lane's row (lane % 16) of ldmatrix
///   scales  bf16 scales of the 16 rows
DSV4_DEVICE void value_operands_e4m3(std::uint32_t (&b)[2][2], const void* unit,
                                     const std::uint16_t* scales) {
  std::uint32_t r[2];
  arch::ldmatrix_trans(r, unit);
  DSV4_UNROLL
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t s =
        *reinterpret_cast<const std::uint32_t*>(scales + 8 * i + 2 * (arch::lane_id() % 4));
    b[0][i] = arch::mul_bf16x2(arch::e4m3_even_to_bf16(r[i]), s);
    b[1][i] = arch::mul_bf16x2(arch::e4m3_odd_to_bf16(r[i]), s);
  }
}

/// b[e] of 16 rows of 16 bf16, split.
///   unit  the lane's row and half: row lane % 16, channels 8 (lane / 16) ..
DSV4_DEVICE void value_operands_split(std::uint32_t (&b)[2][2], const void* unit) {
  std::uint32_t r[4];
  arch::ldmatrix_trans(r, unit);
  b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

/// b[e] of 16 rows of 16 bf16, interleaved, where rows of codes share the product's columns.
///   word(row)  the two channels 2 (lane / 4) of a row 0 .. 15
template <class Word>
DSV4_DEVICE void value_operands_interleaved(std::uint32_t (&b)[2][2], const Word& word) {
  DSV4_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int row = 8 * i + 2 * (arch::lane_id() % 4);
    const std::uint32_t first = word(row), second = word(row + 1);
    b[0][i] = low_halves(first, second);
    b[1][i] = high_halves(first, second);
  }
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
