// Shadow memory, exact to the byte: neighbouring bytes may belong to different threads. A granule of 8 bytes
// keeps the accesses that a later one may still race with: those which no later access stands for.
#include "simt/shadow.hpp"

#if defined(DSV4_SIMT_RACE)

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace dsv4::simt::race {
namespace {

constexpr std::size_t kGranule = 8;
constexpr std::size_t kPageGranules = 512;
constexpr std::size_t kPageBytes = kGranule * kPageGranules;
constexpr std::size_t kTrimPages = 16384;  // 512 MiB of shadow
constexpr std::uint32_t kWarpLanes = 32;
// Of a word that every block reads, or counts up, so many warps of other blocks are remembered; a write that
// races with all of them races with these.
constexpr std::uint32_t kOtherBlocks = 8;

struct Granule {
  std::uint32_t stamp = 0;
  std::uint32_t count = 0;
  Record first[2];                            // most granules have a writer or a warp of readers
  std::unique_ptr<std::vector<Record>> more;  // records 2, 3, ...

  Record& at(std::uint32_t i) { return i < 2 ? first[i] : (*more)[i - 2]; }
  void push(const Record& r) {
    if (count < 2) {
      first[count] = r;
    } else {
      if (!more) more = std::make_unique<std::vector<Record>>();
      if (more->size() < count - 1) more->resize(count - 1);
      (*more)[count - 2] = r;
    }
    ++count;
  }
  void remove(std::uint32_t i) { at(i) = at(--count); }
};

using Page = std::array<Granule, kPageGranules>;

struct Shadow {
  std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages;
  struct Cached {
    std::uintptr_t number = 0;
    Page* page = nullptr;
  };
  std::array<Cached, 1024> cache;

  Granule& granule(std::uintptr_t address) {
    const std::uintptr_t number = address / kPageBytes;
    Cached& c = cache[number % cache.size()];
    if (c.number != number || !c.page) {
      auto& page = pages[number];
      if (!page) page = std::make_unique<Page>();
      c = {number, page.get()};
    }
    return (*c.page)[address % kPageBytes / kGranule];
  }
};
Shadow& shadow() {
  static Shadow s;
  return s;
}

constexpr bool writes(Kind k) { return k == Kind::kWrite || k == Kind::kAtomicWrite; }
constexpr bool atomic(Kind k) { return k == Kind::kAtomicRead || k == Kind::kAtomicWrite; }
constexpr bool conflict(Kind a, Kind b) { return (writes(a) || writes(b)) && !(atomic(a) && atomic(b)); }
// Whatever races with an access of kind `old` also races with a later one of kind `k`.
constexpr bool stands_for(Kind k, Kind old) {
  switch (k) {
    case Kind::kWrite:
      return true;
    case Kind::kRead:
      return old == Kind::kRead || old == Kind::kAtomicRead;
    case Kind::kAtomicWrite:
      return atomic(old);
    case Kind::kAtomicRead:
      return old == Kind::kAtomicRead;
  }
  return false;
}

// Lanes of `r` that `a` is not ordered after.
std::uint32_t unordered(const Record& r, const Toucher& a) {
  std::uint32_t open = 0;
  for (std::uint32_t m = r.lanes; m; m &= m - 1) {
    const std::uint32_t thread = r.thread + static_cast<std::uint32_t>(__builtin_ctz(m));
    const bool own = r.block == a.block && thread == a.thread;
    if (!own && known(*a.clock, r.block, thread) < r.count) open |= m & -m;
  }
  return open;
}

void touch_granule(const Toucher& a, std::uintptr_t address, std::uint8_t bytes, std::uint32_t stamp,
                   const Reporter& reporter) {
  Granule& g = shadow().granule(address);
  if (g.stamp != stamp) {
    g.stamp = stamp;
    g.count = 0;
  }
  const std::uint32_t lane = 1u << a.thread % kWarpLanes, warp = a.thread / kWarpLanes * kWarpLanes;
  const auto mine = [&](const Record& r) {
    return r.block == a.block && r.thread == warp && r.count == a.count && r.kind == a.kind &&
           r.async == a.async;
  };
  // The thread has done the same since it last gave or took order: whatever came between is ordered with it.
  for (std::uint32_t i = 0; i < g.count; ++i)
    if (const Record& r = g.at(i); mine(r) && (r.lanes & lane) && (bytes & ~r.bytes) == 0 && !a.async) return;

  std::uint32_t others = 0;
  for (std::uint32_t i = 0; i < g.count;) {
    Record& r = g.at(i);
    if (!(r.bytes & bytes)) {
      ++i;
      continue;
    }
    if (!conflict(a.kind, r.kind)) {
      // Reads beside reads, by far the most frequent case, and atomics beside atomics: the thread's own
      // earlier ones are superseded.
      const bool superseded = r.block == a.block && r.thread == warp && (r.lanes & lane) &&
                              stands_for(a.kind, r.kind) && !(r.bytes & ~bytes) && r.async == a.async;
      if (superseded) r.lanes &= ~lane;
      const bool elsewhere = r.block != a.block;
      if (!r.lanes || (elsewhere && ++others > kOtherBlocks))
        g.remove(i);
      else
        ++i;
      continue;
    }
    const std::uint32_t open = unordered(r, a);
    const auto thread_of = [&r](std::uint32_t lanes) {
      return r.thread + static_cast<std::uint32_t>(__builtin_ctz(lanes));
    };
    const auto* at = reinterpret_cast<const std::byte*>(
        address + static_cast<std::uintptr_t>(__builtin_ctz(unsigned{r.bytes} & bytes)));
    if (open) reporter.report(Fault::kUnordered, r, thread_of(open), at);
    if (a.async && writes(r.kind) && !r.async && !reporter.proxied(r, thread_of(r.lanes)))
      reporter.report(Fault::kProxy, r, thread_of(r.lanes), at);
    if (a.read_only) reporter.report(Fault::kReadOnly, r, thread_of(r.lanes), at);
    // All of r's lanes are ordered before the new access.
    if (stands_for(a.kind, r.kind)) r.bytes = static_cast<std::uint8_t>(r.bytes & ~bytes);
    if (!r.bytes)
      g.remove(i);
    else
      ++i;
  }
  for (std::uint32_t i = 0; i < g.count; ++i)
    if (Record& r = g.at(i); mine(r) && r.bytes == bytes && !writes(a.kind)) {
      r.lanes |= lane;
      r.site = a.site;
      return;
    }
  g.push({a.block, warp, lane, a.count, a.site, bytes, a.kind, a.async});
}

}  // namespace

std::uint32_t known(const Clock& clock, std::uint32_t block, std::uint32_t thread) {
  const auto in = [thread](const Counts& c) { return thread < c.size() ? c[thread] : 0; };
  if (clock.block == block) return in(clock.own);
  if (!clock.others) return 0;
  const auto at = std::lower_bound(clock.others->begin(), clock.others->end(), block,
                                   [](const auto& entry, std::uint32_t b) { return entry.first < b; });
  return at != clock.others->end() && at->first == block ? in(*at->second) : 0;
}

void touch(const Toucher& a, const void* p, std::size_t bytes, std::uint32_t stamp,
           const Reporter& reporter) {
  for (auto at = reinterpret_cast<std::uintptr_t>(p), end = at + bytes; at < end;) {
    const std::uintptr_t granule = at / kGranule * kGranule;
    const std::uintptr_t upto = std::min(end, granule + kGranule);
    const unsigned mask = ((1u << (upto - granule)) - 1) & ~((1u << (at - granule)) - 1);
    touch_granule(a, granule, static_cast<std::uint8_t>(mask), stamp, reporter);
    at = upto;
  }
}

void trim_shadow() {
  Shadow& s = shadow();
  if (s.pages.size() < kTrimPages) return;
  s.pages.clear();
  s.cache = {};
}

// ---- places in the source --------------------------------------------------------------------------------
extern "C" char __executable_start;  // the linker's

namespace {
constexpr Site kLoc = 0x80000000u;
struct Locs {
  std::vector<Loc> list;
  std::unordered_map<std::uint64_t, Site> number;
};
Locs& locs() {
  static Locs l;
  return l;
}
}  // namespace

Site site_of(const void* pc) {
  // As addr2line wants it: relative to the start only where the program was loaded at a place of the system's
  // choice.
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(&__executable_start);
  const char* base = header->e_type == ET_EXEC ? nullptr : &__executable_start;
  const auto offset = static_cast<const char*>(pc) - base;
  return offset > 0 && offset < kLoc ? static_cast<Site>(offset) : 0;
}

Site site_of(Loc loc) {
  Locs& l = locs();
  const std::uint64_t key = reinterpret_cast<std::uintptr_t>(loc.file) * 0x9e3779b97f4a7c15u + loc.line;
  const auto [at, fresh] = l.number.try_emplace(key, kLoc | static_cast<Site>(l.list.size()));
  if (fresh) l.list.push_back(loc);
  return at->second;
}

void describe_site(Site site, char* text, std::size_t bytes) {
  if (site & kLoc) {
    const Loc& loc = locs().list[site & ~kLoc];
    std::snprintf(text, bytes, "%s:%u", loc.file, loc.line);
    return;
  }
  std::snprintf(text, bytes, "an unknown place");
  char command[96];
  // The shell's own parent is this process; `site` is a return address, one byte before it is the call.
  std::snprintf(command, sizeof command, "addr2line -C -f -e /proc/$PPID/exe 0x%x 2>/dev/null", site - 1);
  if (std::FILE* f = ::popen(command, "r")) {
    char function[512] = "", line[512] = "";
    if (std::fgets(function, sizeof function, f) && std::fgets(line, sizeof line, f)) {
      function[std::strcspn(function, "\n")] = '\0';
      line[std::strcspn(line, "\n")] = '\0';
      // The name alone: no namespaces, templates or argument lists.
      std::string name = function;
      for (const std::string nameless = "(anonymous namespace)::"; name.find(nameless) != name.npos;)
        name.erase(name.find(nameless), nameless.size());
      name.resize(std::min(name.find_first_of("(<"), name.size()));
      if (const auto colon = name.rfind(':'); colon != name.npos) name.erase(0, colon + 1);
      std::snprintf(text, bytes, "%s in %s", line, name.c_str());
    }
    ::pclose(f);
  }
}

}  // namespace dsv4::simt::race

#endif
