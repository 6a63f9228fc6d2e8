// Op hadamard: a lane holds 16 bytes of a row, so that a row lies in 128 / kN lanes. The first stages of the
// butterfly stay in a lane's registers, the others are shuffles.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/linear/lanes.cuh>
#include <dsv4/ops/hadamard.hpp>

#include "kernels/common/dispatch.hpp"

#include <cmath>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 128;
constexpr int kWidth = 128;

// Sums and differences in the order of the primitive: distances 1, 2, 4, ... of the row.
template <int kN>
DSV4_DEVICE void butterfly(float (&v)[kN]) {
  DSV4_UNROLL
  for (int distance = 1; distance < kN; distance *= 2) {
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      if (i & distance) continue;
      const float a = v[i], b = v[i + distance];
      v[i] = a + b;
      v[i + distance] = a - b;
    }
  }
  DSV4_UNROLL
  for (int distance = 1; distance < kWidth / kN; distance *= 2) {
    const bool upper = (arch::lane_id() & distance) != 0;
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      const float other = arch::shfl_xor(v[i], distance);
      // a + b in the lower lane, a - b in the upper one, where `other` is a.
      v[i] = other + (upper ? -v[i] : v[i]);
    }
  }
}

template <class T, bool kVector>
DSV4_KERNEL(kThreads)
hadamard_kernel(const DSV4_GRID_CONSTANT HadamardParams p, std::int64_t out_stride, std::int64_t x_stride) {
  constexpr int kN = linear::kVectorOf<T>, kLanes = kWidth / kN, kBlockRows = kThreads / kLanes;
  const int thread = static_cast<int>(arch::thread_idx().x);
  const std::int64_t r = std::int64_t{arch::block_idx().x} * kBlockRows + thread / kLanes;
  const int i = thread % kLanes * kN;
  const std::int64_t count = r < p.rows ? kN : 0;  // every lane shuffles
  float v[kN];
  linear::load_values<kVector>(v, static_cast<const T*>(p.x) + r * x_stride + i, count);
  butterfly(v);
  const float norm = 1.0f / sqrtf(static_cast<float>(kWidth));
  DSV4_UNROLL
  for (int j = 0; j < kN; ++j) v[j] *= norm;
  linear::store_values<kVector>(static_cast<T*>(p.out) + r * out_stride + i, linear::rounded<T>(v), count);
}

}  // namespace

Status hadamard(const HadamardParams& p, Stream stream) noexcept {
  using namespace kernels;
  DSV4_REQUIRE(p.rows >= 0 && p.rows <= INT32_MAX, invalid_argument("hadamard: rows in [0, 2^31)", p.rows));
  DSV4_REQUIRE(p.n == kWidth, unsupported("hadamard: only n = 128 is compiled", p.n, kWidth));
  const std::int64_t out_stride = stride_or(p.out_stride, p.n), x_stride = stride_or(p.x_stride, p.n);
  DSV4_REQUIRE(out_stride >= p.n, invalid_argument("hadamard: out_stride >= n", out_stride, p.n));
  DSV4_REQUIRE(x_stride >= p.n, invalid_argument("hadamard: x_stride >= n", x_stride, p.n));
  return with_type(p.dtype, "hadamard: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    if (p.rows == 0) return {};
    DSV4_REQUIRE(p.out && p.x, invalid_argument("hadamard: out and x must not be null"));
    DSV4_REQUIRE(is_aligned(p.out, sizeof(T)), invalid_argument("hadamard: out must be aligned to its type"));
    DSV4_REQUIRE(is_aligned(p.x, sizeof(T)), invalid_argument("hadamard: x must be aligned to its type"));
    DSV4_REQUIRE(p.out != p.x || out_stride == x_stride,
                 invalid_argument("hadamard: out_stride = x_stride where out is x", out_stride, x_stride));
    constexpr std::int64_t kN = linear::kVectorOf<T>, kBlockRows = kThreads / (kWidth / kN);
    const bool aligned =
        is_aligned(p.out, 16) && is_aligned(p.x, 16) && out_stride % kN == 0 && x_stride % kN == 0;
    return arch::launch("hadamard", aligned ? hadamard_kernel<T, true> : hadamard_kernel<T, false>,
                        {.grid = {static_cast<unsigned>((p.rows + kBlockRows - 1) / kBlockRows), 1, 1},
                         .block = {kThreads, 1, 1}},
                        stream, p, out_stride, x_stride);
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
