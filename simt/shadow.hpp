// What the race detector remembers of every byte: who touched it last, and when.
#pragma once

#include "simt/race.hpp"

#include <cstddef>
#include <cstdint>

namespace dsv4::simt::race {

/// A place in the source: code of the program (its offset in the executable), or a Loc.
using Site = std::uint32_t;
Site site_of(const void* pc);
Site site_of(Loc loc);
/// "function (file:line)".
void describe_site(Site site, char* text, std::size_t bytes);

enum class Kind : std::uint8_t { kRead, kWrite, kAtomicRead, kAtomicWrite };

/// Accesses of some lanes of one warp, all at the same count of their clocks, to the same bytes of a granule.
struct Record {
  std::uint32_t block;   // number in the launch
  std::uint32_t thread;  // lane 0 of the warp
  std::uint32_t lanes;
  std::uint32_t count;
  Site site;
  std::uint8_t bytes;  // of the 8: bit i = byte i
  Kind kind;
  bool async;
};

/// An access to be checked against the records.
struct Toucher {
  const Clock* clock;  // what its thread knew
  std::uint32_t block, thread, count;
  Site site;
  Kind kind;
  bool async, read_only;
};

/// Called with an earlier access that the new one must not follow; does not return.
enum class Fault { kUnordered, kProxy, kReadOnly };
struct Reporter {
  /// Has the async proxy been shown the write `r` of thread `thread`?
  virtual bool proxied(const Record& r, std::uint32_t thread) const = 0;
  [[noreturn]] virtual void report(Fault fault, const Record& earlier, std::uint32_t thread,
                                   const std::byte* p) const = 0;

 protected:
  ~Reporter() = default;
};

/// Records of another stamp than `stamp` are of memory's former life (a launch, a gang's shared memory).
void touch(const Toucher& a, const void* p, std::size_t bytes, std::uint32_t stamp, const Reporter& reporter);
/// The count of `thread` of `block` that `clock` knows.
std::uint32_t known(const Clock& clock, std::uint32_t block, std::uint32_t thread);
/// Frees the shadow if it has become large. Between launches.
void trim_shadow();

}  // namespace dsv4::simt::race
