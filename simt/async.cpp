// What a thread must have waited for when it exits.
#include "simt/async.hpp"

#include "simt/machine.hpp"

namespace dsv4::simt {

void check_async_finished(Thread& t) {
  check_copies_finished(t);
  check_stores_finished(t);
  check_wgmmas_finished(t);
  check_register_changes(t);
  if (t.block->alive == 1) check_mbarriers_finished(t);
  leave_cluster_barrier(t);
}

}  // namespace dsv4::simt
