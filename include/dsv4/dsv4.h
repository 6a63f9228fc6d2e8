/* The C interface of dsv4: every op of dsv4/ops, for C11, C++, and languages that call C.
 *
 * Two libraries have these symbols: libdsv4 (CUDA; device pointers) and libdsv4_simt (the same kernels on the
 * CPU; host pointers; the stream is ignored). dsv4_backend() tells which one it is.
 *
 *     dsv4_rms_norm_params p;
 *     dsv4_rms_norm_params_init(&p);                          // the struct's size, and every default
 *     p.out = out; p.x = x; p.rows = rows; p.n = n; p.eps = 1e-6f;
 *     if (dsv4_rms_norm(&p, stream) != DSV4_OK) puts(dsv4_last_error());
 *
 * FIELDS are those of the C++ struct of the same name, in its order (dsv4_rms_norm_params is
 * dsv4::ops::RmsNormParams), and mean the same: shapes, units, limits and defaults stand in
 * <dsv4/ops/rms_norm.hpp> and so on, and what holds for all ops (threads, shards) in <dsv4/ops/common.hpp>.
 *
 * VERSIONS. A params struct starts with the size that its caller was compiled with. New fields come at the
 * end. A caller with a smaller struct gets their defaults; one with a larger struct is served if what this
 * library does not know is zero, and refused (DSV4_UNSUPPORTED) otherwise. Structs without struct_size never
 * change.
 *
 * ERRORS. Functions that return int return a dsv4_code. Nothing throws, exits or prints. */
#ifndef DSV4_DSV4_H
#define DSV4_DSV4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define DSV4_C __attribute__((visibility("default")))
#else
#define DSV4_C
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define DSV4_ABI_VERSION 1
#define DSV4_MAX_LINEAR_PARTS 16

/* cudaStream_t, which is the same type; NULL = the default stream. */
typedef struct CUstream_st* dsv4_stream;

enum dsv4_code {
  DSV4_OK = 0,
  DSV4_INVALID_ARGUMENT = 1,
  DSV4_UNSUPPORTED = 2, /* this library, or no library yet, does not do that */
  DSV4_WORKSPACE_TOO_SMALL = 3,
  DSV4_CUDA_ERROR = 4 /* SIMT: what the machine stopped the kernel for */
};

/* Fields of these types are int32_t. */
enum dsv4_dtype { DSV4_DTYPE_BF16 = 0, DSV4_DTYPE_F32 = 1 };
enum dsv4_scale_type { DSV4_SCALE_UE8M0 = 0, DSV4_SCALE_F32 = 1 };
enum dsv4_scale_layout { DSV4_SCALES_ROW_MAJOR = 0, DSV4_SCALES_COLUMN_MAJOR = 1 };
enum dsv4_quant_format { DSV4_QUANT_E4M3 = 0, DSV4_QUANT_E2M1 = 1 };
enum dsv4_weight_format {
  DSV4_WEIGHT_BF16 = 0,
  DSV4_WEIGHT_FP8 = 1,
  DSV4_WEIGHT_F32 = 2,
  DSV4_WEIGHT_FP4 = 3
};
enum dsv4_cache_format {
  DSV4_CACHE_ROWS = 0,
  DSV4_CACHE_KV584 = 1,
  DSV4_CACHE_INDEX_FP4 = 2,
  DSV4_CACHE_INDEX_FP8 = 3
};
enum dsv4_slot_type { DSV4_SLOT_INT32 = 0, DSV4_SLOT_INT64 = 1 };
enum dsv4_position_type { DSV4_POSITION_INT32 = 0, DSV4_POSITION_INT64 = 1 };
enum dsv4_rope_direction { DSV4_ROPE_FORWARD = 0, DSV4_ROPE_INVERSE = 1 };
enum dsv4_selection_kind {
  DSV4_SELECTION_NONE = 0,
  DSV4_SELECTION_LIST = 1,
  DSV4_SELECTION_WINDOW = 2,
  DSV4_SELECTION_ENTRIES = 3
};
enum dsv4_gate_score { DSV4_GATE_SQRT_SOFTPLUS = 0, DSV4_GATE_SIGMOID = 1, DSV4_GATE_SOFTMAX = 2 };

/* ---- the library ---- */

/* "major.minor.patch" of the library; DSV4_ABI_VERSION that it was built with; "cuda" or "simt". */
DSV4_C const char* dsv4_version(void);
DSV4_C int32_t dsv4_abi_version(void);
DSV4_C const char* dsv4_backend(void);

/* What this thread's last call that failed was refused for: op, argument, rule, the value met and the limit.
 * "" if none was. Never NULL; valid until the thread's next failure. */
DSV4_C const char* dsv4_last_error(void);

/* Fills `params`, of `struct_size` bytes, with its size and the defaults of op's params: what
 * dsv4_<op>_params_init(&p) calls. What this library does not know of a larger struct becomes zero. */
DSV4_C int dsv4_params_init(const char* op, void* params, size_t struct_size);

/* ---- what the library can do ---- */

