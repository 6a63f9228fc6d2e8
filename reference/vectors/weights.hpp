// Weight matrices as checkpoints store them: drawn, and read value by value.
#pragma once

#include "reference/vectors/rows.hpp"

#include <string>

namespace dsv4::reference::vectors {

/// How a matrix is stored. FP8: e4m3 [N, K], UE8M0 [ceil(N/128), ceil(K/128)]. FP4: e2m1 [N, K/2], UE8M0 [N,
/// K/32].
enum class Stored { kBf16, kFp8, kFp4 };

/// Inputs NAME (and NAME_scale): `matrices` of [rows, cols], of about unit gain.
void put_matrix(Problem& problem, const std::string& name, Stored stored, std::int64_t matrices,
                std::int64_t rows, std::int64_t cols, Random& random);

/// Row `row` of matrix `matrix` of the input NAME, exactly.
std::vector<double> matrix_row(const Problem& problem, const std::string& name, Stored stored,
                               std::int64_t matrix, std::int64_t rows, std::int64_t cols, std::int64_t row,
                               Mistake mistake);

/// x . w for the columns of w, in fp32.
inline Num dot(const Nums& x, const std::vector<double>& w) {
  Sum sum;
  for (std::size_t k = 0; k < w.size(); ++k) sum.add(product(x[k], Num(w[k])));
  return sum.value();
}

}  // namespace dsv4::reference::vectors
