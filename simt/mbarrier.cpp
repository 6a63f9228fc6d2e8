// mbarriers. Counts and phase are kept in the 8 shared bytes, so that overwriting them has its real effect.
#include <dsv4/simt/mbarrier.hpp>

#include "simt/machine.hpp"
#include "simt/mbarrier.hpp"

#include <cstdio>
#include <utility>

namespace dsv4::simt {
namespace {

// PTX leaves the object opaque; the ranges are those it promises.
struct Word {
  std::uint64_t pending : 20, expected : 20, tx : 22, phase : 1, valid : 1;
};
static_assert(sizeof(Word) == 8);
constexpr std::uint32_t kTxZero = 1u << 21;  // bias of Word::tx, which is signed
constexpr std::uint32_t kMaxCount = (1u << 20) - 1;

std::int64_t missing_bytes(const Word& w) { return static_cast<std::int64_t>(w.tx) - kTxZero; }
void set_missing_bytes(Word& w, std::int64_t bytes) {
  w.tx = static_cast<std::uint32_t>(bytes + kTxZero) & (2 * kTxZero - 1);
}

std::uint32_t address_of(const void* barrier, const char* name, Loc loc) {
  const std::uint32_t address = shared_address(barrier, name, loc);
  if (address % 8)
    fail("%s: mbarrier address 0x%x is not a multiple of 8 (%s:%u)", name, address, loc.file, loc.line);
  return address;
}

Word& word_at(Block& b, std::uint32_t address) {
  return *reinterpret_cast<Word*>(b.shared + (address - kSharedWindow));
}

struct Found {
  Word& word;
  Mbarrier& info;
};

Found find(Block& b, std::uint32_t address, const char* name, Loc loc) {
  const auto it = b.mbarriers.find(address);
  if (it == b.mbarriers.end()) [[unlikely]]
    fail("%s: no mbarrier was initialised at shared address 0x%x of block (%u,%u,%u) (%s:%u)", name, address,
         b.idx.x, b.idx.y, b.idx.z, loc.file, loc.line);
  Word& w = word_at(b, address);
  if (!w.valid || !w.expected) [[unlikely]]
    fail("%s: the mbarrier at shared address 0x%x has been overwritten (%s:%u)", name, address, loc.file,
         loc.line);
  return {w, it->second};
}

// The same for use by the calling thread, which must have synchronised with the initialisation.
Found find_for_use(Block& b, std::uint32_t address, const char* name, Loc loc) {
  const Found f = find(b, address, name, loc);
  if constexpr (race::kEnabled)
    if (!race::knows(*current, f.info.initialised))
      fail(
          "RACE: %s at %s:%u uses the mbarrier at shared address 0x%x with no barrier since its "
          "initialisation at %s:%u",
          name, loc.file, loc.line, address, f.info.initialised_at.file, f.info.initialised_at.line);
  return f;
}

// A phase completes when no arrival and no byte is missing.
void check_phase(Gang& gang, Found f) {
  Word& w = f.word;
  if (w.pending || missing_bytes(w)) return;
  w.phase ^= 1;
  w.pending = w.expected;
  progress(gang);
  if constexpr (race::kEnabled) {
    std::swap(f.info.completed, f.info.accumulating);
    f.info.accumulating.clear();
  }
  Thread* later = nullptr;
  for (Thread* t = std::exchange(f.info.waiters, nullptr); t;) {
    Thread* next = t->next_waiter;
    if (w.phase != t->wait_b) {
      if constexpr (race::kEnabled) race::acquire(*t, f.info.completed);
      make_ready(gang, *t);
    } else {
      t->next_waiter = std::exchange(later, t);
    }
    t = next;
  }
  f.info.waiters = later;
}

void expect(Found f, std::uint32_t address, std::uint32_t bytes, const char* name, Loc loc) {
  const std::int64_t tx = missing_bytes(f.word) + bytes;
  if (tx > kMaxCount)
    fail("%s: %lld bytes outstanding at the mbarrier at shared address 0x%x (at most %u) (%s:%u)", name,
         static_cast<long long>(tx), address, kMaxCount, loc.file, loc.line);
  set_missing_bytes(f.word, tx);
}

void arrive_at(Block& b, Found f, std::uint32_t address, std::uint32_t count, const char* name, Loc loc) {
  if (!count || count > f.word.pending)
    fail("%s: %u arrivals at the mbarrier at shared address 0x%x, of whose %u only %u are missing (%s:%u)",
         name, count, address, static_cast<unsigned>(f.word.expected), static_cast<unsigned>(f.word.pending),
         loc.file, loc.line);
  if constexpr (race::kEnabled) race::release(*current, f.info.accumulating);
  f.word.pending -= count;
  check_phase(*b.gang, f);
}

bool fails_spuriously(Gang& gang) {
  const double p = gang.options->spurious_try_wait;
  return p > 0 && static_cast<double>(gang.random() >> 11) * 0x1p-53 < p;
}

void check_parity(std::uint32_t parity, const char* name, Loc loc) {
  if (parity > 1) fail("%s: parity %u (0 or 1) (%s:%u)", name, parity, loc.file, loc.line);
}

}  // namespace

void mbarrier_init(void* barrier, std::uint32_t count, Loc loc) {
  constexpr const char* kName = "mbarrier.init";
  Thread& t = *current;
  Block& b = *t.block;
  const std::uint32_t address = address_of(barrier, kName, loc);
  if (count < 1 || count > kMaxCount)
    fail("%s: a count of %u (1 to %u) (%s:%u)", kName, count, kMaxCount, loc.file, loc.line);
  shared_pointer(b, address, sizeof(Word), kName, loc);
  const auto [it, is_new] = b.mbarriers.try_emplace(address);
  if (!is_new)
    fail("%s: shared address 0x%x holds an mbarrier already, initialised at %s:%u (%s:%u)", kName, address,
         it->second.initialised_at.file, it->second.initialised_at.line, loc.file, loc.line);
  word_at(b, address) = {count, count, kTxZero, 0, 1};
  it->second.initialised_by = &t;
  it->second.initialised_at = loc;
  if constexpr (race::kEnabled) it->second.initialised = race::now(t);
}

void mbarrier_invalidate(void* barrier, Loc loc) {
  constexpr const char* kName = "mbarrier.inval";
  Block& b = *current->block;
  const std::uint32_t address = address_of(barrier, kName, loc);
  const Found f = find_for_use(b, address, kName, loc);
  if (f.info.waiters || f.info.in_flight)
    fail("%s: the mbarrier at shared address 0x%x is still in use (%s:%u)", kName, address, loc.file,
         loc.line);
  f.word.valid = 0;
  b.mbarriers.erase(address);
}

void mbarrier_fence_init(Loc) {
  for (auto& [address, info] : current->block->mbarriers)
    if (info.initialised_by == current) info.fenced = true;
}

void mbarrier_arrive(void* barrier, std::uint32_t count, Loc loc) {
  constexpr const char* kName = "mbarrier.arrive";
  Block& b = *current->block;
  const std::uint32_t address = address_of(barrier, kName, loc);
  arrive_at(b, find_for_use(b, address, kName, loc), address, count, kName, loc);
}

void mbarrier_arrive_peer(void* barrier, std::uint32_t rank, std::uint32_t count, Loc loc) {
  constexpr const char* kName = "mbarrier.arrive.shared::cluster";
  const std::uint32_t address = address_of(barrier, kName, loc);
  Block& b = peer_block(rank, kName, loc);
  arrive_at(b, find_for_use(b, address, kName, loc), address, count, kName, loc);
}

void mbarrier_expect_tx(void* barrier, std::uint32_t bytes, Loc loc) {
  constexpr const char* kName = "mbarrier.expect_tx";
  const std::uint32_t address = address_of(barrier, kName, loc);
  expect(find_for_use(*current->block, address, kName, loc), address, bytes, kName, loc);
}

void mbarrier_arrive_expect_tx(void* barrier, std::uint32_t bytes, Loc loc) {
  constexpr const char* kName = "mbarrier.arrive.expect_tx";
  Block& b = *current->block;
  const std::uint32_t address = address_of(barrier, kName, loc);
  const Found f = find_for_use(b, address, kName, loc);
  expect(f, address, bytes, kName, loc);
  arrive_at(b, f, address, 1, kName, loc);
}

bool mbarrier_test_wait(const void* barrier, std::uint32_t parity, Loc loc) {
  constexpr const char* kName = "mbarrier.test_wait";
  Block& b = *current->block;
  const Found f = find_for_use(b, address_of(barrier, kName, loc), kName, loc);
  check_parity(parity, kName, loc);
  ++b.gang->counters.mbarrier_waits;
  if (f.word.phase == parity) {
    yield_poll(kName, loc);  // who tests, tests again: others must run
    return false;
  }
  if constexpr (race::kEnabled) race::acquire(*current, f.info.completed);
  return true;
}

bool mbarrier_try_wait(const void* barrier, std::uint32_t parity, Loc loc) {
  if (fails_spuriously(*current->block->gang)) {
    yield_poll("mbarrier.try_wait", loc);
    return false;
  }
  return mbarrier_test_wait(barrier, parity, loc);
}

void mbarrier_wait(const void* barrier, std::uint32_t parity, Loc loc) {
  constexpr const char* kName = "mbarrier.try_wait";
  Thread& t = *current;
  Block& b = *t.block;
  const std::uint32_t address = address_of(barrier, kName, loc);
  check_parity(parity, kName, loc);
  ++b.gang->counters.mbarrier_waits;
  while (fails_spuriously(*b.gang)) yield_poll(kName, loc);
  const Found f = find_for_use(b, address, kName, loc);
  if (f.word.phase != parity) {
    if constexpr (race::kEnabled) race::acquire(t, f.info.completed);
    return;
  }
  t.next_waiter = std::exchange(f.info.waiters, &t);
  t.state = State::kWaiting;
  wait_here(kName, loc, address, parity);
  // Whoever completed the phase woke this thread. Had another phase ended by now, a thread that looks at the
  // parity would wait for ever.
  if (word_at(b, address).phase == parity)
    fail(
        "MISSED PHASE: two phases of the mbarrier at shared address 0x%x completed while this thread waited "
        "for one (%s:%u): nothing keeps the next phase from ending before all have seen this one",
        address, loc.file, loc.line);
}

// ---- asynchronous copies ---------------------------------------------------------------------------------
void mbarrier_copy_issued(Block& b, std::uint32_t address, const char* name, Loc loc) {
  if (address % 8)
    fail("%s: mbarrier address 0x%x is not a multiple of 8 (%s:%u)", name, address, loc.file, loc.line);
  Mbarrier& info = find_for_use(b, address, name, loc).info;
  if (!info.fenced)
    fail(
        "%s: the mbarrier at shared address 0x%x was initialised at %s:%u without fence_mbarrier_init: the "
        "async proxy may not see it (%s:%u)",
        name, address, info.initialised_at.file, info.initialised_at.line, loc.file, loc.line);
  ++info.in_flight;
  info.copy_issued_at = loc;
}

void mbarrier_copy_completed(Block& b, std::uint32_t address, std::uint32_t bytes, const race::Clock& issued,
                             Loc loc) {
  constexpr const char* kName = "complete_tx";
  const Found f = find(b, address, kName, loc);
  --f.info.in_flight;
  const std::int64_t tx = missing_bytes(f.word) - bytes;
  if (tx < -std::int64_t{kMaxCount})
    fail("%s: %lld bytes more than were expected at the mbarrier at shared address 0x%x (%s:%u)", kName,
         static_cast<long long>(-tx), address, loc.file, loc.line);
  set_missing_bytes(f.word, tx);
  if constexpr (race::kEnabled) race::join(f.info.accumulating, issued);
  check_phase(*b.gang, f);
}

// ---- reports ---------------------------------------------------------------------------------------------
void check_mbarriers_finished(const Thread& t) {
  Block& b = *t.block;
  for (const auto& [address, info] : b.mbarriers) {
    if (info.in_flight)
      fail(
          "the block's last thread exited while %u asynchronous copies to the mbarrier at shared address "
          "0x%x, the last issued at %s:%u, had not been waited for",
          info.in_flight, address, info.copy_issued_at.file, info.copy_issued_at.line);
    const Word& w = word_at(b, address);
    if (const std::int64_t tx = missing_bytes(w); w.valid && tx)
      fail(
          "the block's last thread exited while the mbarrier at shared address 0x%x, initialised at %s:%u, "
          "had %lld bytes %s",
          address, info.initialised_at.file, info.initialised_at.line,
          static_cast<long long>(tx > 0 ? tx : -tx),
          tx > 0 ? "still to come" : "more than were expected (no expect_tx?)");
  }
}

std::string describe_mbarriers(const Block& b) {
  std::string out;
  for (const auto& [address, info] : b.mbarriers) {
    if (!info.waiters) continue;
    const Word& w = *reinterpret_cast<const Word*>(b.shared + (address - kSharedWindow));
    char text[200];
    std::snprintf(text, sizeof text,
                  "\n    block (%u,%u,%u) mbarrier 0x%x: phase %u, %u of %u arrivals and %lld bytes missing",
                  b.idx.x, b.idx.y, b.idx.z, address, static_cast<unsigned>(w.phase),
                  static_cast<unsigned>(w.pending), static_cast<unsigned>(w.expected),
                  static_cast<long long>(missing_bytes(w)));
    out += text;
  }
  return out;
}

}  // namespace dsv4::simt
