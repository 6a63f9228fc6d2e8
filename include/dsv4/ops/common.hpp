// What every op shares. An op is a host function
//     Status ops::name(const ops::NameParams& p, Stream stream) noexcept;
// of the flavour's inline namespace: ops::cuda_v0::name takes device pointers, ops::simt_v0::name host
// pointers. It checks its parameters (sizes, support, empty -> ok, pointers and alignment), launches, and
// returns. It never throws, allocates, synchronises, prints, or reads the environment or device memory, so it
// can be captured into a graph. Strides count elements, and a stride of 0 stands for contiguous rows.
//
// THREADS. Ops are reentrant: any number of host threads may call any of them at the same time, on the same
// or on different streams and devices; a call's results do not depend on the others. There is no global state
// but what the CUDA runtime keeps, and one pointer of each thread in builds with the NaN guard
// (nan_guard.hpp). A call uses the calling thread's current device, which must be the one that the stream and
// the pointers belong to; p is read before the call returns, and all that its pointers lead to (host arrays,
// where a field says so, excepted) by the kernels. Two calls that may RUN at the same time must not share
//   - what either writes: outputs, in-place operands, rows of a cache, states of compressors;
//   - a workspace, of which nothing is kept from call to call;
//   - the state of moe_fused, which is zero again when the call's kernels are done.
// Calls on one stream follow one another, so they may share all of it; so may the replays of a graph, if no
// two of them run at once. A captured call keeps the values of p that it was captured with: lengths, slots,
// pages and tables that change from replay to replay lie in the memory of the kernels.
//
// SHARDS. What a rank of a tensor-parallel engine passes, and what the ranks add up:
//   attention   its heads: rows of Wq_b (LinearWeight::scales_row), attn_q_proj and attn_attend with as many
//               heads and their sinks, attn_out_proj with whole groups and y_f32: partial sums. Key-values,
//               compressors and caches have no heads: on every rank
//   indexer     on every rank: its top-k needs the sum over a token's heads, so that shards of heads would
//               exchange a matrix of scores
//   gate        on every rank
//   experts     a range of them (first_expert, experts), moe_combine or moe_fused with out_f32: partial sums;
//               the shared expert on one rank. Or inner channels of each, in multiples of 128: rows of W1 and
//               W3, and a copy of columns of W2; then each rank rounds its y to bf16
//   vocabulary  embed with first_row and rows: the sum of the outputs is exact. lm_head on its rows of the
//               head: logits side by side; the arg-max over ranks is the engine's
// fp32 sums added up in the order of the ranks are deterministic; mhc_post with y_f32 takes them as they are.
//
// LIMITS ON MULTIPROCESSORS. Only moe_fused sizes its grid by the device: its `blocks` is the limit (0 counts
// the whole device, whatever the stream is confined to; blocks that find no room wait their turn). Every
// other grid is that of the problem, many short blocks that the hardware hands to whatever multiprocessors
// the stream has: launch them on a stream of a CUDA green context (cuGreenCtxStreamCreate) or under MPS's
// CUDA_MPS_ACTIVE_THREAD_PERCENTAGE to leave some of the device to others. There is no such field in each op
// because it would be a loop over blocks in each kernel, with registers that it does not have to spare, for
// what the driver does better: it confines every kernel alike, an engine's own and collectives included.
// Results depend on neither.
#pragma once

#include <dsv4/core/config.hpp>
#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include <cstddef>
#include <cstdint>

// Marks what a shared library of kernels exports.
#if defined(__GNUC__)
#define DSV4_API __attribute__((visibility("default")))
#else
#define DSV4_API
#endif

namespace dsv4::ops {

/// Element type of activations. kF32 is compiled for the SIMT machine and with DSV4_KERNELS_F32: it serves
/// the exact mode of the tests, and is not tuned.
enum class DType : std::int32_t { kBf16 = 0, kF32 = 1 };

}  // namespace dsv4::ops
