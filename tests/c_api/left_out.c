/* Of a library built with DSV4_OPS="rope": that op runs, the others are listed, and refuse. */
#include <dsv4/dsv4.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;
static void check(int condition, const char* what, const char* op) {
  if (condition) return;
  printf("left_out: %s: %s\n", op, what);
  ++failures;
}

static void check_rope(void) {
  float x[64], out[64], freq[32];
  const int32_t position = 3;
  for (int i = 0; i < 64; ++i) x[i] = (float)(i + 1);
  for (int i = 0; i < 32; ++i) freq[i] = 1.0f / (float)(i + 1);
  dsv4_rope_params p;
  dsv4_rope_params_init(&p);
  p.out = out;
  p.x = x;
  p.positions = &position;
  p.table.freq = freq;
  p.tokens = 1;
  p.heads = 1;
  p.head_dim = 64;
  p.rope_dim = 64;
  p.dtype = DSV4_DTYPE_F32;
  check(dsv4_rope(&p, NULL) == DSV4_OK, dsv4_last_error(), "rope");
  check(fabs(out[0] - (cos(3) - 2 * sin(3))) < 1e-5, "a wrong value", "rope");
}

int main(void) {
  check_rope();
  /* A call that any build of the op would take: on no rows. */
  dsv4_rms_norm_params n;
  dsv4_rms_norm_params_init(&n);
  n.n = 8;
  check(dsv4_rms_norm(&n, NULL) == DSV4_UNSUPPORTED, "is not unsupported", "rms_norm");
  check(strcmp(dsv4_last_error(), "rms_norm: left out of this build of dsv4 (CMake: DSV4_OPS)") == 0,
        dsv4_last_error(), "rms_norm");
  dsv4_linear_multi_params l;
  dsv4_linear_multi_params_init(&l);
  check(dsv4_linear_multi_workspace_bytes(&l) == 0, "has a workspace", "linear_multi");
  dsv4_moe_fused_params f;
  dsv4_moe_fused_params_init(&f);
  check(dsv4_moe_fused_state_bytes(&f) == 0, "has a state", "moe_fused");
  check(dsv4_attn_compress_state_bytes(4, 512, 16) == 0, "has a state", "attn_compress");

  check(dsv4_op_count() == 28, "is not listed", "some op");
  for (int32_t i = 0; i < dsv4_op_count(); ++i) {
    const char* op = dsv4_op_name(i);
    int any = 0;
    for (int32_t dtype = 0; dtype < 2; ++dtype)
      for (int32_t format = 0; format < dsv4_format_count(); ++format)
        any |= dsv4_supports(op, 0, dtype, format);
    check(any == (strcmp(op, "rope") == 0), "dsv4_supports is wrong", op);
  }
  if (failures == 0) puts("left_out: rope runs, 27 ops refuse");
  return failures == 0 ? 0 : 1;
}
