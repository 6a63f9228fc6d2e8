// Op rms_norm: one row to a warp, or to a block where rows are too few to fill a device with warps.
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/linear/norm.cuh>
#include <dsv4/ops/rms_norm.hpp>

#include "kernels/common/dispatch.hpp"
#include "kernels/common/nan_guard.hpp"
#include "kernels/common/quantised.hpp"

#include <algorithm>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / arch::kWarpThreads;
constexpr std::int64_t kRowsByBlock = 128;        // up to here a block a row is quicker than a warp a row
constexpr std::int64_t kMaxRow = 1 << 30;         // an int holds every index that a loop reaches
constexpr std::int64_t kStagedBytes = 48 * 1024;  // dynamic shared memory that needs no opt-in

struct Strides {
  std::int64_t x, out, codes;
};

template <class T>
DSV4_DEVICE linear::NormRow<T> row_of(const RmsNormParams& p, const Strides& stride,
                                      const linear::Scales& scales, std::int64_t r) {
  return {
      .out_or_null = p.out ? static_cast<T*>(p.out) + r * stride.out : nullptr,
      .codes_or_null = p.quantised.codes ? static_cast<e4m3*>(p.quantised.codes) + r * stride.codes : nullptr,
      .scales = scales,
      .row = r,
      .x = static_cast<const T*>(p.x) + r * stride.x,
      .weight_or_null = p.weight,
      .n = static_cast<int>(p.n),
      .eps = p.eps};
}

// Block: `warps` warps, one row each.
template <class T, linear::Staging kStaging>
DSV4_KERNEL(kThreads)
rms_norm_warp_kernel(const DSV4_GRID_CONSTANT RmsNormParams p, Strides stride, linear::Scales scales) {
  DSV4_DYN_SMEM(T, staged);  // [warps, n]
  const int warp = arch::warp_id();
  const std::int64_t warps = arch::block_dim().x / arch::kWarpThreads;
  const std::int64_t r = arch::block_idx().x * warps + warp;
  if (r >= p.rows) return;
  linear::rms_norm_row<kStaging>(arch::WarpCoop{}, row_of<T>(p, stride, scales, r), staged + warp * p.n);
}

template <class T, linear::Staging kStaging>
DSV4_KERNEL(kThreads)
rms_norm_block_kernel(const DSV4_GRID_CONSTANT RmsNormParams p, Strides stride, linear::Scales scales) {
  DSV4_DYN_SMEM(T, staged);  // [n]
  linear::rms_norm_row<kStaging>(arch::CtaCoop<kThreads>{}, row_of<T>(p, stride, scales, arch::block_idx().x),
                                 staged);
}

template <class T, linear::Staging kStaging>
Status launch(const RmsNormParams& p, const Strides& stride, const linear::Scales& scales, Stream stream) {
  const std::int64_t row_bytes =
      kStaging == linear::Staging::kNone ? 0 : p.n * static_cast<std::int64_t>(sizeof(T));
  if (p.rows <= kRowsByBlock)
    return arch::launch("rms_norm", rms_norm_block_kernel<T, kStaging>,
                        {.grid = {static_cast<unsigned>(p.rows), 1, 1},
                         .block = {kThreads, 1, 1},
                         .shared_bytes = static_cast<std::size_t>(row_bytes)},
                        stream, p, stride, scales);
  const std::int64_t warps =
      row_bytes == 0 ? kWarps : std::clamp<std::int64_t>(kStagedBytes / row_bytes, 1, kWarps);
  return arch::launch("rms_norm", rms_norm_warp_kernel<T, kStaging>,
                      {.grid = {static_cast<unsigned>((p.rows + warps - 1) / warps), 1, 1},
                       .block = {static_cast<unsigned>(warps * arch::kWarpThreads), 1, 1},
                       .shared_bytes = static_cast<std::size_t>(warps * row_bytes)},
                      stream, p, stride, scales);
}

}  // namespace

