// A warp-specialised GEMM (TMA, mbarriers, wgmma, setmaxnreg) under every policy, against fp64.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/launch.hpp>

#include "tests/simt/kernels/warp_specialised_gemm.cuh"
#include "tests/simt/policies.hpp"
#include "tests/support/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

using namespace dsv4;
using namespace dsv4::test;

namespace {

class Gemm {
 public:
  Gemm(int m, int n, int k)
      : m_(m), n_(n), k_(k), a_(codes(m * k, 1)), b_(codes(n * k, 2)), c_(count(m) * count(n)) {
    for (int y = 0; y < m; ++y)
      for (int x = 0; x < n; ++x) {
        double sum = 0;
        for (int i = 0; i < k; ++i)
          sum += double{to_float(a_[count(y * k + i)])} * double{to_float(b_[count(x * k + i)])};
        expected_.push_back(sum);
      }
  }

  /// Largest difference from fp64; infinity where an output is NaN.
  template <GemmOperandA kOperandA>
  double largest_error() {
    std::fill(c_.begin(), c_.end(), std::nanf(""));
    simt::LaunchShape shape = threads(kGemmThreads, sizeof(GemmShared));
    shape.grid = {static_cast<unsigned>((n_ + kGemmN - 1) / kGemmN),
                  static_cast<unsigned>((m_ + kGemmM - 1) / kGemmM), 1};
    simt::launch("warp_specialised_gemm", warp_specialised_gemm<kOperandA>, shape, map(a_, m_, kGemmM),
                 map(b_, n_, kGemmN), c_.data(), m_, n_, k_);
    double largest = 0;
    for (std::size_t i = 0; i < c_.size(); ++i) {
      const double error = std::fabs(double{c_[i]} - expected_[i]);
      largest = error >= 0 ? std::max(largest, error) : HUGE_VAL;
    }
    return largest;
  }

 private:
  static std::size_t count(int n) { return static_cast<std::size_t>(n); }
  static std::vector<bf16> codes(int n, std::uint64_t seed) {
    std::vector<bf16> v;
    for (const float x : normal(n, seed)) v.push_back(from_float<bf16>(x));
    return v;
  }
  arch::TensorMap map(const std::vector<bf16>& data, int rows, int box_rows) const {
    arch::TensorMapShape shape;
    shape.type = arch::TensorType::kBf16;
    shape.rank = 2;
    shape.dim[0] = static_cast<std::uint64_t>(k_);
    shape.dim[1] = static_cast<std::uint64_t>(rows);
    shape.stride_bytes[0] = static_cast<std::uint64_t>(k_) * 2;
    shape.box[0] = kGemmK;
    shape.box[1] = static_cast<std::uint32_t>(box_rows);
    shape.swizzle = arch::Swizzle::k128;
    arch::TensorMap map;
    REQUIRE(arch::make_tensor_map(map, data.data(), shape).ok());
    return map;
  }
  int m_, n_, k_;
  std::vector<bf16> a_, b_;
  std::vector<float> c_;
  std::vector<double> expected_;
};

// fp32 sums of k products of numbers of size 1: each of k additions rounds a sum of size sqrt(k) at most.
double bound(int k) { return 8 * std::sqrt(static_cast<double>(k)) * static_cast<double>(k) * 0x1p-24; }

}  // namespace

TEST_CASE("warp-specialised GEMM under every policy", "[simt][wgmma][tma][mbarrier]") {
  constexpr int kK = 6 * kGemmK;  // more stages than the ring has
  Gemm whole(128, 64, kK), ragged(100, 120, kK);
  for_each_policy([&] {
    CHECK(whole.largest_error<GemmOperandA::kShared>() < bound(kK));
    CHECK(whole.largest_error<GemmOperandA::kRegisters>() < bound(kK));
    CHECK(ragged.largest_error<GemmOperandA::kShared>() < bound(kK));
  });
}

TEST_CASE("warp-specialised GEMM executes what its shape says", "[simt][wgmma][tma][counters]") {
  Gemm gemm(256, 64, 256);
  simt::reset_counters();
  CHECK(gemm.largest_error<GemmOperandA::kShared>() < bound(256));
  const simt::Counters counters = simt::counters();
  CHECK(counters.tma == 2 * 4 * 2);     // blocks, stages, operands
  CHECK(counters.wgmma == 2 * 2 * 16);  // blocks, consumers, steps of 16
  CHECK(counters.matrix_bank_conflicts == 0);
  CHECK(gemm.largest_error<GemmOperandA::kRegisters>() < bound(256));
  CHECK(simt::counters().matrix_bank_conflicts == 0);  // the swizzle spreads the rows
}
