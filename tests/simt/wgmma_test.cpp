// wgmma of the SIMT machine: every layout against images of shared memory written out here, with integers so
// that results are exact; asynchrony; and which uses are errors.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/fence.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/swizzle.hpp>
#include <dsv4/arch/wgmma.cuh>
#include <dsv4/core/types.hpp>
#include <dsv4/simt/counters.hpp>

#include "tests/simt/policies.hpp"
#include "tests/support/random.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace dsv4;
using namespace dsv4::test;
using arch::Major;
using arch::Swizzle;

// ---- layouts, after the figures of the PTX ISA's "Shared Memory Matrix Layout"
// -----------------------------
std::size_t permuted(Swizzle s, std::size_t offset) {
  const std::size_t row_bytes = std::size_t{16} << static_cast<int>(s);
  const std::size_t row = offset / row_bytes, chunk = offset / 16 % (row_bytes / 16);
  const std::size_t key = s == Swizzle::k128  ? row % 8
                          : s == Swizzle::k64 ? row / 2 % 4
                          : s == Swizzle::k32 ? row / 4 % 2
                                              : 0;
  return row * row_bytes + (chunk ^ key) * 16 + offset % 16;
}

struct Layout {
  Swizzle swizzle = Swizzle::k128;
  Major major = Major::kK;
  std::uint32_t leading = 16, stride = 0, advance = 32;  // bytes; advance = from one K to the next

  // Byte of element (row, k), of `bytes` bytes, in the tile of instruction `step`.
  std::size_t byte(std::size_t row, std::size_t k, std::size_t bytes, std::size_t step) const {
    const std::size_t width = std::size_t{16} << static_cast<int>(swizzle);
    std::size_t offset = 0;
    if (major == Major::kMN)
      offset = k / 8 * stride + row * bytes / width * leading + k % 8 * width + row * bytes % width +
               step * advance;
    else if (swizzle == Swizzle::kNone)
      offset = row / 8 * stride + k * bytes / 16 * leading + row % 8 * 16 + k * bytes % 16 + step * advance;
    else
      offset = row / 8 * stride + row % 8 * width + k * bytes + step * advance;
    return permuted(swizzle, offset);
  }
};

Layout rows(Swizzle s) { return {s, Major::kK, 16, 8 * arch::swizzle_row_bytes(s), 32}; }

// ---- the kernel
// --------------------------------------------------------------------------------------------
struct Operand {
  const std::uint8_t* image;
  std::uint32_t bytes;
  Layout layout;
};

template <int N, class T, Swizzle kSwizzleA, Swizzle kSwizzleB, Major kA, Major kB, bool kRegisters>
DSV4_KERNEL(128)
product_kernel(Operand a, Operand b, const T* dense_a, int steps, bool accumulate, float* d_out) {
  DSV4_DYN_SMEM(std::uint8_t, s);
  constexpr int kK = 32 / static_cast<int>(sizeof(T));
  const int thread = static_cast<int>(arch::thread_idx().x), lane = thread % 32;
  const std::uint32_t b_at = (a.bytes + 1023) / 1024 * 1024;
  for (std::uint32_t i = arch::thread_idx().x; i < a.bytes; i += 128) s[i] = a.image[i];
  for (std::uint32_t i = arch::thread_idx().x; i < b.bytes; i += 128) s[b_at + i] = b.image[i];
  arch::fence_proxy_async();
  arch::sync_threads();

  const int row = thread / 32 * 16 + lane / 4, column = 2 * (lane % 4);
  float d[N / 2];
  for (int j = 0; j < N / 2; ++j) d[j] = d_out[(row + 8 * (j / 2 % 2)) * N + 8 * (j / 4) + column + j % 2];
  const std::uint64_t tile_a = arch::wgmma_tile<kSwizzleA>(s, a.layout.leading, a.layout.stride);
  const std::uint64_t tile_b = arch::wgmma_tile<kSwizzleB>(s + b_at, b.layout.leading, b.layout.stride);
  arch::wgmma_fence();
  for (int step = 0; step < steps; ++step) {
    const auto n = static_cast<std::uint32_t>(step);
    const std::uint64_t at_b = arch::wgmma_advance(tile_b, n * b.layout.advance);
    const bool add = accumulate || step > 0;
    if constexpr (kRegisters) {
      constexpr int kPerRegister = 4 / static_cast<int>(sizeof(T));
      std::uint32_t registers[4];
      for (int i = 0; i < 4; ++i)
        std::memcpy(&registers[i],
                    dense_a + (row + 8 * (i % 2)) * kK * steps + kK * step + kPerRegister * (lane % 4) +
                        kK / 2 * (i / 2),
                    4);
      if constexpr (std::is_same_v<T, bf16>)
        arch::wgmma_bf16<N, kB>(d, registers, at_b, add);
      else
        arch::wgmma_e4m3<N>(d, registers, at_b, add);
    } else {
      const std::uint64_t at_a = arch::wgmma_advance(tile_a, n * a.layout.advance);
      if constexpr (std::is_same_v<T, bf16>)
        arch::wgmma_bf16<N, kA, kB>(d, at_a, at_b, add);
      else
        arch::wgmma_e4m3<N>(d, at_a, at_b, add);
    }
  }
  arch::wgmma_commit();
  arch::wgmma_wait<0>();
  arch::wgmma_pin(d);
  for (int j = 0; j < N / 2; ++j) d_out[(row + 8 * (j / 2 % 2)) * N + 8 * (j / 4) + column + j % 2] = d[j];
}

