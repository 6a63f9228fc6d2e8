// setmaxnreg on the SIMT machine: what the host halves of arch/registers.cuh call.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstdint>

namespace dsv4::simt {

/// The calling warp's threads own `count` registers at most from now on. All 32 lanes call. It changes
/// nothing; warps of a warpgroup that disagree, and a count on the wrong side of the last, are errors.
void set_max_registers(std::uint32_t count, bool increase, Loc loc);

}  // namespace dsv4::simt
