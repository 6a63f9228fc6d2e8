// Mirrors include/dsv4/core/status.hpp.
#include <dsv4/core/status.hpp>

#include "tests/support/catch.hpp"

#include <cstring>

using namespace dsv4;

namespace {

Status at_most_three(int n, int* evaluated) {
  DSV4_REQUIRE((++*evaluated, n >= 0), unsupported("n is negative", n));
  DSV4_REQUIRE(n <= 3, invalid_argument("n must be at most 3", n, 3));
  if (n == 3)
    DSV4_REQUIRE(*evaluated > 1, Status{});  // one statement: binds to the `if` above it
  else
    return {Code::kCuda, 100, "else", 0, 0};
  return {};
}

static_assert(Status{}.ok() && !invalid_argument("x").ok() && !unsupported("x").ok());
// The numbers are part of the C ABI.
static_assert(int(Code::kOk) == 0 && int(Code::kInvalidArgument) == 1 && int(Code::kUnsupported) == 2 &&
              int(Code::kWorkspaceTooSmall) == 3 && int(Code::kCuda) == 4);

}  // namespace

TEST_CASE("a default Status is ok and says so", "[core][status]") {
  const Status s;
  REQUIRE(s.ok());
  REQUIRE(s.code == Code::kOk);
  REQUIRE(s.cuda == 0);
  REQUIRE(std::strcmp(s.what, "ok") == 0);
  REQUIRE(s.value == 0);
  REQUIRE(s.limit == 0);
}

TEST_CASE("failures carry code, text, value and limit", "[core][status]") {
  const Status a = invalid_argument("rows must be positive", -7, std::int64_t{1} << 40);
  REQUIRE(!a.ok());
  REQUIRE(a.code == Code::kInvalidArgument);
  REQUIRE(a.cuda == 0);
  REQUIRE(std::strcmp(a.what, "rows must be positive") == 0);
  REQUIRE(a.value == -7);
  REQUIRE(a.limit == std::int64_t{1} << 40);
  const Status b = unsupported("head_dim must be 512", 256, 512);
  REQUIRE(b.code == Code::kUnsupported);
  REQUIRE(b.value == 256);
  REQUIRE(b.limit == 512);
  REQUIRE(invalid_argument("x").value == 0);
  REQUIRE(unsupported("x").limit == 0);
}

TEST_CASE("DSV4_REQUIRE leaves with the first failure and evaluates its condition once", "[core][status]") {
  int evaluated = 0;
  REQUIRE(at_most_three(-1, &evaluated).code == Code::kUnsupported);
  REQUIRE(evaluated == 1);
  const Status s = at_most_three(4, &evaluated);
  REQUIRE(s.code == Code::kInvalidArgument);
  REQUIRE(s.value == 4);
  REQUIRE(s.limit == 3);
  REQUIRE(evaluated == 2);
  REQUIRE(at_most_three(3, &evaluated).ok());
  REQUIRE(at_most_three(2, &evaluated).code == Code::kCuda);
}