// Integers that T holds exactly.
template <class T>
T exact(std::int32_t x) {
  if constexpr (std::is_same_v<T, bf16>)
    return from_float<bf16>(static_cast<float>(x));
  else
    return to_e4m3(static_cast<float>(x));
}

template <int N, class T, bool kRegisters = false, Swizzle kSwizzleA = Swizzle::k128,
          Swizzle kSwizzleB = Swizzle::k128, Major kA = Major::kK, Major kB = Major::kK>
void check(const Layout& layout_a, const Layout& layout_b, int steps, bool accumulate = true) {
  constexpr int kK = 32 / static_cast<int>(sizeof(T));
  CAPTURE(N, sizeof(T), static_cast<int>(kSwizzleA), static_cast<int>(kSwizzleB), static_cast<int>(kA),
          static_cast<int>(kB), kRegisters, steps, accumulate);
  const int k = kK * steps, limit = std::is_same_v<T, bf16> ? 100 : 8;
  const auto a = integers(std::int64_t{64} * k, 1, -limit, limit),
             b = integers(std::int64_t{N} * k, 2, -limit, limit), c = integers(64 * N, 3, -1000, 1000);
  std::vector<T> dense_a;
  for (const auto x : a) dense_a.push_back(exact<T>(x));
  std::vector<std::uint8_t> image_a, image_b;
  const auto put = [](std::vector<std::uint8_t>& image, std::size_t at, T value) {
    if (image.size() < at + sizeof value) image.resize(at + sizeof value, 0xff);
    std::memcpy(image.data() + at, &value, sizeof value);
  };
  for (int step = 0; step < steps; ++step)
    for (int i = 0; i < kK; ++i) {
      const auto in_step = static_cast<std::size_t>(i), s = static_cast<std::size_t>(step);
      for (std::size_t r = 0; r < 64; ++r)
        put(image_a, layout_a.byte(r, in_step, sizeof(T), s),
            dense_a[r * static_cast<std::size_t>(k) + static_cast<std::size_t>(kK * step + i)]);
      for (std::size_t n = 0; n < N; ++n)
        put(image_b, layout_b.byte(n, in_step, sizeof(T), s),
            exact<T>(b[n * static_cast<std::size_t>(k) + static_cast<std::size_t>(kK * step + i)]));
    }
  std::vector<float> d, expected;
  for (int r = 0; r < 64; ++r)
    for (int n = 0; n < N; ++n) {
      std::int64_t sum = accumulate ? c[static_cast<std::size_t>(r * N + n)] : 0;
      for (int i = 0; i < k; ++i)
        sum += std::int64_t{a[static_cast<std::size_t>(r * k + i)]} * b[static_cast<std::size_t>(n * k + i)];
      expected.push_back(static_cast<float>(sum));
      d.push_back(static_cast<float>(c[static_cast<std::size_t>(r * N + n)]));
    }
  const std::size_t shared = (image_a.size() + 1023) / 1024 * 1024 + image_b.size();
  simt::launch("product", product_kernel<N, T, kSwizzleA, kSwizzleB, kA, kB, kRegisters>,
               threads(128, shared),
               Operand{image_a.data(), static_cast<std::uint32_t>(image_a.size()), layout_a},
               Operand{image_b.data(), static_cast<std::uint32_t>(image_b.size()), layout_b}, dense_a.data(),
               steps, accumulate, d.data());
  CHECK(d == expected);
}

template <int... I>
void check_every_n(std::integer_sequence<int, I...>) {
  const Layout l = rows(Swizzle::k128);
  (check<8 * (I + 1), bf16>(l, l, 4), ...);
}

