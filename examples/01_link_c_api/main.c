/* The C interface: what this library can do, an RMSNorm with FP8 codes, a product with FP8 weights that takes
 * them, and an error. One source for both libraries, which have the same symbols: link libdsv4_simt and give
 * host pointers, or define EXAMPLE_CUDA, link libdsv4 and cudart, and give device pointers. */
#include <dsv4/dsv4.h>

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef EXAMPLE_CUDA
#include <cuda_runtime_api.h>
static void* device_memory(size_t bytes) {
  void* p = NULL; /* managed: the host fills and reads it in place */
  const cudaError_t e = cudaMallocManaged(&p, bytes, cudaMemAttachGlobal);
  if (e != cudaSuccess) {
    fprintf(stderr, "%s\n", cudaGetErrorString(e));
    exit(e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver ? 77 : 1); /* 77: skipped, to CTest */
  }
  return p;
}
static void wait_for_device(void) { cudaDeviceSynchronize(); }
#else
static void* device_memory(size_t bytes) { return aligned_alloc(256, (bytes + 255) / 256 * 256); }
static void wait_for_device(void) {}
#endif

enum { kTokens = 16, kIn = 512, kOut = 256 };

/* Every function returns a code; the text behind it is this thread's. */
static void must(int code) {
  if (code == 0) return;
  fprintf(stderr, "dsv4: code %d: %s\n", code, dsv4_last_error());
  exit(1);
}

static uint16_t to_bf16(float x) {
  union {
    float f;
    uint32_t u;
  } v = {x};
  return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}
static float from_bf16(uint16_t x) {
  union {
    uint32_t u;
    float f;
  } v = {(uint32_t)x << 16};
  return v.f;
}
static float from_e4m3(uint8_t x) {
  const int exponent = x >> 3 & 15, mantissa = x & 7;
  const float magnitude =
      exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
  return x & 0x80 ? -magnitude : magnitude;
}
static float uniform(void) { return (float)rand() / (float)RAND_MAX * 2 - 1; }

int main(void) {
  printf("dsv4 %s, backend %s\n", dsv4_version(), dsv4_backend());

  uint16_t* x = device_memory(kTokens * kIn * sizeof *x);
  float* norm = device_memory(kIn * sizeof *norm);
  uint8_t* codes = device_memory(kTokens * kIn);
  uint8_t* scales = device_memory(kTokens * kIn / 128);
  uint8_t* weight = device_memory(kOut * kIn);                      /* e4m3 */
  uint8_t* weight_scales = device_memory(kOut / 128 * (kIn / 128)); /* UE8M0, one a 128 x 128 tile */
  float* y = device_memory(kTokens * kOut * sizeof *y);
  for (int i = 0; i < kTokens * kIn; ++i) x[i] = to_bf16(3 * uniform());
  for (int i = 0; i < kIn; ++i) norm[i] = 1 + uniform() / 2;
  for (int i = 0; i < kOut * kIn; ++i) weight[i] = (uint8_t)(rand() % 0x3f | (rand() & 1) << 7);
  for (int i = 0; i < kOut / 128 * (kIn / 128); ++i) weight_scales[i] = 127 - 4; /* 2^-4 */

  /* params_init sets the struct's size and the defaults; then name what differs. */
  dsv4_rms_norm_params n;
  dsv4_rms_norm_params_init(&n);
  n.quantised.codes = codes;
  n.quantised.scales = scales;
  n.x = x;
  n.weight = norm;
  n.rows = kTokens;
  n.n = kIn;
  n.eps = 1e-6f;
  must(dsv4_rms_norm(&n, NULL)); /* NULL: the default stream */

  dsv4_linear_fp8_params p;
  dsv4_linear_fp8_params_init(&p);
  p.y = y;
  p.y_type = DSV4_DTYPE_F32;
  p.input.codes = codes;
  p.input.scales = scales;
  p.weight.data = weight;
  p.weight.scales = weight_scales;
  p.weight.format = DSV4_WEIGHT_FP8;
  p.tokens = kTokens;
  p.n = kOut;
  p.k = kIn;
  p.workspace_bytes = dsv4_linear_fp8_workspace_bytes(&p);
  p.workspace = device_memory(p.workspace_bytes);
  must(dsv4_linear_fp8(&p, NULL));
  wait_for_device();

  /* Against fp64, from what was quantised. */
  double error = 0, size = 0;
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kOut; ++r) {
      double sum = 0;
      for (int k = 0; k < kIn; ++k)
        sum += (double)from_e4m3(codes[t * kIn + k]) * ldexp(1, scales[t * (kIn / 128) + k / 128] - 127) *
               from_e4m3(weight[r * kIn + k]) / 16;
      error += (y[t * kOut + r] - sum) * (y[t * kOut + r] - sum);
      size += sum * sum;
    }
  printf("y[0][0] %.6f; relative L2 against fp64 %.1e\n", (double)y[0], sqrt(error / size));

  n.n = -1;
  const int code = dsv4_rms_norm(&n, NULL);
  printf("refused with code %d: %s\n", code, dsv4_last_error());
  return sqrt(error / size) < 1e-6 && from_bf16(x[0]) != 0 && code != 0 ? 0 : 1;
}
