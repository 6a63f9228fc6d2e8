// Every op of dsv4.h as data: what the tests of this folder go through.
#pragma once

#include <dsv4/dsv4.h>

#include "kernels/c_api/mirrors.hpp"
#include "kernels/c_api/op_list.hpp"

#include <cstddef>
#include <vector>

namespace dsv4::test {

struct COp {
  const char* name;
  std::size_t size;                                          // of its params struct
  int (*call)(const void* params);                           // on the default stream
  std::vector<std::size_t (*)(const void* params)> queries;  // of bytes
  const void* defaults;                                      // of the C++ struct, from the first field on
};

#define DSV4_QUERY(op, what) \
  [](const void* p) { return dsv4_##op##_##what(static_cast<const dsv4_##op##_params*>(p)); }
#define DSV4_NO_BYTES(op)
#define DSV4_WORKSPACE(op) DSV4_QUERY(op, workspace_bytes)
#define DSV4_WORKSPACE_AND_STATE(op) DSV4_QUERY(op, workspace_bytes), DSV4_QUERY(op, state_bytes)
#define DSV4_C_OP(op, Params, bytes)                                                            \
  {#op,                                                                                         \
   sizeof(dsv4_##op##_params),                                                                  \
   [](const void* p) { return dsv4_##op(static_cast<const dsv4_##op##_params*>(p), nullptr); }, \
   {bytes(op)},                                                                                 \
   &defaults_of<ops::Params>},

/// Static, so that the bytes between fields are zero.
template <class P>
inline constexpr P defaults_of = {};

inline const std::vector<COp>& c_ops() {
  static const std::vector<COp> ops = {DSV4_FOR_EACH_OP(DSV4_C_OP)};
  return ops;
}

}  // namespace dsv4::test
