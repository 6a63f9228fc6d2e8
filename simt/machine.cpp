// The scheduler, the rendezvous of warps and blocks, and shared memory.
#include "simt/machine.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#if defined(DSV4_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace dsv4::simt {

thread_local constinit Thread* current = nullptr;

// ---- errors ----------------------------------------------------------------------------------------------
std::string describe(const Thread& t) {
  char text[160];
  std::snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u) [warp %u lane %u]", t.block->idx.x,
                t.block->idx.y, t.block->idx.z, t.idx.x, t.idx.y, t.idx.z, t.warp_id, t.lane);
  return text;
}

namespace {

std::string describe(const Block& b) {
  char text[64];
  std::snprintf(text, sizeof text, "block (%u,%u,%u)", b.idx.x, b.idx.y, b.idx.z);
  return text;
}

// "0-31,64": the threads of `list`, which is ascending.
std::string ranges(const std::vector<std::uint32_t>& list) {
  std::string out;
  for (std::size_t i = 0; i < list.size();) {
    std::size_t j = i;
    while (j + 1 < list.size() && list[j + 1] == list[j] + 1) ++j;
    out += (i ? "," : "") + std::to_string(list[i]) + (j > i ? "-" + std::to_string(list[j]) : "");
    i = j + 1;
  }
  return out;
}

[[noreturn]] void abandon(Gang& gang, std::string error) {
  gang.failed = true;
  gang.error = std::string("kernel ") + gang.launch->name + ": " + error;
  std::string().swap(error);  // nothing on this stack is ever destroyed
  switch_context(current->context, gang.main, true);
  std::abort();
}

}  // namespace

std::string describe_waits(const Gang& gang) {
  std::map<std::string, std::vector<std::uint32_t>> threads_by_wait;
  for (const Block* b : gang.blocks)
    for (const Thread& t : b->threads) {
      std::string key = describe(*b) + ": ";
      if (t.state == State::kDone) {
        key += "exited";
      } else {
        char words[96];
        std::snprintf(words, sizeof words, " (0x%llx, %llu) at ", static_cast<unsigned long long>(t.wait_a),
                      static_cast<unsigned long long>(t.wait_b));
        key += t.wait_name;
        if (t.wait_a || t.wait_b)
          key += words;
        else
          key += " at ";
        key += std::string(t.wait_loc.file) + ":" + std::to_string(t.wait_loc.line);
      }
      threads_by_wait[key].push_back(t.linear);
    }
  std::string out;
  for (const auto& [wait, threads] : threads_by_wait) out += "\n    " + wait + ": threads " + ranges(threads);
  for (const Block* b : gang.blocks)
    for (std::uint32_t i = 0; i < kBarriers; ++i)
      if (const Barrier& bar = b->barriers[i]; bar.arrived)
        out += "\n    " + describe(*b) + " barrier " + std::to_string(i) + ": " +
               std::to_string(bar.arrived) + " of " + std::to_string(bar.expected) + " arrived";
  for (const Block* b : gang.blocks) out += describe_mbarriers(*b);
  return out;
}

void fail(const char* format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::string error(text);
  error += "\n  at " + describe(*current);
  abandon(*current->block->gang, std::move(error));
}

// ---- scheduling ------------------------------------------------------------------------------------------
namespace {

void run_deferred(Gang& gang, std::size_t i) {
  auto work = std::move(gang.deferred[i]);
  gang.deferred.erase(gang.deferred.begin() + static_cast<std::ptrdiff_t>(i));
  work();
}

std::atomic<int> polling_gangs{0};

// `gang` only polls. Is a gang of another OS thread still at work, whose writes it may wait for? Not if all
// are found polling time and again.
bool others_may_help(Gang& gang) {
  using namespace std::chrono_literals;
  if (busy_workers == 1) return std::exchange(gang.had_company, false);  // one look at what they left
  gang.had_company = true;
  ++polling_gangs;
  std::this_thread::sleep_for(50us);
  gang.all_polled = polling_gangs == busy_workers ? gang.all_polled + 1 : 0;
  --polling_gangs;
  return gang.all_polled < 100;
}

}  // namespace

std::atomic<int> busy_workers{0};

void detail::run_until_ready(Gang& gang) {
  while (gang.head == gang.tail) {
    if (gang.deferred.empty()) abandon(gang, "DEADLOCK: no thread can run" + describe_waits(gang));
    run_deferred(gang, gang.options->async == Async::kRandom ? gang.random() % gang.deferred.size() : 0);
  }
}

void leave() {
  Thread& me = *current;
  detail::switch_to(me, detail::pop_ready(*me.block->gang), true);
  std::abort();
}

