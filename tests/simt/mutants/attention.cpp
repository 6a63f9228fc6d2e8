#include "tests/simt/kernels/sparse_attention_problem.hpp"
#include "tests/simt/mutants/judge.hpp"

int main() {
  return dsv4::test::judge(
      [] {
        dsv4::test::SparseAttentionProblem problem(2, 70);
        problem.run<8>();
        return problem.largest_error();
      },
      0.01);
}
