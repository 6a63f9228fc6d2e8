// Calls primitives from the installed headers alone.
#include <dsv4/core/coop.hpp>
#include <dsv4/core/types.hpp>

#include <cstdio>

int main() {
  const float sum =
      dsv4::SerialCoop::reduce_sum(100, [](float acc, int k) { return acc + static_cast<float>(k); });
  const float rounded = dsv4::round_to<dsv4::bf16>(1.00390625f);  // halfway: to even
  std::printf("sum %g, rounded %g\n", static_cast<double>(sum), static_cast<double>(rounded));
  return sum == 4950.0f && rounded == 1.0f ? 0 : 1;
}