template <class T, bool kRegisters>
void check_k_major() {
  check<64, T, kRegisters, Swizzle::k128, Swizzle::k128>(rows(Swizzle::k128), rows(Swizzle::k128), 4);
  check<64, T, kRegisters, Swizzle::k64, Swizzle::k128>(rows(Swizzle::k64), rows(Swizzle::k128), 2);
  check<24, T, kRegisters, Swizzle::k128, Swizzle::k64>(rows(Swizzle::k128), rows(Swizzle::k64), 2, false);
  check<136, T, kRegisters, Swizzle::k32, Swizzle::k32>(rows(Swizzle::k32), rows(Swizzle::k32), 1);
  // Core matrices one after the other along k, or along the rows.
  const Layout along_k{Swizzle::kNone, Major::kK, 128, 512, 256};
  const Layout along_rows{Swizzle::kNone, Major::kK, 64 * 16, 128, 2 * 64 * 16};
  check<64, T, kRegisters, Swizzle::kNone, Swizzle::kNone>(along_k, along_rows, 2);
  check<64, T, kRegisters, Swizzle::kNone, Swizzle::kNone>(along_rows, along_k, 2);
}

// Blocks of 8 k by one row of the swizzle, the next ones along k or along m or n.
Layout mn_major(Swizzle s, bool along_k, std::uint32_t extent) {
  const std::uint32_t block = 8 * arch::swizzle_row_bytes(s);
  const std::uint32_t blocks = extent * 2 / arch::swizzle_row_bytes(s);
  if (along_k) return {s, Major::kMN, 4 * block, block, 2 * block};  // room for two steps
  return {s, Major::kMN, block, blocks * block, 2 * blocks * block};
}

}  // namespace

TEST_CASE("wgmma bf16 of every N", "[simt][wgmma]") { check_every_n(std::make_integer_sequence<int, 32>{}); }

TEST_CASE("wgmma of K-major operands in every swizzle", "[simt][wgmma]") {
  check_k_major<bf16, false>();
  check_k_major<bf16, true>();
  check_k_major<e4m3, false>();
  check_k_major<e4m3, true>();
}

TEST_CASE("wgmma of MN-major operands", "[simt][wgmma]") {
  constexpr auto kK = Major::kK, kMN = Major::kMN;
  constexpr auto k128 = Swizzle::k128, k64 = Swizzle::k64, k32 = Swizzle::k32;
  for (const bool along_k : {false, true}) {
    CAPTURE(along_k);
    check<128, bf16, false, k128, k128, kK, kMN>(rows(k128), mn_major(k128, along_k, 128), 2);
    check<128, bf16, true, k128, k128, kK, kMN>(rows(k128), mn_major(k128, along_k, 128), 2);
    check<96, bf16, false, k128, k64, kK, kMN>(rows(k128), mn_major(k64, along_k, 96), 2);
    check<80, bf16, true, k128, k32, kK, kMN>(rows(k128), mn_major(k32, along_k, 80), 2);
    check<64, bf16, false, k128, k128, kMN, kK>(mn_major(k128, along_k, 64), rows(k128), 2);
    check<64, bf16, false, k64, k128, kMN, kMN>(mn_major(k64, along_k, 64), mn_major(k128, along_k, 64), 2);
    check<64, bf16, false, k32, k64, kMN, kMN>(mn_major(k32, along_k, 64), mn_major(k64, along_k, 64), 2);
  }
}

TEST_CASE("wgmma under every policy", "[simt][wgmma]") {
  for_each_policy([] {
    const Layout l = rows(Swizzle::k128);
    check<16, bf16>(l, l, 4);
    check<16, bf16, true>(l, l, 4, false);
    check<16, e4m3>(l, l, 4);
  });
}