void yield_poll(const char* name, Loc loc) {
  Thread& me = *current;
  Gang& gang = *me.block->gang;
  if (++gang.polls > 64 + 1024 * gang.alive) {
    if (gang.deferred.empty()) {
      if (!others_may_help(gang)) {
        me.state = State::kWaiting;
        me.wait_name = name;
        me.wait_loc = loc;
        me.wait_a = me.wait_b = 0;
        abandon(gang, "LIVELOCK: every thread that can run only polls" + describe_waits(gang));
      }
      gang.polls -= std::min(gang.polls, 16 * gang.alive);
    } else {
      run_deferred(gang, 0);
      progress(gang);
    }
  }
  // Polling threads go to the far end of the ring under every schedule, or lifo would run them alone for
  // ever.
  me.state = State::kReady;
  if (gang.options->schedule == Schedule::kLifo)
    gang.ring[--gang.head & (gang.ring.size() - 1)] = &me;
  else
    make_ready(gang, me);
  wait_here(name, loc);
}

bool execute_at_issue(Gang& gang) {
  const Async async = gang.options->async;
  return async == Async::kEager || (async == Async::kRandom && (gang.random() & 1));
}

void defer(Gang& gang, std::function<void()> work) { gang.deferred.push_back(std::move(work)); }

// ---- warps -----------------------------------------------------------------------------------------------
void detail::bad_mask(std::uint32_t mask, const char* name, Loc loc) {
  if (!((mask >> current->lane) & 1))
    fail("%s: mask 0x%08x does not name the calling lane (%s:%u)", name, mask, loc.file, loc.line);
  fail(
      "WARP DIVERGENCE: %s: mask 0x%08x names lanes that do not exist or have exited (there are 0x%08x) "
      "(%s:%u)",
      name, mask, current->warp->alive, loc.file, loc.line);
}

void detail::divergence(const Rendezvous& there, const char* name, Loc loc) {
  fail("WARP DIVERGENCE: lanes 0x%08x are at %s (%s:%u), this lane is at %s (%s:%u)", there.arrived,
       there.name, there.loc.file, there.loc.line, name, loc.file, loc.line);
}

// ---- barriers --------------------------------------------------------------------------------------------
[[gnu::always_inline]] static inline int arrive_inline(Barrier& barrier, Gang& gang, std::uint32_t expected,
                                                       bool wait, BarrierReduce reduce, bool value,
                                                       const char* name, std::uint32_t id, Loc loc) {
  Thread& me = *current;
  if (!barrier.arrived) {
    barrier.expected = expected;
    barrier.reduce = reduce;
    barrier.loc = loc;
    barrier.accumulated = reduce == BarrierReduce::kAnd ? 1 : 0;
  } else if (barrier.expected != expected || barrier.reduce != reduce) [[unlikely]] {
    fail("BARRIER MISMATCH: %s: barrier %u was entered for %u threads at %s:%u, and for %u at %s:%u", name,
         id, barrier.expected, barrier.loc.file, barrier.loc.line, expected, loc.file, loc.line);
  }
  switch (reduce) {
    case BarrierReduce::kNone:
      break;
    case BarrierReduce::kOr:
      barrier.accumulated |= value ? 1 : 0;
      break;
    case BarrierReduce::kAnd:
      barrier.accumulated &= value ? 1 : 0;
      break;
    case BarrierReduce::kCount:
      barrier.accumulated += value ? 1 : 0;
      break;
  }
  if constexpr (race::kEnabled) {
    race::release(me, barrier.clock);
    race::converged(me);
  }
  if (++barrier.arrived == expected) {
    ++gang.counters.barriers;
    if constexpr (race::kEnabled)
      if (wait) race::acquire(me, barrier.clock);
    const int result = barrier.result = barrier.accumulated;
    barrier.arrived = 0;
    progress(gang);
    for (Thread* t = std::exchange(barrier.waiters, nullptr); t;) {
      Thread* next = t->next_waiter;
      if constexpr (race::kEnabled) race::acquire(*t, barrier.clock);
      make_ready(gang, *t);
      t = next;
    }
    barrier.tail = nullptr;
    if constexpr (race::kEnabled) barrier.clock.clear();
    return result;
  }
  if (!wait) return 0;
  me.next_waiter = nullptr;
  if (barrier.tail)
    *barrier.tail = &me;
  else
    barrier.waiters = &me;
  barrier.tail = &me.next_waiter;
  me.state = State::kWaiting;
  wait_here(name, loc, id, expected);
  return barrier.result;
}

