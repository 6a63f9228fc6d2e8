// Coop: the group of threads that executes one primitive. SerialCoop is one host thread.
#pragma once

#include <dsv4/core/config.hpp>
#include <dsv4/core/reduce.hpp>

#include <concepts>
#include <cstdint>

namespace dsv4 {

/// A Coop hands element i to thread `rank()` of `size()` by the idiom
///     for (int i = coop.rank(); i < n; i += coop.size())
/// and offers collectives that every thread of the group calls and whose result every thread receives:
///   sync()              orders the group's memory accesses before and after it
///   reduce_sum(n, f)    the canonical sum (reduce.hpp) of terms folded by acc = f(acc, k), k < n
///   reduce_max(n, f)    maximum over k < n of f(k), an unsigned 32-bit integer; 0 when n == 0
///   reduce_count(n, f)  number of k < n for which f(k) holds
/// A primitive calls sync() only where one thread reads what another wrote; the doc comment says so.
template <class C>
concept Coop = requires(const C c) {
  { c.rank() } -> std::convertible_to<int>;
  { c.size() } -> std::convertible_to<int>;
  c.sync();
  { C::kSerial } -> std::convertible_to<bool>;
};

/// The group of one host thread: with it a primitive is the CPU reference.
struct SerialCoop {
  static constexpr bool kSerial = true;

  DSV4_HD static constexpr int rank() { return 0; }
  DSV4_HD static constexpr int size() { return 1; }
  DSV4_HD static constexpr void sync() {}

  template <class Fold>
  DSV4_HD static float reduce_sum(int n, Fold fold) {
    float partial[kReduceLanes] = {};
    int k = 0;
    for (; k + kReduceLanes <= n; k += kReduceLanes)
      for (int l = 0; l < kReduceLanes; ++l) partial[l] = fold(partial[l], k + l);
    for (int l = 0; k + l < n; ++l) partial[l] = fold(partial[l], k + l);
    return tree_sum(partial);
  }

  template <class F>
  DSV4_HD static std::uint32_t reduce_max(int n, F f) {
    std::uint32_t m = 0;
    for (int k = 0; k < n; ++k) {
      const std::uint32_t v = f(k);
      m = v > m ? v : m;
    }
    return m;
  }

  template <class F>
  DSV4_HD static int reduce_count(int n, F f) {
    int count = 0;
    for (int k = 0; k < n; ++k) count += f(k) ? 1 : 0;
    return count;
  }
};

static_assert(Coop<SerialCoop>);

}  // namespace dsv4