/* The formats that an op may read or write beside its activations. */
enum dsv4_format {
  DSV4_FORMAT_BF16 = 0,
  DSV4_FORMAT_F32 = 1,
  DSV4_FORMAT_FP8 = 2, /* e4m3 and scales */
  DSV4_FORMAT_FP4 = 3, /* e2m1 and scales */
  DSV4_FORMAT_KV584 = 4,
  DSV4_FORMAT_INDEX_FP4 = 5,
  DSV4_FORMAT_INDEX_FP8 = 6
};

/* Every op there is, those left out of this build included; names as in the functions below. NULL outside
 * 0 .. dsv4_op_count() - 1. */
DSV4_C int32_t dsv4_op_count(void);
DSV4_C const char* dsv4_op_name(int32_t i);
/* Which operand of the op the format of dsv4_supports() is that of: "weights", "cache", ... NULL: unknown op.
 */
DSV4_C const char* dsv4_op_operand(const char* op);
/* Names of formats: "bf16", "kv584", ... NULL outside 0 .. dsv4_format_count() - 1. */
DSV4_C int32_t dsv4_format_count(void);
DSV4_C const char* dsv4_format_name(int32_t format);
/* Compute capabilities that there is machine code for: 80, 90, ... 0 stands for the CPU (SIMT). */
DSV4_C int32_t dsv4_arch_count(void);
DSV4_C int32_t dsv4_arch(int32_t i);
/* Does this library run `op` on a chip of compute capability `arch` (10 * major + minor; 0 = the CPU) with
 * activations of `dtype` and its operand in `format`? By machine code, or by PTX that the driver compiles. */
DSV4_C bool dsv4_supports(const char* op, int32_t arch, int32_t dtype, int32_t format);

/* ---- sizes that engines need ---- */

/* Bytes of the state of one compressor of one sequence (attn_compress.hpp). */
DSV4_C size_t dsv4_attn_compress_state_bytes(int32_t ratio, int32_t dim, int32_t max_rollback);
/* Least bytes of a page of `page_rows` rows of a paged format, and of its scales in the dense form
 * (cache.hpp); `dense`: without the scales. 0 for what is not paged, or has no dense form. */
DSV4_C size_t dsv4_cache_page_bytes(int32_t cache_format, int32_t page_rows, bool dense);
DSV4_C size_t dsv4_cache_scales_bytes(int32_t cache_format, int32_t page_rows);
/* moe_route.hpp, moe_experts.hpp, moe_fused.hpp: the most tokens that moe_fused takes, and up to how many it
 * beats the ops that it stands for. */
DSV4_C int64_t dsv4_moe_max_tiles(int64_t tokens, int32_t k, int32_t experts, int32_t tile_rows);
DSV4_C int32_t dsv4_moe_tile_rows(int64_t tokens, int32_t k, int32_t experts);
DSV4_C int64_t dsv4_moe_fused_max_tokens(void);
DSV4_C int64_t dsv4_moe_fused_good_tokens(void);

/* ---- NaN guard (nan_guard.hpp): a debug mode of libraries built with DSV4_NAN_GUARD ---- */
typedef struct dsv4_nan_guard_record {
  const char* op;
  const char* tensor;
  int64_t row;
  int64_t column;
  uint64_t nearest;
  uint64_t arrived;
} dsv4_nan_guard_record;
/* `record`: memory of the kernels, zeroed; NULL = off. Concerns ops that the calling thread calls. */
DSV4_C int dsv4_set_nan_guard(dsv4_nan_guard_record* record);

/* ---- <dsv4/ops/rope.hpp> ---- */

typedef struct dsv4_rope_table {
  const float* freq;
  const float* cos;
  const float* sin;
  int64_t max_position;
  int64_t table_stride;
} dsv4_rope_table;

typedef struct dsv4_rope_params {
  size_t struct_size;
  void* out;
  const void* x;
  const void* positions;
  dsv4_rope_table table;
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;
  int32_t rope_dim;
  int32_t direction;     /* dsv4_rope_direction */
  int32_t position_type; /* dsv4_position_type */
  int32_t dtype;         /* dsv4_dtype */
  int64_t out_stride;
  int64_t out_head_stride;
  int64_t x_stride;
  int64_t x_head_stride;
} dsv4_rope_params;

DSV4_C int dsv4_rope(const dsv4_rope_params* p, dsv4_stream stream);
static inline int dsv4_rope_params_init(dsv4_rope_params* p) {
  return dsv4_params_init("rope", p, sizeof *p);
}

/* ---- <dsv4/ops/quantised.hpp> ---- */

typedef struct dsv4_fp8_output {
  void* codes;
  void* scales;
  int64_t codes_stride;
  int64_t scales_stride;
  int32_t scale_type;   /* dsv4_scale_type */
  int32_t scale_layout; /* dsv4_scale_layout */
} dsv4_fp8_output;

/* ---- <dsv4/ops/cache.hpp> ---- */

