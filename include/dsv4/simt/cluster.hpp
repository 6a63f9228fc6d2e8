// Clusters on the SIMT machine: what the host halves of arch/cluster.cuh and arch/fence.cuh call. A launch
// without clusters has clusters of one block.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::simt {

std::uint32_t cluster_rank();
std::uint32_t cluster_size();

/// Halves of the cluster's barrier. `ordered` = release at the arrival, acquire at the wait.
void cluster_arrive(bool ordered, Loc loc);
void cluster_wait(bool ordered, Loc loc);

/// The byte of block `rank` of the cluster at the offset that p, in the caller's shared memory, has.
void* cluster_map(const void* p, std::uint32_t rank, Loc loc);
/// Reads or writes the `bytes` bytes there.
void peer_load(void* value, const void* p, std::uint32_t rank, std::size_t bytes, Loc loc);
void peer_store(void* p, std::uint32_t rank, const void* value, std::size_t bytes, Loc loc);

/// The caller's plain writes so far become readable to the async proxy.
void fence_proxy_async(Loc loc);

}  // namespace dsv4::simt