int arrive(Barrier& barrier, Gang& gang, std::uint32_t expected, bool wait, BarrierReduce reduce, bool value,
           const char* name, std::uint32_t id, Loc loc) {
  return arrive_inline(barrier, gang, expected, wait, reduce, value, name, id, loc);
}

namespace {
[[noreturn, gnu::noinline]] void missing_threads(const Block& b, const char* name, Loc loc) {
  fail("BARRIER DIVERGENCE: %s at %s:%u while %u threads of the block have already exited", name, loc.file,
       loc.line, b.thread_count - b.alive);
}
}  // namespace

void sync_block(Loc loc) {
  Block& b = *current->block;
  if (b.alive != b.thread_count) [[unlikely]]
    missing_threads(b, "__syncthreads", loc);
  Barrier& bar = b.barriers[0];
  bar.whole_block = true;
  arrive_inline(bar, *b.gang, b.thread_count, true, BarrierReduce::kNone, false, "__syncthreads", 0, loc);
}

int barrier(std::uint32_t id, std::uint32_t threads, bool wait, BarrierReduce reduce, bool value,
            const char* name, Loc loc) {
  Block& b = *current->block;
  if (id >= kBarriers) fail("%s: barrier %u (a block has 0 to 15) (%s:%u)", name, id, loc.file, loc.line);
  const bool whole_block = threads == 0;
  if (whole_block) {
    threads = b.thread_count;
    if (b.alive != b.thread_count) missing_threads(b, name, loc);
  } else if (threads % kWarp != 0 || threads > b.thread_count) {
    fail("%s: %u threads; a barrier counts whole warps of the block's %u threads (%s:%u)", name, threads,
         b.thread_count, loc.file, loc.line);
  }
  Barrier& bar = b.barriers[id];
  bar.whole_block = whole_block;
  return arrive_inline(bar, *b.gang, threads, wait, reduce, value, name, id, loc);
}

// ---- shared memory ---------------------------------------------------------------------------------------
void* dynamic_shared() { return current->block->shared; }

void* static_shared(const void* key, std::size_t bytes, std::size_t align) {
  Block& b = *current->block;
  for (const auto& [known, p] : b.statics)
    if (known == key) return p;
  const std::size_t begin = (b.static_top + align - 1) / align * align;
  if (begin + bytes + kRedZone > b.shared_bytes)
    fail("static shared variables need more than %zu bytes", kStaticShared);
  // In all blocks of the gang at once: a peer in the cluster may write it before the block itself asks.
  for (Block* each : b.gang->blocks) {
    std::byte* p = each->shared + begin;
#if defined(DSV4_SIMT_ASAN)
    __asan_unpoison_memory_region(p, bytes);
#endif
    if (b.gang->options->poison) std::memset(p, 0xff, bytes);
    each->static_top = begin + bytes + kRedZone;
    each->statics.emplace_back(key, p);
  }
  return b.shared + begin;
}

std::uint32_t shared_address(const void* p, const char* name, Loc loc) {
  const Block& b = *current->block;
  const auto offset = static_cast<const std::byte*>(p) - b.shared;
  if (offset < 0 || static_cast<std::size_t>(offset) >= b.shared_bytes) [[unlikely]]
    fail("%s: %p is not in this block's shared memory (%s:%u)", name, p, loc.file, loc.line);
  return static_cast<std::uint32_t>(offset) + kSharedWindow;
}

std::byte* shared_pointer(Block& b, std::uint32_t address, std::size_t bytes, const char* name, Loc loc) {
  const std::size_t offset = std::size_t{address} - kSharedWindow;
  const std::size_t statics = b.shared_bytes - kStaticShared;
  const bool inside = address >= kSharedWindow && (offset + bytes <= b.dynamic_bytes ||
                                                   (offset >= statics && offset + bytes <= b.static_top));
  if (!inside) [[unlikely]]
    fail("%s: shared memory out of bounds: %zu bytes at offset %lld, the block has %zu dynamic bytes (%s:%u)",
         name, bytes, static_cast<long long>(address) - kSharedWindow, b.dynamic_bytes, loc.file, loc.line);
  return b.shared + offset;
}

// ---- identity --------------------------------------------------------------------------------------------
bool in_kernel() { return current != nullptr; }
Index3 thread_idx() { return current->idx; }
Index3 block_idx() { return current->block->idx; }
Index3 block_dim() { return current->block->gang->launch->shape.block; }
Index3 grid_dim() { return current->block->gang->launch->shape.grid; }
int lane_id() { return static_cast<int>(current->lane); }

void trap(const char* message, Loc loc) { fail("%s (%s:%u)", message, loc.file, loc.line); }

}  // namespace dsv4::simt
