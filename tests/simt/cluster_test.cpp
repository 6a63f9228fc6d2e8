// Clusters of the SIMT machine: ranks, the barrier's halves, shared memory of peers, and misuse.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/bulk.cuh>
#include <dsv4/arch/cluster.cuh>
#include <dsv4/arch/fence.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/mbarrier.cuh>
#include <dsv4/simt/counters.hpp>

#include "tests/simt/policies.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace dsv4;
using namespace dsv4::test;

void rank_kernel(std::uint32_t* out) {
  const unsigned block = arch::block_idx().x;
  if (arch::thread_idx().x == 0) {
    out[2 * block] = arch::cluster_rank();
    out[2 * block + 1] = arch::cluster_size();
  }
}

struct alignas(16) Four {
  int v[4];
};

// Every block writes a row into each peer in one way and reads its successor's in another; then all exchange
// again, so that the barrier's phases alternate.
void exchange_kernel(int* out, int rounds) {
  DSV4_SHARED(int[4][32], inbox);
  DSV4_SHARED(Four[32], mine);
  const std::uint32_t rank = arch::cluster_rank(), size = arch::cluster_size();
  const auto lane = static_cast<int>(arch::thread_idx().x);
  int sum = 0;
  for (int r = 0; r < rounds; ++r) {
    const int base = 1000 * r + 100 * static_cast<int>(rank) + lane;
    mine[lane] = {{base, base + 1, base + 2, base + 3}};
    for (std::uint32_t peer = 0; peer < size; ++peer) {
      if (peer % 2)
        arch::map_shared(&inbox[0][0], peer)[rank * 32 + static_cast<unsigned>(lane)] = base;
      else
        arch::peer_store(&inbox[rank][lane], peer, base);
    }
    arch::cluster_arrive();
    const int private_work = lane * r;
    arch::cluster_wait();
    sum += private_work;
    for (std::uint32_t b = 0; b < size; ++b) sum += inbox[b][(lane + 1) % 32];
    const Four next = arch::peer_load(&mine[lane], (rank + 1) % size);
    sum += next.v[3];
    arch::cluster_sync();
  }
  out[arch::block_idx().x * 32 + static_cast<unsigned>(lane)] = sum;
}

int expected_exchange(int block, int lane, int rounds) {
  const int rank = block % 4;
  int sum = 0;
  for (int r = 0; r < rounds; ++r) {
    sum += lane * r;
    for (int b = 0; b < 4; ++b) sum += 1000 * r + 100 * b + (lane + 1) % 32;
    sum += 1000 * r + 100 * ((rank + 1) % 4) + lane + 3;
  }
  return sum;
}

// One block leaves early; the others' barrier no longer counts it.
void early_exit_kernel(int* out) {
  const std::uint32_t rank = arch::cluster_rank();
  if (rank == 1) return;
  arch::cluster_sync();
  if (arch::thread_idx().x == 0) out[rank] = 1;
}

struct CopyShared {
  alignas(16) int in[64], out[64];
  arch::Mbarrier b;
};
void copy_kernel(int* out) {
  DSV4_DYN_SMEM(CopyShared, s);
  const std::uint32_t rank = arch::cluster_rank(), size = arch::cluster_size();
  const auto thread = arch::thread_idx().x;
  s->in[thread] = static_cast<int>(1000 * rank + thread);
  if (thread == 0) {
    arch::mbarrier_init(s->b, 1);
    arch::fence_mbarrier_init();
  }
  arch::fence_proxy_async();
  arch::cluster_sync();
  if (thread == 0) {
    arch::mbarrier_arrive_expect_tx(s->b, sizeof s->in);
    arch::bulk_copy_to_peer(s->out, (rank + 1) % size, s->in, sizeof s->in, s->b);
  }
  arch::mbarrier_wait(s->b, 0);
  out[64 * rank + thread] = s->out[thread];
  arch::cluster_sync();
}

