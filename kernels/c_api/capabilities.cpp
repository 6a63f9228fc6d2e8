// What this library can do: the ops it was built with (DSV4_HAS_<op>), the architectures it was compiled for
// (DSV4_BUILD_ARCHITECTURES, as CMAKE_CUDA_ARCHITECTURES spells them, but separated by commas), and the
// formats of each op.
#include <dsv4/dsv4.h>

#include "kernels/c_api/op_list.hpp"
#include "kernels/common/dispatch.hpp"

#include <cstring>

namespace dsv4::kernels::c_api {
namespace {

constexpr const char* kFormatNames[] = {"bf16", "f32", "fp8", "fp4", "kv584", "index_fp4", "index_fp8"};
constexpr std::int32_t kFormats = sizeof kFormatNames / sizeof *kFormatNames;
static_assert(kFormats == DSV4_FORMAT_INDEX_FP8 + 1);

using Set = std::uint32_t;  // bit f: format f
constexpr Set kBf16 = 1u << DSV4_FORMAT_BF16, kF32 = 1u << DSV4_FORMAT_F32, kFp8 = 1u << DSV4_FORMAT_FP8,
              kFp4 = 1u << DSV4_FORMAT_FP4, kKv584 = 1u << DSV4_FORMAT_KV584,
              kIndex = 1u << DSV4_FORMAT_INDEX_FP4 | 1u << DSV4_FORMAT_INDEX_FP8;

struct Formats {
  const char* op;
  const char* operand;
  Set with_bf16, with_f32;  // the operand's formats beside bf16 activations, and beside f32 ones
};
// An operand called "activations" has their own type: the op has no other. tests/c_api calls every op with
// every pair.
constexpr Formats kOps[] = {
    {"embed", "table", kBf16 | kF32, kBf16 | kF32},
    {"rms_norm", "output", kBf16 | kFp8, kF32 | kFp8},
    {"act_quant", "output", kFp8 | kFp4, kFp8 | kFp4},
    {"rope", "activations", kBf16, kF32},
    {"hadamard", "activations", kBf16, kF32},
    {"mhc_pre", "output", kBf16 | kFp8, kF32 | kFp8},
    {"mhc_post", "activations", kBf16, kF32},
    {"mhc_post_pre", "output", kBf16 | kFp8, kF32 | kFp8},
    {"mhc_head", "activations", kBf16, kF32},
    {"linear_bf16", "weights", kBf16, kBf16 | kF32},
    {"linear_fp8", "weights", kFp8, kFp8},
    {"linear_multi", "weights", kBf16 | kFp8, kBf16 | kFp8 | kF32},
    {"attn_q_proj", "activations", kBf16, kF32},
    {"attn_kv_proj", "cache", kBf16 | kKv584, kF32 | kKv584},
    {"attn_index_prep", "queries", kBf16 | kIndex, kF32 | kIndex},
    {"attn_qk_prep", "cache", kBf16 | kKv584, kF32 | kKv584},
    {"attn_compress", "cache", kBf16 | kKv584 | kIndex, kF32 | kKv584 | kIndex},
    {"attn_index_scores", "keys", kBf16 | kIndex, kF32 | kIndex},
    {"attn_select", "scores", kF32, kF32},
    {"attn_index_select", "keys", kBf16 | kIndex, kF32 | kIndex},
    {"attn_attend", "caches", kBf16 | kKv584, kF32 | kKv584},
    {"attn_out_proj", "weights", kBf16 | kFp8, kBf16 | kFp8 | kF32},
    {"moe_gate", "weights", kBf16 | kF32, kBf16 | kF32},
    {"moe_dispatch", "activations", kBf16, kF32},
    {"moe_experts", "weights", kBf16 | kFp8 | kFp4, kBf16 | kFp8 | kFp4 | kF32},
    {"moe_combine", "activations", kBf16, kF32},
    {"moe_fused", "weights", kBf16 | kFp8 | kFp4, kBf16 | kFp8 | kFp4 | kF32},
    {"lm_head", "head", kBf16 | kF32, kBf16 | kF32},
};
constexpr std::int32_t kOpCount = sizeof kOps / sizeof *kOps;

#define DSV4_HAS(op, Params, bytes) DSV4_HAS_##op,
constexpr bool kBuilt[] = {DSV4_FOR_EACH_OP(DSV4_HAS)};
static_assert(sizeof kBuilt / sizeof *kBuilt == kOpCount);
#define DSV4_NAME(op, Params, bytes) #op,
constexpr const char* kNames[] = {DSV4_FOR_EACH_OP(DSV4_NAME)};
constexpr bool same_order() {
  for (std::int32_t i = 0; i < kOpCount; ++i) {
    const char *a = kOps[i].op, *b = kNames[i];
    while (*a && *a == *b) ++a, ++b;
    if (*a != *b) return false;
  }
  return true;
}
static_assert(same_order(), "kOps has the order of DSV4_FOR_EACH_OP");

std::int32_t index_of(const char* op) {
  for (std::int32_t i = 0; op && i < kOpCount; ++i)
    if (std::strcmp(op, kOps[i].op) == 0) return i;
  return -1;
}

#if defined(DSV4_SIMT_EMULATION)
constexpr const char* kArchitectures = "0-real";
#else
constexpr const char* kArchitectures = DSV4_BUILD_ARCHITECTURES;
#endif

/// One item of the list: "80", "90a-real", "120-virtual".
struct Architecture {
  std::int32_t number = 0;
  bool exact = false;   // a suffix "a": this chip and no other
  bool family = false;  // a suffix "f": later minors of its major too, which plain machine code has anyway
  bool machine = true, ptx = true;
};
/// Calls f(Architecture) for each item until it returns true; was there one?
template <class F>
bool any_architecture(F f) {
  for (const char* at = kArchitectures; *at;) {
    Architecture a;
    while (*at >= '0' && *at <= '9') a.number = a.number * 10 + (*at++ - '0');
    if (*at == 'a') a.exact = true, ++at;
    if (*at == 'f') a.family = true, ++at;
    if (std::strncmp(at, "-real", 5) == 0) a.ptx = false;
    if (std::strncmp(at, "-virtual", 8) == 0) a.machine = false;
    while (*at && *at != ',') ++at;
    if (*at) ++at;
    if (f(a)) return true;
  }
  return false;
}
bool runs_on(std::int32_t arch) {
  return any_architecture([arch](const Architecture& a) {
    if (a.exact || a.number == 0) return a.number == arch;
    const bool same_major = a.number / 10 == arch / 10 && arch >= a.number;
    return (a.machine && same_major) ||
           (a.ptx && (a.family ? same_major : a.number != 0 && arch >= a.number));
  });
}

}  // namespace
}  // namespace dsv4::kernels::c_api

