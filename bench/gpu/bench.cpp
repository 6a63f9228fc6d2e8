#include "bench/gpu/bench.hpp"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <stdexcept>

namespace dsv4::gpu {
namespace {

cudaDeviceProp properties() {
  int device = 0;
  cudaDeviceProp p = {};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
  return p;
}

/// GB/s read plus written by a copy within device memory.
double measure_copy(Timer& timer) {
  const std::size_t n = std::size_t{1} << 30;
  const DeviceMemory from(n), to(n);
  check(cudaMemset(from.get(), 1, n), "cudaMemset");
  const double us = timer.cold_us([&](cudaStream_t s) {
    check(cudaMemcpyAsync(to.get(), from.get(), n, cudaMemcpyDeviceToDevice, s), "copy");
  });
  return 2.0 * static_cast<double>(n) / us * 1e-3;
}

/// TFLOP/s of mma.sync on bf16 tiles in registers: what a kernel on mma.sync cannot exceed.
double measure_mma(Timer& timer) {
  const DeviceMemory scratch(sizeof(float));
  double flops = 0;
  const int multiprocessors = properties().multiProcessorCount;
  const double us = timer.cold_us([&](cudaStream_t s) {
    require(multiply_bf16(static_cast<float*>(scratch.get()), multiprocessors, flops, s));
  });
  return flops / us * 1e-6;
}

std::string verdict(const Result& r, double copy_share) {
  char text[64] = "";
  if (r.bar.us > 0)
    std::snprintf(text, sizeof text, "%s %.1f us", r.us <= r.bar.us ? "holds: <=" : "ABOVE", r.bar.us);
  if (r.bar.copy_share > 0)
    std::snprintf(text, sizeof text, "%s %.0f %%", copy_share >= r.bar.copy_share ? "holds: >=" : "BELOW",
                  100 * r.bar.copy_share);
  return text;
}

}  // namespace

Bench::Bench(const Options& options)
    : options_(options), copy_gb_s_(measure_copy(timer_)), mma_tflop_s_(measure_mma(timer_)) {}

bool Bench::wanted(const std::string& name, bool common) {
  if (!(common || options_.all) || name.find(options_.filter) == std::string::npos) return false;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin_;
  if (options_.seconds <= 0 || elapsed.count() < options_.seconds) return true;
  too_late_ = true;
  return false;
}

bool Bench::fits(const std::string& name, double bytes) const {
  std::size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
  const bool enough = 1.05 * bytes + 0x1p30 < static_cast<double>(available);
  if (!enough) std::printf("%-52s left out: needs %.1f GiB of device memory\n", name.c_str(), bytes / 0x1p30);
  return enough;
}

int Bench::copies(double bytes) const {
  const double l2 = properties().l2CacheSize;
  return static_cast<int>(std::clamp(3 * l2 / bytes + 1, 1.0, 8.0));
}

void Bench::measure(const std::string& name, Timing timing, const Work& work, const Launch& launch,
                    const Verify& verify, const Bar& bar) {
  require(launch(timer_.stream(), 0));
  check(cudaStreamSynchronize(timer_.stream()), name.c_str());
  if (const std::string problem = verify(); !problem.empty()) {
    std::printf("FAILED  %s: %s\n", name.c_str(), problem.c_str());
    failed_ = true;
    return;
  }
  Result r = {name, 0, work, bar};
  if (timing == Timing::kCold) {
    r.us = timer_.cold_us([&](cudaStream_t s) { require(launch(s, 0)); });
  } else {
    int turn = 0;
    r.us = timer_.graph_us([&](cudaStream_t s) { require(launch(s, turn++)); });
  }
  results_.push_back(r);
  std::printf("%-52s %9.2f us\n", name.c_str(), r.us);
  std::fflush(stdout);
}

void Bench::report() const {
  const cudaDeviceProp device = properties();
  char date[32], line[512];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  std::snprintf(line, sizeof line,
                "{\"device\":\"%s\",\"sm\":%d,\"date\":\"%s\",\"copy_gb_s\":%.4g,\"mma_bf16_tflop_s\":%.4g}",
                device.name, device.major * 10 + device.minor, date, copy_gb_s_, mma_tflop_s_);
  std::string json = "{\n\"context\": " + std::string(line) + ",\n\"results\": [\n";
  std::printf("\n%s, sm_%d%d, copy %.0f GB/s, mma.sync bf16 %.0f TFLOP/s\n%-52s %9s %7s %6s %8s %6s  %s\n",
              device.name, device.major, device.minor, copy_gb_s_, mma_tflop_s_, "op", "us", "GB/s", "copy",
              "TFLOP/s", "mma", "bar");
  for (std::size_t i = 0; i < results_.size(); ++i) {
    const Result& r = results_[i];
    const double gb_s = r.work.bytes / r.us * 1e-3, tflop_s = r.work.flops / r.us * 1e-6;
    const double copy_share = gb_s / copy_gb_s_, mma_share = tflop_s / mma_tflop_s_;
    std::printf("%-52s %9.2f %7.0f %5.1f%% %8.1f %5.1f%%  %s\n", r.name.c_str(), r.us, gb_s, 100 * copy_share,
                tflop_s, 100 * mma_share, verdict(r, copy_share).c_str());
    std::snprintf(line, sizeof line,
                  "  {\"name\":\"%s\",\"us\":%.4g,\"gb_s\":%.4g,\"copy_share\":%.3g,\"tflop_s\":%.4g,"
                  "\"mma_share\":%.3g}%s\n",
                  r.name.c_str(), r.us, gb_s, copy_share, tflop_s, mma_share,
                  i + 1 < results_.size() ? "," : "");
    json += line;
  }
  if (too_late_) std::printf("others were left out: --seconds are over\n");
  if (options_.save.empty()) return;
  std::ofstream file(options_.save);
  file << json << "]\n}\n";
  file.close();
  if (!file) throw std::runtime_error(options_.save + ": cannot be written");
}

}  // namespace dsv4::gpu
