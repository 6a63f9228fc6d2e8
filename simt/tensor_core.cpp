// mma.sync, ldmatrix and stmatrix: the last lane to arrive computes for the warp.
#include <dsv4/core/types.hpp>
#include <dsv4/simt/tensor_core.hpp>

#include "simt/machine.hpp"
#include "simt/rounding.hpp"

#include <array>
#include <cstring>

namespace dsv4::simt {
namespace {

// ---- products --------------------------------------------------------------------------------------------
struct MmaOperand {
  const std::uint32_t* a;
  const std::uint32_t* b;
  const float* c;
  float* d;
};

const std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values{};
  for (unsigned i = 0; i < 256; ++i) values[i] = to_float(e4m3{static_cast<std::uint8_t>(i)});
  return values;
}();

// The elements of a register, ascending in k.
template <MatrixElement kElement>
[[gnu::always_inline]] inline void widen(std::uint32_t bits, float* out, int stride) {
  const auto put = [&](int i, std::uint32_t u) { std::memcpy(out + i * stride, &u, sizeof u); };
  if constexpr (kElement == MatrixElement::kBf16) {
    put(0, bits << 16);
    put(1, bits & 0xffff0000u);
  } else if constexpr (kElement == MatrixElement::kTf32) {
    put(0, bits & 0xffffe000u);
  } else {
    for (int i = 0; i < 4; ++i) out[i * stride] = kE4m3Values[bits >> (8 * i) & 255];
  }
}

// Fragments as in arch/mma.cuh. B and C come first: their rows are loaded again as vectors, which must not
// overtake the narrow stores that made them.
template <MatrixElement kElement, int K>
void product(void* const* operands, Rounding rounding) {
  constexpr int kPerRegister = K / 8;
  alignas(32) float a[16][K], b[K][8], d[16][8];
  const auto lane = [operands](int l) { return static_cast<const MmaOperand*>(operands[l]); };
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 2; ++i)
      widen<kElement>(lane(l)->b[i], &b[kPerRegister * (l & 3) + K / 2 * i][l >> 2], 8);
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 2; ++i)
      std::memcpy(&d[(l >> 2) + 8 * i][2 * (l & 3)], lane(l)->c + 2 * i, 2 * sizeof(float));
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i)
      widen<kElement>(lane(l)->a[i], &a[(l >> 2) + 8 * (i & 1)][kPerRegister * (l & 3) + K / 2 * (i >> 1)],
                      1);
  multiply_accumulate(mma_sums(rounding, kElement), 16, 8, K, a[0], b[0], d[0]);
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 2; ++i)
      std::memcpy(lane(l)->d + 2 * i, &d[(l >> 2) + 8 * i][2 * (l & 3)], 2 * sizeof(float));
}

// ---- matrices --------------------------------------------------------------------------------------------
struct MatrixOperand {
  std::byte* row;
  std::uint32_t address;
  std::uint32_t* r;
};

// The row that this lane addresses: 16 bytes.
void check_row(MatrixOperand& operand, const void* row, bool write, const char* name, Loc loc) {
  Thread& t = *current;
  Block& b = *t.block;
  const std::size_t offset = static_cast<std::size_t>(static_cast<const std::byte*>(row) - b.shared);
  operand.address = static_cast<std::uint32_t>(offset) + kSharedWindow;
  operand.row = b.shared + offset;
  // In dynamic memory and aligned: nothing more to ask. A call less counts, made so often.
  if (offset + 16 > b.dynamic_bytes || (offset & 15) != 0 || offset > b.dynamic_bytes) [[unlikely]] {
    operand.address = shared_address(row, name, loc);
    if (operand.address & 15)
      fail("%s: shared address 0x%x of a row is not a multiple of 16 (%s:%u)", name, operand.address,
           loc.file, loc.line);
    operand.row = shared_pointer(b, operand.address, 16, name, loc);
  }
  if constexpr (race::kEnabled) race::shared_access(t, operand.row, 16, write, loc);
}

// 8 rows are one access to 32 banks: a conflict if two different ones start in the same 4 banks.
bool conflicts(void* const* operands) {
  std::uint32_t seen[8] = {};
  bool conflict = false;
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t address = static_cast<const MatrixOperand*>(operands[i])->address;
    std::uint32_t& other = seen[address >> 4 & 7];
    conflict = conflict || (other != 0 && other != address);
    other = address;
  }
  return conflict;
}