typedef struct dsv4_cache_pool {
  void* data;
  void* scales;
  int32_t format; /* dsv4_cache_format */
  int32_t dtype;  /* dsv4_dtype */
  int64_t slots;
  int64_t stride;
  int64_t scales_stride;
  int32_t page_rows;
} dsv4_cache_pool;

typedef struct dsv4_page_table {
  const int32_t* pages;
  const int32_t* sequence_of;
  int64_t stride;
  int64_t sequences;
  int32_t page_rows;
  int32_t ring;
} dsv4_page_table;

typedef struct dsv4_visible_entries {
  const int32_t* counts;
  const void* positions;
  int32_t position_type; /* dsv4_position_type */
  int32_t ratio;
} dsv4_visible_entries;

/* ---- <dsv4/ops/embed.hpp> ---- */

typedef struct dsv4_embed_params {
  size_t struct_size;
  void* out;
  const void* table;
  const void* ids;
  int64_t tokens;
  int64_t hidden;
  int64_t vocab;
  int64_t first_row;
  int64_t rows;
  int32_t streams;
  int32_t dtype;       /* dsv4_dtype */
  int32_t table_dtype; /* dsv4_dtype */
  bool wide_ids;
  int64_t out_stride;
  int64_t table_stride;
} dsv4_embed_params;

DSV4_C int dsv4_embed(const dsv4_embed_params* p, dsv4_stream stream);
static inline int dsv4_embed_params_init(dsv4_embed_params* p) {
  return dsv4_params_init("embed", p, sizeof *p);
}

/* ---- <dsv4/ops/rms_norm.hpp> ---- */

typedef struct dsv4_rms_norm_params {
  size_t struct_size;
  void* out;
  dsv4_fp8_output quantised;
  const void* x;
  const float* weight;
  int64_t rows;
  int64_t n;
  float eps;
  int32_t dtype; /* dsv4_dtype */
  int64_t out_stride;
  int64_t x_stride;
} dsv4_rms_norm_params;

DSV4_C int dsv4_rms_norm(const dsv4_rms_norm_params* p, dsv4_stream stream);
static inline int dsv4_rms_norm_params_init(dsv4_rms_norm_params* p) {
  return dsv4_params_init("rms_norm", p, sizeof *p);
}

/* ---- <dsv4/ops/act_quant.hpp> ---- */

typedef struct dsv4_act_quant_params {
  size_t struct_size;
  void* codes;
  void* scales;
  const void* x;
  int64_t rows;
  int64_t n;
  int32_t block;
  int32_t format;       /* dsv4_quant_format */
  int32_t scale_type;   /* dsv4_scale_type */
  int32_t scale_layout; /* dsv4_scale_layout */
  int32_t dtype;        /* dsv4_dtype */
  int64_t codes_stride;
  int64_t scales_stride;
  int64_t x_stride;
} dsv4_act_quant_params;

DSV4_C int dsv4_act_quant(const dsv4_act_quant_params* p, dsv4_stream stream);
static inline int dsv4_act_quant_params_init(dsv4_act_quant_params* p) {
  return dsv4_params_init("act_quant", p, sizeof *p);
}

/* ---- <dsv4/ops/hadamard.hpp> ---- */

typedef struct dsv4_hadamard_params {
  size_t struct_size;
  void* out;
  const void* x;
  int64_t rows;
  int32_t n;
  int32_t dtype; /* dsv4_dtype */
  int64_t out_stride;
  int64_t x_stride;
} dsv4_hadamard_params;

DSV4_C int dsv4_hadamard(const dsv4_hadamard_params* p, dsv4_stream stream);
static inline int dsv4_hadamard_params_init(dsv4_hadamard_params* p) {
  return dsv4_params_init("hadamard", p, sizeof *p);
}

/* ---- <dsv4/ops/mhc.hpp> ---- */

/* dsv4_mhc_post_params without its size, as another op's params hold it. */
typedef struct dsv4_mhc_post_part {
  void* out;
  const void* y;
  const void* streams;
  const float* post;
  const float* comb;
  int64_t tokens;
  int64_t hidden;
  int32_t stream_count;
  int32_t dtype; /* dsv4_dtype */
  bool y_f32;
  int64_t out_stride;
  int64_t y_stride;
  int64_t streams_stride;
  int64_t post_stride;
  int64_t comb_stride;
} dsv4_mhc_post_part;
typedef struct dsv4_mhc_post_params {
  size_t struct_size;
  void* out;
  const void* y;
  const void* streams;
  const float* post;
  const float* comb;
  int64_t tokens;
  int64_t hidden;
  int32_t stream_count;
  int32_t dtype; /* dsv4_dtype */
  bool y_f32;
  int64_t out_stride;
  int64_t y_stride;
  int64_t streams_stride;
  int64_t post_stride;
  int64_t comb_stride;
} dsv4_mhc_post_params;

