// ONE layer of each kind at its published width, deploy mode: attention() and ffn() of the straight line.
//   BM_layer_decode_<model>_<kind>/context:N/threads:M   token number N of a sequence
//   BM_layer_prefill_<model>_<kind>/threads:M            64 tokens behind 4096
// threads 0 = one for each hardware thread. Weights, context and input are random: time does not depend on
// the values, and the context need not be computed. The timed token completes an entry of every compressor.
// Counters: state_bytes; weight_bytes that one token reads; peak_bytes resident while the benchmark ran,
// weights and state included (of the whole process where the peak cannot be reset).
#include "bench/support/bar.hpp"
#include "bench/support/memory.hpp"
#include "bench/support/random_layer.hpp"
#include "reference/cpu_backend.hpp"
#include "reference/forward.hpp"

#include <benchmark/benchmark.h>

#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

namespace dsv4::bench {
namespace {

using reference::SequenceState;
using Backend = reference::CpuBackend<bf16>;
using Streams = Backend::Streams;

constexpr int kExpertBlocks = 24;  // 0.3 GB of V4-Flash's 3.2, 0.8 GB of V4-Pro's 12.8
constexpr std::int64_t kChunk = 64;

struct Shape {
  const ModelConfig* published;
  LayerKind kind;

  bool operator==(const Shape&) const = default;
};

// The layer and the state asked for last: making them takes longer than timing them, and two do not always
// fit.
const RandomLayer& layer_of(const Shape& shape) {
  static Shape made{};
  static std::unique_ptr<RandomLayer> layer;
  if (!layer || made != shape) {
    layer.reset();
    layer = std::make_unique<RandomLayer>(*shape.published, shape.kind, kExpertBlocks);
    made = shape;
  }
  return *layer;
}

SequenceState& state_of(const Shape& shape, std::int64_t length) {
  static std::pair<Shape, std::int64_t> made{};
  static std::unique_ptr<SequenceState> state;
  if (!state || made != std::pair(shape, length)) {
    state.reset();
    state = std::make_unique<SequenceState>(random_state(layer_of(shape).model().config, length));
    made = {shape, length};
  }
  return *state;
}

// The layer on a batch. Without SequenceState::advance: the next call does the same work again.
void run_layer(Backend& be, const RandomLayer& layer, Streams& s, reference::Batch& batch) {
  reference::NoTap tap;
  be.begin(batch);
  reference::attention(be, layer.block(), 0, s, batch, tap);
  reference::ffn(be, layer.block(), 0, s, batch, tap);
}

Streams copy_of(const Streams& s) {
  Streams out(s.rows(), s.dim(1), s.dim(2));
  std::memcpy(out.data(), s.data(), static_cast<std::size_t>(s.size()) * sizeof(bf16));
  return out;
}

bool finite(const Streams& s) {
  for (std::int64_t i = 0; i < s.size(); ++i)
    if (!std::isfinite(to_float(s.data()[i]))) return false;
  return true;
}

// Whether the chunk's last token comes out the same, bit for bit, when the chunk is split in two, and finite.
bool verified(Backend& be, const RandomLayer& layer, SequenceState state, const Streams& input) {
  SequenceState split = state.fork();
  Streams whole = copy_of(input);
  reference::Batch batch = append(layer.model(), state, input.rows());
  run_layer(be, layer, whole, batch);
  const std::int64_t first = input.rows() / 2;
  Streams part;
  for (const auto& [begin, end] : {std::pair(std::int64_t{0}, first), std::pair(first, input.rows())}) {
    if (begin == end) continue;
    part = Streams(end - begin, input.dim(1), input.dim(2));
    std::memcpy(part.data(), input.row(begin), static_cast<std::size_t>(part.size()) * sizeof(bf16));
    batch = append(layer.model(), split, part.rows());
    run_layer(be, layer, part, batch);
    split.advance(part.rows());
  }
  return finite(whole) && std::memcmp(whole.row(whole.rows() - 1), part.row(part.rows() - 1),
                                      static_cast<std::size_t>(part.cols()) * sizeof(bf16)) == 0;
}

// Times `tokens` tokens behind `length`; the batch ends where both ratios complete an entry.
void run(benchmark::State& bench, const Shape& shape, std::int64_t length, std::int64_t tokens, int threads,
         double bar) {
  const RandomLayer& layer = layer_of(shape);
  SequenceState& state = state_of(shape, length);
  Backend be(layer.model().config, threads);
  std::array<Streams, 8> inputs;  // other inputs go to other experts
  for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i] = random_streams(layer.model().config, tokens, i);
  if (!verified(be, layer, state, random_streams(layer.model().config, std::min<std::int64_t>(tokens, 8), 9)))
    return bench.SkipWithError("a split changes the result, or it is not finite");
  reset_peak();
  reference::Batch batch = append(layer.model(), state, tokens);
  std::size_t i = 0;
  for (auto _ : bench) {
    Streams s = copy_of(inputs[i++ % inputs.size()]);
    run_layer(be, layer, s, batch);
    benchmark::DoNotOptimize(s.data());
  }
  bench.SetItemsProcessed(bench.iterations() * tokens);
  bench.counters["state_bytes"] = static_cast<double>(state.bytes());
  bench.counters["weight_bytes"] = static_cast<double>(layer.bytes_a_token());
  bench.counters["peak_bytes"] = static_cast<double>(peak_bytes());
  set_bar(bench, bar, be.threads());
}

void decode(benchmark::State& bench, const Shape& shape, double bar) {
  run(bench, shape, bench.range(0) - 1, 1, static_cast<int>(bench.range(1)), bar);
}

void prefill(benchmark::State& bench, const Shape& shape) {
  run(bench, shape, 4096, kChunk, static_cast<int>(bench.range(0)), 0);
}

bool register_all() {
  const struct {
    const char* name;
    const ModelConfig* config;
  } models[] = {{"flash", &kFlash}, {"pro", &kPro}};
  const struct {
    const char* name;
    LayerKind kind;
  } kinds[] = {{"swa", LayerKind::kSwa}, {"csa", LayerKind::kCsa}, {"hca", LayerKind::kHca}};
  for (const auto& m : models)
    for (const auto& k : kinds) {
      const Shape shape{m.config, k.kind};
      const std::string name = std::string(m.name) + "_" + k.name;
      const bool flash_csa = m.config == &kFlash && k.kind == LayerKind::kCsa;
      benchmark::RegisterBenchmark(("BM_layer_prefill_" + name).c_str(),
                                   [=](benchmark::State& s) { prefill(s, shape); })
          ->ArgName("threads")
          ->Arg(0)
          ->UseRealTime()
          ->MeasureProcessCPUTime()
          ->Unit(benchmark::kMillisecond);
      for (const std::int64_t context :
           {std::int64_t{4} << 10, std::int64_t{64} << 10, std::int64_t{1} << 20}) {
        auto* b = benchmark::RegisterBenchmark(("BM_layer_decode_" + name).c_str(), [=](benchmark::State& s) {
          decode(s, shape, flash_csa && s.range(0) == 1 << 20 ? 1.0 : 0);
        });
        b->ArgNames({"context", "threads"})
            ->UseRealTime()
            ->MeasureProcessCPUTime()
            ->Unit(benchmark::kMillisecond);
        if (m.config == &kFlash) b->Args({context, 1});
        b->Args({context, 0});
      }
    }
  return true;
}

const bool kRegistered = register_all();

}  // namespace
}  // namespace dsv4::bench
