// What a CUDA thread may ask of the machine: the host halves of arch/ call these, kernels call arch/.
// Each must run inside a launch. Errors leave the launch as KernelError and do not return.
#pragma once

#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/loc.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::simt {

// ---- who am I --------------------------------------------------------------------------------------------
bool in_kernel();  // false on a thread of the host
Index3 thread_idx();
Index3 block_idx();
Index3 block_dim();
Index3 grid_dim();
int lane_id();

// ---- warp ------------------------------------------------------------------------------------------------
/// The value of lane `source`; the own value where source < 0. Every lane of mask calls.
std::uint64_t shuffle(std::uint32_t mask, std::uint64_t value, int source, const char* name, Loc loc);
/// Bit i = predicate of lane i, for the lanes of mask.
std::uint32_t ballot(std::uint32_t mask, bool predicate, const char* name, Loc loc);
enum class Reduce : std::uint8_t { kAdd, kMinU, kMaxU, kMinS, kMaxS, kAnd, kOr, kXor };
std::uint32_t reduce(std::uint32_t mask, std::uint32_t value, Reduce op, Loc loc);
/// Lanes of mask whose value is the caller's.
std::uint32_t match_any(std::uint32_t mask, std::uint64_t value, Loc loc);
/// mask where all values are equal, else 0.
std::uint32_t match_all(std::uint32_t mask, std::uint64_t value, Loc loc);
/// True in one lane of mask, the lowest.
bool elect(std::uint32_t mask, Loc loc);
/// Orders the lanes' memory accesses.
void sync_warp(std::uint32_t mask, Loc loc);

// ---- block -----------------------------------------------------------------------------------------------
enum class BarrierReduce : std::uint8_t { kNone, kOr, kAnd, kCount };
/// __syncthreads(): barrier 0 of all threads of the block.
void sync_block(Loc loc);
/// Barrier `id` of the block for `threads` threads (0 = all). wait = false arrives only. Returns the
/// reduction of `value` over the threads (kOr and kAnd 0 or 1).
int barrier(std::uint32_t id, std::uint32_t threads, bool wait, BarrierReduce reduce, bool value,
            const char* name, Loc loc);

/// First byte of the block's dynamic shared memory, 1024-byte aligned.
void* dynamic_shared();
/// Shared variable of the block that `key` stands for, NaN-filled at first.
void* static_shared(const void* key, std::size_t bytes, std::size_t align);
/// 32-bit address in the shared window; an error if p is not in this block's shared memory.
std::uint32_t shared_address(const void* p, const char* name, Loc loc);

// ---- progress --------------------------------------------------------------------------------------------
/// Lets others run; every spin loop must call it. All threads polling without progress is a LIVELOCK.
void yield_poll(const char* name, Loc loc);
[[noreturn]] void trap(const char* message, Loc loc);

}  // namespace dsv4::simt
