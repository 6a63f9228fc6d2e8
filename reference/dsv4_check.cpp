// dsv4_check: an engine's outputs against the vectors of dsv4_vectors.
#include "reference/vectors/check.hpp"
#include "reference/vectors/report.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <exception>
#include <string>

namespace {

using namespace dsv4::reference::vectors;

constexpr const char* kAbout =
    "Compares what an engine computed from the vectors of dsv4_vectors with what it should have, non-finite\n"
    "positions first, and names the likely mistake where a known one gives the engine's results.\n"
    "\n"
    "VECTORS and OUTPUTS are folders of OP.safetensors, or one file each. A file of outputs holds tensors\n"
    "CASE/OUTPUT of the shapes of the vectors' CASE/out/OUTPUT; floats may be F32, F64 or BF16, integers of\n"
    "any width, codes of any dtype of one byte. Ops without a file of outputs are passed over.\n"
    "\n"
    "Verdicts: ok; WRONG, values beyond their bound; NONFINITE, a NaN or infinity where there is none, or\n"
    "none where there is one; BATCH, other bits than the same token has among others.";

constexpr const char* kExits = "Exit: 0 every output holds, 1 one does not, 2 the input cannot be used.";

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(kAbout);
  app.footer(kExits);
  std::string vectors, outputs;
  CheckOptions options;
  bool json = false;
  app.add_option("VECTORS", vectors, "what dsv4_vectors wrote")->required();
  app.add_option("OUTPUTS", outputs, "what the engine computed")->required();
  app.add_option("--ops", options.ops, "only these ops, all of which must be there")->delimiter(',');
  app.add_flag("--partial", options.partial, "cases and outputs may be missing from a file");
  app.add_option("--tolerance-scale", options.tolerance_scale, "multiplies every bound")
      ->check(CLI::Range(0.0, 1e12))
      ->capture_default_str();
  app.add_flag("--json", json, "print the results as JSON");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    fmt::print(stderr, "dsv4_check: {} (--help lists the options)\n", error.what());
    return 2;
  }
  try {
    const CheckResult result = check(vectors, outputs, options);
    fmt::print("{}", json ? report_json(result) : report_text(result));
    return result.holds() ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "dsv4_check: {}\n", error.what());
    return 2;
  }
}
