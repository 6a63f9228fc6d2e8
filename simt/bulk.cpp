// Copies by the bulk engine: at issue or, for those that an mbarrier counts, when nothing else can run; for
// those in groups, in the wait.
#include "simt/bulk.hpp"

#include "simt/machine.hpp"

#include <dsv4/core/types.hpp>
#include <dsv4/simt/memory.hpp>
#include <dsv4/simt/tma.hpp>

#include <atomic>
#include <cstring>
#include <utility>

namespace dsv4::simt {
namespace {

void check_bulk(std::uint32_t address, const void* other, std::uint32_t bytes, const char* name, Loc loc) {
  if ((address | reinterpret_cast<std::uintptr_t>(other) | bytes) & 15)
    fail("%s: %u bytes, shared address 0x%x, other address %p: not all multiples of 16 (%s:%u)", name, bytes,
         address, other, loc.file, loc.line);
}

}  // namespace

void check_copy_into_shared(Block& to, std::uint32_t address, std::uint32_t bytes, std::uint32_t barrier,
                            const char* name, Loc loc) {
  shared_pointer(to, address, bytes, name, loc);
  mbarrier_copy_issued(to, barrier, name, loc);
}

void copy_into_shared(Block& to, std::uint32_t address, std::uint32_t bytes, std::uint32_t barrier, Loc loc,
                      std::function<void()> copy) {
  Thread& t = *current;
  Gang& gang = *t.block->gang;
  std::byte* destination = to.shared + (address - kSharedWindow);
  race::Clock issued;
  if constexpr (race::kEnabled) {
    issued = race::snapshot(t);
    race::async_shared_access(t, issued, destination, bytes, true, loc);
  }
  if (execute_at_issue(gang)) {
    copy();
    copy = nullptr;
    return mbarrier_copy_completed(to, barrier, bytes, issued, loc);
  }
  if (gang.options->poison) std::memset(destination, 0xff, bytes);
  defer(gang, [&to, barrier, bytes, loc, copy = std::move(copy), issued = std::move(issued)] {
    copy();
    mbarrier_copy_completed(to, barrier, bytes, issued, loc);
  });
}

// ---- groups ----------------------------------------------------------------------------------------------
void store_from_shared(std::uint32_t source, std::uint32_t bytes, Loc loc,
                       std::function<void(const std::byte*)> write) {
  Thread& t = *current;
  const std::byte* from = t.block->shared + (source - kSharedWindow);
  if constexpr (race::kEnabled) race::async_shared_access(t, race::snapshot(t), from, bytes, false, loc);
  const bool now = execute_at_issue(*t.block->gang);
  if (now) write(from);
  BulkStoresInFlight& f = t.async.bulk;
  f.stores.push_back({f.commits, source, bytes, false, now, {}, std::move(write), loc});
}

void bulk_commit() { ++current->async.bulk.commits; }

void bulk_wait(std::uint32_t groups, bool read_only) {
  Thread& t = *current;
  BulkStoresInFlight& f = t.async.bulk;
  std::size_t end = 0;
  for (; end < f.stores.size() && f.stores[end].group + groups < f.commits; ++end) {
    auto& s = f.stores[end];
    const std::byte* from = t.block->shared + (s.source - kSharedWindow);
    if (!s.read) {
      // Whenever the source was read here, elsewhere it may be read as late as now.
      if constexpr (race::kEnabled)
        race::async_shared_access(t, race::snapshot(t), from, s.bytes, false, s.loc);
      s.read = true;
      if (read_only && !s.written) s.staged.assign(from, from + s.bytes);
    }
    if (!read_only && !s.written) {
      s.write(s.staged.empty() ? from : s.staged.data());
      s.written = true;
    }
  }
  if (!read_only) f.stores.erase(f.stores.begin(), f.stores.begin() + static_cast<std::ptrdiff_t>(end));
}

void check_stores_finished(Thread& t) {
  for (auto& s : t.async.bulk.stores) {
    if (!s.read)
      fail(
          "bulk store: this thread exited without waiting until the store issued at %s:%u had read shared "
          "memory",
          s.loc.file, s.loc.line);
    if (!s.written)
      defer(*t.block->gang,
            [staged = std::move(s.staged), write = std::move(s.write)] { write(staged.data()); });
  }
}

// ---- linear copies ---------------------------------------------------------------------------------------
void bulk_load(void* shared, const void* global, std::uint32_t bytes, void* barrier, Loc loc) {
  constexpr const char* kName = "cp.async.bulk (global to shared)";
  Thread& t = *current;
  Block& b = *t.block;
  const std::uint32_t address = shared_address(shared, kName, loc);
  check_bulk(address, global, bytes, kName, loc);
  ++b.gang->counters.tma;
  note_global(global, bytes, false, kName, loc);
  if constexpr (race::kEnabled) race::async_global_access(t, race::snapshot(t), global, bytes, false, loc);
  const std::uint32_t at = shared_address(barrier, kName, loc);
  check_copy_into_shared(b, address, bytes, at, kName, loc);
  copy_into_shared(b, address, bytes, at, loc, [=] { std::memcpy(shared, global, bytes); });
}

void bulk_copy_to_peer(void* shared, std::uint32_t rank, const void* source, std::uint32_t bytes,
                       void* barrier, Loc loc) {
  constexpr const char* kName = "cp.async.bulk (shared to peer)";
  Thread& t = *current;
  const std::uint32_t to = shared_address(shared, kName, loc), from = shared_address(source, kName, loc);
  check_bulk(to | from, nullptr, bytes, kName, loc);
  const std::byte* bytes_from = shared_pointer(*t.block, from, bytes, kName, loc);
  Block& peer = peer_block(rank, kName, loc);
  std::byte* bytes_to = shared_pointer(peer, to, bytes, kName, loc);
  ++t.block->gang->counters.tma;
  if constexpr (race::kEnabled)
    race::async_shared_access(t, race::snapshot(t), bytes_from, bytes, false, loc);
  const std::uint32_t at = shared_address(barrier, kName, loc);
  check_copy_into_shared(peer, to, bytes, at, kName, loc);
  copy_into_shared(peer, to, bytes, at, loc, [=] { std::memmove(bytes_to, bytes_from, bytes); });
}

void bulk_store(void* global, const void* shared, std::uint32_t bytes, Element element, Loc loc) {
  const char* name = element == Element::kOther ? "cp.async.bulk (shared to global)" : "cp.reduce.async.bulk";
  Thread& t = *current;
  const std::uint32_t address = shared_address(shared, name, loc);
  check_bulk(address, global, bytes, name, loc);
  ++t.block->gang->counters.tma;
  auto* to = static_cast<std::byte*>(global);
  report_store(t, to, bytes, element, name, loc);
  shared_pointer(*t.block, address, bytes, name, loc);
  store_from_shared(address, bytes, loc, [=](const std::byte* from) {
    if (element == Element::kOther)
      std::memcpy(to, from, bytes);
    else
      add_to_global(to, from, bytes, element);
  });
}

// ---- reductions ------------------------------------------------------------------------------------------
namespace {

// Blocks of other gangs may add at the same time, on other OS threads.
template <class Word, class Add>
void add_words(std::byte* to, const std::byte* from, std::uint32_t bytes, Add add) {
  for (std::uint32_t i = 0; i < bytes; i += sizeof(Word)) {
    Word term;
    std::memcpy(&term, from + i, sizeof term);
    std::atomic_ref<Word> sum(*reinterpret_cast<Word*>(to + i));
    Word seen = sum.load(std::memory_order_relaxed);
    while (!sum.compare_exchange_weak(seen, add(seen, term), std::memory_order_relaxed)) {
    }
  }
}

}  // namespace

void add_to_global(std::byte* to, const std::byte* from, std::uint32_t bytes, Element element) {
  switch (element) {
    case Element::kF32:
      return add_words<std::uint32_t>(to, from, bytes, [](std::uint32_t a, std::uint32_t b) {
        return bits_as<std::uint32_t>(bits_as<float>(a) + bits_as<float>(b));
      });
    case Element::kBf16:
      return add_words<std::uint16_t>(to, from, bytes, [](std::uint16_t a, std::uint16_t b) {
        return from_float<bf16>(to_float(bf16{a}) + to_float(bf16{b})).bits;
      });
    case Element::kU32:
      return add_words<std::uint32_t>(to, from, bytes,
                                      [](std::uint32_t a, std::uint32_t b) { return a + b; });
    case Element::kOther:
      break;
  }
}

void report_store(Thread& t, const std::byte* to, std::uint32_t bytes, Element element, const char* name,
                  Loc loc) {
  note_global(to, bytes, true, name, loc);
  if constexpr (race::kEnabled) {
    if (element == Element::kOther)
      race::async_global_access(t, race::snapshot(t), to, bytes, true, loc);
    else
      race::atomic_access(t, to, bytes,
                          {.reads = true, .writes = true, .acquires = false, .releases = false, .wide = true},
                          loc);
  }
}

}  // namespace dsv4::simt
