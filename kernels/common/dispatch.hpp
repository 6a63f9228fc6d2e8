// From a run-time element type to a compile-time one, and checks that launchers share.
#pragma once

#include <dsv4/core/types.hpp>
#include <dsv4/ops/common.hpp>

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

// fp32 instances serve the exact mode of the tests.
#if defined(DSV4_SIMT_EMULATION) || defined(DSV4_KERNELS_F32)
inline constexpr bool kHasF32 = true;
#else
inline constexpr bool kHasF32 = false;
#endif

template <class T>
struct Type {
  using type = T;
};

/// f(Type<T>{}) for the T that `dtype` names; kUnsupported with `what` where no such instance is compiled.
template <class F>
Status with_type(ops::DType dtype, const char* what, F&& f) noexcept {
  if (dtype == ops::DType::kBf16) return f(Type<bf16>{});
  if constexpr (kHasF32) {
    if (dtype == ops::DType::kF32) return f(Type<float>{});
  }
  return unsupported(what, static_cast<std::int64_t>(dtype));
}

inline bool is_aligned(const void* p, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}

/// The stride an op uses: `given`, or contiguous rows where that is 0.
constexpr std::int64_t stride_or(std::int64_t given, std::int64_t contiguous) {
  return given != 0 ? given : contiguous;
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
