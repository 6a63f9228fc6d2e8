// The whole forward pass on the tiny sets of tests/data, without the MTP block.
//   BM_prefill_exact/threads:N   150 tokens in one go          BM_decode_exact/threads:N   one token after
//   them
// threads 0 = one for each hardware thread. Before timing, chunked prefill and decode are checked against
// each other bit for bit. The counter `bar` is the limit in seconds that this project sets itself on two
// cores.
#include "bench/support/bar.hpp"
#include "reference/cpu_backend.hpp"
#include "reference/forward.hpp"
#include "reference/weights.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace dsv4::bench {
namespace {

using reference::Model;
using reference::SequenceState;

constexpr std::int64_t kPrefill = 150;
constexpr std::int64_t kDecode = 48;  // decoded, then rolled back; at most max_rollback

const Model& tiny(const std::string& set) {
  static const Model exact = reference::load_model(DSV4_TEST_DATA_DIR "/tiny-exact.weights.safetensors");
  static const Model deploy = reference::load_model(DSV4_TEST_DATA_DIR "/tiny-deploy.weights.safetensors");
  return set == "exact" ? exact : deploy;
}

// Token ids without a pattern.
std::vector<std::int32_t> prompt(const Model& m, std::int64_t count) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>((i * i * 31 + i * 17 + 5) % static_cast<std::size_t>(m.config.vocab));
  return ids;
}

template <class Backend>
reference::Tensor<float> step(Backend& be, const Model& m, SequenceState& state,
                              std::span<const std::int32_t> ids) {
  const reference::Append one[] = {{&state, ids}};
  reference::Batch batch;
  if (const Status status = make_batch(m, one, &batch); !status.ok()) throw std::runtime_error(status.what);
  reference::NoTap tap;
  return forward(be, m, batch, tap).logits;
}

// Whether prefill in one go, in chunks of 7 and token by token give the same logits, bit for bit.
template <class Backend>
bool verified(Backend& be, const Model& m) {
  const std::vector<std::int32_t> ids = prompt(m, kPrefill);
  SequenceState whole(m.config, m.mode);
  const auto expected = step(be, m, whole, ids);
  for (const std::size_t chunk : {std::size_t{7}, std::size_t{1}}) {
    SequenceState state(m.config, m.mode);
    reference::Tensor<float> logits;
    for (std::size_t i = 0; i < ids.size(); i += chunk)
      logits = step(be, m, state, std::span(ids).subspan(i, std::min(chunk, ids.size() - i)));
    if (logits.size() != expected.size() ||
        std::memcmp(logits.data(), expected.data(), static_cast<std::size_t>(logits.size()) * 4) != 0)
      return false;
  }
  return true;
}

template <class T>
void prefill(benchmark::State& bench, const std::string& set, double bar) {
  const Model& m = tiny(set);
  reference::CpuBackend<T> be(m.config, static_cast<int>(bench.range(0)));
  if (!verified(be, m)) return bench.SkipWithError("chunks change the logits");
  const std::vector<std::int32_t> ids = prompt(m, kPrefill);
  for (auto _ : bench) {
    SequenceState state(m.config, m.mode);
    benchmark::DoNotOptimize(step(be, m, state, ids).data());
  }
  bench.SetItemsProcessed(bench.iterations() * kPrefill);  // tokens a second
  set_bar(bench, bar, be.threads());
}

template <class T>
void decode(benchmark::State& bench, const std::string& set, double bar) {
  const Model& m = tiny(set);
  reference::CpuBackend<T> be(m.config, static_cast<int>(bench.range(0)));
  if (!verified(be, m)) return bench.SkipWithError("chunks change the logits");
  const std::vector<std::int32_t> ids = prompt(m, kPrefill + kDecode);
  SequenceState state(m.config, m.mode);
  step(be, m, state, std::span(ids).first(kPrefill));
  for (auto _ : bench) {
    if (state.length() == kPrefill + kDecode && !state.rollback(kPrefill).ok())
      return bench.SkipWithError("rollback");
    const auto next = static_cast<std::size_t>(state.length());
    benchmark::DoNotOptimize(step(be, m, state, std::span(ids).subspan(next, 1)).data());
  }
  bench.SetItemsProcessed(bench.iterations());
  set_bar(bench, bar, be.threads());
}

void threads(benchmark::internal::Benchmark* b) {
  b->ArgName("threads")->Arg(1)->Arg(0)->UseRealTime()->MeasureProcessCPUTime();
}

}  // namespace

void BM_prefill_exact(benchmark::State& s) { prefill<float>(s, "exact", 30e-3); }
void BM_prefill_deploy(benchmark::State& s) { prefill<bf16>(s, "deploy", 0); }
void BM_decode_exact(benchmark::State& s) { decode<float>(s, "exact", 0.5e-3); }
void BM_decode_deploy(benchmark::State& s) { decode<bf16>(s, "deploy", 0); }

BENCHMARK(BM_prefill_exact)->Apply(threads)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_prefill_deploy)->Apply(threads)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_decode_exact)->Apply(threads)->Unit(benchmark::kMillisecond);
BENCHMARK(BM_decode_deploy)->Apply(threads)->Unit(benchmark::kMillisecond);

}  // namespace dsv4::bench
