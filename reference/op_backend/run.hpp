// Recordings through the ops: on the SIMT machine, and on a GPU.
#pragma once

#include "reference/validate/validate.hpp"

namespace dsv4::reference::validation {

/// A Runner: `--backend simt`.
void run_on_simt(const Run& run);

/// A Runner: `--backend cuda`. Throws InputError where no GPU is at hand. In builds with CUDA.
void run_on_cuda(const Run& run);

}  // namespace dsv4::reference::validation
