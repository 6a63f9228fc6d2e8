// Op moe_combine: each thread adds up a few neighbouring channels of one token.
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/moe/combine.cuh>
#include <dsv4/ops/moe_route.hpp>

#include "kernels/common/checks.hpp"
#include "kernels/common/nan_guard.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxParts = 65535;  // of a row: the grid's second dimension

struct Strides {
  std::int64_t out, y, shared;
};

// Grid: (tokens, parts of a row). kVector promises 16-byte aligned rows of whole vectors.
template <class T, class TOut, bool kVector>
DSV4_KERNEL(kThreads)
moe_combine_kernel(const DSV4_GRID_CONSTANT MoeCombineParams p, Strides stride) {
  constexpr int kN = linear::kVectorOf<T>;
  arch::wait_for_previous_grid();
  const std::int64_t t = arch::block_idx().x;
  const std::int32_t* row_of = p.row_of + t * p.k;
  TOut* out = static_cast<TOut*>(p.out) + t * stride.out;
  const T* shared = p.shared ? static_cast<const T*>(p.shared) + t * stride.shared : nullptr;
  const std::int64_t step = std::int64_t{arch::grid_dim().y} * kThreads * kN;
  for (std::int64_t d = (std::int64_t{arch::block_idx().y} * kThreads + arch::thread_idx().x) * kN;
       d < p.hidden; d += step) {
    const std::int64_t count = p.hidden - d;
    float sum[kN];
    moe::combine_span<kVector>(sum, static_cast<const T*>(p.y), stride.y, p.rows, row_of, p.k, shared, d,
                               count);
    moe::store_combined<kVector>(out + d, sum, count);
  }
}

}  // namespace

DSV4_OP(moe_combine, MoeCombineParams) {
  using namespace kernels;
  Checks<"moe_combine"> checks;
  checks.require<"tokens", "must be 0 .. 2^31-1">(p.tokens >= 0 && p.tokens <= INT32_MAX, p.tokens,
                                                  INT32_MAX);
  checks.require<"rows", "must be 0 .. 2^31-1">(p.rows >= 0 && p.rows <= INT32_MAX, p.rows, INT32_MAX);
  checks.require<"hidden", "must be 1 .. 2^30">(p.hidden >= 1 && p.hidden <= (1 << 30), p.hidden, 1 << 30);
  checks.require<"k", "must be 1 .. 16">(p.k >= 1 && p.k <= 16, p.k, 16);
  checks.stride<"out_stride">(p.out_stride, p.hidden);
  checks.stride<"y_stride">(p.y_stride, p.hidden);
  checks.stride<"shared_stride">(p.shared_stride, p.hidden);
  if (!checks.ok()) return checks.status();
  return with_type(p.dtype, "moe_combine: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    if (p.tokens == 0) return {};
    const Strides stride = {stride_or(p.out_stride, p.hidden), stride_or(p.y_stride, p.hidden),
                            stride_or(p.shared_stride, p.hidden)};
    const bool wide = p.out_f32 && sizeof(T) < sizeof(float);
    checks.pointer<"out">(p.out, wide ? sizeof(float) : sizeof(T));
    checks.pointer<"row_of">(p.row_of, sizeof(std::int32_t));
    if (p.rows > 0) checks.pointer<"y">(p.y, sizeof(T));
    checks.optional<"shared">(p.shared, sizeof(T));
    checks.require<"out", "must not be shared where its type is another">(!wide || p.out != p.shared ||
                                                                          !p.shared);
    checks.require<"out_stride", "must be shared_stride where out is shared">(
        p.out != p.shared || stride.out == stride.shared, stride.out, stride.shared);
    if (!checks.ok()) return checks.status();
    constexpr std::int64_t kN = linear::kVectorOf<T>;
    const auto vectors = [](const void* rows, std::int64_t row_stride) {
      return is_aligned(rows, 16) && row_stride % kN == 0;
    };
    const bool aligned = p.hidden % kN == 0 && vectors(p.out, stride.out) && vectors(p.y, stride.y) &&
                         vectors(p.shared, stride.shared);
    const std::int64_t parts = (p.hidden + kThreads * kN - 1) / (kThreads * kN);
    const arch::LaunchConfig config = {
        .grid = {static_cast<unsigned>(p.tokens),
                 static_cast<unsigned>(parts < kMaxParts ? parts : kMaxParts), 1},
        .block = {kThreads, 1, 1},
        .overlap_previous = true};
    const auto launch = [&](auto out_type) {
      using TOut = typename decltype(out_type)::type;
      return aligned
                 ? arch::launch("moe_combine", moe_combine_kernel<T, TOut, true>, config, stream, p, stride)
                 : arch::launch("moe_combine", moe_combine_kernel<T, TOut, false>, config, stream, p, stride);
    };
    return wide ? launch(Type<float>{}) : launch(Type<T>{});
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
