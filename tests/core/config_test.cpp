// Mirrors include/dsv4/core/config.hpp.
#include <dsv4/core/config.hpp>

#include "tests/support/catch.hpp"

namespace {

DSV4_HD constexpr int twice(int x) { return 2 * x; }
static_assert(twice(21) == 42);  // on the host DSV4_HD adds nothing that a constexpr function could not carry
static_assert(DSV4_HOST_SIMD == 0 || DSV4_HOST_SIMD == 1);

}  // namespace

TEST_CASE("DSV4_UNROLL stands before a loop", "[core][config]") {
  int sum = 0;
  DSV4_UNROLL
  for (int i = 0; i < 4; ++i) sum += i;
  REQUIRE(sum == 6);
}

TEST_CASE("DSV4_ASSERT is checked in debug builds only", "[core][config]") {
  int evaluated = 0;
  const auto holds = [&] { return ++evaluated > 0; };
  (void)holds;
  if (twice(1) == 2)
    DSV4_ASSERT(holds());
  else
    FAIL("DSV4_ASSERT is one statement");
#if defined(NDEBUG)
  REQUIRE(evaluated == 0);
#else
  REQUIRE(evaluated == 1);
#endif
}
