# DSV4_HOST_ARCH: the -march of the CPU code. A matter of speed alone: without hardware FMA the same bits come
# from the exact software fma. The default is x86-64-v3 where this machine compiles and runs it.
include_guard(GLOBAL)
include(CheckCXXSourceRuns)

if(NOT DEFINED DSV4_HOST_ARCH)
  set(dsv4_host_arch "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$"
     AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang"
     AND NOT CMAKE_CROSSCOMPILING)
    set(CMAKE_REQUIRED_FLAGS "-march=x86-64-v3")
    # cpuid rather than a trial run of a few instructions: the compiler may use any of the level's extensions.
    check_cxx_source_runs(
      [[
#include <cpuid.h>
int main() {
  unsigned a, b, c, d;
  const auto all = [](unsigned bits, unsigned mask) { return (bits & mask) == mask; };
  const unsigned fma = 1u << 12, movbe = 1u << 22, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !all(c, fma | movbe | osxsave | avx | f16c)) return 1;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if (!all(low, 6u)) return 2;  // the system saves xmm and ymm registers
  const unsigned bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8, lzcnt = 1u << 5;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all(b, bmi1 | avx2 | bmi2)) return 3;
  return __get_cpuid(0x80000001u, &a, &b, &c, &d) && all(c, lzcnt) ? 0 : 4;
}
]]
      DSV4_HOST_RUNS_X86_64_V3)
    unset(CMAKE_REQUIRED_FLAGS)
    if(DSV4_HOST_RUNS_X86_64_V3)
      set(dsv4_host_arch "x86-64-v3")
    endif()
  endif()
  set(DSV4_HOST_ARCH "${dsv4_host_arch}" CACHE STRING "-march of the CPU code; empty for the compiler's default")
endif()
if(DSV4_HOST_ARCH)
  message(STATUS "dsv4: CPU code for -march=${DSV4_HOST_ARCH}")
else()
  message(STATUS "dsv4: CPU code for the compiler's default architecture (correct, but slow without hardware FMA)")
endif()
