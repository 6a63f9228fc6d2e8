#include "tests/c_api/c_op_table.hpp"

#include <dsv4/dsv4.h>

#include "kernels/c_api/op_list.hpp"

#include <cstring>
#include <regex>

namespace dsv4::test {
namespace {

std::map<std::string, std::int64_t> calls;

/// What a C caller would pass: the fields of `p` behind the struct's size.
template <class C, class Cpp>
C as_c(const Cpp& p) {
  static_assert(sizeof(C) == sizeof(std::size_t) + sizeof(Cpp));
  C c;
  c.struct_size = sizeof c;
  std::memcpy(reinterpret_cast<unsigned char*>(&c) + sizeof c.struct_size, &p, sizeof p);
  return c;
}

/// The Status behind a code and its message: "what (value V, limit L)".
Status status_of(int code) {
  if (code == DSV4_OK) return {};
  static std::string what;
  what = dsv4_last_error();
  Status s = {static_cast<Code>(code), 0, "", 0, 0};
  static const std::regex numbers(" \\(value (-?[0-9]+), limit (-?[0-9]+)\\)$");
  if (std::smatch m; std::regex_search(what, m, numbers)) {
    s.value = std::stoll(m[1]), s.limit = std::stoll(m[2]);
    what.resize(static_cast<std::size_t>(m.position()));
  }
  s.what = what.c_str();
  return s;
}

}  // namespace

#define DSV4_QUERY(op, Params, query)                  \
  t.op##_##query = [](const ops::Params& p) noexcept { \
    ++calls[#op "_" #query];                           \
    const auto c = as_c<dsv4_##op##_params>(p);        \
    return dsv4_##op##_##query(&c);                    \
  };
#define DSV4_NO_BYTES(op, Params)
#define DSV4_WORKSPACE(op, Params) DSV4_QUERY(op, Params, workspace_bytes)
#define DSV4_WORKSPACE_AND_STATE(op, Params) DSV4_WORKSPACE(op, Params) DSV4_QUERY(op, Params, state_bytes)
#define DSV4_ENTRY(op, Params, bytes)                       \
  t.op = [](const ops::Params& p, Stream stream) noexcept { \
    ++calls[#op];                                           \
    const auto c = as_c<dsv4_##op##_params>(p);             \
    return status_of(dsv4_##op(&c, stream));                \
  };                                                        \
  bytes(op, Params)

const gpu::OpTable& c_op_table() {
  static const gpu::OpTable table = [] {
    gpu::OpTable t = {};
    DSV4_FOR_EACH_OP(DSV4_ENTRY)
    t.attn_compress_state_bytes = [](std::int32_t ratio, std::int32_t dim, std::int32_t rollback) noexcept {
      return dsv4_attn_compress_state_bytes(ratio, dim, rollback);
    };
    return t;
  }();
  return table;
}

const std::map<std::string, std::int64_t>& c_op_calls() { return calls; }

}  // namespace dsv4::test
