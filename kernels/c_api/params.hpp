// From a C params struct of whatever version to the C++ params of this library.
#pragma once

#include <dsv4/core/status.hpp>

#include "kernels/c_api/mirrors.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dsv4::kernels::c_api {

/// No struct will ever be larger: a greater struct_size is memory that nobody initialised.
inline constexpr std::size_t kMaxStructSize = 65536;

/// `p` as this library's params: what p's caller did not know has its default. kInvalidArgument,
/// kUnsupported.
template <class C>
Status read_params(const C* p, typename Mirror<C>::Cpp& out) noexcept {
  static_assert(kHead<C> == sizeof p->struct_size && offsetof(C, struct_size) == 0);
  constexpr std::size_t kLeast = 2 * kHead<C>;  // the first field of every params struct is a pointer
  DSV4_REQUIRE(p, invalid_argument("params must not be null"));
  const auto beyond = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p) % alignof(C));
  DSV4_REQUIRE(beyond == 0, invalid_argument("params must be aligned", beyond, alignof(C)));
  const std::size_t size = p->struct_size;
  DSV4_REQUIRE(size >= kLeast && size <= kMaxStructSize,
               invalid_argument("struct_size must be the struct's: call params_init first",
                                static_cast<std::int64_t>(size), static_cast<std::int64_t>(sizeof(C))));
  const auto* bytes = reinterpret_cast<const unsigned char*>(p);
  for (std::size_t i = sizeof(C); i < size; ++i)
    DSV4_REQUIRE(bytes[i] == 0,
                 unsupported("params have a field that this older library does not know",
                             static_cast<std::int64_t>(size), static_cast<std::int64_t>(sizeof(C))));
  out = typename Mirror<C>::Cpp{};
  std::memcpy(static_cast<void*>(&out), bytes + kHead<C>, std::min(size, sizeof(C)) - kHead<C>);
  return {};
}

/// Defaults into the first `size` bytes at `p`, which hold a C of whatever version.
template <class C>
void write_defaults(void* p, std::size_t size) noexcept {
  static constexpr typename Mirror<C>::Cpp kDefaults = {};
  auto* bytes = static_cast<unsigned char*>(p);
  std::memset(bytes, 0, size);
  std::memcpy(bytes, &size, sizeof size);
  std::memcpy(bytes + kHead<C>, static_cast<const void*>(&kDefaults), std::min(size, sizeof(C)) - kHead<C>);
}

}  // namespace dsv4::kernels::c_api
