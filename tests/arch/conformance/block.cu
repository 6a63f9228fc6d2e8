// Scans, reductions and sorts of a block.
#include <dsv4/arch/block.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>

#include "tests/arch/conformance/case.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

// 4 words a thread: both scans and both totals.
template <int kThreads>
DSV4_KERNEL(kThreads)
scan_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  using Scan = arch::BlockScan<kThreads, std::uint32_t>;
  DSV4_SHARED(typename Scan::Storage, storage);
  const unsigned t = arch::thread_idx().x;
  std::uint32_t* mine = out + t * 4;
  mine[0] = Scan::exclusive_sum(storage, scratch[t], mine[2]);
  mine[1] = Scan::inclusive_sum(storage, scratch[t], mine[3]);
}

// 6 words a thread: sum, least and greatest as unsigned, then as signed.
template <int kThreads>
DSV4_KERNEL(kThreads)
reduce_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  using Unsigned = arch::BlockReduce<kThreads, std::uint32_t>;
  using Signed = arch::BlockReduce<kThreads, int>;
  DSV4_SHARED(typename Unsigned::Storage, storage);
  DSV4_SHARED(typename Signed::Storage, signed_storage);
  const unsigned t = arch::thread_idx().x;
  const int value = static_cast<int>(scratch[t]);
  std::uint32_t* mine = out + t * 6;
  mine[0] = Unsigned::sum(storage, scratch[t]);
  mine[1] = Unsigned::min(storage, scratch[t]);
  mine[2] = Unsigned::max(storage, scratch[t]);
  mine[3] = static_cast<std::uint32_t>(Signed::sum(signed_storage, value));
  mine[4] = static_cast<std::uint32_t>(Signed::min(signed_storage, value));
  mine[5] = static_cast<std::uint32_t>(Signed::max(signed_storage, value));
}

// Keys and original places of kThreads * kItems pairs. kFew: eight different keys, so that stability shows.
template <int kThreads, int kItems, bool kFew, bool kDescending>
DSV4_KERNEL(kThreads)
sort_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  using Sort = arch::BlockSort<kThreads, kItems>;
  DSV4_SHARED(typename Sort::Storage, storage);
  const unsigned first = arch::thread_idx().x * kItems;
  std::uint32_t keys[kItems], values[kItems];
  for (unsigned i = 0; i < kItems; ++i) {
    keys[i] = scratch[first + i] & (kFew ? 7u : ~0u);
    values[i] = first + i;
  }
  constexpr int kBits = kFew ? 3 : 32;
  if constexpr (kDescending)
    Sort::descending(storage, keys, values, 0, kBits);
  else
    Sort::ascending(storage, keys, values, 0, kBits);
  for (unsigned i = 0; i < kItems; ++i) {
    out[2 * (first + i)] = keys[i];
    out[2 * (first + i) + 1] = values[i];
  }
}

template <int kThreads>
Status run_scan(Buffers buffers, Stream stream) noexcept {
  return arch::launch("block_scan", scan_kernel<kThreads>, {.grid = {}, .block = {kThreads, 1, 1}}, stream,
                      buffers.out, buffers.scratch);
}

template <int kThreads>
Status run_reduce(Buffers buffers, Stream stream) noexcept {
  return arch::launch("block_reduce", reduce_kernel<kThreads>, {.grid = {}, .block = {kThreads, 1, 1}},
                      stream, buffers.out, buffers.scratch);
}

template <int kThreads, int kItems, bool kFew, bool kDescending>
Status run_sort(Buffers buffers, Stream stream) noexcept {
  return arch::launch("block_sort", sort_kernel<kThreads, kItems, kFew, kDescending>,
                      {.grid = {}, .block = {kThreads, 1, 1}}, stream, buffers.out, buffers.scratch);
}

}  // namespace

std::vector<Case> block_cases() {
  return {
      {"block/scan_128", Compare::kBits, 80, false, 512, 128, run_scan<128>},
      {"block/scan_1024", Compare::kBits, 80, false, 4096, 1024, run_scan<1024>},
      {"block/reduce_96", Compare::kBits, 80, false, 576, 96, run_reduce<96>},
      {"block/reduce_512", Compare::kBits, 80, false, 3072, 512, run_reduce<512>},
      {"block/sort_128x4", Compare::kBits, 80, false, 1024, 512, run_sort<128, 4, false, false>},
      {"block/sort_descending_128x4", Compare::kBits, 80, false, 1024, 512, run_sort<128, 4, false, true>},
      {"block/sort_stable_256x8", Compare::kBits, 80, false, 4096, 2048, run_sort<256, 8, true, false>},
      {"block/sort_stable_descending_64x3", Compare::kBits, 80, false, 384, 192,
       run_sort<64, 3, true, true>}};
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
