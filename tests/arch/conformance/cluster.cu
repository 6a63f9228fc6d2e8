// Clusters: ranks, shared memory of peers in every way it is reached, and mbarriers of peers.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/bulk.cuh>
#include <dsv4/arch/cluster.cuh>
#include <dsv4/arch/fence.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/mbarrier.cuh>

#include "tests/arch/conformance/case.hpp"

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

constexpr int kBlocks = 8, kCluster = 4, kThreads = 32;

DSV4_KERNEL(kThreads) rank_kernel(std::uint32_t* out) {
  if (arch::thread_idx().x == 0) out[arch::block_idx().x] = arch::cluster_rank() * 16 + arch::cluster_size();
}

struct alignas(8) Two {
  std::uint32_t v[2];
};
struct alignas(16) Four {
  std::uint32_t v[4];
};
struct Mail {
  Four four;
  Two two;
  std::uint32_t one, mapped;
};

// Every block writes to its successor and reads from the one after that.
DSV4_KERNEL(kThreads) peers_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  DSV4_SHARED(Mail[kThreads], inbox);
  const unsigned t = arch::thread_idx().x, rank = arch::cluster_rank();
  const std::uint32_t next = (rank + 1) % kCluster;
  const std::uint32_t* mine = scratch + (arch::block_idx().x * kThreads + t) * 8;
  arch::peer_store(&inbox[t].four, next, Four{{mine[0], mine[1], mine[2], mine[3]}});
  arch::peer_store(&inbox[t].two, next, Two{{mine[4], mine[5]}});
  arch::peer_store(&inbox[t].one, next, mine[6]);
  *arch::map_shared(&inbox[t].mapped, next) = mine[7];
  arch::cluster_arrive();
  arch::cluster_wait();
  const unsigned other = (t + 5) % kThreads;
  const Four four = arch::peer_load(&inbox[other].four, next);
  const Two two = arch::peer_load(&inbox[other].two, next);
  std::uint32_t* to = out + (arch::block_idx().x * kThreads + t) * 8;
  for (int i = 0; i < 4; ++i) to[i] = four.v[i];
  for (int i = 0; i < 2; ++i) to[4 + i] = two.v[i];
  to[6] = arch::peer_load(&inbox[other].one, next);
  to[7] = *arch::map_shared(&inbox[other].mapped, next);
  arch::cluster_sync();  // a block's memory must not vanish before its peers have read it
}

// A ring: each block hands a running sum to the next through an mbarrier there.
DSV4_KERNEL(kThreads) ring_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  DSV4_SHARED(arch::Mbarrier, arrived);
  DSV4_SHARED(std::uint32_t[kThreads], sum);
  const unsigned t = arch::thread_idx().x, rank = arch::cluster_rank();
  if (t == 0) {
    arch::mbarrier_init(arrived, kThreads);
    arch::fence_mbarrier_init();
  }
  arch::cluster_sync();
  std::uint32_t total = scratch[arch::block_idx().x * kThreads + t];
  if (rank > 0) {
    arch::mbarrier_wait_cluster(arrived, 0);
    total += sum[t];
  }
  out[arch::block_idx().x * kThreads + t] = total;
  if (rank + 1 < kCluster) {
    arch::peer_store(&sum[t], rank + 1, total);
    arch::mbarrier_arrive_peer(arrived, rank + 1);
  }
  arch::cluster_sync();
}

struct Copy {
  alignas(16) std::uint32_t from[4 * kThreads], to[4 * kThreads];
  arch::Mbarrier arrived;
};
DSV4_KERNEL(kThreads) bulk_kernel(std::uint32_t* out, const std::uint32_t* scratch) {
  DSV4_SHARED(Copy, s);
  const unsigned t = arch::thread_idx().x, rank = arch::cluster_rank();
  const unsigned base = arch::block_idx().x * 4 * kThreads;
  for (unsigned i = t; i < 4 * kThreads; i += kThreads) s.from[i] = scratch[base + i];
  if (t == 0) {
    arch::mbarrier_init(s.arrived, 1);
    arch::fence_mbarrier_init();
    arch::mbarrier_arrive_expect_tx(s.arrived, sizeof s.from);
  }
  arch::fence_proxy_async_all();
  arch::cluster_sync();
  if (t == 0) arch::bulk_copy_to_peer(s.to, (rank + 3) % kCluster, s.from, sizeof s.from, s.arrived);
  arch::mbarrier_wait(s.arrived, 0);
  for (unsigned i = t; i < 4 * kThreads; i += kThreads) out[base + i] = s.to[i];
  arch::cluster_sync();
}

template <class... P>
Status launch(const char* name, void (*kernel)(P...), Stream stream, P... arguments) noexcept {
  return arch::launch(name, kernel,
                      {.grid = {kBlocks, 1, 1}, .block = {kThreads, 1, 1}, .cluster = {kCluster, 1, 1}},
                      stream, arguments...);
}

Status run_rank(Buffers b, Stream stream) noexcept { return launch("rank", rank_kernel, stream, b.out); }
template <void (*kKernel)(std::uint32_t*, const std::uint32_t*)>
Status run(Buffers b, Stream stream) noexcept {
  return launch("cluster", kKernel, stream, b.out, static_cast<const std::uint32_t*>(b.scratch));
}

}  // namespace

std::vector<Case> cluster_cases() {
  constexpr int kAll = kBlocks * kThreads;
  return {{"cluster/rank", Compare::kBits, 90, false, kBlocks, 0, run_rank},
          {"cluster/peers", Compare::kBits, 90, false, 8 * kAll, 8 * kAll, run<peers_kernel>},
          {"cluster/ring", Compare::kBits, 90, false, kAll, kAll, run<ring_kernel>},
          {"cluster/bulk_copy_to_peer", Compare::kBits, 90, false, 4 * kAll, 4 * kAll, run<bulk_kernel>}};
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
