// Asynchronous copies by the bulk engine: those to shared memory complete at an mbarrier, those of one
// thread to global memory in groups that it waits for.
#pragma once

#include "simt/race.hpp"

#include <dsv4/simt/loc.hpp>
#include <dsv4/simt/tma.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace dsv4::simt {

struct Thread;
struct Block;

struct BulkStoresInFlight {
  struct Store {
    std::uint32_t group;   // number of commits before it
    std::uint32_t source;  // shared address
    std::uint32_t bytes;
    bool read, written;                           // so far
    std::vector<std::byte> staged;                // the source once read, until written
    std::function<void(const std::byte*)> write;  // given the source's bytes
    Loc loc;
  };
  std::vector<Store> stores;  // in order of issue, until written and waited for
  std::uint32_t commits = 0;

  void reset() {
    stores.clear();
    commits = 0;
  }
};

/// Checks the destination and the mbarrier of a copy that is about to be issued. Errors come before anything
/// is allocated, because the stack of a thread that fails is abandoned.
void check_copy_into_shared(Block& to, std::uint32_t address, std::uint32_t bytes, std::uint32_t barrier,
                            const char* name, Loc loc);
/// Then: executes `copy`, now or later, and completes its bytes at the mbarrier. What is in flight is
/// poisoned.
void copy_into_shared(Block& to, std::uint32_t address, std::uint32_t bytes, std::uint32_t barrier, Loc loc,
                      std::function<void()> copy);
/// Adds a store of the calling thread's current group; the source has been checked (shared_pointer).
void store_from_shared(std::uint32_t source, std::uint32_t bytes, Loc loc,
                       std::function<void(const std::byte*)> write);
/// Adds elements to global memory, each atomically.
void add_to_global(std::byte* to, const std::byte* from, std::uint32_t bytes, Element element);
/// Checks, counts and orders a store or a reduction that `t` is issuing.
void report_store(Thread& t, const std::byte* to, std::uint32_t bytes, Element element, const char* name,
                  Loc loc);

/// An error if `t` has a store that may still read shared memory. The rest happens when the launch ends.
void check_stores_finished(Thread& t);

}  // namespace dsv4::simt
