// dsv4_supports against what the ops say: each op is called, on no tokens, for every type of activations and
// every format of its operand that its params can express.
#include <dsv4/dsv4.h>

#include "tests/support/catch.hpp"

#include <functional>
#include <map>
#include <optional>
#include <string>

namespace {

/// What an op answers; nothing where its params cannot say "activations of dtype, operand in format".
using Answer = std::optional<int>;
using Probe = std::function<Answer(std::int32_t dtype, std::int32_t format)>;

alignas(256) unsigned char memory[256];  // for pointers that must not be null; nothing is read or written

/// The format of rows of a type of activations.
std::int32_t own_format(std::int32_t dtype) {
  return dtype == DSV4_DTYPE_F32 ? DSV4_FORMAT_F32 : DSV4_FORMAT_BF16;
}
std::optional<std::int32_t> plain_type(std::int32_t format) {
  if (format == DSV4_FORMAT_BF16) return DSV4_DTYPE_BF16;
  if (format == DSV4_FORMAT_F32) return DSV4_DTYPE_F32;
  return {};
}
std::optional<std::int32_t> weight_format(std::int32_t format) {
  switch (format) {
    case DSV4_FORMAT_BF16:
      return DSV4_WEIGHT_BF16;
    case DSV4_FORMAT_F32:
      return DSV4_WEIGHT_F32;
    case DSV4_FORMAT_FP8:
      return DSV4_WEIGHT_FP8;
    case DSV4_FORMAT_FP4:
      return DSV4_WEIGHT_FP4;
    default:
      return {};
  }
}
/// A pool in a format of caches.
bool set_pool(dsv4_cache_pool& pool, std::int32_t format) {
  pool.data = memory, pool.page_rows = 2;
  switch (format) {
    case DSV4_FORMAT_KV584:
      pool.format = DSV4_CACHE_KV584;
      return true;
    case DSV4_FORMAT_INDEX_FP4:
      pool.format = DSV4_CACHE_INDEX_FP4;
      return true;
    case DSV4_FORMAT_INDEX_FP8:
      pool.format = DSV4_CACHE_INDEX_FP8;
      return true;
    default:
      break;
  }
  if (!plain_type(format)) return false;
  pool.format = DSV4_CACHE_ROWS, pool.dtype = *plain_type(format);
  return true;
}
bool set_weight(dsv4_linear_weight& weight, std::int32_t format) {
  if (!weight_format(format)) return false;
  weight.format = *weight_format(format);
  return true;
}
bool set_experts(dsv4_expert_weights& weights, std::int32_t format) {
  if (!weight_format(format)) return false;
  for (dsv4_expert_matrix* m : {&weights.w1, &weights.w3, &weights.w2})
    m->data = m->scales = memory, m->format = *weight_format(format);
  if (format == DSV4_FORMAT_BF16 || format == DSV4_FORMAT_F32)
    for (dsv4_expert_matrix* m : {&weights.w1, &weights.w3, &weights.w2}) m->scales = nullptr;
  return true;
}
/// Rows of the op's own type, or FP8 codes.
bool set_output(void*& rows, dsv4_fp8_output& codes, std::int32_t dtype, std::int32_t format) {
  if (format == DSV4_FORMAT_FP8)
    codes.codes = codes.scales = memory;
  else if (format == own_format(dtype))
    rows = memory;
  else
    return false;
  return true;
}

/// Of 8 experts: a plan of no tokens is written, and asked for, too.
void set_plan(dsv4_moe_plan& plan) {
  alignas(4) static std::int32_t numbers[6][16];
  std::int32_t** const fields[] = {&plan.counts, &plan.offsets,      &plan.pair_of,
                                   &plan.row_of, &plan.tile_offsets, &plan.tile_expert};
  for (int i = 0; i < 6; ++i) *fields[i] = numbers[i];
}
bool is_type(std::int32_t dtype) { return dtype == DSV4_DTYPE_BF16 || dtype == DSV4_DTYPE_F32; }
/// Queries in the format of quantised keys, which have no other type; else rows.
bool set_queries(dsv4_index_queries& q, std::int32_t dtype, std::int32_t format) {
  q.heads = 4, q.dim = 128, q.visible.ratio = 4, q.dtype = dtype;
  if (!set_pool(q.keys, format)) return false;
  q.format = q.keys.format;
  return q.keys.format == DSV4_CACHE_ROWS || q.keys.format == DSV4_CACHE_KV584 || is_type(dtype);
}

/// A probe of op `name`: set(p, dtype, format) says whether p can be that.
template <class P, class Set>
Probe probe(const char* name, int (*op)(const P*, dsv4_stream), Set set) {
  return [=](std::int32_t dtype, std::int32_t format) -> Answer {
    P p;
    REQUIRE(dsv4_params_init(name, &p, sizeof p) == DSV4_OK);
    if (!set(p, dtype, format)) return {};
    return op(&p, nullptr);
  };
}
#define PROBE(op, ...)                                                                                 \
  {                                                                                                    \
#op, probe < dsv4_##op##_params>(#op, dsv4_##op,                                                   \
                                     []([[maybe_unused]] auto& p, [[maybe_unused]] std::int32_t dtype, \
                                        std::int32_t format) -> bool { __VA_ARGS__ })                  \
  }

