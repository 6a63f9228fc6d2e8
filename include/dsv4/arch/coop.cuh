// The groups of device threads that execute primitives: a warp, a block.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/coop.hpp>

#include <cstdint>

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// The canonical sum (core/reduce.hpp) of one warp: lane l folds the terms k with k % 32 == l; the butterfly
/// adds the partial sums as tree_sum does, because fp32 addition commutes. Every lane gets the sum.
template <class Fold>
DSV4_DEVICE float warp_canonical_sum(int n, Fold fold) {
  float partial = 0.0f;
  for (int k = lane_id(); k < n; k += kReduceLanes) partial = fold(partial, k);
  DSV4_UNROLL
  for (int distance = kReduceLanes / 2; distance > 0; distance /= 2) partial += shfl_xor(partial, distance);
  return partial;
}

/// The 32 threads of a warp. All 32 call each collective.
struct WarpCoop {
  static constexpr bool kSerial = false;

  DSV4_DEVICE static int rank() { return lane_id(); }
  DSV4_DEVICE static constexpr int size() { return kWarpThreads; }
  DSV4_DEVICE static void sync() { sync_warp(); }

  template <class Fold>
  DSV4_DEVICE static float reduce_sum(int n, Fold fold) {
    return warp_canonical_sum(n, fold);
  }
  template <class F>
  DSV4_DEVICE static std::uint32_t reduce_max(int n, F f) {
    unsigned m = 0;
    for (int k = lane_id(); k < n; k += kWarpThreads) {
      const unsigned v = f(k);
      m = v > m ? v : m;
    }
    return arch::reduce_max(m);
  }
  template <class F>
  DSV4_DEVICE static int reduce_count(int n, F f) {
    int count = 0;
    for (int k = lane_id(); k < n; k += kWarpThreads) count += f(k) ? 1 : 0;
    return arch::reduce_add(count);
  }
};

/// The kThreads threads of a 1-D block. All call each collective; each synchronises the block twice. Warp 0
/// does the canonical sum, whose order has 32 lanes by definition: kernels that need speed give one row to a
/// warp.
template <int kThreads>
struct CtaCoop {
  static_assert(kThreads % kWarpThreads == 0 && kThreads <= 1024,
                "CtaCoop: whole warps, 1024 threads at most");
  static constexpr bool kSerial = false;

  DSV4_DEVICE static int rank() { return static_cast<int>(thread_idx().x); }
  DSV4_DEVICE static constexpr int size() { return kThreads; }
  DSV4_DEVICE static void sync() { sync_threads(); }

  template <class Fold>
  DSV4_DEVICE static float reduce_sum(int n, Fold fold) {
    DSV4_SHARED(float, total);
    if (rank() < kWarpThreads) {
      const float sum = warp_canonical_sum(n, fold);
      if (rank() == 0) total = sum;
    }
    return broadcast(total);
  }
  template <class F>
  DSV4_DEVICE static std::uint32_t reduce_max(int n, F f) {
    DSV4_SHARED(unsigned[kThreads / kWarpThreads], part);
    unsigned m = 0;
    for (int k = rank(); k < n; k += kThreads) {
      const unsigned v = f(k);
      m = v > m ? v : m;
    }
    m = arch::reduce_max(m);
    if (lane_id() == 0) part[rank() / kWarpThreads] = m;
    sync();
    for (int w = 0; w < kThreads / kWarpThreads; ++w) m = part[w] > m ? part[w] : m;
    sync();
    return m;
  }
  template <class F>
  DSV4_DEVICE static int reduce_count(int n, F f) {
    DSV4_SHARED(int[kThreads / kWarpThreads], part);
    int count = 0;
    for (int k = rank(); k < n; k += kThreads) count += f(k) ? 1 : 0;
    count = arch::reduce_add(count);
    if (lane_id() == 0) part[rank() / kWarpThreads] = count;
    sync();
    count = 0;
    for (int w = 0; w < kThreads / kWarpThreads; ++w) count += part[w];
    sync();
    return count;
  }

 private:
  DSV4_DEVICE static float broadcast(const float& shared) {
    sync();
    const float value = shared;
    sync();
    return value;
  }
};

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
