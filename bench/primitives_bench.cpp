// The L1 primitives that carry the time of a forward pass, one host thread (SerialCoop), at V4-Flash sizes.
// Counters: bytes_per_second that the algorithm must read, flops (a fused multiply-add is two).
#include "tests/support/random.hpp"

#include <dsv4/attention/attend.hpp>
#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/core/hadamard.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/core/topk.hpp>
#include <dsv4/linear/linear.hpp>
#include <dsv4/mhc/sinkhorn.hpp>
#include <dsv4/model_config.hpp>
#include <dsv4/moe/expert.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace dsv4::bench {
namespace {

constexpr SerialCoop kCoop;

void count(benchmark::State& bench, double bytes, double flops) {
  bench.SetBytesProcessed(static_cast<std::int64_t>(bytes * static_cast<double>(bench.iterations())));
  if (flops > 0)
    bench.counters["flops"] =
        benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

// Random bytes of a matrix much larger than the L2 cache, so that weights come from where they really lie.
constexpr std::int64_t kMatrixBytes = std::int64_t{32} << 20;

const std::vector<std::uint8_t>& matrix_bytes() {
  static const std::vector<std::uint8_t> bytes = [] {
    auto b = test::bytes(kMatrixBytes, 1);
    for (std::uint8_t& x : b)
      if ((x & 0x7f) == 0x7f) x &= 0xfe;  // no NaN as e4m3
    return b;
  }();
  return bytes;
}

std::vector<bf16> bf16_row(std::int64_t n, std::uint64_t seed) {
  const std::vector<float> x = test::normal(n, seed);
  std::vector<bf16> out(x.size());
  std::transform(x.begin(), x.end(), out.begin(), [](float v) { return from_float<bf16>(v); });
  return out;
}

}  // namespace

// `tokens` rows times `rows` weight rows of 4096 f32 in the L2 cache.
void BM_dot_tile(benchmark::State& bench) {
  constexpr int kCols = 4096;
  const int x_rows = static_cast<int>(bench.range(0)), rows = static_cast<int>(bench.range(1));
  const auto x = test::normal(std::int64_t{x_rows} * kCols, 1),
             w = test::normal(std::int64_t{rows} * kCols, 2);
  std::vector<float> y(static_cast<std::size_t>(x_rows * rows));
  for (auto _ : bench) {
    linear::dot_tile(kCoop, linear::RowsF32{x.data(), kCols}, x_rows, linear::RowsF32{w.data(), kCols}, rows,
                     kCols,
                     [&](int r, int c, float sum) { y[static_cast<std::size_t>(r * rows + c)] = sum; });
    benchmark::DoNotOptimize(y.data());
  }
  count(bench, 4.0 * kCols * (rows + x_rows), 2.0 * x_rows * rows * kCols);
}
BENCHMARK(BM_dot_tile)->ArgNames({"tokens", "rows"})->Args({1, 64})->Args({48, 64});

namespace {

// 32 output rows at a time of a [rows, 4096] matrix that is streamed from memory.
template <class M>
void linear_tile(benchmark::State& bench, const M& w, double bytes_a_row) {
  constexpr int kBlock = 32;
  const int tokens = static_cast<int>(bench.range(0)), cols = static_cast<int>(w.cols);
  const auto x = test::normal(std::int64_t{tokens} * cols, 3);
  std::vector<bf16> y(static_cast<std::size_t>(tokens * w.rows));
  std::vector<float> scratch(static_cast<std::size_t>(linear::kDecodeRows * cols));
  std::int64_t row = 0;
  for (auto _ : bench) {
    if (row + kBlock > w.rows) row = 0;
    linear::tile(kCoop, y.data(), w.rows, linear::RowsF32{x.data(), cols}, tokens, w, row, row + kBlock,
                 scratch.data());
    benchmark::DoNotOptimize(y.data());
    row += kBlock;
  }
  count(bench, kBlock * bytes_a_row, 2.0 * tokens * kBlock * cols);
}

}  // namespace

void BM_linear_bf16(benchmark::State& bench) {
  static const std::vector<bf16> data = bf16_row(kMatrixBytes / 8, 4);
  linear_tile(bench, linear::PlainMatrix<bf16>{data.data(), kMatrixBytes / 8 / 4096, 4096}, 2.0 * 4096);
}
void BM_linear_fp8(benchmark::State& bench) {
  const std::vector<e8m0> scale(kMatrixBytes / 4096, e8m0{118});
  const linear::Fp8Matrix w{reinterpret_cast<const e4m3*>(matrix_bytes().data()), scale.data(),
                            kMatrixBytes / 4096, 4096};
  linear_tile(bench, w, 4096 + 32);
}
void BM_linear_fp4(benchmark::State& bench) {
  const std::vector<e8m0> scale(kMatrixBytes / 16, e8m0{120});
  const linear::Fp4Matrix w{reinterpret_cast<const e2m1x2*>(matrix_bytes().data()), scale.data(),
                            kMatrixBytes / 2048, 4096};
  linear_tile(bench, w, 2048 + 128);
}
BENCHMARK(BM_linear_bf16)->ArgName("tokens")->Arg(1)->Arg(48);
BENCHMARK(BM_linear_fp8)->ArgName("tokens")->Arg(1)->Arg(48);
BENCHMARK(BM_linear_fp4)->ArgName("tokens")->Arg(1)->Arg(48);

// One token, 16 heads: the full window and `entries` entries, both in 584-byte rows.
void BM_attn_attend(benchmark::State& bench) {
  constexpr int kHeads = 16, kPage = 64;
  const int entries = static_cast<int>(bench.range(0));
  constexpr std::int64_t kSlots = 1024;
  std::vector<std::uint8_t> bytes(kSlots * attention::KvPagePool::kEntryBytes);
  const attention::KvPagePool pool{bytes.data(), kPage * attention::KvPagePool::kEntryBytes, kPage, kSlots};
  const auto row = bf16_row(kHeadDim, 5);
  for (std::int64_t i = 0; i < kSlots; ++i) pool.write(kCoop, i, row.data());
  std::vector<std::int32_t> window(kWindow), selected(static_cast<std::size_t>(entries));
  std::iota(window.begin(), window.end(), 0);
  for (std::size_t i = 0; i < selected.size(); ++i) selected[i] = static_cast<std::int32_t>(i * 37 % kSlots);
  const auto q = test::normal(kHeads * kHeadDim, 6), sink = test::normal(kHeads, 7);
  std::vector<bf16> o(kHeads * kHeadDim);
  std::vector<float> scratch(
      static_cast<std::size_t>(attention::attend_scratch_floats(kHeads, kWindow + entries, kHeadDim)));
  for (auto _ : bench) {
    attention::attend(kCoop, o.data(), nullptr, q.data(), kHeads, sink.data(),
                      attention::Selection<attention::KvPagePool>{pool, window.data(), kWindow},
                      attention::Selection<attention::KvPagePool>{pool, selected.data(), entries}, kHeadDim,
                      0.0442f, scratch.data());
    benchmark::DoNotOptimize(o.data());
  }
  const double rows = kWindow + entries;
  count(bench, rows * attention::KvPagePool::kEntryBytes, 4.0 * rows * kHeads * kHeadDim);
}
BENCHMARK(BM_attn_attend)->ArgName("entries")->Arg(0)->Arg(512);

// One token, 16384 FP4 keys.
void BM_attn_index_scores(benchmark::State& bench) {
  constexpr int kPage = 64, kKeys = 16384;
  const int heads = static_cast<int>(bench.range(0));
  std::vector<std::uint8_t> bytes = test::bytes(kKeys * attention::IndexFp4Pool::kEntryBytes, 8);
  const attention::IndexFp4Pool keys{bytes.data(), kPage * attention::IndexFp4Pool::kEntryBytes, kPage,
                                     kKeys};
  for (int i = 0; i < kKeys; ++i) std::memset(keys.scales_of(i), 126, attention::IndexFp4Pool::kScaleBytes);
  const auto q = test::normal(std::int64_t{heads} * kIndexDim, 9), weights = test::normal(heads, 10);
  std::vector<float> scores(kKeys),
      scratch(static_cast<std::size_t>(attention::kScoreTile * (heads + kIndexDim)));
  for (auto _ : bench) {
    attention::index_scores(kCoop, scores.data(), q.data(), weights.data(), keys, 0, kKeys, heads, kIndexDim,
                            scratch.data());
    benchmark::DoNotOptimize(scores.data());
  }
  count(bench, kKeys * attention::IndexFp4Pool::kEntryBytes, 2.0 * kKeys * heads * (kIndexDim + 1));
}
BENCHMARK(BM_attn_index_scores)->ArgName("heads")->Arg(64)->Unit(benchmark::kMillisecond);

// k best of n scores.
void BM_topk(benchmark::State& bench) {
  const int n = static_cast<int>(bench.range(0)), k = static_cast<int>(bench.range(1));
  const auto scores = test::normal(n, 11);
  std::vector<std::int32_t> idx(static_cast<std::size_t>(k)), scratch(idx);
  for (auto _ : bench) {
    topk::select(kCoop, idx.data(), scores.data(), n, k, scratch.data());
    benchmark::DoNotOptimize(idx.data());
  }
  count(bench, 4.0 * n, 0);
}
BENCHMARK(BM_topk)
    ->ArgNames({"n", "k"})
    ->Args({256, 6})
    ->Args({16384, 512})
    ->Args({262144, 512})
    ->Args({262144, 1024})
    ->Unit(benchmark::kMicrosecond);

void BM_hadamard(benchmark::State& bench) {
  auto x = bf16_row(kIndexDim, 12);
  float scratch[kIndexDim];
  for (auto _ : bench) {
    hadamard<kIndexDim>(kCoop, x.data(), scratch);
    benchmark::DoNotOptimize(x.data());
  }
  count(bench, 2.0 * kIndexDim, 7.0 * kIndexDim);
}
BENCHMARK(BM_hadamard);

void BM_mhc_sinkhorn(benchmark::State& bench) {
  const auto logits = test::normal(kStreams * kStreams, 13);
  for (auto _ : bench) {
    float comb[kStreams * kStreams];
    std::copy(logits.begin(), logits.end(), comb);
    mhc::sinkhorn<kStreams>(comb, 20, 1e-6f);
    benchmark::DoNotOptimize(comb);
  }
  count(bench, sizeof(float) * kStreams * kStreams, 0);
}
BENCHMARK(BM_mhc_sinkhorn);

void BM_rms_norm(benchmark::State& bench) {
  constexpr int kN = 4096;
  const auto x = bf16_row(kN, 14);
  const auto weight = test::normal(kN, 15);
  std::vector<bf16> y(kN);
  for (auto _ : bench) {
    rms_norm(kCoop, y.data(), x.data(), weight.data(), kN, 1e-6f);
    benchmark::DoNotOptimize(y.data());
  }
  count(bench, (2.0 + 4.0) * kN, 4.0 * kN);
}
BENCHMARK(BM_rms_norm);

void BM_moe_swiglu(benchmark::State& bench) {
  constexpr int kN = 2048;
  const auto gate = bf16_row(kN, 16), up = bf16_row(kN, 17);
  std::vector<bf16> h(kN);
  for (auto _ : bench) {
    moe::swiglu(kCoop, h.data(), gate.data(), up.data(), kN, 10.0f, 0.5f);
    benchmark::DoNotOptimize(h.data());
  }
  count(bench, 4.0 * kN, 0);
}
BENCHMARK(BM_moe_swiglu);

// bf16 to FP8 and back to f32, as in front of every FP8 linear.
void BM_fp8_round_trip(benchmark::State& bench) {
  constexpr int kN = 4096;
  const auto x = bf16_row(kN, 18);
  std::vector<float> y(kN);
  for (auto _ : bench) {
    quant::fp8_round_trip(kCoop, y.data(), x.data(), kN, quant::kFp8LinearBlock);
    benchmark::DoNotOptimize(y.data());
  }
  count(bench, 2.0 * kN, 0);
}
BENCHMARK(BM_fp8_round_trip);

void BM_fp4_round_trip(benchmark::State& bench) {
  constexpr int kN = 4096;
  const auto x = bf16_row(kN, 19);
  std::vector<bf16> y(kN);
  for (auto _ : bench) {
    quant::fp4_round_trip(kCoop, y.data(), x.data(), kN);
    benchmark::DoNotOptimize(y.data());
  }
  count(bench, 2.0 * kN, 0);
}
BENCHMARK(BM_fp4_round_trip);

// A 584-byte entry written and read.
void BM_kv_entry(benchmark::State& bench) {
  const auto row = bf16_row(kHeadDim, 20);
  std::vector<float> out(kHeadDim);
  std::vector<std::uint8_t> page(attention::KvPagePool::kEntryBytes);
  const attention::KvPagePool pool{page.data(), attention::KvPagePool::kEntryBytes, 1, 1};
  const bool write = bench.range(0) != 0;
  pool.write(kCoop, 0, row.data());
  for (auto _ : bench) {
    write ? pool.write(kCoop, 0, row.data()) : pool.read(0, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count(bench, attention::KvPagePool::kEntryBytes, 0);
}
BENCHMARK(BM_kv_entry)->ArgName("write")->Arg(0)->Arg(1);

}  // namespace dsv4::bench
