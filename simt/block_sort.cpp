// Kept out of kernel code: what it allocates is no memory of the kernel's, for the race detector to look at.
#include <dsv4/simt/block_sort.hpp>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace dsv4::simt {

void sort_pairs(std::uint32_t* const* keys, std::uint32_t* const* values, int threads, int items,
                int begin_bit, int end_bit, bool descending) {
  struct Pair {
    std::uint32_t digits, key, value;
  };
  const std::uint32_t mask = end_bit - begin_bit >= 32 ? ~0u : (1u << (end_bit - begin_bit)) - 1;
  std::vector<Pair> pairs;
  pairs.reserve(static_cast<std::size_t>(threads) * static_cast<std::size_t>(items));
  for (int t = 0; t < threads; ++t)
    for (int i = 0; i < items; ++i)
      pairs.push_back({(keys[t][i] >> begin_bit & mask) ^ (descending ? ~0u : 0u), keys[t][i], values[t][i]});
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const Pair& a, const Pair& b) { return a.digits < b.digits; });
  const Pair* p = pairs.data();
  for (int t = 0; t < threads; ++t)
    for (int i = 0; i < items; ++i, ++p) {
      keys[t][i] = p->key;
      values[t][i] = p->value;
    }
}

}  // namespace dsv4::simt
