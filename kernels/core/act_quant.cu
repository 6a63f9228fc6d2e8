// Op act_quant: a lane holds 16 bytes of a row, a block of channels lies in neighbouring lanes.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/linear/lanes.cuh>
#include <dsv4/ops/act_quant.hpp>

#include "kernels/common/dispatch.hpp"
#include "kernels/common/nan_guard.hpp"
#include "kernels/common/quantised.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / arch::kWarpThreads;

// 2^row_warps_log2 warps share a row, so that a block takes kWarps >> row_warps_log2 rows.
template <class T, QuantFormat kFormat, int kBlock, bool kVector>
DSV4_KERNEL(kThreads)
act_quant_kernel(const DSV4_GRID_CONSTANT ActQuantParams p, std::int64_t x_stride, std::int64_t codes_stride,
                 linear::Scales scales, int row_warps_log2) {
  constexpr int kN = linear::kVectorOf<T>;
  const int warp = arch::warp_id(), row_warps = 1 << row_warps_log2;
  const std::int64_t r =
      std::int64_t{arch::block_idx().x} * (kWarps >> row_warps_log2) + (warp >> row_warps_log2);
  if (r >= p.rows) return;
  const T* x = static_cast<const T*>(p.x) + r * x_stride;
  auto* codes = static_cast<std::uint8_t*>(p.codes) + r * codes_stride;
  constexpr int kStep = arch::kWarpThreads * kN;  // channels of a warp's round
  for (std::int64_t begin = std::int64_t{warp & (row_warps - 1)} * kStep; begin < p.n;
       begin += std::int64_t{row_warps} * kStep) {
    const std::int64_t i = begin + arch::lane_id() * kN, count = p.n - i;
    float v[kN];
    linear::load_values<kVector>(v, x + i, count);
    e8m0 s;
    if constexpr (kFormat == QuantFormat::kE4m3) {
      arch::Vec<e4m3, kN> c;
      s = linear::fp8_codes<kBlock>(c, v);
      linear::store_values<kVector>(reinterpret_cast<e4m3*>(codes) + i, c, count);
    } else {
      arch::Vec<e2m1x2, kN / 2> c;
      s = linear::fp4_codes<kBlock>(c, v);
      linear::store_values<kVector>(reinterpret_cast<e2m1x2*>(codes) + i / 2, c, count / 2);
    }
    if (i % kBlock == 0 && count > 0) scales.put(r, i / kBlock, s);
  }
}

template <class T, QuantFormat kFormat, int kBlock>
Status launch(const ActQuantParams& p, std::int64_t x_stride, std::int64_t codes_stride,
              const linear::Scales& scales, Stream stream) {
  using namespace kernels;
  constexpr std::int64_t kN = linear::kVectorOf<T>, kBytes = kFormat == QuantFormat::kE4m3 ? kN : kN / 2;
  const bool aligned = p.n % kN == 0 && is_aligned(p.x, 16) && x_stride % kN == 0 &&
                       is_aligned(p.codes, kBytes) && codes_stride % kBytes == 0;
  const std::int64_t rounds = (p.n + arch::kWarpThreads * kN - 1) / (arch::kWarpThreads * kN);
  int row_warps_log2 = 0;
  while ((1 << row_warps_log2) < kWarps && (1 << row_warps_log2) < rounds) ++row_warps_log2;
  const std::int64_t block_rows = kWarps >> row_warps_log2;
  return arch::launch(
      "act_quant",
      aligned ? act_quant_kernel<T, kFormat, kBlock, true> : act_quant_kernel<T, kFormat, kBlock, false>,
      {.grid = {static_cast<unsigned>((p.rows + block_rows - 1) / block_rows), 1, 1},
       .block = {kThreads, 1, 1}},
      stream, p, x_stride, codes_stride, scales, row_warps_log2);
}

}  // namespace

DSV4_OP(act_quant, ActQuantParams) {
  using namespace kernels;
  DSV4_REQUIRE(p.rows >= 0 && p.rows <= INT32_MAX, invalid_argument("act_quant: rows in [0, 2^31)", p.rows));
  DSV4_REQUIRE(p.n >= 1 && p.n <= INT32_MAX, invalid_argument("act_quant: n in [1, 2^31)", p.n));
  DSV4_REQUIRE(p.format == QuantFormat::kE4m3 || p.format == QuantFormat::kE2m1,
               unsupported("act_quant: format", static_cast<std::int64_t>(p.format)));
  const bool fp8 = p.format == QuantFormat::kE4m3;
  if (fp8) {
    DSV4_REQUIRE(p.block == quant::kFp8KvBlock || p.block == quant::kFp8LinearBlock,
                 unsupported("act_quant: block of e4m3 is 64 or 128", p.block));
  } else {
    DSV4_REQUIRE(p.block == quant::kFp4Block,
                 unsupported("act_quant: block of e2m1 is 32", p.block, quant::kFp4Block));
    DSV4_REQUIRE(p.n % 2 == 0, invalid_argument("act_quant: n of e2m1 must be even", p.n));
  }
  const std::int64_t blocks = (p.n + p.block - 1) / p.block, row_bytes = fp8 ? p.n : p.n / 2;
  const std::int64_t x_stride = stride_or(p.x_stride, p.n);
  const std::int64_t codes_stride = stride_or(p.codes_stride, row_bytes);
  DSV4_REQUIRE(x_stride >= p.n, invalid_argument("act_quant: x_stride >= n", x_stride, p.n));
  DSV4_REQUIRE(
      codes_stride >= row_bytes,
      invalid_argument("act_quant: codes_stride >= bytes of a row's codes", codes_stride, row_bytes));
  const ScalesArgument scales = {p.scales, p.scales_stride, p.scale_type, p.scale_layout};
  const Status s = check_scales(scales, p.rows, blocks, "act_quant: scale_type", "act_quant: scale_layout",
                                "act_quant: scales_stride >= blocks (row-major), rows (column-major)");
  if (!s.ok()) return s;
  return with_type(p.dtype, "act_quant: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    if (p.rows == 0) return {};
    DSV4_REQUIRE(p.codes && p.scales && p.x,
                 invalid_argument("act_quant: codes, scales and x must not be null"));
    DSV4_REQUIRE(is_aligned(p.x, sizeof(T)), invalid_argument("act_quant: x must be aligned to its type"));
    DSV4_REQUIRE(is_aligned_scale(scales),
                 invalid_argument("act_quant: scales must be aligned to their type"));
    const linear::Scales view = scales_view(scales, p.rows, blocks);
    if (!fp8) return launch<T, QuantFormat::kE2m1, quant::kFp4Block>(p, x_stride, codes_stride, view, stream);
    if (p.block == quant::kFp8KvBlock)
      return launch<T, QuantFormat::kE4m3, quant::kFp8KvBlock>(p, x_stride, codes_stride, view, stream);
    return launch<T, QuantFormat::kE4m3, quant::kFp8LinearBlock>(p, x_stride, codes_stride, view, stream);
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