const std::map<std::string, Probe>& probes() {
  static const std::map<std::string, Probe> all = {
    PROBE(embed, p.hidden = 8; p.vocab = 3; p.streams = 4; p.dtype = dtype;
          p.table_dtype = plain_type(format).value_or(0); return plain_type(format).has_value();),
    PROBE(rms_norm, p.n = 128; p.dtype = dtype; return set_output(p.out, p.quantised, dtype, format);),
    PROBE(act_quant, p.n = 128; p.dtype = dtype; p.block = format == DSV4_FORMAT_FP4 ? 32 : 128;
          p.format = format == DSV4_FORMAT_FP4 ? DSV4_QUANT_E2M1 : DSV4_QUANT_E4M3;
          return format == DSV4_FORMAT_FP8 || format == DSV4_FORMAT_FP4;),
    PROBE(rope, p.heads = 1; p.head_dim = 64; p.rope_dim = 64; p.dtype = dtype;
          return format == own_format(dtype);),
    PROBE(hadamard, p.n = 128; p.dtype = dtype; return format == own_format(dtype);),
    PROBE(mhc_pre, p.hidden = 128; p.stream_count = 4; p.dtype = dtype;
          return set_output(p.x, p.quantised, dtype, format);),
    PROBE(mhc_post, p.hidden = 128; p.stream_count = 4; p.dtype = dtype; return format == own_format(dtype);),
    PROBE(mhc_post_pre, p.post.hidden = p.pre.hidden = 128; p.post.stream_count = p.pre.stream_count = 4;
          p.post.dtype = p.pre.dtype = dtype; return set_output(p.pre.x, p.pre.quantised, dtype, format);),
    PROBE(mhc_head, p.hidden = 128; p.stream_count = 4; p.dtype = dtype; return format == own_format(dtype);),
    PROBE(linear_bf16, p.n = 128; p.k = 128; p.dtype = dtype; return set_weight(p.weight, format);),
    PROBE(linear_fp8, p.n = 128; p.k = 128; p.dtype = dtype; return set_weight(p.weight, format);),
    PROBE(linear_multi, p.count = 1; p.parts[0].n = 128; p.k = 128; p.dtype = dtype;
          p.parts[0].quantise = format == DSV4_FORMAT_FP8; return set_weight(p.parts[0].weight, format);),
    PROBE(attn_q_proj, p.heads = 1; p.head_dim = 512; p.rope_dim = 64; p.dtype = dtype;
          return format == own_format(dtype);),
    PROBE(attn_kv_proj, p.head_dim = 512; p.rope_dim = 64; p.dtype = dtype;
          return set_pool(p.window, format);),
    PROBE(attn_index_prep, p.heads = 4; p.dim = 128; p.rope_dim = 64; p.dtype = dtype; dsv4_cache_pool pool;
          if (!set_pool(pool, format)) return false; p.format = pool.format;
          return pool.format != DSV4_CACHE_ROWS || format == own_format(dtype);),
    PROBE(attn_qk_prep, p.kv.kv = memory; p.kv.head_dim = 512; p.kv.rope_dim = 64; p.kv.dtype = dtype;
          return set_pool(p.kv.window, format);),
    PROBE(attn_compress,
          const bool index = format == DSV4_FORMAT_INDEX_FP4 || format == DSV4_FORMAT_INDEX_FP8;
          p.ratio = 4; p.rope_dim = 64; p.dtype = dtype; dsv4_compressor& c = index ? p.index : p.main;
          c.kv = reinterpret_cast<const float*>(memory); c.dim = index ? 128 : 512;
          return set_pool(c.entries, format);),
    PROBE(attn_index_scores, return set_queries(p.queries, dtype, format);),
    PROBE(attn_select, p.output.k = 1; p.visible.ratio = 4;
          return format == DSV4_FORMAT_F32 && is_type(dtype);),
    PROBE(attn_index_select, p.output.k = 1; return set_queries(p.queries, dtype, format);),
    PROBE(attn_attend, p.heads = 1; p.head_dim = 512; p.dtype = dtype; p.o = memory;
          p.entries.kind = DSV4_SELECTION_LIST; return set_pool(p.entries.pool, format);),
    PROBE(attn_out_proj, p.hidden = 128; p.heads = 2; p.head_dim = 512; p.groups = 1; p.rank = 128;
          p.dtype = dtype; return set_weight(p.wo_a, format) && set_weight(p.wo_b, format);),
    PROBE(moe_gate, p.hidden = 128; p.experts = 8; p.k = 2; p.dtype = dtype;
          return set_weight(p.gate, format);),
    PROBE(moe_dispatch, p.k = 2; p.experts = 8; p.tile_rows = 8; set_plan(p.plan);
          return format == own_format(dtype) && is_type(dtype);),
    PROBE(moe_experts, p.hidden = 128; p.inner = 128; p.k = 2; p.experts = 8; p.tile_rows = 8;
          p.dtype = dtype; set_plan(p.plan); return set_experts(p.weights, format);),
    PROBE(moe_combine, p.hidden = 128; p.k = 2; p.dtype = dtype; return format == own_format(dtype);),
    PROBE(moe_fused, p.hidden = 128; p.inner = 128; p.k = 2; p.experts = 8; p.dtype = dtype;
          return set_experts(p.weights, format);),
    PROBE(lm_head, p.vocab = 5; p.hidden = 128; p.dtype = dtype;
          p.head_dtype = plain_type(format).value_or(0); return plain_type(format).has_value();),
  };
  return all;
}

}  // namespace

