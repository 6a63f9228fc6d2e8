// Times of the ops on this machine's GPU, as shares of the bandwidth that a plain copy reaches and of the
// rate at which mma.sync multiplies. Needs the CUDA runtime and nothing else.
#include "bench/gpu/bench.hpp"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

using namespace dsv4::gpu;

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--all") {
      options.all = true;
    } else if (argument == "--filter" && i + 1 < argc) {
      options.filter = argv[++i];
    } else if (argument == "--seconds" && i + 1 < argc) {
      options.seconds = std::atof(argv[++i]);
    } else if (argument == "--save" && i + 1 < argc) {
      options.save = argv[++i];
    } else {
      std::fprintf(stderr,
                   "usage: %s [--all] [--filter TEXT] [--seconds N] [--save FILE]\n"
                   "  --all     every shape, not only the common ones\n"
                   "  --filter  only benchmarks whose name contains TEXT\n"
                   "  --seconds no further benchmark begins after N seconds\n"
                   "  --save    the table as JSON\n",
                   argv[0]);
      return 2;
    }
  }
  const std::string missing = why_no_device();
  if (!missing.empty()) {
    std::printf("skipped: %s\n", missing.c_str());
    return kSkipped;
  }
  try {
    Bench bench(options);
    bench_rows(bench);
    bench_mhc(bench);
    bench_linear(bench);
    bench_prepare(bench);
    bench_indexer(bench);
    bench_attend(bench);
    bench_moe(bench);
    bench.report();
    return bench.failed() ? 1 : 0;
  } catch (const std::exception& e) {
    std::printf("FAILED  %s\n", e.what());
    return 1;
  }
}