// ---- asynchrony ------------------------------------------------------------------------------------------
namespace {

// All of A and B are 1 (bf16), so that an instruction adds 16 to everything.
void fill_with_ones(std::uint32_t* s, int words) {
  for (int i = static_cast<int>(arch::thread_idx().x); i < words; i += 128) s[i] = 0x3f803f80u;
  arch::fence_proxy_async();
  arch::sync_threads();
}

struct Seen {
  float both_in_flight[2], one_in_flight[2], done[2];
};
DSV4_KERNEL(128) in_flight_kernel(Seen* seen) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  fill_with_ones(s, 2048);
  const std::uint64_t a = arch::wgmma_rows<Swizzle::k128>(s);
  float x[4] = {1, 1, 1, 1}, y[4] = {2, 2, 2, 2};
  arch::wgmma_fence();
  arch::wgmma_bf16<8>(x, a, a, true);
  arch::wgmma_bf16<8>(x, a, a, true);
  arch::wgmma_commit();
  arch::wgmma_bf16<8>(y, a, a, true);
  arch::wgmma_commit();
  Seen mine;
  mine.both_in_flight[0] = x[3], mine.both_in_flight[1] = y[3];
  arch::wgmma_wait<1>();
  mine.one_in_flight[0] = x[3], mine.one_in_flight[1] = y[3];
  arch::wgmma_wait<0>();
  mine.done[0] = x[3], mine.done[1] = y[3];
  seen[arch::thread_idx().x] = mine;
}

// Warp 0 overwrites B after its own wait; the other warps may not have read it yet.
DSV4_KERNEL(128) early_release_kernel(float* out, bool wait_for_all) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  fill_with_ones(s, 4096);
  const std::uint64_t a = arch::wgmma_rows<Swizzle::k128>(s), b = arch::wgmma_rows<Swizzle::k128>(s + 2048);
  const unsigned thread = arch::thread_idx().x;
  float d[4];
  arch::wgmma_fence();
  arch::wgmma_bf16<8>(d, a, b, false);
  arch::wgmma_commit();
  if (thread >= 32) arch::named_barrier_sync(1, 128);  // so that warp 0 waits first
  arch::wgmma_wait<0>();
  if (wait_for_all && thread >= 32) arch::named_barrier_arrive(2, 128);
  if (thread < 32) {
    if (wait_for_all) {
      arch::named_barrier_arrive(1, 128);
      arch::named_barrier_sync(2, 128);
    }
    for (unsigned i = thread; i < 256; i += 32) s[2048 + i] = 0;
    if (!wait_for_all) arch::named_barrier_arrive(1, 128);
  }
  out[thread] = d[0];
}

}  // namespace

TEST_CASE("wgmma accumulators in flight hold NaNs", "[simt][wgmma]") {
  const simt::ScopedOptions scope(with(simt::Async::kLazy));
  std::vector<Seen> seen(128);
  simt::reset_counters();
  simt::launch("in_flight", in_flight_kernel, threads(128, 8192), seen.data());
  CHECK(simt::counters().wgmma == 3);
  for (const Seen& s : seen) {
    REQUIRE(std::isnan(s.both_in_flight[0]));
    REQUIRE(std::isnan(s.both_in_flight[1]));
    REQUIRE(s.one_in_flight[0] == 33.0f);
    REQUIRE(std::isnan(s.one_in_flight[1]));
    REQUIRE(s.done[0] == 33.0f);
    REQUIRE(s.done[1] == 18.0f);
  }
}

TEST_CASE("a warp's wait says nothing about the other warps' reads", "[simt][wgmma]") {
  const simt::ScopedOptions scope(with(simt::Async::kLazy));
  std::vector<float> out(128);
  const auto run = [&](bool wait_for_all) {
    return report_of([&] {
      simt::launch("early_release", early_release_kernel, threads(128, 16384), out.data(), wait_for_all);
    });
  };
  CHECK(run(true).empty());
  CHECK(out == std::vector<float>(128, 16.0f));
  const std::string report = run(false);
#if defined(DSV4_SIMT_RACE)
  CHECK(!report.empty());
#else
  CHECK(report.empty());
  CHECK(out[0] == 16.0f);
  CHECK(out[32] == 0.0f);
#endif
}

// ---- rounding --------------------------------------------------------------------------------------------
TEST_CASE("wgmma e4m3 rounds as Hopper does where told so", "[simt][wgmma][rounding]") {
  // 2^13 + 1 needs 14 bits: the hardware drops the 1.
  const auto sum_of = [](simt::Rounding rounding) {
    simt::Options o = simt::options();
    o.rounding = rounding;
    const simt::ScopedOptions scope(o);
    const Layout l = rows(Swizzle::k32);
    std::vector<std::uint8_t> a(64 * 32, 0), b(8 * 32, 0);
    a[permuted(Swizzle::k32, 0)] = to_e4m3(128.0f).bits;
    b[permuted(Swizzle::k32, 0)] = to_e4m3(64.0f).bits;
    a[permuted(Swizzle::k32, 5)] = b[permuted(Swizzle::k32, 5)] = to_e4m3(0.5f).bits;
    std::vector<float> d(64 * 8, 0.0f);
    simt::launch("product", product_kernel<8, e4m3, Swizzle::k32, Swizzle::k32, Major::kK, Major::kK, false>,
                 threads(128, 4096), Operand{a.data(), 2048, l}, Operand{b.data(), 256, l},
                 static_cast<const e4m3*>(nullptr), 1, false, d.data());
    return d[0];
  };
  CHECK(sum_of(simt::Rounding::kChain) == 8192.25f);
  CHECK(sum_of(simt::Rounding::kHopper) == 8192.0f);
}

