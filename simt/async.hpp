// Asynchronous operations in flight: of one thread (cp.async, bulk copies, wgmma), and of one mbarrier.
#pragma once

#include "simt/cp_async.hpp"
#include "simt/race.hpp"

#include <cstdint>

namespace dsv4::simt {

struct Thread;

struct AsyncState {
  CopiesInFlight cp_async;

  void reset() { cp_async.reset(); }
};

/// An initialised mbarrier; its counts live in its 8 shared bytes.
struct Mbarrier {
  Thread* waiters = nullptr;
  race::Clock accumulating, completed;
};

/// Called as a thread exits: everything it issued must have been waited for.
void check_async_finished(Thread& t);

}  // namespace dsv4::simt
