// What a new host must be able to do before anything else is tried on it: switch between fibers, meet at
// barriers, shuffle, abandon a launch with an exception, and run an op.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/ops/embed.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

using namespace dsv4;

namespace {

constexpr int kThreads = 256;
int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("FAILED: %s\n", what);
  ++failures;
}

/// out[block] = sum of 1 .. kThreads, through shuffles, shared memory and barriers; floating-point values
/// live across each of them, so that a switch that loses a register shows.
DSV4_KERNEL(kThreads) sum_kernel(double* out, int rounds) {
  DSV4_SHARED(double[kThreads / 32], of_warp);
  const unsigned i = arch::thread_idx().x;
  double total = 0, scale = 1.0 + 0.0 * static_cast<double>(i);
  for (int round = 0; round < rounds; ++round) {
    double value = (static_cast<double>(i) + 1.0) * scale;
    for (int distance = 16; distance > 0; distance /= 2) value += arch::shfl_xor(value, distance);
    if (arch::lane_id() == 0) of_warp[i / 32] = value;
    arch::sync_threads();
    double sum = 0;
    for (int w = 0; w < kThreads / 32; ++w) sum += of_warp[w];
    arch::sync_threads();
    total += sum * scale;
    scale *= 0.5;
  }
  if (i == 0) out[arch::block_idx().x] = total;
}

DSV4_KERNEL(64) deadlock_kernel() {
  if (arch::thread_idx().x < 32) arch::named_barrier_sync(1, 64);
}

void check_sums() {
  constexpr unsigned kBlocks = 7;
  constexpr int kRounds = 4;
  double want = 0, scale = 1;
  for (int round = 0; round < kRounds; ++round, scale *= 0.5)
    want += scale * (kThreads * (kThreads + 1) / 2) * scale;
  for (const auto schedule : {simt::Schedule::kFifo, simt::Schedule::kLifo, simt::Schedule::kRandom}) {
    simt::Options o = simt::options();
    o.schedule = schedule;
    const simt::ScopedOptions scope(o);
    std::vector<double> out(kBlocks, -1);
    simt::launch("sum_kernel", sum_kernel, {.grid = {kBlocks}, .block = {kThreads}}, out.data(), kRounds);
    for (const double sum : out) expect(sum == want, "the sum of a block");
  }
}

void check_errors() {
  std::string report;
  try {
    simt::launch("deadlock_kernel", deadlock_kernel, {.grid = {2}, .block = {64}});
  } catch (const simt::KernelError& e) {
    report = e.what();
  }
  std::printf("%s\n", report.c_str());
  expect(report.find("deadlock_kernel") != std::string::npos, "a deadlock is reported by kernel");
  expect(report.find("simt_smoke.cpp") != std::string::npos, "a deadlock is reported by file");
}

void check_op() {
  constexpr std::int64_t kTokens = 3, kHidden = 40, kVocab = 5, kStreams = 4;
  std::vector<float> table(kVocab * kHidden), out(kTokens * kStreams * kHidden);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = 0.25f * static_cast<float>(i);
  const std::vector<std::int32_t> ids = {4, 0, 2};
  const Status s = ops::embed({.out = out.data(),
                               .table = table.data(),
                               .ids = ids.data(),
                               .tokens = kTokens,
                               .hidden = kHidden,
                               .vocab = kVocab,
                               .streams = kStreams,
                               .dtype = ops::DType::kF32,
                               .table_dtype = ops::DType::kF32},
                              nullptr);
  expect(s.ok(), s.what);
  bool same = true;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto row = static_cast<std::size_t>(ids[i / (kStreams * kHidden)]);
    same = same && out[i] == table[row * kHidden + i % kHidden];
  }
  expect(same, "embed gathers rows");
}

}  // namespace

int main() {
  check_sums();
  check_errors();
  check_op();
  std::puts(failures == 0 ? "passed" : "failed");
  return failures == 0 ? 0 : 1;
}
