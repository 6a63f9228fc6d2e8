// Exact top-k with one defined answer: by score descending, then by index ascending.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::topk {

/// Key of a score such that keys compare as the scores do: -inf < ... < -0 = +0 < ... < +inf. A NaN has key 0
/// and is never chosen; every other score has a key above 0.
DSV4_HD inline std::uint32_t key(float score) {
  const std::uint32_t u = bits_as<std::uint32_t>(score == 0.0f ? 0.0f : score);
  const std::uint32_t ordered = (u & 0x80000000u) != 0 ? ~u : (u | 0x80000000u);
  return (u & 0x7fffffffu) > 0x7f800000u ? 0u : ordered;
}

namespace detail {

// The k-th largest of the keys of n scores, k >= 1; 0 if there are fewer than k above 0.
template <Coop C>
DSV4_HD std::uint32_t kth_key(C coop, const float* scores, int n, int k) {
  std::uint32_t kth = 0;
  if constexpr (C::kSerial) {  // digit by digit, from a histogram of those that share the digits so far
    int rank = k;
    std::uint32_t known = 0;  // mask of these digits
    constexpr int kShifts[] = {21, 10, 0};
    for (const int shift : kShifts) {
      const std::uint32_t digits = shift == 0 ? 1u << 10 : 1u << 11;
      int count[1 << 11] = {};
      for (int i = 0; i < n; ++i) {
        const std::uint32_t u = key(scores[i]);
        if ((u & known) == kth) ++count[u >> shift & (digits - 1)];
      }
      std::uint32_t digit = digits - 1;
      while (digit > 0 && count[digit] < rank) rank -= count[digit--];
      kth |= digit << shift;
      known |= (digits - 1) << shift;
    }
  } else {  // bit by bit: the largest number that at least k keys reach
    for (int bit = 31; bit >= 0; --bit) {
      const std::uint32_t candidate = kth | (1u << bit);
      if (coop.reduce_count(n, [=](int i) { return key(scores[i]) >= candidate; }) >= k) kth = candidate;
    }
  }
  return kth;
}

}  // namespace detail

/// The k best of n scores: idx lists them by score descending, equal scores by index ascending; NaN is never
/// chosen; -1 fills what is left when fewer than k scores can be chosen.
///   idx      [k] i32
///   scores   [n] f32
///   scratch  [k] i32   shared by the group; may not overlap idx
/// Finds the k-th largest key (3 passes over the scores on a host thread, 32 in a group), gathers in index
/// order, then ranks the k chosen. Exact and deterministic at any number of ties. Called by all threads;
/// synchronises.
template <Coop C>
DSV4_HD void select(C coop, std::int32_t* idx, const float* scores, int n, int k, std::int32_t* scratch) {
  if (k <= 0) return;
  // threshold: the k-th largest key; 1 (every number) if there are fewer than k.
  std::uint32_t threshold = detail::kth_key(coop, scores, n, k);
  if (threshold == 0) threshold = 1;
  const int above = coop.reduce_count(n, [=](int i) { return key(scores[i]) > threshold; });
  const int at = coop.reduce_count(n, [=](int i) { return key(scores[i]) == threshold; });
  const int ties = k - above < at ? k - above : at;  // of the scores at the threshold, the lowest indices
  const int chosen = above + ties;
  if (coop.rank() == 0) {
    int out = 0, taken = 0;
    for (int i = 0; i < n && out < chosen; ++i) {
      const std::uint32_t u = key(scores[i]);
      if (u > threshold || (u == threshold && taken++ < ties)) scratch[out++] = i;
    }
  }
  coop.sync();
  // scratch ascends in index, so an equal key that stands before comes first.
  for (int i = coop.rank(); i < chosen; i += coop.size()) {
    const std::uint32_t mine = key(scores[scratch[i]]);
    int rank = 0;
    for (int j = 0; j < chosen; ++j) {
      const std::uint32_t other = key(scores[scratch[j]]);
      rank += other > mine || (other == mine && j < i);
    }
    idx[rank] = scratch[i];
  }
  for (int i = chosen + coop.rank(); i < k; i += coop.size()) idx[i] = -1;
  coop.sync();
}

}  // namespace dsv4::topk
