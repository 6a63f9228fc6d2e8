// A whole tensor-core kernel on the machine against fp64, under every policy.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>

#include "tests/simt/kernels/sparse_attention_problem.hpp"
#include "tests/support/catch.hpp"

using namespace dsv4;

TEST_CASE("sparse attention agrees with fp64 under every policy", "[simt][attention]") {
  test::SparseAttentionProblem problem(2, 70);
  for (const auto async : {simt::Async::kEager, simt::Async::kLazy, simt::Async::kRandom})
    for (const auto schedule : {simt::Schedule::kFifo, simt::Schedule::kLifo, simt::Schedule::kRandom}) {
      CAPTURE(static_cast<int>(async), static_cast<int>(schedule));
      simt::Options o = simt::options();
      o.async = async;
      o.schedule = schedule;
      const simt::ScopedOptions scope(o);
      problem.run<8>();
      CHECK(problem.largest_error() < 0.01);
    }
}

TEST_CASE("sparse attention agrees with fp64 under every rounding model", "[simt][attention]") {
  test::SparseAttentionProblem problem(1, 64);
  for (const auto rounding : {simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper}) {
    CAPTURE(static_cast<int>(rounding));
    simt::Options o = simt::options();
    o.rounding = rounding;
    const simt::ScopedOptions scope(o);
    problem.run<8>();
    CHECK(problem.largest_error() < 0.01);
  }
}

TEST_CASE("the counters see a kernel's instructions and its bank conflicts", "[simt][attention][counters]") {
  test::SparseAttentionProblem problem(1, 64);
  simt::reset_counters();
  problem.run<8>();
  const simt::Counters padded = simt::counters();
  // Two tiles of 32 keys, by 8 warps: 32 steps of 2 ldmatrix and 2 mma for the scores; for the output 2 steps
  // of 1 + 16 ldmatrix and 32 mma.
  CHECK(padded.mma == 2 * 8 * (32 * 2 + 2 * 32));
  CHECK(padded.ldmatrix == 2 * 8 * (32 * 2 + 2 * 17));
  CHECK(padded.cp_async == (test::kHeads + 64) * test::kDim / 8);
  CHECK(padded.matrix_bank_conflicts == 0);

  // Rows of 1024 bytes all start in the same bank; those of s.p, of 64, in two groups of banks.
  simt::reset_counters();
  problem.run<0>();
  CHECK(problem.largest_error() < 0.01);
  const simt::Counters unpadded = simt::counters();
  CHECK(unpadded.matrix_bank_conflicts == 4 * unpadded.ldmatrix);
}
