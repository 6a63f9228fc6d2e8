// cp.async: executed at issue or, the latest legal moment, in the wait.
#include <dsv4/simt/cp_async.hpp>
#include <dsv4/simt/memory.hpp>

#include "simt/machine.hpp"

#include <cstring>

namespace dsv4::simt {
namespace {

void execute(const CopiesInFlight::Copy& c) {
  std::memcpy(c.to, c.from, c.source_bytes);
  std::memset(c.to + c.source_bytes, 0, c.bytes - c.source_bytes);
}

[[maybe_unused]] void report_accesses(Thread& t, const CopiesInFlight::Copy& c) {
  if (c.source_bytes) race::global_access(t, c.from, c.source_bytes, false, c.loc);
  race::shared_access(t, c.to, c.bytes, true, c.loc);
}

// Completes the copies of all groups before `group`.
void complete(Thread& t, std::uint32_t group) {
  CopiesInFlight& f = t.async.cp_async;
  const std::size_t end = f.copies.size();
  for (; f.first < end && f.copies[f.first].group < group; ++f.first) {
    const CopiesInFlight::Copy& c = f.copies[f.first];
    // Whenever it happened here, elsewhere it may happen as late as now.
    if constexpr (race::kEnabled) report_accesses(t, c);
    if (!c.done) execute(c);
  }
  if (f.first == end) {
    f.copies.clear();
    f.first = 0;
  }
}

}  // namespace

void cp_async(void* shared, const void* global, std::uint32_t bytes, std::uint32_t source_bytes, Loc loc) {
  Thread& t = *current;
  Gang& gang = *t.block->gang;
  const std::uint32_t address = shared_address(shared, "cp.async", loc);
  if ((address | reinterpret_cast<std::uintptr_t>(global)) & (bytes - 1)) [[unlikely]]
    fail("cp.async: a %u-byte copy from %p to shared address 0x%x: not aligned to its size (%s:%u)", bytes,
         global, address, loc.file, loc.line);
  if (source_bytes > bytes) [[unlikely]]
    fail("cp.async: %u source bytes for a copy of %u (%s:%u)", source_bytes, bytes, loc.file, loc.line);
  std::byte* to = shared_pointer(*t.block, address, bytes, "cp.async", loc);
  if (source_bytes) note_global(global, source_bytes, false, "cp.async", loc);
  ++gang.counters.cp_async;
  CopiesInFlight& f = t.async.cp_async;
  const bool now = execute_at_issue(gang);
  const auto& c =
      f.copies.emplace_back(CopiesInFlight::Copy{to, global, bytes, source_bytes, f.commits, now, loc});
  // It may happen any time from now on.
  if constexpr (race::kEnabled) report_accesses(t, c);
  if (now)
    execute(c);
  else if (gang.options->poison)
    std::memset(to, 0xff, bytes);
}

void cp_async_commit() { ++current->async.cp_async.commits; }

void cp_async_wait(std::uint32_t groups) {
  Thread& t = *current;
  const std::uint32_t commits = t.async.cp_async.commits;
  if (commits > groups) complete(t, commits - groups);
}

void cp_async_wait_all() {
  Thread& t = *current;
  complete(t, t.async.cp_async.commits + 1);
}

void check_copies_finished(Thread& t) {
  const CopiesInFlight& f = t.async.cp_async;
  if (f.first == f.copies.size()) return;
  const Loc loc = f.copies[f.first].loc;
  fail("cp.async: this thread exited without waiting for %zu of its copies, the first issued at %s:%u",
       f.copies.size() - f.first, loc.file, loc.line);
}

}  // namespace dsv4::simt
