// Stands in for your engine: runs a model over some tokens, and writes what it computed in the format that
// dsv4_validate reads (docs/validate.md). With --mistake it mixes the residual streams by the transpose of
// comb: the kind of error that still gives fluent-looking numbers.
//     engine WEIGHTS OUT.safetensors [--mistake]
#include "reference/batch.hpp"
#include "reference/cpu_backend.hpp"
#include "reference/error.hpp"
#include "reference/forward.hpp"
#include "reference/safetensors.hpp"
#include "reference/state.hpp"
#include "reference/weights.hpp"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dsv4::reference;

/// The forward pass hands every stage's result to a tap. An engine would copy tensors off its device at the
/// same places; any subset will do, under these names.
struct Recorder : NoTap {
  SafetensorsWriter& file;
  std::string call;  // "call.000."
  bool mistake;

  Recorder(SafetensorsWriter& f, std::string c, bool m) : file(f), call(std::move(c)), mistake(m) {}

  template <class T>
  void operator()(int block, const char* site, const char* name, Tensor<T>& x) {
    const std::string stage = std::string(site) + name;
    const std::string tap = block == kModel ? stage : "layers." + std::to_string(block) + "." + stage;
    const std::span<const T> elements(x.data(), static_cast<std::size_t>(x.size()));
    if (stage == "hc_attn.in" || stage == "attn.in" || stage == "attn.o" || stage == "attn.out" ||
        stage == "ffn.in" || stage == "ffn.out")
      file.add<T>(call + tap,
                  x.dim(2) > 1 ? std::vector{x.dim(0), x.dim(1), x.dim(2)} : std::vector{x.dim(0), x.dim(1)},
                  elements);
    if (stage == "hc_attn.post") file.add<T>(call + tap, {x.rows(), 4}, elements);
    if (stage == "hc_attn.comb") file.add<T>(call + tap, {x.rows(), 4, 4}, elements);
    if (stage == "in" || stage == "hc_attn.out")
      file.add<T>(call + tap, {x.rows(), 4, x.cols() / 4}, elements);
    if (stage == "logits") file.add<T>(call + tap, {x.cols()}, elements);
    if (mistake && stage == "hc_attn.comb")
      for (std::int64_t t = 0; t < x.rows(); ++t)
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < i; ++j) std::swap(x.row(t)[4 * i + j], x.row(t)[4 * j + i]);
  }
};

void run(const char* weights, const char* out, bool mistake) {
  const Checkpoint checkpoint = Checkpoint::open(weights);
  const Model model = load_model(checkpoint);
  CpuBackend<float> backend(model.config);
  SequenceState state(model.config, model.mode);
  SafetensorsWriter file;
  file.metadata("config", *checkpoint.metadata("config"));  // so that a recording stands for itself

  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back((7 * i * i + 3) % model.config.vocab);
  for (int c = 0; c < 3; ++c) {  // a prefill of 38 tokens, and two of one
    const std::size_t begin = c == 0 ? 0 : 37 + static_cast<std::size_t>(c), count = c == 0 ? 38 : 1;
    const std::span<const std::int32_t> ids(tokens.data() + begin, count);
    const std::string call = "call.00" + std::to_string(c) + ".";
    const std::vector<std::int64_t> wide(ids.begin(), ids.end());
    const auto start = static_cast<std::int64_t>(begin);
    file.add<std::int64_t>(call + "tokens", {static_cast<std::int64_t>(count)}, wide);
    file.add<std::int64_t>(call + "start_pos", {1}, std::span(&start, 1));

    const Append append{&state, ids};
    Batch batch;
    if (const dsv4::Status s = make_batch(model, {&append, 1}, &batch); !s.ok()) throw InputError(s.what);
    Recorder tap(file, call, mistake);
    forward(backend, model, batch, tap);
  }
  file.write(out);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: engine WEIGHTS OUT.safetensors [--mistake]\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argc > 3 && std::strcmp(argv[3], "--mistake") == 0);
  } catch (const InputError& e) {
    std::fprintf(stderr, "engine: %s\n", e.what());
    return 2;
  }
  return 0;
}
