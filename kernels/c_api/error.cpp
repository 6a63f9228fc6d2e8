#include "kernels/c_api/error.hpp"

#if !defined(DSV4_SIMT_EMULATION)
#include <cuda_runtime_api.h>
#endif

#include <cstddef>
#include <cstdio>
#include <cstring>

namespace dsv4::kernels::c_api {
namespace {

// Of a fixed size: an error must not allocate. A report of the SIMT machine takes a few hundred bytes.
thread_local char text[2048] = "";

const char* cuda_name([[maybe_unused]] std::int32_t error) {
#if defined(DSV4_SIMT_EMULATION)
  return "";
#else
  return cudaGetErrorName(static_cast<cudaError_t>(error));
#endif
}

}  // namespace

int code_of(const char* op, const Status& s) noexcept {
  if (s.ok()) return 0;
  // Kernels' launches are named after their parts, and rules shared by ops after none.
  const std::size_t length = std::strlen(op);
  const bool named = std::strncmp(s.what, op, length) == 0 && s.what[length] == ':';
  int used = std::snprintf(text, sizeof text, "%s%s%s", named ? "" : op, named ? "" : ": ", s.what);
  const auto rest = [&] {
    return static_cast<std::size_t>(used) < sizeof text ? sizeof text - static_cast<std::size_t>(used) : 0;
  };
  if (s.cuda != 0 && rest() > 0)
    used += std::snprintf(text + used, rest(), ": CUDA error %d %s", s.cuda, cuda_name(s.cuda));
  if ((s.value != 0 || s.limit != 0) && rest() > 0)
    std::snprintf(text + used, rest(), " (value %lld, limit %lld)", static_cast<long long>(s.value),
                  static_cast<long long>(s.limit));
  return static_cast<int>(s.code);
}

const char* last_error() noexcept { return text; }

}  // namespace dsv4::kernels::c_api
