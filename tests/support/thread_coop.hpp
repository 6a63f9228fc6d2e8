// A group of kThreads real threads: runs a primitive as a block of a device would, so that its work split,
// its barriers and its collectives are tested on the host. Written without SerialCoop's code.
#pragma once

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace dsv4::test {

template <int kThreads>
class ThreadCoop {
 public:
  static constexpr bool kSerial = false;

  struct Group {
    std::barrier<> barrier{kThreads};
    float lane[32] = {};
    std::uint32_t vote[kThreads] = {};
  };

  ThreadCoop(Group& group, int rank) : group_(&group), rank_(rank) {}

  int rank() const { return rank_; }
  static constexpr int size() { return kThreads; }
  void sync() const { group_->barrier.arrive_and_wait(); }

  /// 32 lane-strided partial sums, then a butterfly over all lanes, as a warp does it.
  template <class Fold>
  float reduce_sum(int n, Fold fold) const {
    for (int l = rank_; l < 32; l += kThreads) {
      float partial = 0.0f;
      for (int k = l; k < n; k += 32) partial = fold(partial, k);
      group_->lane[l] = partial;
    }
    sync();
    float lane[32];
    for (int l = 0; l < 32; ++l) lane[l] = group_->lane[l];
    for (int distance = 16; distance > 0; distance /= 2) {
      float other[32];
      for (int l = 0; l < 32; ++l) other[l] = lane[l ^ distance];
      for (int l = 0; l < 32; ++l) lane[l] += other[l];
    }
    sync();
    return lane[0];
  }

  template <class F>
  std::uint32_t reduce_max(int n, F f) const {
    std::uint32_t mine = 0;
    for (int k = rank_; k < n; k += kThreads) mine = std::max<std::uint32_t>(mine, f(k));
    return vote(mine, [](std::uint32_t a, std::uint32_t b) { return a > b ? a : b; });
  }

  template <class F>
  int reduce_count(int n, F f) const {
    std::uint32_t mine = 0;
    for (int k = rank_; k < n; k += kThreads) mine += f(k) ? 1 : 0;
    return static_cast<int>(vote(mine, std::plus<>{}));
  }

 private:
  template <class Combine>
  std::uint32_t vote(std::uint32_t mine, Combine combine) const {
    group_->vote[rank_] = mine;
    sync();
    std::uint32_t all = group_->vote[0];
    for (int r = 1; r < kThreads; ++r) all = combine(all, group_->vote[r]);
    sync();
    return all;
  }

  Group* group_;
  int rank_;
};

/// Runs body(coop) on every thread of a fresh group and waits for them.
template <int kThreads, class Body>
void run_group(Body body) {
  typename ThreadCoop<kThreads>::Group group;
  std::vector<std::thread> threads;
  for (int r = 0; r < kThreads; ++r) threads.emplace_back([&, r] { body(ThreadCoop<kThreads>(group, r)); });
  for (std::thread& t : threads) t.join();
}

}  // namespace dsv4::test
