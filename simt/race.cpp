// Vector clocks of the threads of a gang, and what their accesses, atomics and fences do to them.
#include "simt/race.hpp"

#if defined(DSV4_SIMT_RACE)

#include "simt/banks.hpp"
#include "simt/machine.hpp"
#include "simt/shadow.hpp"
#include "simt/watch.hpp"

#include <algorithm>
#include <cstdio>
#include <unordered_map>

namespace dsv4::simt::race {

thread_local constinit int Quiet::depth = 0;

namespace {

struct ThreadState {
  Clock clock;
  Clock fenced;   // what it knew at its last fence: released by relaxed stores and atomics
  Clock pending;  // what relaxed loads and atomics saw released: acquired by the next fence
  bool fence_was_wide = false;
  std::uint32_t proxy_fence = 0;  // its count at its last proxy fence
  Clock proxied;                  // what it knew then

  void reset() {
    clock.clear();
    fenced.clear();
    pending.clear();
    proxied.clear();
    proxy_fence = 0;
  }
};

// Order that goes through one address. Narrow scopes order the threads of a gang alone.
struct SyncVariable {
  std::uint32_t stamp = 0;
  Clock wide, narrow;
  std::uint32_t narrow_gang = 0;
};

// A race build runs one worker, and one launch runs at a time.
struct State {
  Gang* gang = nullptr;
  std::vector<ThreadState> threads;  // of the gang; warps are padded to 32
  std::uint32_t padded = 0;          // threads of a block, padded
  std::uint32_t first_block = 0;
  std::uint32_t stamp = 0, launch_stamp = 0, gang_stamp = 0;
  std::unordered_map<std::uintptr_t, SyncVariable> variables;
};
State& state() {
  static State s;
  return s;
}

// In the launch. (A block's rank is that in its cluster, of which a gang may have several.)
std::uint32_t number(const Block& b) {
  const Index3& grid = b.gang->launch->shape.grid;
  return b.idx.x + grid.x * (b.idx.y + grid.y * b.idx.z);
}

ThreadState& of(const Thread& t) {
  State& s = state();
  return s.threads[(number(*t.block) - s.first_block) * s.padded + t.linear];
}

// ---- clocks ----------------------------------------------------------------------------------------------
void maximum(Counts& into, const Counts& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

using CountsPtr = std::shared_ptr<const Counts>;
CountsPtr maximum(const CountsPtr& a, const CountsPtr& b) {
  if (a == b || *a == *b) return a;
  Counts both = *a;
  maximum(both, *b);
  if (both == *b) return b;
  if (both == *a) return a;
  return std::make_shared<const Counts>(std::move(both));
}

void join_others(Clock& into, const std::shared_ptr<const Clock::Others>& from) {
  if (!from || from == into.others) return;
  Clock::Others merged;
  static const Clock::Others none;
  const Clock::Others& mine = into.others ? *into.others : none;
  bool same_as_mine = true, same_as_from = true;
  auto a = mine.begin();
  auto b = from->begin();
  while (a != mine.end() || b != from->end()) {
    if (b == from->end() || (a != mine.end() && a->first < b->first)) {
      merged.push_back(*a++);
      same_as_from = false;
    } else if (b->first == into.block) {
      maximum(into.own, *b++->second);
      same_as_from = false;
    } else if (a == mine.end() || b->first < a->first) {
      merged.push_back(*b++);
      same_as_mine = false;
    } else {
      merged.emplace_back(a->first, maximum(a->second, b->second));
      same_as_mine = same_as_mine && merged.back().second == a->second;
      same_as_from = same_as_from && merged.back().second == b->second;
      ++a, ++b;
    }
  }
  // Threads that know the same share it, and find that out by comparing pointers.
  if (same_as_from)
    into.others = from;
  else if (!same_as_mine)
    into.others = std::make_shared<const Clock::Others>(std::move(merged));
}

void tick(const Thread& t) { ++of(t).clock.own[t.linear]; }

// ---- reports ---------------------------------------------------------------------------------------------
const char* words(Kind kind) {
  switch (kind) {
    case Kind::kRead:
      return "read";
    case Kind::kWrite:
      return "write";
    case Kind::kAtomicRead:
      return "atomic read";
    case Kind::kAtomicWrite:
      return "atomic write";
  }
  return "";
}

Index3 unlinear(std::uint32_t i, const Index3& extent) {
  return {i % extent.x, i / extent.x % extent.y, i / extent.x / extent.y};
}

class Report final : public Reporter {
 public:
  Report(const Toucher& a, const Thread& t, const Block* shared) : a_(a), t_(t), shared_(shared) {}

  bool proxied(const Record& r, std::uint32_t thread) const override {
    const State& s = state();
    const std::uint32_t rank = r.block - s.first_block;
    if (rank < s.gang->blocks.size() &&
        s.threads[std::size_t{rank} * s.padded + thread].proxy_fence >= r.count)
      return true;
    return known(of(t_).proxied, r.block, thread) >= r.count;
  }

  [[noreturn]] void report(Fault fault, const Record& earlier, std::uint32_t thread,
                           const std::byte* p) const override {
    char where[128], other[96], here[384], there[384];
    if (shared_)
      std::snprintf(where, sizeof where, "shared memory of block (%u,%u,%u), offset %td%s", shared_->idx.x,
                    shared_->idx.y, shared_->idx.z, p - shared_->shared,
                    static_cast<std::size_t>(p - shared_->shared) < shared_->dynamic_bytes
                        ? ""
                        : " (a static variable)");
    else
      std::snprintf(where, sizeof where, "global memory at %p%s", static_cast<const void*>(p),
                    watched_name(p).text);
    const LaunchShape& shape = state().gang->launch->shape;
    const Index3 b = unlinear(earlier.block, shape.grid), i = unlinear(thread, shape.block);
    std::snprintf(other, sizeof other, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, i.x, i.y, i.z);
    describe_site(a_.site, here, sizeof here);
    describe_site(earlier.site, there, sizeof there);
    switch (fault) {
      case Fault::kUnordered:
        fail("RACE: %s after %s, and nothing orders them: %s\n  %s at %s\n  %s by %s at %s", words(a_.kind),
             words(earlier.kind), where, words(a_.kind), here, words(earlier.kind), other, there);
      case Fault::kProxy:
        fail(
            "MISSING FENCE: the async proxy's %s of what a thread wrote, without fence.proxy.async: %s\n"
            "  %s at %s\n  %s by %s at %s",
            words(a_.kind), where, words(a_.kind), here, words(earlier.kind), other, there);
      case Fault::kReadOnly:
        fail(
            "RACE: a read-only load (ld.global.nc) of memory that this launch wrote: %s\n"
            "  read at %s\n  %s by %s at %s",
            where, here, words(earlier.kind), other, there);
    }
    __builtin_unreachable();
  }

 private:
  const Toucher& a_;
  const Thread& t_;
  const Block* shared_;
};

// The resident block whose shared memory holds p.
const Block* owner(const Block& own, const void* p) {
  const auto holds = [p](const Block& b) {
    return static_cast<std::size_t>(static_cast<const std::byte*>(p) - b.shared) < b.shared_bytes;
  };
  if (holds(own)) return &own;
  for (const Block* b : own.gang->blocks)
    if (holds(*b)) return b;
  return nullptr;
}

void check(Thread& t, const Clock& clock, const void* p, std::size_t bytes, Kind kind, bool async,
           bool read_only, Site site) {
  const Block* shared = owner(*t.block, p);
  const Toucher a{&clock, number(*t.block), t.linear, clock.own[t.linear], site, kind, async, read_only};
  touch(a, p, bytes, shared ? state().gang_stamp : state().launch_stamp, Report(a, t, shared));
}

Kind kind_of(bool write) { return write ? Kind::kWrite : Kind::kRead; }

}  // namespace

// ---- launches --------------------------------------------------------------------------------------------
void begin_launch() {
  Quiet::depth = 0;  // a launch that failed left it where it was
  State& s = state();
  s.launch_stamp = ++s.stamp;
  s.variables.clear();
  trim_shadow();
}

void begin_gang(Gang& gang) {
  Quiet::depth = 0;
  State& s = state();
  s.gang = &gang;
  s.gang_stamp = ++s.stamp;
  const Block& first = *gang.blocks[0];
  s.padded = (first.thread_count + kWarp - 1) / kWarp * kWarp;
  s.first_block = number(first);
  s.threads.resize(gang.blocks.size() * s.padded);
  for (const Block* b : gang.blocks)
    for (const Thread& t : b->threads) {
      ThreadState& x = of(t);
      x.reset();
      x.clock.block = number(*b);
      x.clock.own.assign(s.padded, 0);
      x.clock.own[t.linear] = 1;
    }
  banks::begin_gang(gang);
}

void end_gang(Gang& gang) { banks::end_gang(gang); }

// ---- order -----------------------------------------------------------------------------------------------
void join(Clock& into, const Clock& from) {
  if (from.block == Clock::kNobody) return;
  const Quiet quiet;
  if (into.block == Clock::kNobody) {
    into = from;
    return;
  }
  if (into.block == from.block) {
    maximum(into.own, from.own);
  } else {
    auto own = std::make_shared<Clock::Others>();
    own->emplace_back(from.block, std::make_shared<const Counts>(from.own));
    join_others(into, std::move(own));
  }
  join_others(into, from.others);
}

void release(Thread& t, Clock& into) {
  join(into, of(t).clock);
  tick(t);
}

void acquire(Thread& t, const Clock& from) { join(of(t).clock, from); }

void warp_sync(Thread* const* lanes, std::uint32_t mask) {
  const Quiet quiet;
  Clock all;
  for (std::uint32_t m = mask; m; m &= m - 1) {
    release(*lanes[__builtin_ctz(m)], all);
    converged(*lanes[__builtin_ctz(m)]);
  }
  for (std::uint32_t m = mask; m; m &= m - 1) acquire(*lanes[__builtin_ctz(m)], all);
}

void converged(Thread& t) { banks::converged(t); }

Clock snapshot(Thread& t) {
  const Quiet quiet;
  Clock c = of(t).clock;
  tick(t);
  return c;
}

void proxy_fence(Thread& t) {
  const Quiet quiet;
  ThreadState& x = of(t);
  x.proxied = x.clock;
  x.proxy_fence = x.clock.own[t.linear];
  tick(t);
}

void fence(Thread& t, bool wide) {
  const Quiet quiet;
  ThreadState& x = of(t);
  join(x.clock, x.pending);
  x.pending.clear();
  x.fenced = x.clock;
  x.fence_was_wide = wide;
  tick(t);
}

Moment now(const Thread& t) { return {number(*t.block), t.linear, of(t).clock.own[t.linear]}; }

bool knows(const Thread& t, const Moment& m) {
  return (m.block == number(*t.block) && m.thread == t.linear) ||
         known(of(t).clock, m.block, m.thread) >= m.count;
}

// ---- accesses --------------------------------------------------------------------------------------------
void shared_access(Thread& t, const void* p, std::size_t bytes, bool write, Loc loc) {
  const Quiet quiet;
  check(t, of(t).clock, p, bytes, kind_of(write), false, false, site_of(loc));
}

void global_access(Thread& t, const void* p, std::size_t bytes, bool write, Loc loc) {
  shared_access(t, p, bytes, write, loc);
}

void plain_access(Thread& t, const void* p, std::size_t bytes, bool write, const void* pc) {
  const Quiet quiet;
  const Site site = site_of(pc);
  if (owner(*t.block, p))
    banks::note(t, p, bytes, site);
  else
    count_access(p, bytes, write);
  check(t, of(t).clock, p, bytes, kind_of(write), false, false, site);
}

void async_shared_access(Thread& t, const Clock& issued, const void* p, std::size_t bytes, bool write,
                         Loc loc) {
  const Quiet quiet;
  check(t, issued, p, bytes, kind_of(write), true, false, site_of(loc));
}

void async_global_access(Thread& t, const Clock& issued, const void* p, std::size_t bytes, bool write,
                         Loc loc) {
  async_shared_access(t, issued, p, bytes, write, loc);
}

void read_only_access(Thread& t, const void* p, std::size_t bytes, Loc loc) {
  const Quiet quiet;
  check(t, of(t).clock, p, bytes, Kind::kRead, false, true, site_of(loc));
}

void atomic_access(Thread& t, const void* p, std::size_t bytes, AtomicAccess kind, Loc loc) {
  const Quiet quiet;
  ThreadState& x = of(t);
  check(t, x.clock, p, bytes, kind.writes ? Kind::kAtomicWrite : Kind::kAtomicRead, false, false,
        site_of(loc));
  State& s = state();
  SyncVariable& v = s.variables[reinterpret_cast<std::uintptr_t>(p)];
  const std::uint32_t stamp = owner(*t.block, p) ? s.gang_stamp : s.launch_stamp;
  if (v.stamp != stamp || (kind.writes && !kind.reads)) {  // a store ends what an earlier release began
    v.wide.clear();
    v.narrow.clear();
    v.stamp = stamp;
  }
  if (kind.reads) {
    Clock& learns = kind.acquires ? x.clock : x.pending;
    if (v.narrow_gang == s.gang_stamp) join(learns, v.narrow);
    if (kind.wide) {
      join(learns, v.wide);
    } else {
      // A narrow scope leaves out other gangs.
      Clock near = v.wide;
      if (near.others) {
        auto others = std::make_shared<Clock::Others>(*near.others);
        std::erase_if(*others, [&s](const auto& entry) {
          return entry.first - s.first_block >= s.gang->blocks.size();
        });
        near.others = std::move(others);
      }
      if (near.block - s.first_block < s.gang->blocks.size()) join(learns, near);
    }
  }
  if (kind.writes) {
    const bool wide = kind.wide && (kind.releases || x.fence_was_wide);
    Clock& into = wide ? v.wide : v.narrow;
    if (!wide && v.narrow_gang != s.gang_stamp) {
      v.narrow.clear();
      v.narrow_gang = s.gang_stamp;
    }
    join(into, kind.releases ? x.clock : x.fenced);
    if (kind.releases) tick(t);
  }
}

}  // namespace dsv4::simt::race

#endif
