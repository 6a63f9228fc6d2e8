// Asynchronous operations of one thread: cp.async, bulk copies, wgmma.
#pragma once

#include "simt/bulk.hpp"
#include "simt/cluster.hpp"
#include "simt/cp_async.hpp"
#include "simt/mbarrier.hpp"
#include "simt/wgmma.hpp"

namespace dsv4::simt {

struct Thread;

struct AsyncState {
  CopiesInFlight cp_async;
  BulkStoresInFlight bulk;
  ClusterArrival cluster;
  WgmmasInFlight wgmma;

  void reset() {
    cp_async.reset();
    bulk.reset();
    cluster.reset();
    wgmma.reset();
  }
};

/// Called as a thread exits: everything it issued must have been waited for.
void check_async_finished(Thread& t);

}  // namespace dsv4::simt