TEST_CASE("dsv4_supports is what the ops answer", "[c_api][capabilities]") {
  REQUIRE(static_cast<std::int32_t>(probes().size()) == dsv4_op_count());
  for (std::int32_t i = 0; i < dsv4_op_count(); ++i) {
    const std::string op = dsv4_op_name(i);
    int claimed = 0, refused = 0;
    for (const std::int32_t dtype : {DSV4_DTYPE_BF16 + 0, DSV4_DTYPE_F32 + 0, 2, -1})
      for (std::int32_t format = 0; format < dsv4_format_count(); ++format) {
        const bool supported = dsv4_supports(op.c_str(), 0, dtype, format);
        const Answer answer = probes().at(op)(dtype, format);
        CAPTURE(op, dtype, dsv4_format_name(format), supported);
        if (!answer) {
          REQUIRE_FALSE(supported);
          continue;
        }
        INFO(dsv4_last_error());
        REQUIRE(*answer == (supported ? DSV4_OK : DSV4_UNSUPPORTED));
        ++(supported ? claimed : refused);
      }
    CAPTURE(op);
    REQUIRE(claimed >= 1);
    if (op != "attn_select" && op != "moe_dispatch") REQUIRE(refused >= 1);  // which have no types to refuse
  }
}

TEST_CASE("dsv4_supports says no to what there is not", "[c_api][capabilities]") {
  REQUIRE(dsv4_supports("rope", 0, DSV4_DTYPE_BF16, DSV4_FORMAT_BF16));
  REQUIRE_FALSE(dsv4_supports("Rope", 0, DSV4_DTYPE_BF16, DSV4_FORMAT_BF16));
  REQUIRE_FALSE(dsv4_supports(nullptr, 0, DSV4_DTYPE_BF16, DSV4_FORMAT_BF16));
  for (const std::int32_t arch : {-1, 1, 80, 90})
    REQUIRE_FALSE(dsv4_supports("rope", arch, DSV4_DTYPE_BF16, DSV4_FORMAT_BF16));
  for (const std::int32_t format : {-1, 7, 32, 33})
    REQUIRE_FALSE(dsv4_supports("rope", 0, DSV4_DTYPE_BF16, format));
}
