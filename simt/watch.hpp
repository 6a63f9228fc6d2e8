// The ranges that live Watches count.
#pragma once

#include <atomic>
#include <cstddef>

namespace dsv4::simt {

extern std::atomic<bool> anybody_watches;
void count_watched(const void* p, std::size_t bytes, bool write);

/// A kernel moves [p, p + bytes) of global memory.
inline void count_access(const void* p, std::size_t bytes, bool write) {
  if (anybody_watches.load(std::memory_order_relaxed)) [[unlikely]]
    count_watched(p, bytes, write);
}

/// "byte 16 of a watched range of 128 bytes" for an address within one, else "".
struct WatchedName {
  char text[80] = "";
};
WatchedName watched_name(const void* p);

}  // namespace dsv4::simt
