// A mixture of experts as one queue of work items that persistent blocks take in order: which item a ticket
// is, and the counters through which items wait for each other.
#pragma once

#include <dsv4/arch/atomic.cuh>
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>

#include <cstdint>

namespace dsv4::moe::inline DSV4_FLAVOUR {

/// The order of the items behind the dispatch. A tile (a few plan rows of one expert) has `up` items for
/// linear 1 and `down` items for linear 2. Tiles go in waves, and linear 1 of a wave comes before linear 2 of
/// the one before it, so that whoever is done with one wave's linear 1 need not wait for the others:
///     up(0), up(1), down(0), up(2), down(1), ..., down(last), combine
/// Every item depends on items before it alone. Blocks take items in order, so the first item that is not
/// done never waits for one that nobody has: no schedule and no number of blocks ends in a deadlock.
struct FusedQueue {
  enum class Kind : std::int32_t { kUp, kDown, kCombine };
  struct Item {
    Kind kind;
    std::int32_t tile;  // 0 for kCombine
    std::int32_t part;  // of the tile's items of that kind; of all combine items
  };

  std::int32_t tiles, wave;  // all tiles; those of a wave, >= 1
  std::int32_t up, down;     // items of a tile
  std::int32_t combine;      // items

  DSV4_HD std::int32_t size() const { return tiles * (up + down) + combine; }

  DSV4_HD Item item(std::int32_t q) const {
    const std::int32_t ahead = (tiles < wave ? tiles : wave) * up;  // the first wave's linear 1
    if (q < ahead) return {Kind::kUp, q / up, q % up};
    q -= ahead;
    // Turns of linear 1 of wave i + 1 and linear 2 of wave i. The last wave may be smaller, so the last turn
    // ends early; what follows it is linear 2 of the last wave.
    const std::int32_t full = wave * (up + down), last = (tiles + wave - 1) / wave - 2;
    std::int32_t turn = q / full;
    turn = turn < last ? turn : last > 0 ? last : 0;
    q -= turn * full;
    const std::int32_t left = tiles - (turn + 1) * wave;
    const std::int32_t next = left < 0 ? 0 : left < wave ? left : wave;
    if (q < next * up) return {Kind::kUp, (turn + 1) * wave + q / up, q % up};
    q -= next * up;
    const std::int32_t rest = tiles - turn * wave;  // tiles whose linear 2 is still to come
    if (q < rest * down) return {Kind::kDown, turn * wave + q / down, q % down};
    return {Kind::kCombine, 0, q - rest * down};
  }
};

/// Memory that each of kRanks ranks has at an address of its own, all with one layout. One rank: a pointer.
template <int kRanks>
struct PeerMemory {
  unsigned char* base[kRanks];

  template <class T>
  DSV4_DEVICE T* at(int rank, std::int64_t bytes) const {
    return reinterpret_cast<T*>(base[kRanks == 1 ? 0 : rank] + bytes);
  }
};

/// Counters of a fused launch, 32-bit words, all zero before a launch and after it.
///   ticket         items taken by this rank's blocks
///   left           of its blocks, those that are done
///   placed[s]      on the rank that has the experts: dispatch items of source rank s that are done
///   finished[d]    on the rank that has the tokens: linear-2 items of destination rank d that are done
///   activated[i]   linear-1 items of tile i that are done
template <int kRanks>
struct FusedState {
  // Parts lie in 128-byte lines of their own: what many add to, others poll.
  static constexpr std::int32_t kLine = 32;
  static constexpr std::int32_t kTicket = 0, kLeft = kLine, kPlaced = 2 * kLine, kFinished = 3 * kLine,
                                kActivated = 4 * kLine;
  static_assert(kRanks <= kLine, "ranks of a line");

  PeerMemory<kRanks> words;
  std::int32_t rank;

  /// Words for up to `tiles` tiles.
  DSV4_HD static constexpr std::int64_t size(std::int64_t tiles) { return kActivated + tiles; }

  DSV4_DEVICE std::uint32_t* ticket() const { return word(rank, kTicket); }
  DSV4_DEVICE std::uint32_t* left() const { return word(rank, kLeft); }
  DSV4_DEVICE std::uint32_t* placed(int destination, int source) const {
    return word(destination, kPlaced + source);
  }
  DSV4_DEVICE std::uint32_t* finished(int source, int destination) const {
    return word(source, kFinished + destination);
  }
  DSV4_DEVICE std::uint32_t* activated(std::int32_t tile) const { return word(rank, kActivated + tile); }

  /// Another rank's threads are ordered at the scope of the system; one rank's at that of the device.
  static constexpr arch::Scope kScope = kRanks == 1 ? arch::Scope::kDevice : arch::Scope::kSystem;

  /// The block is done with an item. Called by all its threads; what they wrote is there for whoever waits.
  DSV4_DEVICE static void signal(std::uint32_t* counter) {
    arch::sync_threads();
    if (arch::thread_idx().x == 0) arch::atomic_add<arch::Order::kRelease, kScope>(counter, 1u);
  }
  /// Waits until `items` items are done, and sees what they wrote. Called by all threads of a block.
  DSV4_DEVICE static void wait(const std::uint32_t* counter, std::uint32_t items) {
    if (arch::thread_idx().x == 0)
      while (arch::load_acquire<kScope>(counter) < items) arch::nanosleep(40);
    arch::sync_threads();
  }

  /// The block has no more items. The last one to say so leaves zeros.
  ///   last  shared; nobody may still read it for something else
  /// Called by all threads of a block; synchronises.
  DSV4_DEVICE void leave(std::int32_t tiles, std::uint32_t& last) const {
    if (arch::thread_idx().x == 0)
      last = arch::atomic_add<arch::Order::kAcqRel>(left(), 1u) + 1 == arch::grid_dim().x ? 1 : 0;
    arch::sync_threads();
    if (last == 0) return;
    const auto thread = static_cast<std::int32_t>(arch::thread_idx().x);
    for (std::int32_t i = thread; i < tiles; i += static_cast<std::int32_t>(arch::block_dim().x))
      arch::store_relaxed(activated(i), 0u);
    if (thread < kRanks) {
      arch::store_relaxed(placed(rank, thread), 0u);
      arch::store_relaxed(finished(rank, thread), 0u);
    }
    if (thread == 0) {
      arch::store_relaxed(ticket(), 0u);
      arch::store_relaxed(left(), 0u);
    }
  }

 private:
  DSV4_DEVICE std::uint32_t* word(int of_rank, std::int32_t index) const {
    return words.template at<std::uint32_t>(of_rank, std::int64_t{index} * 4);
  }
};

}  // namespace dsv4::moe::inline DSV4_FLAVOUR
