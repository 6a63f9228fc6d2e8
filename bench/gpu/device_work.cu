#include "bench/gpu/device_work.hpp"

#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::gpu {
namespace {

// SplitMix64 of a counter.
DSV4_HD std::uint32_t hash(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = (i + seed * 0x100000001b3u + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<std::uint32_t>((z ^ (z >> 31)) >> 16);
}

DSV4_HD std::uint32_t two_bf16(std::uint32_t h) {
  const float low = static_cast<float>(static_cast<std::int16_t>(h & 0xffffu)) * 0x1p-15f;
  const float high = static_cast<float>(static_cast<std::int16_t>(h >> 16)) * 0x1p-15f;
  return from_float<bf16>(low).bits | std::uint32_t{from_float<bf16>(high).bits} << 16;
}
// Exponents 4 .. 7 of every byte.
DSV4_HD std::uint32_t four_e4m3(std::uint32_t h) { return (h & 0x9f9f9f9fu) | 0x20202020u; }
DSV4_HD std::uint32_t four_e8m0(std::uint32_t h) { return 0x7f7f7f7fu + (h & 0x01010101u); }

// The 4 bytes that lie `offset` bytes into a page.
DSV4_HD std::uint32_t word(Pattern pattern, std::uint32_t h, std::int64_t offset, std::int32_t page_rows) {
  switch (pattern) {
    case Pattern::kBf16:
      return two_bf16(h);
    case Pattern::kF32:
      return bits_as<std::uint32_t>(static_cast<float>(static_cast<std::int32_t>(h)) * 0x1p-31f);
    case Pattern::kE4m3:
      return four_e4m3(h);
    case Pattern::kE8m0:
      return four_e8m0(h);
    case Pattern::kE2m1:
      return h;
    case Pattern::kKv584:
      if (offset >= std::int64_t{576} * page_rows) return four_e8m0(h);
      return offset % 576 < 448 ? four_e4m3(h) : two_bf16(h);
    case Pattern::kIndexFp4:
      return offset < std::int64_t{64} * page_rows ? h : four_e8m0(h);
    case Pattern::kIndexFp8:
      return offset < std::int64_t{128} * page_rows ? four_e4m3(h) : (127u + (h & 1u)) << 23;
  }
  return 0;
}

constexpr int kThreads = 256;

DSV4_KERNEL(kThreads)
fill_kernel(std::uint32_t* p, std::int64_t words, Pattern pattern, std::uint64_t seed, std::int32_t page_rows,
            std::int64_t page_stride) {
  const std::int64_t step = std::int64_t{arch::grid_dim().x} * kThreads;
  for (std::int64_t i = std::int64_t{arch::block_idx().x} * kThreads + arch::thread_idx().x; i < words;
       i += step)
    arch::store(p + i,
                word(pattern, hash(seed, static_cast<std::uint64_t>(i)), 4 * i % page_stride, page_rows));
}

constexpr int kRounds = 4096, kChains = 8;

// Independent chains of products; enough warps that none waits for another's.
DSV4_KERNEL(kThreads) multiply_kernel(float* scratch) {
  const auto lane = static_cast<std::uint32_t>(arch::lane_id());
  const std::uint32_t a[4] = {lane, lane + 1, lane + 2, lane + 3}, b[2] = {lane, lane + 7};
  float c[kChains][4] = {};
  for (int round = 0; round < kRounds; ++round) {
    DSV4_UNROLL
    for (int i = 0; i < kChains; ++i) arch::mma_m16n8k16_bf16(c[i], a, b, c[i]);
  }
  float sum = 0;
  DSV4_UNROLL
  for (int i = 0; i < kChains; ++i) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
  if (sum == 1.0f) arch::store(scratch, sum);  // never: the operands are denormal numbers
}

}  // namespace

Status fill(void* p, std::int64_t bytes, Pattern pattern, std::uint64_t seed, std::int32_t page_rows,
            std::int64_t page_stride, Stream stream) {
  const std::int64_t words = bytes / 4;
  if (words == 0) return {};
  const std::int64_t blocks = (words + kThreads - 1) / kThreads;
  return arch::launch(
      "fill", fill_kernel,
      {.grid = {static_cast<unsigned>(blocks < 4096 ? blocks : 4096), 1, 1}, .block = {kThreads, 1, 1}},
      stream, static_cast<std::uint32_t*>(p), words, pattern, seed, page_rows,
      page_stride > 0 ? page_stride : INT64_MAX);
}

Status multiply_bf16(float* scratch, int multiprocessors, double& flops, Stream stream) {
  const int blocks = 8 * multiprocessors;
  flops = 2.0 * 16 * 8 * 16 * kChains * kRounds * (kThreads / 32) * blocks;
  return arch::launch("multiply", multiply_kernel,
                      {.grid = {static_cast<unsigned>(blocks), 1, 1}, .block = {kThreads, 1, 1}}, stream,
                      scratch);
}

}  // namespace dsv4::gpu
