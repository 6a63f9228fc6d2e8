// Bank conflicts of plain shared accesses, counted in instrumented builds (Counters::shared_wavefronts and
// shared_bank_conflicts). Shared memory has 32 banks of 4 bytes; a wavefront serves one word of each, to any
// number of lanes. Accesses of 8 and 16 bytes take two and four wavefronts at least: half-warps, quarters.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsv4::simt {

struct Thread;
struct Gang;

namespace banks {

void begin_gang(Gang& gang);
void end_gang(Gang& gang);
/// Lanes of a warp access together when they are at the same instruction for the same time since the warp's
/// last barrier, __syncwarp or collective of all its lanes.
void note(const Thread& t, const void* p, std::size_t bytes, std::uint32_t site);
/// `t` has passed one of those.
void converged(const Thread& t);

}  // namespace banks
}  // namespace dsv4::simt