// Calls move(register of a lane, its low element's place, its high element's place) for every lane of one
// matrix, whose rows are those of operands[0 .. 8).
template <class Move>
[[gnu::always_inline]] inline void move_matrix(void* const* all, void* const* operands, int matrix,
                                               bool transposed, Move&& move) {
  std::byte* row[8];
  for (int i = 0; i < 8; ++i) row[i] = static_cast<const MatrixOperand*>(operands[i])->row;
  for (int l = 0; l < 32; ++l) {
    std::uint32_t& r = static_cast<const MatrixOperand*>(all[l])->r[matrix];
    const int i = l >> 2, j = 2 * (l & 3);
    if (transposed)
      move(r, row[j] + 2 * i, row[j + 1] + 2 * i);
    else
      move(r, row[i] + 2 * j, row[i] + 2 * j + 2);
  }
}

}  // namespace

void mma(Mma shape, float* d, const std::uint32_t* a, const std::uint32_t* b, const float* c, Loc loc) {
  MmaOperand mine{a, b, c, d};
  static constexpr const char* kNames[] = {"mma.m16n8k16.bf16", "mma.m16n8k32.e4m3", "mma.m16n8k8.tf32"};
  const auto index = static_cast<std::uint32_t>(shape);
  meet(kFullMask, kOpMma + index, kNames[index], &mine, loc, [shape](void** operand, Warp&) {
    Gang& gang = *current->block->gang;
    ++gang.counters.mma;
    const Rounding rounding = gang.options->rounding;
    switch (shape) {
      case Mma::kM16N8K16Bf16:
        return product<MatrixElement::kBf16, 16>(operand, rounding);
      case Mma::kM16N8K32E4m3:
        return product<MatrixElement::kE4m3, 32>(operand, rounding);
      case Mma::kM16N8K8Tf32:
        return product<MatrixElement::kTf32, 8>(operand, rounding);
    }
  });
}

std::uint32_t to_tf32(float x) {
  std::uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffffffu;
  return (u + 0x1000u) & 0xffffe000u;
}

void load_matrices(std::uint32_t* r, int matrices, bool transposed, const void* row, Loc loc) {
  const char* name = transposed ? "ldmatrix.trans" : "ldmatrix";
  MatrixOperand mine{nullptr, 0, r};
  if (current->lane < 8 * static_cast<std::uint32_t>(matrices)) check_row(mine, row, false, name, loc);
  const auto op =
      kOpMatrixLoad + 8 * static_cast<std::uint32_t>(transposed) + static_cast<std::uint32_t>(matrices);
  meet(kFullMask, op, name, &mine, loc, [=](void** operand, Warp&) {
    Counters& counters = current->block->gang->counters;
    ++counters.ldmatrix;
    for (int m = 0; m < matrices; ++m) {
      counters.matrix_bank_conflicts += conflicts(operand + 8 * m);
      move_matrix(operand, operand + 8 * m, m, transposed,
                  [](std::uint32_t& to, const std::byte* low, const std::byte* high) {
                    std::uint16_t pair[2];
                    std::memcpy(&pair[0], low, 2);
                    std::memcpy(&pair[1], high, 2);
                    to = pair[0] | std::uint32_t{pair[1]} << 16;
                  });
    }
  });
}

void store_matrices(void* row, int matrices, bool transposed, const std::uint32_t* r, Loc loc) {
  const char* name = transposed ? "stmatrix.trans" : "stmatrix";
  MatrixOperand mine{nullptr, 0, const_cast<std::uint32_t*>(r)};
  if (current->lane < 8 * static_cast<std::uint32_t>(matrices)) check_row(mine, row, true, name, loc);
  const auto op =
      kOpMatrixLoad + 16 + 8 * static_cast<std::uint32_t>(transposed) + static_cast<std::uint32_t>(matrices);
  meet(kFullMask, op, name, &mine, loc, [=](void** operand, Warp&) {
    Counters& counters = current->block->gang->counters;
    ++counters.ldmatrix;
    for (int m = 0; m < matrices; ++m) {
      counters.matrix_bank_conflicts += conflicts(operand + 8 * m);
      move_matrix(operand, operand + 8 * m, m, transposed,
                  [](const std::uint32_t& from, std::byte* low, std::byte* high) {
                    const std::uint16_t pair[2] = {static_cast<std::uint16_t>(from),
                                                   static_cast<std::uint16_t>(from >> 16)};
                    std::memcpy(low, &pair[0], 2);
                    std::memcpy(high, &pair[1], 2);
                  });
    }
  });
}

}  // namespace dsv4::simt
