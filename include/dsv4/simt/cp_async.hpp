// cp.async on the SIMT machine: what the host halves of arch/cp_async.cuh call.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstdint>

namespace dsv4::simt {

/// Issues the copy of source_bytes <= bytes from `global` to `shared`, zero-filled to `bytes`. By
/// Options::async it happens now or in the wait; until then the destination holds NaNs (Options::poison).
void cp_async(void* shared, const void* global, std::uint32_t bytes, std::uint32_t source_bytes, Loc loc);
void cp_async_commit();
/// Completes all but the `groups` newest committed groups.
void cp_async_wait(std::uint32_t groups);
void cp_async_wait_all();

}  // namespace dsv4::simt
