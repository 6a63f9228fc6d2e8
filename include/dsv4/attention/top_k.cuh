// The k best of a stream of scores, by one block that holds the candidates in shared memory.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/block.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// Exact top-k of a stream of (key, index), keys as topk::key makes them: 0 is never chosen, a larger key
/// comes first, among equal keys the one that was appended first.
///
/// The block appends kTile entries at a time. What beats the threshold, once k better are known, joins the
/// candidates, which always lie in the order of the stream; so an entry that only equals the threshold can be
/// dropped unseen, and ties need no look at the indices. When the next tile might not fit, cut() finds a
/// higher threshold and drops what is not above it. Each step is a sum of counts, never an atomic, so the
/// candidates, not only the result, are the same in every run. Linear in the entries for any order of them:
/// a stream that ascends, the worst, cuts once per kRoom.
///   kThreads  of the block, 1-D
///   kMaxK     k <= kMaxK, a multiple of kThreads
///   kTile     a multiple of kThreads
template <int kThreads_, int kMaxK_, int kTile_>
class TopK {
 public:
  static constexpr int kThreads = kThreads_, kMaxK = kMaxK_, kTile = kTile_;
  static constexpr int kRoom = kMaxK < 1024 ? kMaxK : 1024;  // candidates beyond k and a tile
  static constexpr int kCapacity = kMaxK + kTile + kRoom;

 private:
  static constexpr int kWarps = kThreads / arch::kWarpThreads;
  static constexpr int kItems = kMaxK / kThreads;      // of a thread, when sorting
  static constexpr int kSteps = kCapacity / kThreads;  // candidates of a thread, when cutting
  static constexpr int kOfWarp = kCapacity / kWarps;
  using Sort = arch::BlockSort<kThreads, kItems>;
  static_assert(kThreads % arch::kWarpThreads == 0 && kThreads <= 1024, "whole warps, 1024 threads at most");
  static_assert(kMaxK % kThreads == 0 && kTile % kThreads == 0 && kRoom % kThreads == 0, "whole rounds");
  static_assert(kOfWarp < 1024, "three counts of a warp's candidates are packed in a word, 10 bits each");
  static_assert((kItems & (kItems - 1)) == 0 && kItems <= 16, "a power of two");

 public:
  struct Candidates {
    std::uint32_t key[kCapacity], index[kCapacity];
  };
  /// Shared memory of the block.
  struct Storage {
    union {
      alignas(16) Candidates candidates;
      typename Sort::Storage sort;
    };
    std::uint32_t of_warp[2][kWarps];
  };

  /// Called by all threads, with the same arguments, as everything here; 1 <= k <= kMaxK.
  DSV4_DEVICE TopK(Storage& storage, int k) : s_(storage), k_(k) {}

