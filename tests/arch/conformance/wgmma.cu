// wgmma: shared memory holds small integers whose places name them, so that every descriptor and every
// fragment gives other sums, and none is rounded.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/fence.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/wgmma.cuh>
#include <dsv4/core/types.hpp>

#include "tests/arch/conformance/case.hpp"

#include <type_traits>

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

using arch::Major;
using arch::Swizzle;

constexpr int kThreads = 128;
constexpr std::uint32_t kTileBytes = 32768;  // of A, and of B

template <class T>
DSV4_DEVICE T element(std::uint32_t i) {
  const float x = static_cast<float>(static_cast<int>(scratch_word(i) % 17) - 8);
  if constexpr (std::is_same_v<T, bf16>)
    return from_float<bf16>(x);
  else
    return to_e4m3(x);
}

// Two instructions, the second 32 bytes further on in both operands' rows; D starts as integers too.
template <int N, class T, Swizzle kSwizzle, Major kA, Major kB, bool kRegisters>
DSV4_KERNEL(kThreads)
wgmma_kernel(std::uint32_t* out, std::uint32_t leading, std::uint32_t stride, std::uint32_t advance) {
  DSV4_DYN_SMEM(T, s);
  const std::uint32_t thread = arch::thread_idx().x;
  for (std::uint32_t i = thread; i < 2 * kTileBytes / sizeof(T); i += kThreads) s[i] = element<T>(i);
  arch::fence_proxy_async();
  arch::sync_threads();

  float d[N / 2];
  DSV4_UNROLL
  for (int j = 0; j < N / 2; ++j)
    d[j] = static_cast<float>(scratch_word(thread * 128 + static_cast<unsigned>(j)) % 1000);
  std::uint32_t registers[4];
  for (std::uint32_t i = 0; i < 4; ++i) {
    registers[i] = 0;
    for (std::uint32_t e = 0; e < 4 / sizeof(T); ++e)
      registers[i] |= std::uint32_t{element<T>(1000000 + thread * 16 + i * 4 + e).bits}
                      << (8 * sizeof(T) * e);
  }
  const std::uint64_t a = arch::wgmma_tile<kSwizzle>(s, leading, stride);
  const std::uint64_t b = arch::wgmma_tile<kSwizzle>(s + kTileBytes / sizeof(T), leading, stride);
  arch::wgmma_fence();
  DSV4_UNROLL
  for (unsigned step = 0; step < 2; ++step) {
    const std::uint64_t at_b = arch::wgmma_advance(b, step * advance);
    const std::uint64_t at_a = arch::wgmma_advance(a, step * advance);
    if constexpr (std::is_same_v<T, bf16> && kRegisters)
      arch::wgmma_bf16<N, kB>(d, registers, at_b, true);
    else if constexpr (std::is_same_v<T, bf16>)
      arch::wgmma_bf16<N, kA, kB>(d, at_a, at_b, true);
    else if constexpr (kRegisters)
      arch::wgmma_e4m3<N>(d, registers, at_b, true);
    else
      arch::wgmma_e4m3<N>(d, at_a, at_b, true);
  }
  arch::wgmma_commit();
  arch::wgmma_wait<0>();
  arch::wgmma_pin(d);
  // Four words a thread: an accumulator each, or many added up with factors that tell them apart.
  DSV4_UNROLL
  for (int word = 0; word < 4; ++word) {
    std::uint32_t sum = 0;
    DSV4_UNROLL
    for (int j = word; j < N / 2; j += 4) sum = sum * 31 + static_cast<std::uint32_t>(static_cast<int>(d[j]));
    out[thread * 4 + static_cast<unsigned>(word)] = sum;
  }
}

template <int N, class T, Swizzle kSwizzle, Major kA, Major kB, bool kRegisters, std::uint32_t kLeading,
          std::uint32_t kStride, std::uint32_t kAdvance>
Status run(Buffers buffers, Stream stream) noexcept {
  return arch::launch("wgmma", wgmma_kernel<N, T, kSwizzle, kA, kB, kRegisters>,
                      {.grid = {}, .block = {kThreads, 1, 1}, .shared_bytes = 2 * kTileBytes}, stream,
                      buffers.out, kLeading, kStride, kAdvance);
}

template <int N, class T, bool kRegisters = false, Swizzle kSwizzle = Swizzle::k128, Major kA = Major::kK,
          Major kB = Major::kK, std::uint32_t kLeading = 16, std::uint32_t kStride = 1024,
          std::uint32_t kAdvance = 32>
Case make(const char* name) {
  return {name,
          Compare::kBits,
          90,
          true,
          4 * kThreads,
          0,
          run<N, T, kSwizzle, kA, kB, kRegisters, kLeading, kStride, kAdvance>};
}

}  // namespace

std::vector<Case> wgmma_cases() {
  constexpr auto kK = Major::kK, kMN = Major::kMN;
  constexpr auto kNone = Swizzle::kNone, k32 = Swizzle::k32, k64 = Swizzle::k64, k128 = Swizzle::k128;
  return {
      make<8, bf16>("wgmma/bf16_n8"),
      make<64, bf16>("wgmma/bf16_n64"),
      make<104, bf16>("wgmma/bf16_n104"),
      make<256, bf16>("wgmma/bf16_n256"),
      make<64, bf16, true>("wgmma/bf16_n64_registers"),
      make<64, bf16, false, k64, kK, kK, 16, 512>("wgmma/bf16_n64_swizzle_64"),
      make<64, bf16, false, k32, kK, kK, 16, 256, 4096>("wgmma/bf16_n64_swizzle_32"),
      make<64, bf16, false, kNone, kK, kK, 128, 256, 2048>("wgmma/bf16_n64_no_swizzle"),
      make<64, bf16, false, k128, kK, kMN, 4096, 1024, 2048>("wgmma/bf16_n64_mn_major_b"),
      make<64, bf16, false, k128, kMN, kK, 4096, 1024, 2048>("wgmma/bf16_n64_mn_major_a"),
      make<128, bf16, false, k64, kMN, kMN, 2048, 512, 1024>("wgmma/bf16_n128_mn_major_swizzle_64"),
      make<64, bf16, true, k32, kK, kMN, 256, 2048, 4096>("wgmma/bf16_n64_registers_mn_major_swizzle_32"),
      make<8, e4m3>("wgmma/e4m3_n8"),
      make<64, e4m3>("wgmma/e4m3_n64"),
      make<256, e4m3>("wgmma/e4m3_n256"),
      make<64, e4m3, true>("wgmma/e4m3_n64_registers"),
      make<64, e4m3, false, k64, kK, kK, 16, 512>("wgmma/e4m3_n64_swizzle_64"),
      make<64, e4m3, false, kNone, kK, kK, 128, 256, 2048>("wgmma/e4m3_n64_no_swizzle"),
  };
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
