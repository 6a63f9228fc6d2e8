// Every op through C against the same op in C++, both on the SIMT machine: the cases of tests/gpu, bit for
// bit; and refusals word for word.
#include "kernels/c_api/op_list.hpp"
#include "tests/c_api/c_op_table.hpp"
#include "tests/gpu/suites.hpp"
#include "tests/support/catch.hpp"

#include <dsv4/dsv4.h>

#include <string>

using namespace dsv4;

TEST_CASE("every op gives the same bits through C as in C++", "[c_api][ops]") {
  gpu::Tally tally(gpu::Side::kHost, test::c_op_table());
  gpu::compare_all(tally, true);  // prints what differs
  REQUIRE(tally.failed() == 0);
  REQUIRE(tally.passed() > 100);
  for (std::int32_t i = 0; i < dsv4_op_count(); ++i) {
    CAPTURE(dsv4_op_name(i));
    REQUIRE(test::c_op_calls().count(dsv4_op_name(i)) == 1);
  }
#define DSV4_NO_BYTES(op)
#define DSV4_WORKSPACE(op) REQUIRE(test::c_op_calls().count(#op "_workspace_bytes") == 1);
#define DSV4_WORKSPACE_AND_STATE(op) \
  DSV4_WORKSPACE(op) REQUIRE(test::c_op_calls().count(#op "_state_bytes") == 1);
#define DSV4_QUERIED(op, Params, bytes) bytes(op)
  DSV4_FOR_EACH_OP(DSV4_QUERIED)
}
