// The cp.async copies of one thread that it has not waited for.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dsv4::simt {

struct Thread;

struct CopiesInFlight {
  struct Copy {
    std::byte* to;
    const void* from;
    std::uint32_t bytes, source_bytes;
    std::uint32_t group;  // number of commits before it
    bool done;            // executed at issue
    Loc loc;
  };
  std::vector<Copy> copies;   // in order of issue
  std::size_t first = 0;      // those before it have been waited for
  std::uint32_t commits = 0;  // groups closed so far

  void reset() {
    copies.clear();
    first = 0;
    commits = 0;
  }
};

/// An error if `t` has a copy that it never waited for.
void check_copies_finished(Thread& t);

}  // namespace dsv4::simt
