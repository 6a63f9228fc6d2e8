#include "bench/support/memory.hpp"

#include <fstream>
#include <string>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace dsv4::bench {
namespace {

// A line "VmRSS:     1234 kB" of /proc/self/status, in bytes.
std::int64_t status_line(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.compare(0, key.size(), key) == 0) return std::stoll(line.substr(key.size())) * 1024;
  return 0;
}

}  // namespace

std::int64_t resident_bytes() { return status_line("VmRSS:"); }

std::int64_t peak_bytes() { return status_line("VmHWM:"); }

bool reset_peak() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5" << std::flush;
  return clear.good();
}

}  // namespace dsv4::bench
