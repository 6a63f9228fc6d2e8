// dsv4_run: greedy decoding from a checkpoint.
#include "reference/error.hpp"
#include "reference/generate.hpp"
#include "reference/weights.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace {

using dsv4::reference::Generation;

constexpr int kUnusable = 2;

void print_speed(const Generation& g, std::size_t prompt) {
  const double prefill = g.prefill_seconds > 0 ? static_cast<double>(prompt) / g.prefill_seconds : 0;
  fmt::print(stderr, "prompt: {} tokens in {:.3f} s, {:.1f} tokens/s\n", prompt, g.prefill_seconds, prefill);
  // The first token comes from the prefill: what was timed is the others.
  if (g.tokens.size() > 1 && g.decode_seconds > 0)
    fmt::print(stderr, "decode: {} tokens in {:.3f} s, {:.1f} tokens/s\n", g.tokens.size() - 1,
               g.decode_seconds, static_cast<double>(g.tokens.size() - 1) / g.decode_seconds);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Greedy decoding with the reference forward pass on the CPU: token ids in, token ids out.\n"
      "Ids go to standard output, separated by commas; speed and progress to standard error.\n"
      "The result does not depend on the number of threads. Exit: 0 done, 2 unusable input."};
  std::string weights;
  std::vector<std::int32_t> tokens;
  std::int64_t steps = 16;
  int threads = 0;
  app.add_option("--weights", weights,
                 "Checkpoint: a .safetensors file, or a folder with one, or with an index JSON")
      ->required();
  app.add_option("--tokens", tokens, "Prompt: token ids separated by commas")->required()->delimiter(',');
  app.add_option("--steps", steps, "Tokens to generate")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--threads", threads, "Threads; 0 = one for each hardware thread")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    fmt::print(stderr, "dsv4_run: {} (--help lists the options)\n", error.what());
    return kUnusable;
  }

  try {
    const dsv4::reference::Model model = dsv4::reference::load_model(weights);
    const bool terminal = isatty(STDERR_FILENO) != 0;
    std::size_t printed = 0;
    const auto progress = [&](const Generation& g) {
      if (g.tokens.empty()) {
        if (terminal) fmt::print(stderr, "\rprompt: {} of {} tokens", g.prompt_done, tokens.size());
        return;
      }
      if (terminal && printed == 0) fmt::print(stderr, "\r\033[K");
      for (; printed < g.tokens.size(); ++printed)
        fmt::print("{}{}", printed == 0 ? "" : ",", g.tokens[printed]);
      std::fflush(stdout);
    };
    const Generation g = dsv4::reference::generate(model, tokens, steps, threads, progress);
    fmt::print("\n");
    print_speed(g, tokens.size());
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "dsv4_run: {}\n", error.what());
    return kUnusable;
  }
}