/* dsv4_mhc_pre_params without its size, as another op's params hold it. */
typedef struct dsv4_mhc_pre_part {
  void* x;
  void* normed;
  dsv4_fp8_output quantised;
  float* post;
  float* comb;
  float* pre;
  float* mixes;
  const void* streams;
  const float* fn;
  const float* scale;
  const float* base;
  const float* norm_weight;
  void* workspace;
  size_t workspace_bytes;
  int64_t tokens;
  int64_t hidden;
  int32_t stream_count;
  int32_t sinkhorn_iterations;
  float mix_eps;
  float hc_eps;
  float norm_eps;
  int32_t dtype; /* dsv4_dtype */
  int64_t x_stride;
  int64_t normed_stride;
  int64_t post_stride;
  int64_t comb_stride;
  int64_t pre_stride;
  int64_t mixes_stride;
  int64_t streams_stride;
} dsv4_mhc_pre_part;
typedef struct dsv4_mhc_pre_params {
  size_t struct_size;
  void* x;
  void* normed;
  dsv4_fp8_output quantised;
  float* post;
  float* comb;
  float* pre;
  float* mixes;
  const void* streams;
  const float* fn;
  const float* scale;
  const float* base;
  const float* norm_weight;
  void* workspace;
  size_t workspace_bytes;
  int64_t tokens;
  int64_t hidden;
  int32_t stream_count;
  int32_t sinkhorn_iterations;
  float mix_eps;
  float hc_eps;
  float norm_eps;
  int32_t dtype; /* dsv4_dtype */
  int64_t x_stride;
  int64_t normed_stride;
  int64_t post_stride;
  int64_t comb_stride;
  int64_t pre_stride;
  int64_t mixes_stride;
  int64_t streams_stride;
} dsv4_mhc_pre_params;

typedef struct dsv4_mhc_post_pre_params {
  size_t struct_size;
  dsv4_mhc_post_part post;
  dsv4_mhc_pre_part pre;
} dsv4_mhc_post_pre_params;

typedef struct dsv4_mhc_head_params {
  size_t struct_size;
  void* x;
  void* normed;
  float* pre;
  float* mixes;
  const void* streams;
  const float* fn;
  const float* scale;
  const float* base;
  const float* norm_weight;
  void* workspace;
  size_t workspace_bytes;
  int64_t tokens;
  int64_t hidden;
  int32_t stream_count;
  float mix_eps;
  float hc_eps;
  float norm_eps;
  int32_t dtype; /* dsv4_dtype */
  int64_t x_stride;
  int64_t normed_stride;
  int64_t pre_stride;
  int64_t mixes_stride;
  int64_t streams_stride;
} dsv4_mhc_head_params;

