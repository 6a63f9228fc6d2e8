// Times of the ops on this machine's GPU, as shares of the bandwidth that a plain copy reaches. Needs the
// CUDA runtime and nothing else.
#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/hadamard.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>

#include "bench/gpu/timer.hpp"
#include "tests/support/random.hpp"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace dsv4;
using namespace dsv4::gpu;

constexpr std::int64_t kStreams = 4;
constexpr std::int64_t kBf16 = 2;  // bytes

struct Result {
  std::string name;
  double us = 0;
  double bytes = 0;                  // that the algorithm must move: each operand once
  double bar_us = 0, bar_share = 0;  // 0 = no bar
};

/// Device memory of one benchmark. Fresh memory holds 1.0 in bf16 or small floats, never NaNs.
class Arena {
 public:
  void* bf16_ones(std::int64_t n) {
    std::vector<std::uint16_t> v(static_cast<std::size_t>(n), 0x3f80);
    return copy(v.data(), v.size() * sizeof v[0]);
  }
  float* floats(std::int64_t n, float value) {
    std::vector<float> v(static_cast<std::size_t>(n), value);
    return static_cast<float*>(copy(v.data(), v.size() * sizeof v[0]));
  }
  std::int32_t* ids(std::int64_t n, std::int64_t vocab) {
    const auto v = test::integers(n, 1, 0, vocab - 1);
    return static_cast<std::int32_t*>(copy(v.data(), v.size() * sizeof v[0]));
  }
  template <class T = void>
  T* bytes(std::int64_t n) {
    memory_.push_back(std::make_unique<DeviceMemory>(static_cast<std::size_t>(n)));
    check(cudaMemset(memory_.back()->get(), 0, static_cast<std::size_t>(n)), "cudaMemset");
    return static_cast<T*>(memory_.back()->get());
  }

 private:
  void* copy(const void* from, std::size_t n) {
    memory_.push_back(std::make_unique<DeviceMemory>(n));
    check(cudaMemcpy(memory_.back()->get(), from, n, cudaMemcpyHostToDevice), "cudaMemcpy");
    return memory_.back()->get();
  }
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
};

void require(const Status& s) {
  if (!s.ok()) throw std::runtime_error(std::string(s.what) + " (cuda " + std::to_string(s.cuda) + ")");
}

std::string shape_name(const char* op, std::int64_t tokens, std::int64_t hidden) {
  return std::string(op) + "/T:" + std::to_string(tokens) + "/D:" + std::to_string(hidden);
}

class Benches {
 public:
  Benches() : copy_gb_s_(measure_copy()) {}

  void run() {
    for (const std::int64_t hidden : {4096, 7168}) {
      mhc_post_pre(8192, hidden, 0, 0.85);
      for (const std::int64_t tokens : {1, 8}) mhc_post_pre(tokens, hidden, 6.0, 0);
      mhc(8192, hidden);
      rows(8192, hidden);
      rows(8, hidden);
    }
    lm_head(1, 129280, 7168);
    lm_head(64, 129280, 4096);
  }
  const std::vector<Result>& results() const { return results_; }
  double copy_gb_s() const { return copy_gb_s_; }

 private:
  /// GB/s read plus written by a copy within device memory.
  double measure_copy() {
    const std::size_t n = std::size_t{1} << 30;
    const DeviceMemory from(n), to(n);
    check(cudaMemset(from.get(), 1, n), "cudaMemset");
    const double us = timer_.cold_us([&](cudaStream_t s) {
      check(cudaMemcpyAsync(to.get(), from.get(), n, cudaMemcpyDeviceToDevice, s), "copy");
    });
    return 2.0 * static_cast<double>(n) / us * 1e-3;
  }

  /// Many tokens are timed cold, few within a graph.
  template <class Launch>
  void measure(const std::string& name, std::int64_t tokens, std::int64_t bytes, Launch&& launch,
               double bar_us = 0, double bar_share = 0) {
    const auto checked = [&](cudaStream_t s) { require(launch(s)); };
    Result r{name, tokens > 64 ? timer_.cold_us(checked) : timer_.graph_us(checked),
             static_cast<double>(bytes), bar_us, bar_share};
    results_.push_back(r);
    std::printf("%-36s %9.2f us\n", r.name.c_str(), r.us);
  }

