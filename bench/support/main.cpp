// main of dsv4_bench: the ordinary one of Google Benchmark, then a verdict for every benchmark with a bar.
#include <benchmark/benchmark.h>

#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

namespace {

// Prints as usual and remembers what is to be judged: medians where there are repetitions.
class Reporter : public benchmark::ConsoleReporter {
 public:
  Reporter() : ConsoleReporter(isatty(STDOUT_FILENO) ? OO_Color : OO_None) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      failed_ = failed_ || run.error_occurred;
      const auto bar = run.counters.find("bar");
      if (bar == run.counters.end() || run.error_occurred) continue;
      const bool median = run.aggregate_name == "median";
      if (run.run_type == Run::RT_Aggregate ? !median : run.repetitions > 1) continue;
      const double seconds = run.GetAdjustedRealTime() / benchmark::GetTimeUnitMultiplier(run.time_unit);
      judged_.push_back({run.benchmark_name(), seconds, bar->second.value});
    }
  }

  /// Prints the verdicts; true if no benchmark failed its verification (being slow is no failure).
  bool finish() const {
    for (const Judged& j : judged_)
      std::printf("%-40s %9.3f ms, bar %8.3f ms: %s\n", j.name.c_str(), j.seconds * 1e3, j.bar * 1e3,
                  j.seconds <= j.bar ? "within" : "ABOVE");
    if (failed_) std::printf("a benchmark failed before it was timed; see above\n");
    return !failed_;
  }

 private:
  struct Judged {
    std::string name;
    double seconds, bar;
  };
  std::vector<Judged> judged_;
  bool failed_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("compiler", __VERSION__);
  benchmark::AddCustomContext("hardware_threads", std::to_string(std::thread::hardware_concurrency()));
  Reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  return reporter.finish() ? 0 : 1;
}
