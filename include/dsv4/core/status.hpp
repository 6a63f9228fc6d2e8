// The one error channel of host functions that take a caller's sizes and pointers.
#pragma once

#include <cstdint>

namespace dsv4 {

enum class Code : std::int32_t {
  kOk = 0,
  kInvalidArgument = 1,
  kUnsupported = 2,
  kWorkspaceTooSmall = 3,
  kCuda = 4,
};

/// Outcome of a host call: what was wrong, the value met, and the limit it broke.
///   code   kOk, or the kind of failure
///   cuda   the cudaError_t behind kCuda, else 0
///   what   names the argument and the rule; never null. A static string; of a kernel that the SIMT machine
///          stopped, its report, which lives until this thread's next such failure
///   value  the offending value; 0 where the rule is not about a number
///   limit  the bound it broke; 0 where there is none
struct [[nodiscard]] Status {
  Code code = Code::kOk;
  std::int32_t cuda = 0;
  const char* what = "ok";
  std::int64_t value = 0;
  std::int64_t limit = 0;

  constexpr bool ok() const { return code == Code::kOk; }
};

constexpr Status invalid_argument(const char* what, std::int64_t value = 0, std::int64_t limit = 0) {
  return {Code::kInvalidArgument, 0, what, value, limit};
}
constexpr Status unsupported(const char* what, std::int64_t value = 0, std::int64_t limit = 0) {
  return {Code::kUnsupported, 0, what, value, limit};
}

/// Leaves the enclosing function with `failure` (a Status) unless `condition` holds. Always on.
#define DSV4_REQUIRE(condition, failure) \
  do {                                   \
    if (!(condition)) return (failure);  \
  } while (0)

}  // namespace dsv4
