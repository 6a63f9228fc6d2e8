// Recordings through the ops on the SIMT machine.
#pragma once

#include "reference/validate/validate.hpp"

namespace dsv4::reference::validation {

/// A Runner: `--backend simt`.
void run_on_simt(const Run& run);

}  // namespace dsv4::reference::validation
