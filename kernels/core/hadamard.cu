// Op hadamard: a lane holds 16 bytes of a row, so that a row lies in 128 / kN lanes.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/linear/hadamard.cuh>
#include <dsv4/linear/lanes.cuh>
#include <dsv4/ops/hadamard.hpp>

#include "kernels/common/dispatch.hpp"
#include "kernels/common/nan_guard.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 128;
constexpr int kWidth = 128;

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
  linear::hadamard<kWidth>(v);
  linear::store_values<kVector>(static_cast<T*>(p.out) + r * out_stride + i, linear::rounded<T>(v), count);
}

}  // namespace

DSV4_OP(hadamard, HadamardParams) {
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
