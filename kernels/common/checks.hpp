// Checks of a launcher's parameters, with messages that name op and argument.
#pragma once

#include <dsv4/core/status.hpp>

#include "kernels/common/dispatch.hpp"

#include <cstddef>
#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// A string as a template argument.
template <std::size_t kSize>
struct Text {
  char text[kSize] = {};  // with the final 0

  constexpr Text() = default;
  constexpr Text(const char (&literal)[kSize]) {  // NOLINT(google-explicit-constructor)
    for (std::size_t i = 0; i < kSize; ++i) text[i] = literal[i];
  }
  template <std::size_t kOther>
  constexpr Text<kSize + kOther - 1> operator+(const Text<kOther>& o) const {
    Text<kSize + kOther - 1> sum;
    for (std::size_t i = 0; i + 1 < kSize; ++i) sum.text[i] = text[i];
    for (std::size_t i = 0; i < kOther; ++i) sum.text[kSize - 1 + i] = o.text[i];
    return sum;
  }
};

/// A Status's message, which must outlive every call: "<op>: <argument><rule>".
template <Text kOp, Text kArgument, Text kRule>
inline constexpr auto kMessage = kOp + Text(": ") + kArgument + Text(" ") + kRule;

/// The first rule that an op's parameters break, rules being tried in the order of the calls.
template <Text kOp>
class Checks {
 public:
  static constexpr auto kName = kOp;

  bool ok() const { return first_.ok(); }
  const Status& status() const { return first_; }

  /// An argument that must satisfy a rule: `value` is what was met, `limit` the bound.
  template <Text kArgument, Text kRule>
  void require(bool holds, std::int64_t value = 0, std::int64_t limit = 0,
               Code code = Code::kInvalidArgument) {
    if (ok() && !holds) first_ = {code, 0, kMessage<kOp, kArgument, kRule>.text, value, limit};
  }

  /// The outcome of checks made elsewhere.
  void merge(const Status& s) {
    if (ok()) first_ = s;
  }

  /// A stride between rows of `row` elements, given as 0 or in elements: at least a row, and a multiple of
  /// `multiple`.
  template <Text kArgument>
  void stride(std::int64_t given, std::int64_t row, std::int64_t multiple = 1) {
    const std::int64_t used = stride_or(given, row);
    require<kArgument, "must be at least a row">(used >= row, used, row);
    require<kArgument, "must be a multiple of a vector">(used % multiple == 0, used, multiple);
  }

  /// A pointer that must not be null, and lie at a multiple of `align` bytes.
  template <Text kArgument>
  void pointer(const void* p, std::size_t align) {
    require<kArgument, "must not be null">(p != nullptr);
    optional<kArgument>(p, align);
  }
  /// A pointer that may be null.
  template <Text kArgument>
  void optional(const void* p, std::size_t align) {
    const auto beyond = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p) % align);
    require<kArgument, "must be aligned">(beyond == 0, beyond, static_cast<std::int64_t>(align));
  }

 private:
  Status first_;
};

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
