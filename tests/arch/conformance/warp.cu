// Exchanges between the lanes of a warp.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/warp.cuh>

#include "tests/arch/conformance/case.hpp"

#include <cstdint>
#include <vector>

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

using Kernel = void (*)(std::uint32_t*);

Status one_warp(const char* name, Kernel kernel, Buffers b, Stream stream) noexcept {
  return arch::launch(name, kernel, {.grid = {1, 1, 1}, .block = {32, 1, 1}}, stream, b.out);
}

DSV4_DEVICE std::uint64_t wide(std::uint32_t i) {
  return std::uint64_t{scratch_word(i)} << 32 | scratch_word(i + 1000);
}

// Word [(2 w + half) * 32 + lane]: width 32 >> w, the low and the high word of a 64-bit value.
template <class Shuffle>
DSV4_DEVICE void each_width(std::uint32_t* out, Shuffle shuffle) {
  const int lane = arch::lane_id();
  for (int w = 0; w < 4; ++w) {
    const std::uint64_t v = shuffle(wide(static_cast<std::uint32_t>(lane)), 32 >> w);
    out[(2 * w) * 32 + lane] = static_cast<std::uint32_t>(v);
    out[(2 * w + 1) * 32 + lane] = static_cast<std::uint32_t>(v >> 32);
  }
}
DSV4_KERNEL(32) shfl_idx(std::uint32_t* out) {
  each_width(out, [](std::uint64_t v, int width) { return arch::shfl(v, arch::lane_id() * 5 + 3, width); });
}
DSV4_KERNEL(32) shfl_xor(std::uint32_t* out) {
  each_width(out, [](std::uint64_t v, int width) { return arch::shfl_xor(v, 6, width); });
}
DSV4_KERNEL(32) shfl_up(std::uint32_t* out) {
  each_width(out, [](std::uint64_t v, int width) { return arch::shfl_up(v, 3, width); });
}
DSV4_KERNEL(32) shfl_down(std::uint32_t* out) {
  each_width(out, [](std::uint64_t v, int width) { return arch::shfl_down(v, 3, width); });
}
// 32-bit values, in both halves of a divided warp.
DSV4_KERNEL(32) shfl_masked(std::uint32_t* out) {
  const int lane = arch::lane_id();
  const float v = static_cast<float>(lane * lane);
  if (lane < 16)
    out[lane] = static_cast<std::uint32_t>(arch::shfl_xor(v, 5, 16, 0x0000ffffu));
  else
    out[lane] = static_cast<std::uint32_t>(arch::shfl(v, 2, 16, 0xffff0000u));
}

// Each lane's rank among those that a mask names, and their number.
DSV4_KERNEL(32) ranks(std::uint32_t* out) {
  const int lane = arch::lane_id();
  const std::uint32_t mask = scratch_word(7);
  out[lane] = static_cast<std::uint32_t>(arch::count_lanes(mask & arch::lanes_before()));
  out[32 + lane] = static_cast<std::uint32_t>(arch::count_lanes(lane == 0 ? arch::kFullMask : mask));
}

DSV4_KERNEL(32) votes(std::uint32_t* out) {
  const int lane = arch::lane_id();
  const bool odd = (scratch_word(static_cast<std::uint32_t>(lane)) & 1) != 0;
  out[lane] = arch::ballot(odd);
  out[32 + lane] =
      (arch::any(lane == 7) ? 4u : 0u) + (arch::any(lane == 32) ? 2u : 0u) + (arch::all(lane < 32) ? 1u : 0u);
  out[64 + lane] = arch::all(odd) ? 1 : 0;
  if (lane % 4 == 0) {
    out[96 + lane] = arch::ballot(odd, 0x11111111u);
    out[97 + lane] =
        (arch::any(lane == 4, 0x11111111u) ? 2u : 0u) + (arch::all(lane % 2 == 0, 0x11111111u) ? 1u : 0u);
  }
}

DSV4_KERNEL(32) redux(std::uint32_t* out) {
  const int lane = arch::lane_id();
  const unsigned u = scratch_word(static_cast<std::uint32_t>(lane));
  const int i = static_cast<int>(u);
  out[lane] = arch::reduce_add(u);
  out[32 + lane] = arch::reduce_min(u);
  out[64 + lane] = arch::reduce_max(u);
  out[96 + lane] = static_cast<std::uint32_t>(arch::reduce_add(i));
  out[128 + lane] = static_cast<std::uint32_t>(arch::reduce_min(i));
  out[160 + lane] = static_cast<std::uint32_t>(arch::reduce_max(i));
  out[192 + lane] = arch::reduce_and(u | 0xffff0000u);
  out[224 + lane] = arch::reduce_or(u & 0xfffu);
  out[256 + lane] = arch::reduce_xor(u);
  if (lane >= 24) out[288 + lane] = arch::reduce_add(u, 0xff000000u);
}

DSV4_KERNEL(32) match(std::uint32_t* out) {
  const int lane = arch::lane_id();
  out[lane] = arch::match_any(static_cast<unsigned>(lane * lane % 7));
  out[32 + lane] = arch::match_any(std::uint64_t{1} << (32 + lane / 8));
  out[64 + lane] = arch::match_all(17u);
  out[96 + lane] = arch::match_all(lane == 31 ? 1u : 0u);
  if (lane < 8) out[128 + lane] = arch::match_all(5u, 0xffu);
}

// Which lane is chosen is nobody's business, that there is one is.
DSV4_KERNEL(32) elect(std::uint32_t* out) {
  const unsigned chosen = arch::ballot(arch::elect_one());
  out[arch::lane_id()] = chosen != 0 && (chosen & (chosen - 1)) == 0;
}

}  // namespace

std::vector<Case> warp_cases() {
#define DSV4_CASE(kernel, words)                                                                       \
  Case {                                                                                               \
    "warp/" #kernel, Compare::kBits, 80, false, words, 0,                                              \
        [](Buffers b, Stream stream) noexcept { return one_warp("warp/" #kernel, kernel, b, stream); } \
  }
  return {DSV4_CASE(shfl_idx, 256),  DSV4_CASE(shfl_xor, 256),   DSV4_CASE(shfl_up, 256),
          DSV4_CASE(shfl_down, 256), DSV4_CASE(shfl_masked, 32), DSV4_CASE(votes, 128),
          DSV4_CASE(redux, 320),     DSV4_CASE(match, 160),      DSV4_CASE(elect, 32),
          DSV4_CASE(ranks, 64)};
#undef DSV4_CASE
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
