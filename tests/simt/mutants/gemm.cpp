#include "tests/simt/kernels/warp_specialised_gemm.cuh"
#include "tests/simt/mutants/judge.hpp"
#include "tests/support/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

using namespace dsv4;
using namespace dsv4::test;

namespace {

constexpr int kM = 120, kN = 60, kK = 768;  // neither tile is full; each stage is used three times

std::vector<bf16> codes(int n, std::uint64_t seed) {
  std::vector<bf16> v;
  for (const float x : normal(n, seed)) v.push_back(from_float<bf16>(x));
  return v;
}

arch::TensorMap map_of(const std::vector<bf16>& data, int rows, int box_rows) {
  arch::TensorMapShape shape;
  shape.type = arch::TensorType::kBf16;
  shape.rank = 2;
  shape.dim[0] = kK;
  shape.dim[1] = static_cast<std::uint64_t>(rows);
  shape.stride_bytes[0] = kK * 2;
  shape.box[0] = kGemmK;
  shape.box[1] = static_cast<std::uint32_t>(box_rows);
  shape.swizzle = arch::Swizzle::k128;
  arch::TensorMap map;
  if (const Status s = arch::make_tensor_map(map, data.data(), shape); !s.ok())
    throw std::runtime_error(s.what);
  return map;
}

template <GemmOperandA kOperandA>
double largest_error(const std::vector<bf16>& a, const std::vector<bf16>& b) {
  std::vector<float> c(kM * kN + 8 * kN, std::nanf(""));  // a row block of nobody's
  simt::LaunchShape shape;
  shape.block.x = kGemmThreads;
  shape.shared_bytes = sizeof(GemmShared);
  simt::launch("warp_specialised_gemm", warp_specialised_gemm<kOperandA>, shape, map_of(a, kM, kGemmM),
               map_of(b, kN, kGemmN), c.data(), kM, kN, kK);
  double largest = 0;
  for (std::size_t y = 0; y < kM; ++y)
    for (std::size_t x = 0; x < kN; ++x) {
      double sum = 0;
      for (std::size_t i = 0; i < kK; ++i)
        sum += double{to_float(a[y * kK + i])} * double{to_float(b[x * kK + i])};
      const double error = std::fabs(double{c[y * kN + x]} - sum);
      largest = error >= 0 ? std::max(largest, error) : HUGE_VAL;
    }
  for (std::size_t i = kM * kN; i < c.size(); ++i)
    if (!std::isnan(c[i])) return HUGE_VAL;
  return largest;
}

}  // namespace

int main() {
  const std::vector<bf16> a = codes(kM * kK, 1), b = codes(kN * kK, 2);
  return judge(
      [&] {
        return std::max(largest_error<GemmOperandA::kShared>(a, b),
                        largest_error<GemmOperandA::kRegisters>(a, b));
      },
      0.01);
}
