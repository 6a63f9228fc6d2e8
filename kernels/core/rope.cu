// Op rope: a warp turns one pair a lane, a few heads of one token at a time.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/core/rope.hpp>
#include <dsv4/linear/angles.cuh>
#include <dsv4/ops/rope.hpp>

#include "kernels/common/dispatch.hpp"
#include "kernels/common/nan_guard.hpp"
#include "kernels/common/rope.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using kernels::kRopeDim;
constexpr int kPairs = kRopeDim / 2;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * arch::kWarpThreads;
constexpr int kHeads = 4;  // of a warp, in flight together
static_assert(kPairs == arch::kWarpThreads, "a lane owns one pair");

struct Strides {
  std::int64_t out = 0, out_head = 0, x = 0, x_head = 0;
};

// Block (slice of kWarps * kHeads heads, token).
template <class T, bool kVector>
DSV4_KERNEL(kThreads)
rope_kernel(const DSV4_GRID_CONSTANT RopeParams p, const DSV4_GRID_CONSTANT linear::Angles angles,
            linear::Positions positions, Strides stride, std::int64_t slices) {
  const std::int64_t t = arch::block_idx().x / slices, slice = arch::block_idx().x % slices;
  const math::SinCos angle = angles(positions[t], arch::lane_id());
  const auto direction = p.direction == RopeDirection::kForward ? dsv4::rope::Direction::kForward
                                                                : dsv4::rope::Direction::kInverse;
  const std::int64_t channel = p.head_dim - kRopeDim + 2 * arch::lane_id();
  const std::int64_t first = (slice * kWarps + arch::warp_id()) * kHeads;
  const T* x = static_cast<const T*>(p.x) + t * stride.x + channel;
  T* out = static_cast<T*>(p.out) + t * stride.out + channel;
  using Pair = arch::Vec<T, 2>;
  Pair pairs[kHeads];
  DSV4_UNROLL
  for (int h = 0; h < kHeads; ++h) {  // all loads before the first use
    if (first + h >= p.heads) break;
    const T* from = x + (first + h) * stride.x_head;
    if constexpr (kVector)
      pairs[h] = arch::load(reinterpret_cast<const Pair*>(from));
    else
      pairs[h] = {{from[0], from[1]}};
  }
  DSV4_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    if (first + h >= p.heads) break;
    dsv4::rope::rotate(SerialCoop{}, pairs[h].v, &angle, 1, direction);
    T* to = out + (first + h) * stride.out_head;
    if constexpr (kVector)
      arch::store(reinterpret_cast<Pair*>(to), pairs[h]);
    else
      to[0] = pairs[h][0], to[1] = pairs[h][1];
  }
}

}  // namespace

DSV4_OP(rope, RopeParams) {
  using namespace kernels;
  DSV4_REQUIRE(p.tokens >= 0 && p.tokens <= INT32_MAX,
               invalid_argument("rope: tokens in [0, 2^31)", p.tokens));
  DSV4_REQUIRE(p.heads >= 1 && p.heads <= INT32_MAX, invalid_argument("rope: heads in [1, 2^31)", p.heads));
  Checks<"rope"> checks;
  check_rope_sizes<"", "table">(checks, p.table, p.rope_dim, p.position_type);
  if (!checks.ok()) return checks.status();
  DSV4_REQUIRE(p.head_dim >= kRopeDim && p.head_dim <= INT32_MAX,
               invalid_argument("rope: head_dim in [rope_dim, 2^31)", p.head_dim, kRopeDim));
  DSV4_REQUIRE(p.direction == RopeDirection::kForward || p.direction == RopeDirection::kInverse,
               unsupported("rope: direction", static_cast<std::int64_t>(p.direction)));
  Strides stride = {.out_head = stride_or(p.out_head_stride, p.head_dim),
                    .x_head = stride_or(p.x_head_stride, p.head_dim)};
  DSV4_REQUIRE(stride.out_head >= p.head_dim,
               invalid_argument("rope: out_head_stride >= head_dim", stride.out_head, p.head_dim));
  DSV4_REQUIRE(stride.x_head >= p.head_dim,
               invalid_argument("rope: x_head_stride >= head_dim", stride.x_head, p.head_dim));
  // The last head of a token needs no padding behind it.
  const std::int64_t out_span = (p.heads - 1) * stride.out_head + p.head_dim;
  const std::int64_t x_span = (p.heads - 1) * stride.x_head + p.head_dim;
  stride.out = stride_or(p.out_stride, p.heads * stride.out_head);
  stride.x = stride_or(p.x_stride, p.heads * stride.x_head);
  DSV4_REQUIRE(stride.out >= out_span,
               invalid_argument("rope: out_stride >= a token's heads", stride.out, out_span));
  DSV4_REQUIRE(stride.x >= x_span, invalid_argument("rope: x_stride >= a token's heads", stride.x, x_span));
  const std::int64_t slices = (p.heads + kWarps * kHeads - 1) / (kWarps * kHeads);
  DSV4_REQUIRE(p.tokens * slices <= INT32_MAX,
               invalid_argument("rope: tokens * ceil(heads/16) in [0, 2^31)", p.tokens * slices, INT32_MAX));
  return with_type(p.dtype, "rope: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    if (p.tokens == 0) return {};
    checks.pointer<"out">(p.out, sizeof(T));
    checks.pointer<"x">(p.x, sizeof(T));
    check_rope_pointers<"", "table">(checks, p.table, p.positions, p.position_type);
    if (!checks.ok()) return checks.status();
    DSV4_REQUIRE(p.out != p.x || stride.out == stride.x,
                 invalid_argument("rope: out_stride = x_stride where out is x", stride.out, stride.x));
    DSV4_REQUIRE(p.out != p.x || stride.out_head == stride.x_head,
                 invalid_argument("rope: out_head_stride = x_head_stride where out is x", stride.out_head,
                                  stride.x_head));
    const auto pairs = [&](const void* base, std::int64_t token, std::int64_t head) {
      return is_aligned(static_cast<const T*>(base) + p.head_dim, 2 * sizeof(T)) && token % 2 == 0 &&
             head % 2 == 0;
    };
    const bool aligned = pairs(p.out, stride.out, stride.out_head) && pairs(p.x, stride.x, stride.x_head);
    return arch::launch("rope", aligned ? rope_kernel<T, true> : rope_kernel<T, false>,
                        {.grid = {static_cast<unsigned>(p.tokens * slices), 1, 1}, .block = {kThreads, 1, 1}},
                        stream, p, angles(p.table), positions(p.positions, p.position_type), stride, slices);
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