  ops::MhcPostParams post_params(Arena& a, std::int64_t tokens, std::int64_t hidden, void* out) {
    return {.out = out,
            .y = a.bf16_ones(tokens * hidden),
            .streams = a.bf16_ones(tokens * kStreams * hidden),
            .post = a.floats(tokens * kStreams, 0.5f),
            .comb = a.floats(tokens * kStreams * kStreams, 0.25f),
            .tokens = tokens,
            .hidden = hidden,
            .stream_count = kStreams};
  }
  ops::MhcPreParams pre_params(Arena& a, std::int64_t tokens, std::int64_t hidden, const void* streams) {
    return {.normed = a.bytes(tokens * hidden * kBf16),
            .post = a.bytes<float>(tokens * kStreams * 4),
            .comb = a.bytes<float>(tokens * kStreams * kStreams * 4),
            .streams = streams,
            .fn = a.floats(24 * kStreams * hidden, 0.01f),
            .scale = a.floats(3, 1.0f),
            .base = a.floats(24, 0.1f),
            .norm_weight = a.floats(hidden, 1.0f),
            .tokens = tokens,
            .hidden = hidden,
            .stream_count = kStreams,
            .sinkhorn_iterations = 20,
            .mix_eps = 1e-6f,
            .hc_eps = 1e-6f,
            .norm_eps = 1e-6f};
  }
  static void add_workspace(Arena& a, ops::MhcPreParams& p, std::size_t bytes) {
    p.workspace = a.bytes(static_cast<std::int64_t>(bytes));
    p.workspace_bytes = bytes;
  }

  void mhc_post_pre(std::int64_t tokens, std::int64_t hidden, double bar_us, double bar_share) {
    Arena a;
    void* mixed = a.bytes(tokens * kStreams * hidden * kBf16);
    ops::MhcPostPreParams p = {.post = post_params(a, tokens, hidden, mixed),
                               .pre = pre_params(a, tokens, hidden, mixed)};
    add_workspace(a, p.pre, ops::mhc_post_pre_workspace_bytes(p));
    // Streams in and out, y in, normed out; fn once.
    const std::int64_t bytes = tokens * hidden * kBf16 * (2 * kStreams + 2) + 24 * kStreams * hidden * 4;
    measure(
        shape_name("mhc_post_pre", tokens, hidden), tokens, bytes,
        [&](cudaStream_t s) { return ops::mhc_post_pre(p, s); }, bar_us, bar_share);
  }

  void mhc(std::int64_t tokens, std::int64_t hidden) {
    Arena a;
    void* mixed = a.bf16_ones(tokens * kStreams * hidden);
    const ops::MhcPostParams post = post_params(a, tokens, hidden, mixed);
    ops::MhcPreParams pre = pre_params(a, tokens, hidden, mixed);
    add_workspace(a, pre, ops::mhc_pre_workspace_bytes(pre));
    const std::int64_t row = tokens * hidden * kBf16;
    measure(shape_name("mhc_post", tokens, hidden), tokens, row * (2 * kStreams + 1),
            [&](cudaStream_t s) { return ops::mhc_post(post, s); });
    measure(shape_name("mhc_pre", tokens, hidden), tokens, row * (kStreams + 1) + 24 * kStreams * hidden * 4,
            [&](cudaStream_t s) { return ops::mhc_pre(pre, s); });
    ops::MhcHeadParams head = {.normed = a.bytes(row),
                               .streams = mixed,
                               .fn = pre.fn,
                               .scale = pre.scale,
                               .base = pre.base,
                               .norm_weight = pre.norm_weight,
                               .tokens = tokens,
                               .hidden = hidden,
                               .stream_count = kStreams,
                               .mix_eps = 1e-6f,
                               .hc_eps = 1e-6f,
                               .norm_eps = 1e-6f};
    head.workspace_bytes = ops::mhc_head_workspace_bytes(head);
    head.workspace = a.bytes(static_cast<std::int64_t>(head.workspace_bytes));
    measure(shape_name("mhc_head", tokens, hidden), tokens, row * (kStreams + 1) + 4 * kStreams * hidden * 4,
            [&](cudaStream_t s) { return ops::mhc_head(head, s); });
  }

