// Every op on the GPU against the same op on the SIMT machine.
#include "tests/gpu/cuda_check.hpp"
#include "tests/gpu/suites.hpp"

#include <cstdio>
#include <exception>
#include <string>
#include <string_view>

using namespace dsv4::gpu;

int main(int argc, char** argv) {
  bool small = false, imitate = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    small = small || argument == "--small";
    imitate = imitate || argument == "--imitate";
    if (argument != "--small" && argument != "--imitate") {
      std::fprintf(stderr,
                   "usage: %s [--small] [--imitate]\n"
                   "  --small    few and small shapes, as fit under compute-sanitizer\n"
                   "  --imitate  without a GPU: the SIMT machine against itself, under another schedule and\n"
                   "             with the rounding of Hopper's tensor cores\n",
                   argv[0]);
      return 2;
    }
  }
  if (!imitate) {
    const std::string missing = why_no_device();
    if (!missing.empty()) {
      std::printf("skipped: %s\n", missing.c_str());
      return kSkipped;
    }
  }
  try {
    Tally tally(imitate ? Side::kImitation : Side::kDevice,
                imitate ? simt_v0::op_table() : cuda_v0::op_table());
    compare_all(tally, small);
    std::printf("ops on the %s against the SIMT machine: %d passed, %d failed\n",
                imitate ? "imitation" : "GPU", tally.passed(), tally.failed());
    return tally.failed() == 0 ? 0 : 1;
  } catch (const std::exception& e) {
    std::printf("FAILED  %s\n", e.what());
    return 1;
  }
}
