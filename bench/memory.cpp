// dsv4_memory: does a forward pass stay within its weights, its state and 256 MiB?
//
// The tiny sets run whole: prefill, then decode. A layer of published width stands for a whole model:
// activations live no longer than their layer, so more layers add weights and state, nothing else. It runs
// the longest chunks that chunk_limit allows, at the start and at the end of a context of one million tokens,
// and single tokens.
#include "bench/support/memory.hpp"
#include "bench/support/random_layer.hpp"
#include "reference/cpu_backend.hpp"
#include "reference/forward.hpp"
#include "reference/weights.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace dsv4::bench {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;
constexpr double kLimitMiB = 256;

// What a case owns rightfully, in bytes.
struct Owned {
  std::int64_t weights, state;
};

template <class T>
Owned run_tiny(const char* set) {
  const std::string path = std::string(DSV4_TEST_DATA_DIR "/") + set + ".weights.safetensors";
  const reference::Model m = reference::load_model(path);
  reference::CpuBackend<T> be(m.config);
  reference::SequenceState state(m.config, m.mode, {.mtp = true});
  reference::NoTap tap;
  for (int call = 0; call < 50; ++call) {
    const std::vector<std::int32_t> ids(call == 0 ? 150 : 1, call % m.config.vocab);
    const reference::Append one[] = {{&state, ids, ids}};
    reference::Batch batch;
    if (const Status status = make_batch(m, one, &batch); !status.ok()) throw std::runtime_error(status.what);
    forward(be, m, batch, tap);
  }
  return {static_cast<std::int64_t>(std::filesystem::file_size(path)), state.bytes()};
}

Owned run_layer(const ModelConfig& published, LayerKind kind) {
  const RandomLayer layer(published, kind, 6);
  const ModelConfig& config = layer.model().config;
  reference::CpuBackend<bf16> be(config);
  reference::NoTap tap;
  const auto append_tokens = [&](reference::SequenceState& state, std::int64_t tokens) {
    auto s = random_streams(config, tokens, 1);
    reference::Batch batch = append(layer.model(), state, tokens);
    be.begin(batch);
    reference::attention(be, layer.block(), 0, s, batch, tap);
    reference::ffn(be, layer.block(), 0, s, batch, tap);
    state.advance(tokens);
  };
  reference::SequenceState start(config, reference::NumericMode::kDeploy);
  append_tokens(start, reference::chunk_limit(config, 0));
  const std::int64_t chunk = reference::chunk_limit(config, config.max_positions);
  reference::SequenceState end = random_state(config, config.max_positions - 1 - chunk);
  append_tokens(end, chunk);
  append_tokens(end, 1);
  return {layer.bytes(), start.bytes() + end.bytes()};
}

struct Case {
  const char* name;
  std::function<Owned()> run;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"tiny-exact", [] { return run_tiny<float>("tiny-exact"); }},
      {"tiny-deploy", [] { return run_tiny<bf16>("tiny-deploy"); }},
      {"flash-swa", [] { return run_layer(kFlash, LayerKind::kSwa); }},
      {"flash-csa", [] { return run_layer(kFlash, LayerKind::kCsa); }},
      {"flash-hca", [] { return run_layer(kFlash, LayerKind::kHca); }},
      {"pro-csa", [] { return run_layer(kPro, LayerKind::kCsa); }},
      {"pro-hca", [] { return run_layer(kPro, LayerKind::kHca); }},
  };
  return all;
}

// Runs and reports one case; true if it stays within the limit.
bool holds(const Case& c) {
  const Owned owned = c.run();
  const double peak = static_cast<double>(peak_bytes()) / kMiB;
  const double weights = static_cast<double>(owned.weights) / kMiB;
  const double state = static_cast<double>(owned.state) / kMiB;
  const double rest = peak - weights - state;
  std::printf("%-12s %9.1f %9.1f %9.1f %9.1f   %s\n", c.name, weights, state, peak, rest,
              rest <= kLimitMiB ? "ok" : "TOO MUCH");
  return rest <= kLimitMiB;
}

// The same in a process of its own, whose peak is this case's alone.
bool holds_alone(const Case& c) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    int code = 1;
    try {
      code = holds(c) ? 0 : 1;
    } catch (const std::exception& e) {
      std::printf("%-12s %s\n", c.name, e.what());
    }
    std::fflush(nullptr);
    _exit(code);
  }
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int usage(std::FILE* to, int code) {
  std::fprintf(to, "usage: dsv4_memory [CASE...]\ncases (all by default):");
  for (const Case& c : cases()) std::fprintf(to, " %s", c.name);
  std::fprintf(to, "\nExit: 0 all within weights + state + %.0f MiB, 1 not, 2 usage.\n", kLimitMiB);
  return code;
}

int run(int argc, char** argv) {
  std::vector<const Case*> chosen;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0) return usage(stdout, 0);
    const std::size_t before = chosen.size();
    for (const Case& c : cases())
      if (std::strcmp(argv[i], c.name) == 0) chosen.push_back(&c);
    if (chosen.size() == before) return usage(stderr, 2);
  }
  if (chosen.empty())
    for (const Case& c : cases()) chosen.push_back(&c);
  std::printf("%-12s %9s %9s %9s %9s   limit %.0f\n", "MiB", "weights", "state", "peak", "rest", kLimitMiB);
  bool ok = true;
  for (const Case* c : chosen) ok = holds_alone(*c) && ok;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace dsv4::bench

int main(int argc, char** argv) { return dsv4::bench::run(argc, argv); }
