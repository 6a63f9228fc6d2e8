// The cases of tests/gpu, by stage. Each compares both sides (compare.hpp); small: few and small shapes, for
// what runs under compute-sanitizer.
#pragma once

#include "tests/gpu/compare.hpp"

namespace dsv4::gpu {

void compare_rows(Tally& tally, bool small);  // embed, norms, quantisers, RoPE, Hadamard, head
void compare_mhc(Tally& tally, bool small);

}  // namespace dsv4::gpu
