// Clusters: the barrier, and shared memory of peers.
#include <dsv4/simt/cluster.hpp>
#include <dsv4/simt/mbarrier.hpp>

#include "simt/cluster.hpp"
#include "simt/machine.hpp"

#include <cstring>
#include <utility>

namespace dsv4::simt {
namespace {

std::uint32_t size_of(const Gang& gang) {
  const Index3& c = gang.launch->shape.cluster;
  return c.x * c.y * c.z;
}

// The blocks of b's cluster: a gang may hold several.
Block** blocks_of(const Block& b) {
  return b.gang->blocks.data() + b.rank / size_of(*b.gang) * size_of(*b.gang);
}

ClusterBarrier& barrier_of(const Block& b) { return blocks_of(b)[0]->cluster_barrier; }

// PTX: the barrier waits for all threads of the cluster that have not exited.
void check_phase(const Block& b, std::uint32_t leaving) {
  ClusterBarrier& bar = barrier_of(b);
  std::uint32_t alive = 0;
  for (std::uint32_t i = 0; i < size_of(*b.gang); ++i) alive += blocks_of(b)[i]->alive;
  if (!bar.arrived || bar.arrived != alive - leaving) return;
  bar.arrived = 0;
  ++bar.phase;
  ++b.gang->counters.cluster_barriers;
  progress(*b.gang);
  if constexpr (race::kEnabled) {
    std::swap(bar.completed, bar.accumulating);
    bar.accumulating.clear();
  }
  for (Thread* t = std::exchange(bar.waiters, nullptr); t;) {
    Thread* next = t->next_waiter;
    make_ready(*b.gang, *t);
    t = next;
  }
}

}  // namespace

std::uint32_t cluster_size() { return size_of(*current->block->gang); }
std::uint32_t cluster_rank() { return current->block->rank % cluster_size(); }

void cluster_arrive(bool ordered, Loc loc) {
  Thread& t = *current;
  ClusterBarrier& bar = barrier_of(*t.block);
  ClusterArrival& mine = t.async.cluster;
  if (mine.pending)
    fail("barrier.cluster.arrive: this thread has arrived already and not waited since (%s:%u)", loc.file,
         loc.line);
  mine = {true, bar.phase};
  if constexpr (race::kEnabled)
    if (ordered) race::release(t, bar.accumulating);
  ++bar.arrived;
  check_phase(*t.block, 0);
}

void cluster_wait(bool ordered, Loc loc) {
  Thread& t = *current;
  ClusterBarrier& bar = barrier_of(*t.block);
  ClusterArrival& mine = t.async.cluster;
  if (!mine.pending) fail("barrier.cluster.wait without barrier.cluster.arrive (%s:%u)", loc.file, loc.line);
  if (mine.phase == bar.phase) {
    t.next_waiter = std::exchange(bar.waiters, &t);
    t.state = State::kWaiting;
    wait_here("barrier.cluster.wait", loc);
  }
  mine.pending = false;
  if constexpr (race::kEnabled)
    if (ordered) race::acquire(t, bar.completed);
}

void leave_cluster_barrier(Thread& t) {
  ClusterBarrier& bar = barrier_of(*t.block);
  if (t.async.cluster.pending && t.async.cluster.phase == bar.phase) --bar.arrived;
  check_phase(*t.block, 1);
}

Block& peer_block(std::uint32_t rank, const char* name, Loc loc) {
  Block& mine = *current->block;
  if (rank >= size_of(*mine.gang))
    fail("%s: block %u of a cluster of %u (%s:%u)", name, rank, size_of(*mine.gang), loc.file, loc.line);
  Block& b = *blocks_of(mine)[rank];
  if (!b.alive)
    fail("%s: block %u of the cluster has exited, its shared memory is gone (%s:%u)", name, rank, loc.file,
         loc.line);
  return b;
}

void* cluster_map(const void* p, std::uint32_t rank, Loc loc) {
  const std::uint32_t address = shared_address(p, "mapa", loc);
  return shared_pointer(peer_block(rank, "mapa", loc), address, 1, "mapa", loc);
}

void peer_load(void* value, const void* p, std::uint32_t rank, std::size_t bytes, Loc loc) {
  constexpr const char* kName = "ld.shared::cluster";
  const std::uint32_t address = shared_address(p, kName, loc);
  if (address % bytes)
    fail("%s: address 0x%x is not aligned to %zu bytes (%s:%u)", kName, address, bytes, loc.file, loc.line);
  const std::byte* from = shared_pointer(peer_block(rank, kName, loc), address, bytes, kName, loc);
  if constexpr (race::kEnabled) race::shared_access(*current, from, bytes, false, loc);
  std::memcpy(value, from, bytes);
}

void peer_store(void* p, std::uint32_t rank, const void* value, std::size_t bytes, Loc loc) {
  constexpr const char* kName = "st.shared::cluster";
  const std::uint32_t address = shared_address(p, kName, loc);
  if (address % bytes)
    fail("%s: address 0x%x is not aligned to %zu bytes (%s:%u)", kName, address, bytes, loc.file, loc.line);
  std::byte* to = shared_pointer(peer_block(rank, kName, loc), address, bytes, kName, loc);
  if constexpr (race::kEnabled) race::shared_access(*current, to, bytes, true, loc);
  std::memcpy(to, value, bytes);
}

void fence_proxy_async(Loc loc) {
  // The order of proxies is watched in race builds; an mbarrier must have been fenced in all.
  mbarrier_fence_init(loc);
  if constexpr (race::kEnabled) race::proxy_fence(*current);
}

}  // namespace dsv4::simt
