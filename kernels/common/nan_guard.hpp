// How launchers take part in the NaN guard (ops/nan_guard.hpp): they are defined by DSV4_OP.
#pragma once

#include <dsv4/ops/common.hpp>

// DSV4_OP(name, NameParams) { body }: the definition of op `name`, whose body sees its parameters as `p` and
// the stream as `stream`.
#if !defined(DSV4_NAN_GUARD)
#define DSV4_OP(name, Params) Status name(const Params& p, Stream stream) noexcept
#else
#include "kernels/common/nan_guard_outputs.hpp"

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// Behind an op's launches: a look at each of its outputs.
template <class P>
Status guarded(const char* op, const P& p, Stream stream, const Status& launched) noexcept {
  NanGuardLook look(op, stream);
  if (launched.ok() && look.wanted()) look_at_outputs(look, p);
  return launched.ok() ? look.status() : launched;
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR

#define DSV4_OP(name, Params)                                                       \
  static Status name##_unguarded(const Params& p, Stream stream) noexcept;          \
  Status name(const Params& p, Stream stream) noexcept {                            \
    return ::dsv4::kernels::guarded(#name, p, stream, name##_unguarded(p, stream)); \
  }                                                                                 \
  static Status name##_unguarded(const Params& p, [[maybe_unused]] Stream stream) noexcept
#endif
