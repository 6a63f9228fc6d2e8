// A kernel for run.sh, which looks at it with gcov and gdb.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/simt/launch.hpp>

#include <cstdio>

using namespace dsv4;

DSV4_KERNEL(64) reverse_kernel(int* x, int never) {
  DSV4_SHARED(int[64], tile);
  const int i = static_cast<int>(arch::thread_idx().x);
  tile[i] = x[i];
  arch::sync_threads();
  const int mirrored = tile[63 - i];
  if (never > 0) x[0] = never;  // not executed: gcov says so
  x[i] = mirrored;              // breakpoint
}

int main() {
  int x[64];
  for (int i = 0; i < 64; ++i) x[i] = 100 + i;
  simt::launch("reverse_kernel", reverse_kernel, {.grid = {1}, .block = {64}}, x, 0);
  for (int i = 0; i < 64; ++i)
    if (x[i] != 163 - i) return 1;
  std::puts("passed");
  return 0;
}
