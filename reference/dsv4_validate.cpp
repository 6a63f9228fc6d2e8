// dsv4_validate: a forward pass against recorded activations.
#include "reference/error.hpp"
#include "reference/op_backend/run.hpp"
#include "reference/validate/limits.hpp"
#include "reference/validate/recording.hpp"
#include "reference/validate/report.hpp"
#include "reference/validate/validate.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <span>
#include <string>

namespace {

using namespace dsv4::reference;
namespace validation = dsv4::reference::validation;

constexpr const char* kAbout =
    "Runs a DeepSeek-V4 model over recorded tokens and compares every stage with the recorded activations.\n"
    "\n"
    "  --mode free    everything follows from the tokens (default)\n"
    "  --mode staged  every stage is fed the recorded inputs, so that each is judged by itself\n"
    "\n"
    "Prints one line a tap: calls compared, relative L2 (of the worst call, or over all calls where the "
    "limit\n"
    "says 'all' or 'differ'), worst row, elements whose bits differ, limit, verdict. Then what was not "
    "compared\n"
    "and why, the first tap that fails with token, head and channel of its worst element, and PASS or FAIL.\n"
    "\n"
    "A recording is a safetensors file of tensors call.NNN.TAP with the model's configuration as JSON under\n"
    "the metadata key 'config'. Every call needs tokens and start_pos (and next_tokens where the MTP block\n"
    "runs); beyond these it may hold any of the taps. --dump writes an example.";

constexpr const char* kExits =
    "Exit: 0 every tap holds, 1 one does not or a tensor is unexplained, 2 the input cannot be used.";

// A line of progress on stderr: rewritten in place on a terminal, else every ten seconds.
class Progress {
 public:
  void operator()(std::int64_t call, std::int64_t calls) {
    const auto now = std::chrono::steady_clock::now();
    if (now - shown_ < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000)))
      return;
    shown_ = now;
    fmt::print(stderr, "{}call {} of {}{}", terminal_ ? "\r" : "", call + 1, calls, terminal_ ? "" : "\n");
    std::fflush(stderr);
  }
  ~Progress() {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }

 private:
  const bool terminal_ = isatty(fileno(stderr)) == 1;
  std::chrono::steady_clock::time_point shown_ = std::chrono::steady_clock::now();
};

// "A..B", "A..", "..B" or "A".
void parse_calls(const std::string& text, validation::Options& options) {
  const auto number = [&](const std::string& digits) -> std::int64_t {
    if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != digits.npos)
      throw InputError(fmt::format("--calls: '{}' is not A..B", text));
    return std::stoll(digits);
  };
  const std::size_t dots = text.find("..");
  const std::string first = text.substr(0, dots), last = dots == text.npos ? first : text.substr(dots + 2);
  if (!first.empty() || last.empty()) options.first_call = number(first);
  if (!last.empty()) options.last_call = number(last);
  if (options.last_call >= 0 && options.last_call < options.first_call)
    throw InputError(fmt::format("--calls: {} ends before it begins", text));
}

validation::Runner runner_of(const std::string& backend) {
  if (backend == "simt") return validation::run_on_simt;
#if defined(DSV4_WITH_CUDA)
  return validation::run_on_cuda;
#else
  throw InputError("--backend cuda: built without CUDA (DSV4_CUDA=ON builds it)");
#endif
}

int run(int argc, char** argv) {
  CLI::App app(kAbout);
  app.footer(kExits);
  std::string weights, recording_path, mode = "free", backend = "cpu", calls, report;
  validation::Options options;
  bool help_limits = false;
  app.add_option("--weights", weights, "checkpoint: a safetensors file, its index JSON, or the folder");
  app.add_option("--recording", recording_path, "safetensors file of recorded activations");
  app.add_option("--mode", mode, "free or staged")->check(CLI::IsMember({"free", "staged"}));
  app.add_option(
         "--backend", backend,
         "cpu: the primitives (default); simt: the ops, their kernels on the SIMT machine; cuda: the\n"
         "ops on a GPU, in builds with DSV4_CUDA (exact recordings need DSV4_KERNELS_F32 too)")
      ->check(CLI::IsMember({"cpu", "simt", "cuda"}));
  app.add_flag("--fused", options.fused,
               "simt, cuda: fused ops in place of their chains, where there are any");
  app.add_option("--until", options.until, "compare in each call up to this tap, e.g. layers.1.attn.q");
  app.add_option("--calls", calls, "compare only calls A..B; those before are still run");
  app.add_option("--threads", options.threads,
                 "threads, 0 = all cores (default); results do not depend on it")
      ->check(CLI::Range(0, 1024));
  app.add_option("--report", report, "write the table as JSON");
  app.add_option("--dump", options.dump, "write everything computed as a recording");
  app.add_option("--tolerance-scale", options.tolerance_scale, "multiplies every limit")
      ->check(CLI::Range(0.0, 1e12));
  app.add_flag("--help-limits", help_limits, "print the table of limits");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);  // --help
  } catch (const CLI::ParseError& e) {
    throw InputError(e.what());
  }
  if (help_limits) {
    fmt::print("{}", validation::limits_text());
    return 0;
  }
  if (weights.empty()) throw InputError("--weights is required");
  if (recording_path.empty()) throw InputError("--recording is required");
  if (!calls.empty()) parse_calls(calls, options);
  if (options.fused && backend == "cpu") throw InputError("--fused: only with --backend simt or cuda");
  if (backend != "cpu") options.runner = runner_of(backend);
  if (mode == "staged") options.run = validation::RunMode::kStaged;

  const validation::Recording recording = validation::open_recording(recording_path);
  const Model model = validation::load_model_for(recording, weights);
  validation::Verdict verdict;
  {
    Progress progress;
    options.progress = [&](std::int64_t call, std::int64_t count) { progress(call, count); };
    verdict = validation::validate_recording(model, recording, options);
  }
  if (!report.empty()) {
    const std::string json = validation::report_json(verdict, recording_path, weights);
    const std::span<const std::byte> bytes = std::as_bytes(std::span(json));
    write_atomically(report, {&bytes, 1});
  }
  fmt::print("{}", validation::table(verdict));
  return verdict.holds() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "dsv4_validate: {}\n", e.what());
    return 2;
  }
}