DSV4_C int dsv4_mhc_post(const dsv4_mhc_post_params* p, dsv4_stream stream);
static inline int dsv4_mhc_post_params_init(dsv4_mhc_post_params* p) {
  return dsv4_params_init("mhc_post", p, sizeof *p);
}
DSV4_C int dsv4_mhc_pre(const dsv4_mhc_pre_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_mhc_pre_workspace_bytes(const dsv4_mhc_pre_params* p);
static inline int dsv4_mhc_pre_params_init(dsv4_mhc_pre_params* p) {
  return dsv4_params_init("mhc_pre", p, sizeof *p);
}
DSV4_C int dsv4_mhc_post_pre(const dsv4_mhc_post_pre_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_mhc_post_pre_workspace_bytes(const dsv4_mhc_post_pre_params* p);
static inline int dsv4_mhc_post_pre_params_init(dsv4_mhc_post_pre_params* p) {
  return dsv4_params_init("mhc_post_pre", p, sizeof *p);
}
DSV4_C int dsv4_mhc_head(const dsv4_mhc_head_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_mhc_head_workspace_bytes(const dsv4_mhc_head_params* p);
static inline int dsv4_mhc_head_params_init(dsv4_mhc_head_params* p) {
  return dsv4_params_init("mhc_head", p, sizeof *p);
}

/* ---- <dsv4/ops/linear.hpp> ---- */

typedef struct dsv4_linear_weight {
  const void* data;
  const void* scales;
  int32_t format; /* dsv4_weight_format */
  int64_t stride;
  int64_t scales_stride;
  int64_t scales_row;
} dsv4_linear_weight;

typedef struct dsv4_linear_input {
  const void* x;
  const void* codes;
  const void* scales;
  const float* norm_weight;
  float norm_eps;
  int64_t x_stride;
  int64_t codes_stride;
  int64_t scales_stride;
  int32_t scale_type;   /* dsv4_scale_type */
  int32_t scale_layout; /* dsv4_scale_layout */
} dsv4_linear_input;

typedef struct dsv4_linear_part {
  void* y;
  dsv4_linear_weight weight;
  int64_t n;
  int64_t x_column;
  int64_t y_stride;
  int32_t y_type; /* dsv4_dtype */
  bool quantise;
} dsv4_linear_part;

typedef struct dsv4_linear_bf16_params {
  size_t struct_size;
  void* y;
  dsv4_linear_input input;
  dsv4_linear_weight weight;
  int64_t tokens;
  int64_t n;
  int64_t k;
  int64_t y_stride;
  int32_t dtype;  /* dsv4_dtype */
  int32_t y_type; /* dsv4_dtype */
  void* workspace;
  size_t workspace_bytes;
} dsv4_linear_bf16_params;

typedef struct dsv4_linear_fp8_params {
  size_t struct_size;
  void* y;
  dsv4_linear_input input;
  dsv4_linear_weight weight;
  int64_t tokens;
  int64_t n;
  int64_t k;
  int64_t y_stride;
  int32_t dtype;  /* dsv4_dtype */
  int32_t y_type; /* dsv4_dtype */
  bool quantise;
  void* workspace;
  size_t workspace_bytes;
} dsv4_linear_fp8_params;

typedef struct dsv4_linear_multi_params {
  size_t struct_size;
  dsv4_linear_part parts[DSV4_MAX_LINEAR_PARTS];
  int32_t count;
  dsv4_linear_input input;
  int64_t tokens;
  int64_t k;
  int32_t dtype; /* dsv4_dtype */
  void* workspace;
  size_t workspace_bytes;
} dsv4_linear_multi_params;

DSV4_C int dsv4_linear_bf16(const dsv4_linear_bf16_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_linear_bf16_workspace_bytes(const dsv4_linear_bf16_params* p);
static inline int dsv4_linear_bf16_params_init(dsv4_linear_bf16_params* p) {
  return dsv4_params_init("linear_bf16", p, sizeof *p);
}
DSV4_C int dsv4_linear_fp8(const dsv4_linear_fp8_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_linear_fp8_workspace_bytes(const dsv4_linear_fp8_params* p);
static inline int dsv4_linear_fp8_params_init(dsv4_linear_fp8_params* p) {
  return dsv4_params_init("linear_fp8", p, sizeof *p);
}
DSV4_C int dsv4_linear_multi(const dsv4_linear_multi_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_linear_multi_workspace_bytes(const dsv4_linear_multi_params* p);
static inline int dsv4_linear_multi_params_init(dsv4_linear_multi_params* p) {
  return dsv4_params_init("linear_multi", p, sizeof *p);
}

/* ---- <dsv4/ops/attn_proj.hpp> ---- */

/* dsv4_attn_q_proj_params without its size, as another op's params hold it. */
typedef struct dsv4_attn_q_proj_part {
  void* out;
  const void* q;
  const void* positions;
  dsv4_rope_table rope;
  int64_t tokens;
  int64_t heads;
  int32_t head_dim;
  int32_t rope_dim;
  float eps;
  int32_t position_type; /* dsv4_position_type */
  int32_t dtype;         /* dsv4_dtype */
  int64_t out_stride;
  int64_t out_head_stride;
  int64_t q_stride;
  int64_t q_head_stride;
} dsv4_attn_q_proj_part;
typedef struct dsv4_attn_q_proj_params {
  size_t struct_size;
  void* out;
  const void* q;
  const void* positions;
  dsv4_rope_table rope;
  int64_t tokens;
  int64_t heads;
  int32_t head_dim;
  int32_t rope_dim;
  float eps;
  int32_t position_type; /* dsv4_position_type */
  int32_t dtype;         /* dsv4_dtype */
  int64_t out_stride;
  int64_t out_head_stride;
  int64_t q_stride;
  int64_t q_head_stride;
} dsv4_attn_q_proj_params;

/* dsv4_attn_kv_proj_params without its size, as another op's params hold it. */
typedef struct dsv4_attn_kv_proj_part {
  dsv4_cache_pool window;
  const void* slots;
  void* out;
  const void* kv;
  const float* norm;
  const void* positions;
  dsv4_rope_table rope;
  int64_t tokens;
  int32_t head_dim;
  int32_t rope_dim;
  float eps;
  int32_t position_type; /* dsv4_position_type */
  int32_t slot_type;     /* dsv4_slot_type */
  int32_t dtype;         /* dsv4_dtype */
  int64_t out_stride;
  int64_t kv_stride;
} dsv4_attn_kv_proj_part;
typedef struct dsv4_attn_kv_proj_params {
  size_t struct_size;
  dsv4_cache_pool window;
  const void* slots;
  void* out;
  const void* kv;
  const float* norm;
  const void* positions;
  dsv4_rope_table rope;
  int64_t tokens;
  int32_t head_dim;
  int32_t rope_dim;
  float eps;
  int32_t position_type; /* dsv4_position_type */
  int32_t slot_type;     /* dsv4_slot_type */
  int32_t dtype;         /* dsv4_dtype */
  int64_t out_stride;
  int64_t kv_stride;
} dsv4_attn_kv_proj_params;

/* dsv4_attn_index_prep_params without its size, as another op's params hold it. */
typedef struct dsv4_attn_index_prep_part {
  void* codes;
  void* scales;
  float* weights_out;
  const void* q;
  const void* weights;
  const void* positions;
  dsv4_rope_table rope;
  int64_t tokens;
  int32_t heads;
  int32_t dim;
  int32_t rope_dim;
  int32_t format;        /* dsv4_cache_format */
  int32_t position_type; /* dsv4_position_type */
  int32_t dtype;         /* dsv4_dtype */
  int64_t q_stride;
  int64_t weights_stride;
} dsv4_attn_index_prep_part;
typedef struct dsv4_attn_index_prep_params {
  size_t struct_size;
  void* codes;
  void* scales;
  float* weights_out;
  const void* q;
  const void* weights;
  const void* positions;
  dsv4_rope_table rope;
  int64_t tokens;
  int32_t heads;
  int32_t dim;
  int32_t rope_dim;
  int32_t format;        /* dsv4_cache_format */
  int32_t position_type; /* dsv4_position_type */
  int32_t dtype;         /* dsv4_dtype */
  int64_t q_stride;
  int64_t weights_stride;
} dsv4_attn_index_prep_params;

typedef struct dsv4_attn_qk_prep_params {
  size_t struct_size;
  dsv4_attn_q_proj_part q;
  dsv4_attn_kv_proj_part kv;
  dsv4_attn_index_prep_part index;
} dsv4_attn_qk_prep_params;

DSV4_C int dsv4_attn_q_proj(const dsv4_attn_q_proj_params* p, dsv4_stream stream);
static inline int dsv4_attn_q_proj_params_init(dsv4_attn_q_proj_params* p) {
  return dsv4_params_init("attn_q_proj", p, sizeof *p);
}
DSV4_C int dsv4_attn_kv_proj(const dsv4_attn_kv_proj_params* p, dsv4_stream stream);
static inline int dsv4_attn_kv_proj_params_init(dsv4_attn_kv_proj_params* p) {
  return dsv4_params_init("attn_kv_proj", p, sizeof *p);
}
DSV4_C int dsv4_attn_index_prep(const dsv4_attn_index_prep_params* p, dsv4_stream stream);
static inline int dsv4_attn_index_prep_params_init(dsv4_attn_index_prep_params* p) {
  return dsv4_params_init("attn_index_prep", p, sizeof *p);
}
DSV4_C int dsv4_attn_qk_prep(const dsv4_attn_qk_prep_params* p, dsv4_stream stream);
static inline int dsv4_attn_qk_prep_params_init(dsv4_attn_qk_prep_params* p) {
  return dsv4_params_init("attn_qk_prep", p, sizeof *p);
}

/* ---- <dsv4/ops/attn_compress.hpp> ---- */

typedef struct dsv4_compressor {
  const float* kv;
  const float* gate;
  const float* ape;
  const float* norm;
  void* state;
  dsv4_cache_pool entries;
  const void* entry_slots;
  int64_t kv_stride;
  int64_t gate_stride;
  int64_t state_stride;
  int32_t slot_type; /* dsv4_slot_type */
  int32_t dim;
} dsv4_compressor;

typedef struct dsv4_attn_compress_params {
  size_t struct_size;
  dsv4_compressor main;
  dsv4_compressor index;
  const int32_t* first_token;
  const void* start;
  const int32_t* state_of;
  dsv4_rope_table rope;
  int64_t tokens;
  int64_t sequences;
  int64_t states;
  int32_t ratio;
  int32_t max_rollback;
  int32_t rope_dim;
  float eps;
  int32_t start_type; /* dsv4_position_type */
  int32_t dtype;      /* dsv4_dtype */
} dsv4_attn_compress_params;

DSV4_C int dsv4_attn_compress(const dsv4_attn_compress_params* p, dsv4_stream stream);
static inline int dsv4_attn_compress_params_init(dsv4_attn_compress_params* p) {
  return dsv4_params_init("attn_compress", p, sizeof *p);
}

/* ---- <dsv4/ops/attn_index.hpp> ---- */

typedef struct dsv4_index_queries {
  const void* q;
  const void* scales;
  const float* weights;
  dsv4_cache_pool keys;
  dsv4_page_table table;
  dsv4_visible_entries visible;
  int64_t tokens;
  int64_t max_entries;
  int32_t heads;
  int32_t dim;
  int32_t format; /* dsv4_cache_format */
  int32_t dtype;  /* dsv4_dtype */
} dsv4_index_queries;

typedef struct dsv4_attn_index_scores_params {
  size_t struct_size;
  float* scores;
  dsv4_index_queries queries;
  int64_t scores_stride;
} dsv4_attn_index_scores_params;

typedef struct dsv4_select_output {
  int32_t* idx;
  dsv4_page_table table;
  int64_t idx_stride;
  int64_t slots;
  int32_t k;
  bool as_slots;
} dsv4_select_output;

typedef struct dsv4_attn_select_params {
  size_t struct_size;
  dsv4_select_output output;
  const float* scores;
  dsv4_visible_entries visible;
  int64_t tokens;
  int64_t max_entries;
  int64_t scores_stride;
  void* workspace;
  size_t workspace_bytes;
} dsv4_attn_select_params;

typedef struct dsv4_attn_index_select_params {
  size_t struct_size;
  dsv4_select_output output;
  dsv4_index_queries queries;
  void* workspace;
  size_t workspace_bytes;
} dsv4_attn_index_select_params;

DSV4_C int dsv4_attn_index_scores(const dsv4_attn_index_scores_params* p, dsv4_stream stream);
static inline int dsv4_attn_index_scores_params_init(dsv4_attn_index_scores_params* p) {
  return dsv4_params_init("attn_index_scores", p, sizeof *p);
}
DSV4_C int dsv4_attn_select(const dsv4_attn_select_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_attn_select_workspace_bytes(const dsv4_attn_select_params* p);
static inline int dsv4_attn_select_params_init(dsv4_attn_select_params* p) {
  return dsv4_params_init("attn_select", p, sizeof *p);
}
DSV4_C int dsv4_attn_index_select(const dsv4_attn_index_select_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_attn_index_select_workspace_bytes(const dsv4_attn_index_select_params* p);
static inline int dsv4_attn_index_select_params_init(dsv4_attn_index_select_params* p) {
  return dsv4_params_init("attn_index_select", p, sizeof *p);
}

/* ---- <dsv4/ops/attn_attend.hpp> ---- */

typedef struct dsv4_attend_selection {
  dsv4_cache_pool pool;
  int32_t kind; /* dsv4_selection_kind */
  const void* idx;
  const int32_t* counts;
  dsv4_page_table table;
  dsv4_visible_entries visible;
  int64_t idx_stride;
  int64_t max_count;
  int32_t window;
  int32_t idx_type; /* dsv4_slot_type */
} dsv4_attend_selection;

typedef struct dsv4_attn_attend_params {
  size_t struct_size;
  void* o;
  dsv4_fp8_output quantised;
  float* lse;
  const void* q;
  const float* sink;
  dsv4_attend_selection window;
  dsv4_attend_selection entries;
  const void* positions;
  dsv4_rope_table rope;
  int64_t tokens;
  int32_t heads;
  int32_t head_dim;
  int32_t rope_dim;
  float scale;
  float empty_lse;
  int32_t position_type; /* dsv4_position_type */
  int32_t dtype;         /* dsv4_dtype */
  bool rotate_back;
  int64_t o_stride;
  int64_t o_head_stride;
  int64_t q_stride;
  int64_t q_head_stride;
  int64_t lse_stride;
  void* workspace;
  size_t workspace_bytes;
} dsv4_attn_attend_params;

DSV4_C int dsv4_attn_attend(const dsv4_attn_attend_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_attn_attend_workspace_bytes(const dsv4_attn_attend_params* p);
static inline int dsv4_attn_attend_params_init(dsv4_attn_attend_params* p) {
  return dsv4_params_init("attn_attend", p, sizeof *p);
}

/* ---- <dsv4/ops/attn_out_proj.hpp> ---- */

typedef struct dsv4_attn_out_proj_params {
  size_t struct_size;
  void* y;
  const void* o;
  dsv4_linear_weight wo_a;
  dsv4_linear_weight wo_b;
  const void* positions;
  dsv4_rope_table rope;
  int64_t tokens;
  int64_t hidden;
  int32_t heads;
  int32_t head_dim;
  int32_t rope_dim;
  int32_t groups;
  int32_t rank;
  bool y_f32;
  bool rotate_back;
  int32_t position_type; /* dsv4_position_type */
  int32_t dtype;         /* dsv4_dtype */
  int64_t o_stride;
  int64_t y_stride;
  void* workspace;
  size_t workspace_bytes;
} dsv4_attn_out_proj_params;

DSV4_C int dsv4_attn_out_proj(const dsv4_attn_out_proj_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_attn_out_proj_workspace_bytes(const dsv4_attn_out_proj_params* p);
static inline int dsv4_attn_out_proj_params_init(dsv4_attn_out_proj_params* p) {
  return dsv4_params_init("attn_out_proj", p, sizeof *p);
}

/* ---- <dsv4/ops/moe_route.hpp> ---- */

typedef struct dsv4_moe_gate_params {
  size_t struct_size;
  int32_t* idx;
  float* weights;
  float* scores;
  int32_t* error;
  const void* x;
  dsv4_linear_weight gate;
  const float* bias;
  const void* table;
  const void* token_ids;
  int64_t tokens;
  int64_t hidden;
  int64_t vocab;
  int32_t experts;
  int32_t k;
  float route_scale;
  int32_t score; /* dsv4_gate_score */
  bool wide_table;
  bool wide_ids;
  int32_t dtype; /* dsv4_dtype */
  int64_t x_stride;
  void* workspace;
  size_t workspace_bytes;
} dsv4_moe_gate_params;

typedef struct dsv4_moe_plan {
  int32_t* counts;
  int32_t* offsets;
  int32_t* pair_of;
  int32_t* row_of;
  int32_t* tile_offsets;
  int32_t* tile_expert;
} dsv4_moe_plan;

typedef struct dsv4_moe_dispatch_params {
  size_t struct_size;
  dsv4_moe_plan plan;
  const int32_t* idx;
  int64_t tokens;
  int32_t k;
  int32_t first_expert;
  int32_t experts;
  int32_t tile_rows;
} dsv4_moe_dispatch_params;

typedef struct dsv4_moe_combine_params {
  size_t struct_size;
  void* out;
  const void* y;
  const void* shared;
  const int32_t* row_of;
  int64_t tokens;
  int64_t rows;
  int64_t hidden;
  int32_t k;
  int32_t dtype; /* dsv4_dtype */
  bool out_f32;
  int64_t out_stride;
  int64_t y_stride;
  int64_t shared_stride;
} dsv4_moe_combine_params;

DSV4_C int dsv4_moe_gate(const dsv4_moe_gate_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_moe_gate_workspace_bytes(const dsv4_moe_gate_params* p);
static inline int dsv4_moe_gate_params_init(dsv4_moe_gate_params* p) {
  return dsv4_params_init("moe_gate", p, sizeof *p);
}
DSV4_C int dsv4_moe_dispatch(const dsv4_moe_dispatch_params* p, dsv4_stream stream);
static inline int dsv4_moe_dispatch_params_init(dsv4_moe_dispatch_params* p) {
  return dsv4_params_init("moe_dispatch", p, sizeof *p);
}
DSV4_C int dsv4_moe_combine(const dsv4_moe_combine_params* p, dsv4_stream stream);
static inline int dsv4_moe_combine_params_init(dsv4_moe_combine_params* p) {
  return dsv4_params_init("moe_combine", p, sizeof *p);
}

/* ---- <dsv4/ops/moe_experts.hpp> ---- */

typedef struct dsv4_expert_matrix {
  const void* data;
  const void* scales;
  int32_t format; /* dsv4_weight_format */
  int64_t expert_stride;
  int64_t scales_expert_stride;
} dsv4_expert_matrix;

typedef struct dsv4_expert_weights {
  dsv4_expert_matrix w1;
  dsv4_expert_matrix w3;
  dsv4_expert_matrix w2;
} dsv4_expert_weights;

typedef struct dsv4_moe_experts_params {
  size_t struct_size;
  void* y;
  dsv4_linear_input input;
  dsv4_expert_weights weights;
  const float* routing;
  dsv4_moe_plan plan;
  int64_t tokens;
  int64_t hidden;
  int64_t inner;
  int32_t k;
  int32_t experts;
  int32_t tile_rows;
  float limit;
  int32_t dtype; /* dsv4_dtype */
  int64_t y_stride;
  void* workspace;
  size_t workspace_bytes;
} dsv4_moe_experts_params;

DSV4_C int dsv4_moe_experts(const dsv4_moe_experts_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_moe_experts_workspace_bytes(const dsv4_moe_experts_params* p);
static inline int dsv4_moe_experts_params_init(dsv4_moe_experts_params* p) {
  return dsv4_params_init("moe_experts", p, sizeof *p);
}

/* ---- <dsv4/ops/moe_fused.hpp> ---- */

typedef struct dsv4_moe_peers {
  int32_t rank;
  int32_t ranks;
  void* const* state;
  void* const* workspace;
} dsv4_moe_peers;

typedef struct dsv4_moe_fused_params {
  size_t struct_size;
  void* out;
  const int32_t* idx;
  const float* routing;
  dsv4_linear_input input;
  dsv4_expert_weights weights;
  dsv4_expert_weights shared;
  int64_t tokens;
  int64_t hidden;
  int64_t inner;
  int32_t k;
  int32_t first_expert;
  int32_t experts;
  float limit;
  float shared_limit;
  int32_t dtype; /* dsv4_dtype */
  bool out_f32;
  int64_t out_stride;
  int32_t blocks;
  dsv4_moe_peers peers;
  void* state;
  size_t state_bytes;
  void* workspace;
  size_t workspace_bytes;
} dsv4_moe_fused_params;

DSV4_C int dsv4_moe_fused(const dsv4_moe_fused_params* p, dsv4_stream stream);
DSV4_C size_t dsv4_moe_fused_workspace_bytes(const dsv4_moe_fused_params* p);
DSV4_C size_t dsv4_moe_fused_state_bytes(const dsv4_moe_fused_params* p);
static inline int dsv4_moe_fused_params_init(dsv4_moe_fused_params* p) {
  return dsv4_params_init("moe_fused", p, sizeof *p);
}

/* ---- <dsv4/ops/lm_head.hpp> ---- */

typedef struct dsv4_lm_head_params {
  size_t struct_size;
  float* logits;
  const void* x;
  const void* head;
  const int32_t* rows;
  int64_t tokens;
  int64_t x_rows;
  int64_t vocab;
  int64_t hidden;
  int32_t dtype;      /* dsv4_dtype */
  int32_t head_dtype; /* dsv4_dtype */
  int64_t logits_stride;
  int64_t x_stride;
  int64_t head_stride;
} dsv4_lm_head_params;

DSV4_C int dsv4_lm_head(const dsv4_lm_head_params* p, dsv4_stream stream);
static inline int dsv4_lm_head_params_init(dsv4_lm_head_params* p) {
  return dsv4_params_init("lm_head", p, sizeof *p);
}
#ifdef __cplusplus
}
#endif

#endif
