#include "reference/op_backend/run.hpp"
#include "reference/op_backend/run_ops.hpp"

namespace dsv4::reference::validation {

void run_on_cuda(const Run& run) { run_ops(run); }

}  // namespace dsv4::reference::validation
