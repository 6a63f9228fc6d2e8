// The C functions of the ops.
#include "kernels/c_api/error.hpp"
#include "kernels/c_api/op_list.hpp"
#include "kernels/c_api/params.hpp"

namespace dsv4::kernels::c_api {
namespace {

template <class C, class Cpp>
int call(const char* name, Status (*op)(const Cpp&, Stream) noexcept, const C* p,
         dsv4_stream stream) noexcept {
  Cpp params;
  Status s = read_params(p, params);
  if (s.ok()) s = op(params, stream);
  return code_of(name, s);
}

/// 0 for params that cannot be read: the op refuses them with the same message.
template <class C, class Cpp>
std::size_t bytes(const char* name, std::size_t (*query)(const Cpp&) noexcept, const C* p) noexcept {
  Cpp params;
  const Status s = read_params(p, params);
  return code_of(name, s) == DSV4_OK ? query(params) : 0;
}

}  // namespace
}  // namespace dsv4::kernels::c_api

#define DSV4_NO_BYTES(op)
#define DSV4_WORKSPACE(op)                                                       \
  size_t dsv4_##op##_workspace_bytes(const dsv4_##op##_params* p) {              \
    return dsv4::kernels::c_api::bytes(#op, dsv4::ops::op##_workspace_bytes, p); \
  }
#define DSV4_WORKSPACE_AND_STATE(op)                                         \
  DSV4_WORKSPACE(op)                                                         \
  size_t dsv4_##op##_state_bytes(const dsv4_##op##_params* p) {              \
    return dsv4::kernels::c_api::bytes(#op, dsv4::ops::op##_state_bytes, p); \
  }
#define DSV4_C_FUNCTIONS(op, Params, bytes)                           \
  int dsv4_##op(const dsv4_##op##_params* p, dsv4_stream stream) {    \
    return dsv4::kernels::c_api::call(#op, dsv4::ops::op, p, stream); \
  }                                                                   \
  bytes(op)

extern "C" {
DSV4_FOR_EACH_OP(DSV4_C_FUNCTIONS)

int dsv4_params_init(const char* op, void* params, size_t struct_size) {
  using namespace dsv4;
  using namespace dsv4::kernels::c_api;
  const auto refused = [op](const Status& s) { return code_of(op ? op : "params_init", s); };
  if (!op || !params) return refused(invalid_argument("op and params must not be null"));
  if (struct_size < 2 * sizeof(std::size_t) || struct_size > kMaxStructSize)
    return refused(
        invalid_argument("struct_size must be the struct's", static_cast<std::int64_t>(struct_size)));
#define DSV4_DEFAULTS(name, Params, bytes)                     \
  if (std::strcmp(op, #name) == 0) {                           \
    write_defaults<dsv4_##name##_params>(params, struct_size); \
    return DSV4_OK;                                            \
  }
  DSV4_FOR_EACH_OP(DSV4_DEFAULTS)
  return refused(invalid_argument("params_init knows no op of this name"));
}
}  // extern "C"
