// What a C function returns and leaves behind: a code, and this thread's last message.
#pragma once

#include <dsv4/core/status.hpp>

namespace dsv4::kernels::c_api {

/// The code of `s`. A failure's message, which begins with `op`, becomes dsv4_last_error().
int code_of(const char* op, const Status& s) noexcept;

/// The text behind dsv4_last_error().
const char* last_error() noexcept;

}  // namespace dsv4::kernels::c_api