DSV4_OP(rms_norm, RmsNormParams) {
  using namespace kernels;
  DSV4_REQUIRE(p.rows >= 0 && p.rows <= INT32_MAX, invalid_argument("rms_norm: rows in [0, 2^31)", p.rows));
  DSV4_REQUIRE(p.n >= 1 && p.n <= kMaxRow, invalid_argument("rms_norm: n in [1, 2^30]", p.n, kMaxRow));
  DSV4_REQUIRE(p.eps >= 0.0f, invalid_argument("rms_norm: eps >= 0"));
  const std::int64_t blocks = (p.n + quant::kFp8LinearBlock - 1) / quant::kFp8LinearBlock;
  const Strides stride = {stride_or(p.x_stride, p.n), stride_or(p.out_stride, p.n),
                          stride_or(p.quantised.codes_stride, p.n)};
  DSV4_REQUIRE(stride.x >= p.n, invalid_argument("rms_norm: x_stride >= n", stride.x, p.n));
  DSV4_REQUIRE(stride.out >= p.n, invalid_argument("rms_norm: out_stride >= n", stride.out, p.n));
  const Fp8Output& q = p.quantised;
  const ScalesArgument scales = {q.scales, q.scales_stride, q.scale_type, q.scale_layout};
  if (q.codes) {
    DSV4_REQUIRE(stride.codes >= p.n,
                 invalid_argument("rms_norm: quantised.codes_stride >= n", stride.codes, p.n));
    const Status s = check_scales(
        scales, p.rows, blocks, "rms_norm: quantised.scale_type", "rms_norm: quantised.scale_layout",
        "rms_norm: quantised.scales_stride >= blocks (row-major), rows (column-major)");
    if (!s.ok()) return s;
  }
  return with_type(p.dtype, "rms_norm: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    if (p.rows == 0) return {};
    DSV4_REQUIRE(p.x, invalid_argument("rms_norm: x must not be null"));
    DSV4_REQUIRE(p.out || q.codes,
                 invalid_argument("rms_norm: out and quantised.codes must not both be null"));
    DSV4_REQUIRE(!q.codes || q.scales,
                 invalid_argument("rms_norm: quantised.scales must not be null where codes are wanted"));
    DSV4_REQUIRE(is_aligned(p.x, sizeof(T)), invalid_argument("rms_norm: x must be aligned to its type"));
    DSV4_REQUIRE(is_aligned(p.out, sizeof(T)), invalid_argument("rms_norm: out must be aligned to its type"));
    DSV4_REQUIRE(is_aligned(p.weight, sizeof(float)),
                 invalid_argument("rms_norm: weight must be aligned to its type"));
    DSV4_REQUIRE(!q.codes || is_aligned_scale(scales),
                 invalid_argument("rms_norm: quantised.scales must be aligned to their type"));
    DSV4_REQUIRE(p.out != p.x || stride.out == stride.x,
                 invalid_argument("rms_norm: out_stride = x_stride where out is x", stride.out, stride.x));
    const linear::Scales view = scales_view(scales, p.rows, blocks);
    constexpr std::int64_t kN = linear::kVectorOf<T>;
    const auto vectors = [](const void* pointer, std::int64_t row_stride, std::size_t bytes) {
      return is_aligned(pointer, bytes) && row_stride % kN == 0;
    };
    if (p.n * static_cast<std::int64_t>(sizeof(T)) > kStagedBytes)
      return launch<T, linear::Staging::kNone>(p, stride, view, stream);
    const bool aligned = p.n % kN == 0 && vectors(p.x, stride.x, 16) && is_aligned(p.weight, 16) &&
                         (!p.out || vectors(p.out, stride.out, 16)) &&
                         (!q.codes || vectors(q.codes, stride.codes, kN));
    return aligned ? launch<T, linear::Staging::kVector>(p, stride, view, stream)
                   : launch<T, linear::Staging::kElements>(p, stride, view, stream);
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
