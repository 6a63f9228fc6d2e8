// What a thread must have waited for when it exits.
#include "simt/async.hpp"

namespace dsv4::simt {

void check_async_finished(Thread& t) { check_copies_finished(t); }

}  // namespace dsv4::simt
