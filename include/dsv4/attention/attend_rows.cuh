// Rows on their way into the shared memory of a block of AttendTile: a group's addresses and scales, then its
// rows by cp.async, as much of the next group as fits beside the one that is being computed.
//
// Cta is an AttendBlock; all of its threads call, and List is AttendTile's.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/attention/attend_block.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// Addresses of the first group from g.number on that has rows, and copies of its scales; of groups without
/// rows nothing is loaded.
template <class Cta, class List, class Next>
DSV4_DEVICE void find_rows(const Cta& cta, AttendGroup& g, const List& list, int groups, const Next& next) {
  for (; g.number < groups; g.number = next(g.number)) {
    bool exists = false;
    if (cta.thread < kAttendGroup) {
      const int i = g.number * kAttendGroup + cta.thread;
      const AttendRow row = list.row(i);
      exists = row.data != nullptr;
      cta.addresses(g.buffer)[cta.thread] = row.data;
      if (list.packed(i)) {
        auto* scales = reinterpret_cast<arch::Vec<std::uint32_t, 2>*>(cta.scale_bytes(g.buffer)) + cta.thread;
        if (exists)
          arch::cp_async<8>(scales, row.scales);
        else
          *scales = {};
      }
    }
    const int rows = arch::sync_threads_count(exists);
    if (rows == 0) continue;
    g.steps = list.steps(g.number);
    return;
  }
}

/// Starts the copies of rows [first, last) of the group; rows that are none become zeros.
template <class Cta, class List>
DSV4_DEVICE void load_rows(const Cta& cta, const AttendGroup& g, const List& list, int first, int last) {
  const std::uint8_t* const* address = cta.addresses(g.buffer);
  const auto* nowhere = reinterpret_cast<const std::uint8_t*>(cta.q.q);  // aligned; not read
  for (int piece = cta.thread; piece < (last - first) * Cta::kUnits; piece += Cta::kThreads) {
    const int row = first + piece / Cta::kUnits, unit = piece % Cta::kUnits;
    if (!Cta::kPacked && unit >= Cta::kPackedUnits && list.packed(g.number * kAttendGroup + row)) continue;
    const std::uint8_t* from = address[row];
    const int place = Cta::kHalves > 1 ? row % Cta::kRows : g.ring_row(row, cta.ring);
    arch::cp_async<16>(cta.row_unit(place, unit), from ? from + unit * kUnitBytes : nowhere, from ? 16 : 0);
  }
}

/// As much of the next group as fits beside this one; the rest as far as L2.
template <class Cta, class List>
DSV4_DEVICE void prefetch_rows(const Cta& cta, const AttendGroup& g, const List& list) {
  const int rows = g.steps * kAttendStep, early = cta.ring - Cta::kRows < rows ? cta.ring - Cta::kRows : rows;
  load_rows(cta, g, list, 0, early);
  constexpr int kLine = 128, kLines = (Cta::kUnits * kUnitBytes + kLine - 1) / kLine;
  for (int i = cta.thread; i < (rows - early) * kLines; i += Cta::kThreads) {
    const std::uint8_t* row = cta.addresses(g.buffer)[early + i / kLines];
    const int offset = i % kLines * kLine;
    if (row && offset < (list.packed(g.number * kAttendGroup + early + i / kLines) ? Cta::kPackedUnits
                                                                                   : Cta::kUnits) *
                            kUnitBytes)
      arch::prefetch_l2(row + offset);
  }
}

/// Half a group (kHalves = 2), and waits for it.
template <class Cta, class List>
DSV4_DEVICE void load_half(const Cta& cta, const AttendGroup& g, const List& list, int half) {
  const int rows = g.steps * kAttendStep, last = (half + 1) * Cta::kRows;
  load_rows(cta, g, list, half * Cta::kRows, last < rows ? last : rows);
  arch::cp_async_wait_all();
  arch::sync_threads();
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
