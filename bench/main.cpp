// main of dsv4_bench: the ordinary one of Google Benchmark, then a verdict for every benchmark with a bar,
// and with
// --save=FILE the results as JSON, one line a benchmark: medians where there are repetitions.
#include <benchmark/benchmark.h>
#include <nlohmann/json.hpp>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

using Json = nlohmann::ordered_json;

// To four digits: more is noise.
double rounded(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", x);
  return std::strtod(text, nullptr);
}

// "model name" of /proc/cpuinfo; empty where there is none.
std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (const auto colon = line.find(": "); line.rfind("model name", 0) == 0 && colon != line.npos)
      return line.substr(colon + 2);
  return {};
}

// Prints as usual and keeps what finish() needs.
class Reporter : public benchmark::ConsoleReporter {
 public:
  Reporter() : ConsoleReporter(isatty(STDOUT_FILENO) ? OO_Color : OO_None) {}

  bool ReportContext(const Context& context) override {
    cpu_ = {{"cpu", cpu_model()},
            {"cores", context.cpu_info.num_cpus},
            {"mhz", rounded(context.cpu_info.cycles_per_second / 1e6)}};
    return ConsoleReporter::ReportContext(context);
  }

  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      failed_ = failed_ || run.error_occurred;
      const bool single = run.run_type == Run::RT_Iteration && run.repetitions <= 1;
      if (run.error_occurred || !(single || run.aggregate_name == "median")) continue;
      const double to_ms = 1e3 / benchmark::GetTimeUnitMultiplier(run.time_unit);
      Result r{run.run_name.str(), run.GetAdjustedRealTime() * to_ms, run.GetAdjustedCPUTime() * to_ms, {}};
      for (const auto& [name, counter] : run.counters) r.counters[name] = counter.value;
      results_.push_back(r);
    }
  }

  /// Prints the verdicts; true if no benchmark failed its verification (being slow is no failure).
  bool finish() const {
    for (const Result& r : results_)
      if (const auto bar = r.counters.find("bar"); bar != r.counters.end())
        std::printf("%-80s %9.3f ms, bar %8.3f ms: %s\n", r.name.c_str(), r.real_ms, bar->second * 1e3,
                    r.real_ms <= bar->second * 1e3 ? "within" : "ABOVE");
    if (failed_) std::printf("a benchmark failed before it was timed; see above\n");
    return !failed_;
  }

  /// Times in milliseconds (real, and of all threads' CPUs) and counters.
  bool save(const std::string& path) const {
    std::ofstream out(path);
    Json context = cpu_;
    context["compiler"] = __VERSION__;
    out << "{\n\"context\": " << context << ",\n\"results\": [\n";
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const Result& r = results_[i];
      Json line = {{"name", r.name}, {"real_ms", rounded(r.real_ms)}, {"cpu_ms", rounded(r.cpu_ms)}};
      for (const auto& [name, value] : r.counters) line[name] = rounded(value);
      out << "  " << line << (i + 1 < results_.size() ? ",\n" : "\n");
    }
    out << "]\n}\n" << std::flush;
    return out.good();
  }

 private:
  struct Result {
    std::string name;
    double real_ms, cpu_ms;
    std::map<std::string, double> counters;
  };
  Json cpu_;
  std::vector<Result> results_;
  bool failed_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string save;
  constexpr const char kSave[] = "--save=";
  if (argc == 2 && std::strncmp(argv[1], kSave, sizeof kSave - 1) == 0) {
    save = argv[1] + sizeof kSave - 1;
    argc = 1;
  }
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  Reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  if (!save.empty() && !reporter.save(save)) {
    std::fprintf(stderr, "cannot write %s\n", save.c_str());
    return 2;
  }
  return reporter.finish() ? 0 : 1;
}