// ---- misuse ----------------------------------------------------------------------------------------------
namespace {

enum class Fault {
  kNone,
  kNoFence,
  kNoFenceAfterWait,
  kTilesDisagree,
  kShapesDisagree,
  kNeverWaited,
  kHalfTheLanes,
  kOneWarpLess,
  kTileInsidePattern,
  kBaseOffset,
  kOutOfBounds,
  kMnMajorUnswizzled,
  kOverlap,
};
DSV4_KERNEL(128) fault_kernel(Fault fault) {
  DSV4_DYN_SMEM(std::uint32_t, s);
  fill_with_ones(s, 2048);
  const unsigned thread = arch::thread_idx().x;
  std::uint64_t a = arch::wgmma_rows<Swizzle::k128>(s), b = a;
  float d[8] = {};
  float(&low)[4] = *reinterpret_cast<float(*)[4]>(d);
  if (fault != Fault::kNoFence) arch::wgmma_fence();
  if (fault == Fault::kTilesDisagree && thread / 32 == 2) b = arch::wgmma_advance(b, 32);
  if (fault == Fault::kTileInsidePattern) b = arch::wgmma_advance(b, 128);
  if (fault == Fault::kBaseOffset) b |= std::uint64_t{1} << 49;
  if (fault == Fault::kOutOfBounds) b = arch::wgmma_advance(b, 8192);
  if (fault == Fault::kOneWarpLess && thread >= 96) return;
  if (fault == Fault::kHalfTheLanes && thread % 2) {
    arch::wgmma_commit();
  } else if (fault == Fault::kShapesDisagree && thread >= 64) {
    arch::wgmma_bf16<16>(d, a, b, false);
    arch::wgmma_commit();
  } else if (fault == Fault::kMnMajorUnswizzled) {
    arch::wgmma_bf16<8, Major::kK, Major::kMN>(low, a, arch::wgmma_tile<Swizzle::kNone>(s, 128, 256), false);
    arch::wgmma_commit();
  } else {
    arch::wgmma_bf16<8>(low, a, b, false);
    if (fault == Fault::kOverlap) arch::wgmma_bf16<16>(d, a, b, false);
    arch::wgmma_commit();
  }
  if (fault == Fault::kNeverWaited) return;
  arch::wgmma_wait<0>();
  if (fault == Fault::kNoFenceAfterWait) arch::wgmma_bf16<8>(low, a, b, false);
}

}  // namespace

TEST_CASE("misuse of wgmma is reported", "[simt][wgmma]") {
  for (const auto async : {simt::Async::kLazy, simt::Async::kEager}) {
    const simt::ScopedOptions scope(with(async));
    const auto expect = [](Fault fault, const char* text, unsigned n = 128) {
      const std::string report =
          report_of([&] { simt::launch("fault", fault_kernel, threads(n, 8192), fault); });
      CAPTURE(report, text, n);
      CHECK(says(report, text));
      return report;
    };
    CHECK(expect(Fault::kNone, "").empty());
    CHECK(says(expect(Fault::kNoFence, "without wgmma_fence"), "wgmma_test.cpp"));
    expect(Fault::kNoFenceAfterWait, "without wgmma_fence");
    CHECK(says(expect(Fault::kTilesDisagree, "threads of a warpgroup disagree"), "wgmma_test.cpp"));
    expect(Fault::kShapesDisagree, "threads of a warpgroup disagree");
    expect(Fault::kNeverWaited, "exited without waiting for 1 of its wgmmas");
    expect(Fault::kHalfTheLanes, "have issued 1 and 0 wgmmas");
    expect(Fault::kOneWarpLess, "has exited");
    expect(Fault::kTileInsidePattern, "does not begin where the swizzle's pattern");
    expect(Fault::kBaseOffset, "base offset");
    expect(Fault::kOutOfBounds, "shared memory out of bounds");
    expect(Fault::kMnMajorUnswizzled, "MN-major without swizzle");
    expect(Fault::kOverlap, "overlap others in flight");
    expect(Fault::kNone, "is not whole", 96);
  }
}