  /// Appends the block's next kN * kThreads <= kTile entries. Of these, warp w holds the 32 * kN from
  /// 32 * kN * w on, lane l number l + 32 * i of them in element i. Key 0 stands for no entry. Synchronises.
  template <int kN>
  DSV4_DEVICE void append(const std::uint32_t (&key)[kN], const std::uint32_t (&index)[kN]) {
    static_assert(kN * kThreads <= kTile, "TopK: a tile at most");
    std::uint32_t better = 0;
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) better += key[i] > threshold_ ? 1u : 0u;
    const Sums warps = sums(arch::reduce_add(better));
    std::uint32_t at = static_cast<std::uint32_t>(count_) + warps.before;
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      const bool joins = key[i] > threshold_;
      const unsigned joining = arch::ballot(joins);
      if (joins) {
        const std::uint32_t to =
            at + static_cast<std::uint32_t>(arch::count_lanes(joining & arch::lanes_before()));
        s_.candidates.key[to] = key[i];
        s_.candidates.index[to] = index[i];
      }
      at += static_cast<std::uint32_t>(arch::count_lanes(joining));
    }
    count_ += static_cast<int>(warps.all);
    if (count_ > kCapacity - kTile) cut((kCapacity - kTile - k_) / 4);
  }

  /// Ends the stream: candidates [0, result) are the k best, or all that have a key above 0, in the order in
  /// which they were appended. Synchronises.
  DSV4_DEVICE int finish() {
    if (count_ > k_) cut(0);
    arch::sync_threads();
    return count_;
  }

  /// Then puts the indices (not the keys) into their final order. Synchronises.
  DSV4_DEVICE void sort() {
    std::uint32_t key[kItems], index[kItems];
    load_blocked(key, s_.candidates.key);
    load_blocked(index, s_.candidates.index);
    const int first = static_cast<int>(arch::thread_idx().x) * kItems;
    DSV4_UNROLL
    for (int i = 0; i < kItems; ++i)
      if (first + i >= count_) key[i] = 0;
    arch::sync_threads();
    Sort::descending(s_.sort, key, index);
    store_blocked(s_.candidates.index, index);
    arch::sync_threads();
  }

 private:
  // Sum over the warps before the caller's, and over all.
  struct Sums {
    std::uint32_t before, all;
  };
  // Of a value that the lanes of each warp share. One barrier: the next call writes to the other row.
  DSV4_DEVICE Sums sums(std::uint32_t of_warp) {
    const std::uint32_t other = exchange(of_warp);
    const bool earlier = arch::lane_id() < static_cast<int>(arch::thread_idx().x) / arch::kWarpThreads;
    return {arch::reduce_add(earlier ? other : 0u), arch::reduce_add(other)};
  }
  // Gives lane l the value of warp l; 0 to the lanes beyond.
  DSV4_DEVICE std::uint32_t exchange(std::uint32_t of_warp) {
    std::uint32_t(&row)[kWarps] = s_.of_warp[parity_];
    parity_ ^= 1;
    if (arch::lane_id() == 0) row[arch::thread_idx().x / arch::kWarpThreads] = of_warp;
    arch::sync_threads();
    return arch::lane_id() < kWarps ? row[arch::lane_id()] : 0u;
  }

  // More than k + slack candidates become k to k + slack, in the same order: those from a new threshold on,
  // or, if too many equal it, all above and the first that equal it. Two bits a round, from the highest down:
  // the largest threshold that at least k reach.
  DSV4_DEVICE void cut(int slack) {
    arch::sync_threads();  // of candidates just appended
    std::uint32_t key[kSteps];
    load_striped(key, s_.candidates.key);
    std::uint32_t t = 0;
    int reached = count_;
    for (int shift = 30; shift >= 0 && reached > k_ + slack; shift -= 2) {
      const std::uint32_t step = 1u << shift;
      std::uint32_t counts = 0;  // that reach t + 1, 2, 3 steps; 10 bits each
      DSV4_UNROLL
      for (int i = 0; i < kSteps; ++i)
        counts += (key[i] >= t + step ? 1u : 0u) | (key[i] >= t + 2 * step ? 1u << 10 : 0u) |
                  (key[i] >= t + 3 * step ? 1u << 20 : 0u);
      const std::uint32_t warp = exchange(arch::reduce_add(counts));
      const std::uint32_t low = arch::reduce_add((warp & 0x3ffu) | (warp & 0xffc00u) << 6);
      const int reach[3] = {static_cast<int>(low & 0xffffu), static_cast<int>(low >> 16),
                            static_cast<int>(arch::reduce_add(warp >> 20))};
      const int steps = reach[2] >= k_ ? 3 : reach[1] >= k_ ? 2 : reach[0] >= k_ ? 1 : 0;
      if (steps > 0) reached = steps == 3 ? reach[2] : steps == 2 ? reach[1] : reach[0];
      t += static_cast<std::uint32_t>(steps) * step;
    }
    compact(key, t, reached > k_ + slack ? k_ : reached);
    threshold_ = t;
  }

  // Keeps `kept` candidates: all above t, and of those that equal it the first.
  DSV4_DEVICE void compact(const std::uint32_t (&key)[kSteps], std::uint32_t t, int kept) {
    std::uint32_t index[kSteps];
    load_striped(index, s_.candidates.index);
    std::uint32_t counts = 0;  // above t; equal to it, from bit 16 on
    DSV4_UNROLL
    for (int i = 0; i < kSteps; ++i) counts += key[i] > t ? 1u : key[i] == t ? 1u << 16 : 0u;
    const Sums warps = sums(arch::reduce_add(counts));
    const std::uint32_t ties = static_cast<std::uint32_t>(kept) - (warps.all & 0xffffu);
    std::uint32_t tie = warps.before >> 16;
    std::uint32_t at = (warps.before & 0xffffu) + (tie < ties ? tie : ties);
    DSV4_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      const unsigned equal = arch::ballot(key[i] == t);
      const std::uint32_t rank =
          tie + static_cast<std::uint32_t>(arch::count_lanes(equal & arch::lanes_before()));
      const bool keep = key[i] > t || (key[i] == t && rank < ties);
      const unsigned keeps = arch::ballot(keep);
      if (keep) {
        const std::uint32_t to =
            at + static_cast<std::uint32_t>(arch::count_lanes(keeps & arch::lanes_before()));
        s_.candidates.key[to] = key[i];
        s_.candidates.index[to] = index[i];
      }
      tie += static_cast<std::uint32_t>(arch::count_lanes(equal));
      at += static_cast<std::uint32_t>(arch::count_lanes(keeps));
    }
    count_ = kept;
  }

  // Of the kOfWarp candidates that a warp looks after, lane l takes l, l + 32, ...; 0 where there are none.
  DSV4_DEVICE void load_striped(std::uint32_t (&v)[kSteps], const std::uint32_t* p) const {
    const int first = static_cast<int>(arch::thread_idx().x) / arch::kWarpThreads * kOfWarp + arch::lane_id();
    DSV4_UNROLL
    for (int i = 0; i < kSteps; ++i)
      v[i] = first + i * arch::kWarpThreads < count_ ? p[first + i * arch::kWarpThreads] : 0u;
  }

  static constexpr int kVector = kItems < 4 ? kItems : 4, kPieces = kItems / kVector;
  using Words = arch::Vec<std::uint32_t, kVector>;

  // Elements [kItems * thread, +kItems) of shared memory, in an order of pieces that meets every bank once.
  DSV4_DEVICE static void load_blocked(std::uint32_t (&v)[kItems], const std::uint32_t* p) {
    const Words* from = reinterpret_cast<const Words*>(p) + arch::thread_idx().x * kPieces;
    DSV4_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      const Words w = from[i ^ swizzle()];
      DSV4_UNROLL
      for (int j = 0; j < kVector; ++j) v[i * kVector + j] = w[j];
    }
    unswizzle(v);
  }
  DSV4_DEVICE static void store_blocked(std::uint32_t* p, std::uint32_t (&v)[kItems]) {
    Words* to = reinterpret_cast<Words*>(p) + arch::thread_idx().x * kPieces;
    unswizzle(v);
    DSV4_UNROLL
    for (int i = 0; i < kPieces; ++i) {
      Words w;
      DSV4_UNROLL
      for (int j = 0; j < kVector; ++j) w[j] = v[i * kVector + j];
      to[i ^ swizzle()] = w;
    }
  }
  // Of 8 neighbouring threads, which move 16 bytes each at a time, those whose pieces start in one bank
  // differ in this.
  DSV4_DEVICE static unsigned swizzle() { return arch::thread_idx().x * kItems / 32 % kPieces; }
  // Exchanges pieces i and i ^ swizzle(), without an index that the compiler does not know.
  DSV4_DEVICE static void unswizzle(std::uint32_t (&v)[kItems]) {
    DSV4_UNROLL
    for (int bit = 1; bit < kPieces; bit *= 2) {
      const bool swap = (swizzle() & static_cast<unsigned>(bit)) != 0;
      DSV4_UNROLL
      for (int i = 0; i < kItems; ++i) {
        if ((i / kVector & bit) != 0) continue;
        const std::uint32_t low = v[i], high = v[i + bit * kVector];
        v[i] = swap ? high : low;
        v[i + bit * kVector] = swap ? low : high;
      }
    }
  }

  Storage& s_;
  int k_;
  int count_ = 0;
  int parity_ = 0;
  std::uint32_t threshold_ = 0;
};

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
