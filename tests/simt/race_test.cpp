// The race detector: every racy kernel is reported with both places, its ordered twin passes in silence. In
// builds that do not instrument kernels (DSV4_SIMT_RACE) a racy kernel has no report to assert on, and the
// case says that it skips it; the ordered twins run everywhere.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/core/types.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/options.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/support/catch.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace dsv4;
using arch::Order;
using arch::Scope;
using simt::LaunchShape;

// A place in a kernel, for the report that is expected to name it: the line where DSV4_HERE stands.
struct Lines {
  int one = 0, other = 0;
};
Lines lines;
#define ONE_HERE lines.one = __LINE__
#define OTHER_HERE lines.other = __LINE__