enum class Fault { kWaitWithoutArrive, kArriveTwice, kNoSuchRank, kPeerExited, kMissing, kUnaligned };
void fault_kernel(Fault fault) {
  DSV4_SHARED(int[8], x);
  const std::uint32_t rank = arch::cluster_rank();
  switch (fault) {
    case Fault::kWaitWithoutArrive:
      arch::cluster_wait();
      break;
    case Fault::kArriveTwice:
      arch::cluster_arrive();
      arch::cluster_arrive();
      break;
    case Fault::kNoSuchRank:
      static_cast<void>(arch::map_shared(&x[0], 2));
      break;
    case Fault::kPeerExited:
      if (rank == 0) break;
      for (int i = 0; i < 4; ++i) simt::yield_poll("test", simt::Loc::current());
      arch::peer_store(&x[0], 0, 1);
      break;
    case Fault::kMissing:
      if (rank == 0) arch::sync_threads();
      if (arch::thread_idx().x != 3) arch::cluster_sync();
      if (arch::thread_idx().x == 3) arch::named_barrier_sync(1, 64);
      break;
    case Fault::kUnaligned:
      static_cast<void>(arch::peer_load(reinterpret_cast<const Four*>(&x[1]), rank));
      break;
  }
}

}  // namespace

TEST_CASE("blocks know their place in the cluster", "[simt][cluster]") {
  std::vector<std::uint32_t> out(12);
  simt::launch("rank", rank_kernel, threads(32, 0, 6, 3), out.data());
  CHECK(out == std::vector<std::uint32_t>{0, 3, 1, 3, 2, 3, 0, 3, 1, 3, 2, 3});
  simt::Options o = simt::options();
  o.resident_blocks = 4;  // side by side, but no cluster
  const simt::ScopedOptions scope(o);
  simt::launch("rank", rank_kernel, threads(32, 0, 6), out.data());
  CHECK(out == std::vector<std::uint32_t>{0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1});
}

TEST_CASE("blocks of a cluster exchange through shared memory", "[simt][cluster]") {
  for_each_policy([] {
    constexpr int kRounds = 3;
    std::vector<int> out(8 * 32), expected(out.size());
    for (int i = 0; i < 8 * 32; ++i)
      expected[static_cast<std::size_t>(i)] = expected_exchange(i / 32, i % 32, kRounds);
    simt::launch("exchange", exchange_kernel, threads(32, 0, 8, 4), out.data(), kRounds);
    CHECK(out == expected);
  });
}

TEST_CASE("cooperative launches may have several clusters side by side", "[simt][cluster]") {
  std::vector<int> out(8 * 32), expected(out.size());
  for (int i = 0; i < 8 * 32; ++i)
    expected[static_cast<std::size_t>(i)] = expected_exchange(i / 32, i % 32, 2);
  simt::LaunchShape shape = threads(32, 0, 8, 4);
  shape.cooperative = true;
  simt::launch("exchange", exchange_kernel, shape, out.data(), 2);
  CHECK(out == expected);
}

TEST_CASE("cluster barriers are counted, and forget threads that exit", "[simt][cluster][counters]") {
  std::vector<int> out(3);
  simt::reset_counters();
  simt::launch("early_exit", early_exit_kernel, threads(32, 0, 3, 3), out.data());
  CHECK(out == std::vector<int>{1, 0, 1});
  CHECK(simt::counters().cluster_barriers == 1);
}

TEST_CASE("bulk copies between blocks of a cluster", "[simt][cluster][bulk]") {
  for_each_policy([] {
    std::vector<int> out(128);
    simt::launch("copy", copy_kernel, threads(64, sizeof(CopyShared), 2, 2), out.data());
    for (int i = 0; i < 128; ++i) {
      CAPTURE(i);
      CHECK(out[static_cast<std::size_t>(i)] == (i < 64 ? 1000 + i : i - 64));
    }
  });
}

TEST_CASE("misuse of clusters is reported", "[simt][cluster]") {
  const simt::ScopedOptions scope(with(simt::Async::kLazy));
  const auto expect = [](Fault fault, const char* text, unsigned n = 32) {
    const std::string report =
        report_of([&] { simt::launch("fault", fault_kernel, threads(n, 0, 2, 2), fault); });
    CAPTURE(report, text);
    CHECK(says(report, text));
    CHECK(says(report, "cluster_test.cpp"));
  };
  expect(Fault::kWaitWithoutArrive, "barrier.cluster.wait without barrier.cluster.arrive");
  expect(Fault::kArriveTwice, "has arrived already");
  expect(Fault::kNoSuchRank, "block 2 of a cluster of 2");
  expect(Fault::kPeerExited, "block 0 of the cluster has exited");
  expect(Fault::kMissing, "barrier.cluster.wait at", 64);
  expect(Fault::kUnaligned, "is not aligned to 16 bytes");
}