  void rows(std::int64_t tokens, std::int64_t hidden) {
    Arena a;
    const std::int64_t vocab = 129280, row = tokens * hidden * kBf16, blocks = hidden / 128;
    void* x = a.bf16_ones(tokens * hidden);
    void* out = a.bytes(tokens * hidden * kStreams * kBf16);
    void* codes = a.bytes(tokens * hidden);
    void* scales = a.bytes(tokens * blocks);
    const float* weight = a.floats(hidden, 1.0f);
    const ops::EmbedParams embed = {.out = out,
                                    .table = a.bytes(vocab * hidden * kBf16),
                                    .ids = a.ids(tokens, vocab),
                                    .tokens = tokens,
                                    .hidden = hidden,
                                    .vocab = vocab,
                                    .streams = kStreams};
    measure(shape_name("embed", tokens, hidden), tokens, row * (1 + kStreams),
            [&](cudaStream_t s) { return ops::embed(embed, s); });
    const ops::RmsNormParams norm = {
        .out = out, .x = x, .weight = weight, .rows = tokens, .n = hidden, .eps = 1e-6f};
    measure(shape_name("rms_norm", tokens, hidden), tokens, row * 2,
            [&](cudaStream_t s) { return ops::rms_norm(norm, s); });
    ops::RmsNormParams norm_quant = norm;
    norm_quant.out = nullptr;
    norm_quant.quantised.codes = codes;
    norm_quant.quantised.scales = scales;
    measure(shape_name("rms_norm_fp8", tokens, hidden), tokens, row + row / 2 + tokens * blocks,
            [&](cudaStream_t s) { return ops::rms_norm(norm_quant, s); });
    const ops::ActQuantParams quant = {
        .codes = codes, .scales = scales, .x = x, .rows = tokens, .n = hidden, .block = 128};
    measure(shape_name("act_quant", tokens, hidden), tokens, row + row / 2 + tokens * blocks,
            [&](cudaStream_t s) { return ops::act_quant(quant, s); });
    const std::int64_t heads = hidden / 512;
    const ops::RopeParams rope = {.out = out,
                                  .x = x,
                                  .positions = a.ids(tokens, 1 << 20),
                                  .table = {.freq = a.floats(32, 0.01f)},
                                  .tokens = tokens,
                                  .heads = heads,
                                  .head_dim = 512,
                                  .rope_dim = 64};
    measure(shape_name("rope", tokens, hidden), tokens, tokens * heads * 64 * kBf16 * 2,
            [&](cudaStream_t s) { return ops::rope(rope, s); });
    const ops::HadamardParams hadamard = {.out = out, .x = x, .rows = tokens * hidden / 128, .n = 128};
    measure(shape_name("hadamard", tokens, hidden), tokens, row * 2,
            [&](cudaStream_t s) { return ops::hadamard(hadamard, s); });
  }

  void lm_head(std::int64_t tokens, std::int64_t vocab, std::int64_t hidden) {
    Arena a;
    const ops::LmHeadParams p = {.logits = a.bytes<float>(tokens * vocab * 4),
                                 .x = a.bf16_ones(tokens * hidden),
                                 .head = a.bytes(vocab * hidden * kBf16),
                                 .tokens = tokens,
                                 .vocab = vocab,
                                 .hidden = hidden};
    measure(shape_name("lm_head", tokens, hidden), tokens,
            vocab * hidden * kBf16 + tokens * (vocab * 4 + hidden * kBf16),
            [&](cudaStream_t s) { return ops::lm_head(p, s); });
  }

  Timer timer_;
  double copy_gb_s_;
  std::vector<Result> results_;
};

/// Prints the table and, with a path, writes it as JSON. Being above a bar is printed, and is no failure.
void report(const Benches& benches, const std::string& path) {
  cudaDeviceProp device = {};
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  std::string json = "{\n\"context\": {\"device\":\"" + std::string(device.name) +
                     "\",\"sm\":" + std::to_string(device.major * 10 + device.minor) + ",\"date\":\"" + date +
                     "\",\"copy_gb_s\":" + std::to_string(benches.copy_gb_s()) + "},\n\"results\": [\n";
  std::printf("\n%s, sm_%d%d, copy %.0f GB/s\n%-36s %9s %9s %7s  %s\n", device.name, device.major,
              device.minor, benches.copy_gb_s(), "op", "us", "GB/s", "copy", "bar");
  for (std::size_t i = 0; i < benches.results().size(); ++i) {
    const Result& r = benches.results()[i];
    const double gb_s = r.bytes / r.us * 1e-3, share = gb_s / benches.copy_gb_s();
    std::string bar;
    if (r.bar_us > 0)
      bar = (r.us <= r.bar_us ? "holds: <= " : "ABOVE ") + std::to_string(r.bar_us).substr(0, 4) + " us";
    if (r.bar_share > 0)
      bar = (share >= r.bar_share ? "holds: >= " : "BELOW ") +
            std::to_string(100 * r.bar_share).substr(0, 2) + " %";
    std::printf("%-36s %9.2f %9.0f %6.1f%%  %s\n", r.name.c_str(), r.us, gb_s, 100 * share, bar.c_str());
    char line[256];
    std::snprintf(line, sizeof line, "  {\"name\":\"%s\",\"us\":%.4g,\"gb_s\":%.4g,\"copy_share\":%.3g}%s\n",
                  r.name.c_str(), r.us, gb_s, share, i + 1 < benches.results().size() ? "," : "");
    json += line;
  }
  if (path.empty()) return;
  std::ofstream file(path);
  file << json << "]\n}\n";
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string path = argc == 3 && std::string_view(argv[1]) == "--save" ? argv[2] : "";
  if (argc > 1 && path.empty()) {
    std::fprintf(stderr, "usage: %s [--save FILE]\n", argv[0]);
    return 2;
  }
  const std::string missing = why_no_device();
  if (!missing.empty()) {
    std::printf("skipped: %s\n", missing.c_str());
    return kSkipped;
  }
  try {
    Benches benches;
    benches.run();
    report(benches, path);
    return 0;
  } catch (const std::exception& e) {
    std::printf("FAILED  %s\n", e.what());
    return 1;
  }
}
