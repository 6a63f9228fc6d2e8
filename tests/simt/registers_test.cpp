// setmaxnreg on the SIMT machine: it changes nothing, and its rules hold.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/registers.cuh>
#include <dsv4/simt/launch.hpp>

#include "tests/simt/policies.hpp"
#include "tests/support/catch.hpp"

#include <string>

namespace {

using namespace dsv4;

void specialised_kernel(int* out) {
  if (arch::warp_id() < 4) {
    arch::decrease_registers<40>();
  } else {
    arch::increase_registers<232>();
  }
  out[arch::thread_idx().x] = 1;
}

void mixed_kernel() {
  if (arch::warp_id() == 2)
    arch::decrease_registers<48>();
  else
    arch::decrease_registers<40>();
}

void wrong_way_kernel() {
  arch::decrease_registers<40>();
  arch::sync_threads();
  arch::increase_registers<32>();
}

// Warp 3 does not take part, and exits before or after the others do.
void missing_kernel(bool early) {
  if (arch::warp_id() == 3) {
    if (!early) arch::named_barrier_sync(1, 128);
    return;
  }
  if (early) arch::named_barrier_sync(1, 96);
  arch::decrease_registers<40>();
  if (!early) arch::named_barrier_sync(1, 128);
}

void diverged_kernel() {
  if (arch::lane_id() < 16) arch::decrease_registers<40>();
}

template <class... A>
std::string report_of(int threads, void (*kernel)(A...), A... arguments) {
  return test::report_of([&] {
    simt::launch("registers", kernel, test::threads(static_cast<unsigned>(threads)), arguments...);
  });
}

using test::says;

}  // namespace

TEST_CASE("setmaxnreg by whole warpgroups changes nothing", "[simt][registers]") {
  int out[256] = {};
  CHECK(report_of(256, specialised_kernel, static_cast<int*>(out)).empty());
  int sum = 0;
  for (const int x : out) sum += x;
  CHECK(sum == 256);
}

TEST_CASE("setmaxnreg against its rules is an error", "[simt][registers]") {
  CHECK(says(report_of(128, mixed_kernel), "of its warpgroup for"));
  CHECK(says(report_of(128, wrong_way_kernel), "from 40 registers to 32"));
  CHECK(says(report_of(128, missing_kernel, true), "setmaxnreg"));
  CHECK(says(report_of(128, missing_kernel, false), "this warp exits without"));
  CHECK(says(report_of(32, diverged_kernel), "WARP DIVERGENCE"));
  CHECK(says(report_of(96, wrong_way_kernel), "no whole warpgroups"));
  CHECK(says(report_of(128, mixed_kernel), "registers_test.cpp"));
}
