// One small kernel for each wrapper of arch/: the SIMT machine writes what it must give, a GPU is compared
// with that.
#pragma once

#include <dsv4/core/config.hpp>
#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include <cstdint>
#include <vector>

namespace dsv4::conformance {

/// kBits: layouts, data movement, integers, and products of small integers. kTwoUlp: approximate math, the
/// words being fp32.
enum class Compare : std::uint8_t { kBits, kTwoUlp };

/// Word i of a case's scratch before it runs. Any value a case needs, it derives from indices or from these.
DSV4_HD constexpr std::uint32_t scratch_word(std::uint32_t i) {
  std::uint32_t h = i * 0x9e3779b9u + 0x7f4a7c15u;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

/// Memory of a case, 256-byte aligned: of the device, or of the host in the SIMT flavour.
struct Buffers {
  std::uint32_t* out;      // zeros at first; compared afterwards
  std::uint32_t* scratch;  // scratch_word(i) at first
};

struct Case {
  const char* name;  // "mma/bf16_m16n8k16": family/wrapper
  Compare compare;
  int min_sm;      // 80, 89, 90: the first architecture that has the instruction
  bool only_sm90;  // sm_90a's own instructions (wgmma, setmaxnreg): absent later
  int out_words;   // at most 4096
  int scratch_words;
  Status (*run)(Buffers buffers, Stream stream) noexcept;
};

/// Each family is one file, conformance/<family>.cu, compiled for both flavours.
inline namespace DSV4_FLAVOUR {
std::vector<Case> arithmetic_cases();  // and the conversions made of it
std::vector<Case> warp_cases();
std::vector<Case> barrier_cases();
std::vector<Case> memory_cases();
std::vector<Case> block_cases();
std::vector<Case> math_cases();
std::vector<Case> cp_async_cases();
std::vector<Case> matrix_cases();  // ldmatrix, stmatrix
std::vector<Case> mma_cases();
std::vector<Case> mbarrier_cases();
std::vector<Case> tma_cases();  // tensor maps and bulk copies
std::vector<Case> wgmma_cases();
std::vector<Case> cluster_cases();
std::vector<Case> grid_cases();  // setmaxnreg, programmatic dependent launch
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::conformance
