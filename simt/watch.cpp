#include "simt/watch.hpp"

#include <dsv4/simt/watch.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <vector>

namespace dsv4::simt {

struct Watch::Range {
  const std::byte* begin;
  std::size_t bytes;
  std::atomic<std::uint64_t> read{0}, written{0};
  std::vector<std::atomic<std::uint32_t>> reads, writes;  // of each byte, or empty

  Range(const void* p, std::size_t n, bool each_byte)
      : begin(static_cast<const std::byte*>(p)),
        bytes(n),
        reads(each_byte ? n : 0),
        writes(each_byte ? n : 0) {}

  void count(const std::byte* p, std::size_t n, bool write) {
    const std::byte* first = std::max(p, begin);
    const std::byte* last = std::min(p + n, begin + bytes);
    if (first >= last) return;
    (write ? written : read).fetch_add(static_cast<std::uint64_t>(last - first), std::memory_order_relaxed);
    auto& each = write ? writes : reads;
    if (each.empty()) return;
    for (; first < last; ++first)
      each[static_cast<std::size_t>(first - begin)].fetch_add(1, std::memory_order_relaxed);
  }
};

std::atomic<bool> anybody_watches{false};

namespace {
// Changed between launches only, so launches read it without the lock.
struct Registry {
  std::mutex mutex;
  std::vector<Watch::Range*> ranges;
};
Registry& registry() {
  static Registry r;
  return r;
}

std::uint32_t extreme(const std::vector<std::atomic<std::uint32_t>>& counts, bool largest) {
  if (counts.empty()) return 0;
  std::uint32_t found = counts[0];
  for (const auto& c : counts) found = largest ? std::max(found, c.load()) : std::min(found, c.load());
  return found;
}
}  // namespace

void count_watched(const void* p, std::size_t bytes, bool write) {
  for (Watch::Range* r : registry().ranges) r->count(static_cast<const std::byte*>(p), bytes, write);
}

WatchedName watched_name(const void* p) {
  WatchedName name;
  for (const Watch::Range* r : registry().ranges) {
    const auto offset = static_cast<const std::byte*>(p) - r->begin;
    if (offset >= 0 && static_cast<std::size_t>(offset) < r->bytes)
      std::snprintf(name.text, sizeof name.text, ", byte %td of a watched range of %zu bytes", offset,
                    r->bytes);
  }
  return name;
}

Watch::Watch(const void* p, std::size_t bytes, bool each_byte)
    : range_(std::make_unique<Range>(p, bytes, each_byte)) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  r.ranges.push_back(range_.get());
  anybody_watches = true;
}

Watch::~Watch() {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  std::erase(r.ranges, range_.get());
  anybody_watches = !r.ranges.empty();
}

std::uint64_t Watch::read_bytes() const { return range_->read; }
std::uint64_t Watch::written_bytes() const { return range_->written; }
std::uint32_t Watch::max_reads_of_a_byte() const { return extreme(range_->reads, true); }
std::uint32_t Watch::max_writes_of_a_byte() const { return extreme(range_->writes, true); }
std::uint32_t Watch::min_writes_of_a_byte() const { return extreme(range_->writes, false); }

}  // namespace dsv4::simt
