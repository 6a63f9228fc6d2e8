// The barrier of a cluster: its two halves may lie far apart, unlike those of a block's barriers.
#pragma once

#include "simt/race.hpp"

#include <dsv4/simt/loc.hpp>

#include <cstdint>

namespace dsv4::simt {

struct Thread;
struct Block;

struct ClusterBarrier {
  std::uint32_t arrived = 0;  // in the current phase
  std::uint64_t phase = 0;
  Thread* waiters = nullptr;
  race::Clock accumulating, completed;
};

/// What one thread has done at it.
struct ClusterArrival {
  bool pending = false;     // arrived and not waited since
  std::uint64_t phase = 0;  // that it arrived in

  void reset() { *this = {}; }
};

/// Block `rank` of the caller's cluster; an error if there is none, or if it has exited.
Block& peer_block(std::uint32_t rank, const char* name, Loc loc);

/// A thread that exits counts no longer.
void leave_cluster_barrier(Thread& t);

}  // namespace dsv4::simt
