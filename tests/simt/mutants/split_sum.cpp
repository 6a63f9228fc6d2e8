#include "tests/simt/kernels/split_sum.cuh"
#include "tests/simt/mutants/judge.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

using namespace dsv4;
using namespace dsv4::test;

int main() {
  constexpr int kRows = 3, kSplits = 5, kRow = kSplits * kSplitPiece;
  std::vector<std::int32_t> in(kRows * kRow), out(kRows), partial(kRows * kSplits);
  std::vector<std::uint32_t> done(kRows);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::int32_t>(i * i % 1001);
  return judge(
      [&] {
        simt::LaunchShape shape;
        shape.grid = {kSplits, kRows, 1};
        shape.block.x = kSplitThreads;
        simt::launch("split_sum", split_sum, shape,
                     SplitSumParams{in.data(), out.data(), partial.data(), done.data(), kSplits});
        double largest = 0;
        for (int row = 0; row < kRows; ++row) {
          std::int64_t sum = 0;
          for (int i = 0; i < kRow; ++i) sum += in[static_cast<std::size_t>(row * kRow + i)];
          largest =
              std::fmax(largest, std::fabs(static_cast<double>(sum - out[static_cast<std::size_t>(row)])));
        }
        return largest;
      },
      0);
}
