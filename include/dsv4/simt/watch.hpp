// How many bytes of a range of global memory kernels move.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dsv4::simt {

/// Counts the accesses of launches to [p, p + bytes) while it lives: those through arch/ (loads, stores,
/// atomics, cp.async, TMA) in every build, and all plain ones as well in instrumented builds (kSeesPlain).
/// An atomic counts as a read and a write. Create and destroy it between launches.
class Watch {
 public:
#if defined(DSV4_SIMT_RACE)
  static constexpr bool kSeesPlain = true;
#else
  static constexpr bool kSeesPlain = false;
#endif

  /// each_byte: also counts each byte's reads and writes, at 8 bytes of host memory for each.
  Watch(const void* p, std::size_t bytes, bool each_byte = false);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  std::uint64_t read_bytes() const;
  std::uint64_t written_bytes() const;
  /// With each_byte: of the byte that was read, or written, most often.
  std::uint32_t max_reads_of_a_byte() const;
  std::uint32_t max_writes_of_a_byte() const;
  std::uint32_t min_writes_of_a_byte() const;

  struct Range;

 private:
  std::unique_ptr<Range> range_;
};

}  // namespace dsv4::simt
