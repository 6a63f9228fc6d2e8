// Where in a kernel's source a machine operation was called.
#pragma once

#include <cstdint>
#include <version>
#if defined(__cpp_lib_source_location)
#include <source_location>
#endif

namespace dsv4::simt {

/// A source position. Every wrapper of arch/ passes its caller's, so that reports name the kernel's line.
struct Loc {
  const char* file = "";
  std::uint32_t line = 0;

  static constexpr Loc current(
#if defined(__cpp_lib_source_location)
      const std::source_location& s = std::source_location::current()) {
    return {s.file_name(), s.line()};
  }
#else  // clang 14 with libstdc++ 12
      const char* file = __builtin_FILE(), std::uint32_t line = __builtin_LINE()) {
    return {file, line};
  }
#endif
};

}  // namespace dsv4::simt
