// Block-wide integer scans, reductions and sorts: CUB on a GPU, one thread's loop between barriers on the
// machine. The results are integers, so both give the same bits. https://nvidia.github.io/cccl/cub/
//
// Every thread of the 1-D block of kThreads calls, with the same Storage, a shared variable:
//   using Scan = arch::BlockScan<256>;
//   DSV4_SHARED(Scan::Storage, storage);
//   int total;
//   const int offset = Scan::exclusive_sum(storage, count, total);
// Each call ends with a barrier of the block: the storage is free again at once.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>

#include <cstdint>
#include <type_traits>

#if defined(DSV4_SIMT_EMULATION)
#include <dsv4/simt/block_sort.hpp>
#else
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#endif

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// Prefix sums over the threads, in order of threadIdx.x. T is an integer of 4 or 8 bytes; sums wrap.
template <int kThreads, class T = int>
struct BlockScan {
  static_assert(kThreads % kWarpThreads == 0 && kThreads <= 1024,
                "BlockScan: whole warps, 1024 threads at most");
  static_assert(std::is_integral_v<T> && sizeof(T) >= 4, "BlockScan: integers of 4 or 8 bytes");

#if defined(DSV4_SIMT_EMULATION)
  struct Storage {
    T value[kThreads];
    T total;
  };
#else
  using Cub = cub::BlockScan<T, kThreads>;
  using Storage = typename Cub::TempStorage;
#endif

  /// Sum of the values of the threads before the caller; `total` = that of all.
  DSV4_DEVICE static T exclusive_sum(Storage& storage, T value, T& total DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
    return inclusive_sum(storage, value, total DSV4_LOC_OF) - value;
#else
    T sum;
    Cub(storage).ExclusiveSum(value, sum, total);
    sync_threads();
    return sum;
#endif
  }

  /// Sum of the values up to the caller's, its own included.
  DSV4_DEVICE static T inclusive_sum(Storage& storage, T value, T& total DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
    const unsigned me = thread_idx().x;
    storage.value[me] = value;
    sync_threads(loc);
    if (me == 0) {
      std::make_unsigned_t<T> running = 0;
      for (T& v : storage.value) v = static_cast<T>(running += static_cast<std::make_unsigned_t<T>>(v));
      storage.total = static_cast<T>(running);
    }
    sync_threads(loc);
    const T sum = storage.value[me];
    total = storage.total;
    sync_threads(loc);
    return sum;
#else
    T sum;
    Cub(storage).InclusiveSum(value, sum, total);
    sync_threads();
    return sum;
#endif
  }
};

/// Reductions over the threads; every thread gets the result. T is an integer of 4 or 8 bytes; sums wrap.
template <int kThreads, class T = int>
struct BlockReduce {
  static_assert(kThreads % kWarpThreads == 0 && kThreads <= 1024,
                "BlockReduce: whole warps, 1024 threads at most");
  static_assert(std::is_integral_v<T> && sizeof(T) >= 4, "BlockReduce: integers of 4 or 8 bytes");

#if defined(DSV4_SIMT_EMULATION)
  struct Storage {
    T value[kThreads];
    T result;
  };
#else
  using Cub = cub::BlockReduce<T, kThreads>;
  struct Storage {
    typename Cub::TempStorage cub;
    T result;
  };
#endif

  DSV4_DEVICE static T sum(Storage& storage, T value DSV4_LOC) {
    return reduce(
        storage, value, Sum {} DSV4_LOC_OF);
  }
  DSV4_DEVICE static T min(Storage& storage, T value DSV4_LOC) {
    return reduce(
        storage, value, Min {} DSV4_LOC_OF);
  }
  DSV4_DEVICE static T max(Storage& storage, T value DSV4_LOC) {
    return reduce(
        storage, value, Max {} DSV4_LOC_OF);
  }

 private:
  struct Sum {
    DSV4_DEVICE T operator()(T a, T b) const {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    }
  };
  struct Min {
    DSV4_DEVICE T operator()(T a, T b) const { return b < a ? b : a; }
  };
  struct Max {
    DSV4_DEVICE T operator()(T a, T b) const { return a < b ? b : a; }
  };

  template <class Op>
  DSV4_DEVICE static T reduce(Storage& storage, T value, Op op DSV4_LOC) {
    const unsigned me = thread_idx().x;
#if defined(DSV4_SIMT_EMULATION)
    storage.value[me] = value;
    sync_threads(loc);
    if (me == 0) {
      T result = value;
      for (int i = 1; i < kThreads; ++i) result = op(result, storage.value[i]);
      storage.result = result;
    }
    sync_threads(loc);
    const T result = storage.result;
    sync_threads(loc);
    return result;
#else
    const T of_thread_0 = Cub(storage.cub).Reduce(value, op);
    if (me == 0) storage.result = of_thread_0;
    sync_threads();
    const T result = storage.result;
    sync_threads();
    return result;
#endif
  }
};

/// Sorts kThreads * kItems pairs of a 4-byte key and a 4-byte value by the key. Thread t holds the pairs
/// [t * kItems, (t + 1) * kItems), before and after. Stable: pairs of equal keys keep their order.
template <int kThreads, int kItems>
struct BlockSort {
  static_assert(kThreads % kWarpThreads == 0 && kThreads <= 1024,
                "BlockSort: whole warps, 1024 threads at most");

#if defined(DSV4_SIMT_EMULATION)
  struct Storage {
    std::uint32_t* keys[kThreads];
    std::uint32_t* values[kThreads];
  };
#else
  using Cub = cub::BlockRadixSort<std::uint32_t, kThreads, kItems, std::uint32_t>;
  using Storage = typename Cub::TempStorage;
#endif

  /// By the bits [begin_bit, end_bit) of the keys, ascending. Fewer bits take less time.
  DSV4_DEVICE static void ascending(Storage& storage, std::uint32_t (&keys)[kItems],
                                    std::uint32_t (&values)[kItems], int begin_bit = 0,
                                    int end_bit = 32 DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
    sort(storage, keys, values, begin_bit, end_bit, false, loc);
#else
    Cub(storage).Sort(keys, values, begin_bit, end_bit);
    sync_threads();
#endif
  }

  /// The same, descending; pairs of equal keys keep their order here too.
  DSV4_DEVICE static void descending(Storage& storage, std::uint32_t (&keys)[kItems],
                                     std::uint32_t (&values)[kItems], int begin_bit = 0,
                                     int end_bit = 32 DSV4_LOC) {
#if defined(DSV4_SIMT_EMULATION)
    sort(storage, keys, values, begin_bit, end_bit, true, loc);
#else
    Cub(storage).SortDescending(keys, values, begin_bit, end_bit);
    sync_threads();
#endif
  }

#if defined(DSV4_SIMT_EMULATION)
 private:
  static void sort(Storage& storage, std::uint32_t (&keys)[kItems], std::uint32_t (&values)[kItems],
                   int begin_bit, int end_bit, bool descending, simt::Loc loc) {
    const unsigned me = thread_idx().x;
    storage.keys[me] = keys;
    storage.values[me] = values;
    sync_threads(loc);
    if (me == 0)
      simt::sort_pairs(storage.keys, storage.values, kThreads, kItems, begin_bit, end_bit, descending);
    sync_threads(loc);
  }
#endif
};

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