using namespace dsv4::kernels::c_api;  // NOLINT(google-build-using-namespace): the functions below are its
                                       // face

extern "C" {

int32_t dsv4_op_count(void) { return kOpCount; }
const char* dsv4_op_name(int32_t i) { return i >= 0 && i < kOpCount ? kOps[i].op : nullptr; }
const char* dsv4_op_operand(const char* op) {
  const std::int32_t i = index_of(op);
  return i >= 0 ? kOps[i].operand : nullptr;
}

int32_t dsv4_format_count(void) { return kFormats; }
const char* dsv4_format_name(int32_t format) {
  return format >= 0 && format < kFormats ? kFormatNames[format] : nullptr;
}

int32_t dsv4_arch_count(void) {
  std::int32_t count = 0;
  any_architecture([&](const Architecture& a) { return count += a.machine, false; });
  return count;
}
int32_t dsv4_arch(int32_t i) {
  std::int32_t number = -1;
  any_architecture([&](const Architecture& a) { return a.machine && i-- == 0 && (number = a.number, true); });
  return number;
}

bool dsv4_supports(const char* op, int32_t arch, int32_t dtype, int32_t format) {
  const std::int32_t i = index_of(op);
  if (i < 0 || !kBuilt[i] || format < 0 || format >= kFormats || !runs_on(arch)) return false;
  const Set known = dtype == DSV4_DTYPE_BF16                            ? kOps[i].with_bf16
                    : dtype == DSV4_DTYPE_F32 && dsv4::kernels::kHasF32 ? kOps[i].with_f32
                                                                        : 0;
  return known >> format & 1;
}

}  // extern "C"
