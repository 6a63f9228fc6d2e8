// Op lm_head: tensor cores where both operands are bf16 and aligned, canonical dots otherwise.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/linear/dot_tile.cuh>
#include <dsv4/lm_head/logits.cuh>
#include <dsv4/ops/lm_head.hpp>

#include "kernels/common/dispatch.hpp"
#include "kernels/common/nan_guard.hpp"

#include <type_traits>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr std::int64_t kMaxVocab = 1'000'000;  // a grid's y holds 65535 tiles, of 16 rows at least
constexpr std::int64_t kMaxHidden = 1 << 30;

// Block (token tile, vocabulary tile): tiles of the same weights run side by side and share them in L2.
template <int kTokens>
DSV4_KERNEL(dsv4::lm_head::LogitsTile<kTokens>::kThreads)
lm_head_mma_kernel(const DSV4_GRID_CONSTANT dsv4::lm_head::LogitsProblem p) {
  using Tile = dsv4::lm_head::LogitsTile<kTokens>;
  DSV4_DYN_SMEM(bf16, x_tile);
  Tile::run(p, std::int64_t{arch::block_idx().x} * kTokens, std::int64_t{arch::block_idx().y} * Tile::kVocab,
            x_tile);
}

constexpr int kDotWarps = 4;
constexpr int kDotRows = 4;  // weight rows of a warp

// The same blocks, each warp kTokens tokens by kDotRows weight rows.
template <int kTokens, class T, class THead>
DSV4_KERNEL(kDotWarps* arch::kWarpThreads)
lm_head_dot_kernel(const DSV4_GRID_CONSTANT LmHeadParams p, std::int64_t logits_stride, std::int64_t x_stride,
                   std::int64_t head_stride) {
  const std::int64_t t0 = std::int64_t{arch::block_idx().x} * kTokens;
  const std::int64_t v0 = (std::int64_t{arch::block_idx().y} * kDotWarps + arch::warp_id()) * kDotRows;
  if (v0 >= p.vocab) return;
  const T* x[kTokens];
  bool exists[kTokens];
  DSV4_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    const std::int64_t t =
        t0 + i < p.tokens ? t0 + i : p.tokens - 1;  // beyond the end: a row again, not stored
    const std::int64_t row = p.rows ? p.rows[t] : t;
    exists[i] = !p.rows || (row >= 0 && row < p.x_rows);
    x[i] = static_cast<const T*>(p.x) + (exists[i] ? row : 0) * x_stride;
  }
  const THead* w[kDotRows];
  DSV4_UNROLL
  for (int c = 0; c < kDotRows; ++c)
    w[c] = static_cast<const THead*>(p.head) + (v0 + c < p.vocab ? v0 + c : p.vocab - 1) * head_stride;
  float sum[kTokens][kDotRows];
  linear::warp_dot_tile(sum, x, w, static_cast<int>(p.hidden));
  if (arch::lane_id() != 0) return;
  DSV4_UNROLL
  for (int i = 0; i < kTokens; ++i) {
    DSV4_UNROLL
    for (int c = 0; c < kDotRows; ++c) {
      if (t0 + i < p.tokens && v0 + c < p.vocab)
        p.logits[(t0 + i) * logits_stride + v0 + c] = exists[i] ? sum[i][c] : bits_as<float>(0x7fc00000u);
    }
  }
}

template <int kTokens>
Status launch_mma(const dsv4::lm_head::LogitsProblem& p, Stream stream) {
  using Tile = dsv4::lm_head::LogitsTile<kTokens>;
  return arch::launch("lm_head", lm_head_mma_kernel<kTokens>,
                      {.grid = {static_cast<unsigned>((p.tokens + kTokens - 1) / kTokens),
                                static_cast<unsigned>((p.vocab + Tile::kVocab - 1) / Tile::kVocab), 1},
                       .block = {Tile::kThreads, 1, 1},
                       .shared_bytes = Tile::kSharedBytes},
                      stream, p);
}

template <int kTokens, class T, class THead>
Status launch_dot(const LmHeadParams& p, std::int64_t logits_stride, std::int64_t x_stride,
                  std::int64_t head_stride, Stream stream) {
  constexpr std::int64_t kRows = kDotWarps * kDotRows;
  return arch::launch("lm_head", lm_head_dot_kernel<kTokens, T, THead>,
                      {.grid = {static_cast<unsigned>((p.tokens + kTokens - 1) / kTokens),
                                static_cast<unsigned>((p.vocab + kRows - 1) / kRows), 1},
                       .block = {kDotWarps * arch::kWarpThreads, 1, 1}},
                      stream, p, logits_stride, x_stride, head_stride);
}

}  // namespace

DSV4_OP(lm_head, LmHeadParams) {
  using namespace kernels;
  DSV4_REQUIRE(p.tokens >= 0 && p.tokens <= INT32_MAX,
               invalid_argument("lm_head: tokens in [0, 2^31)", p.tokens));
  DSV4_REQUIRE(p.vocab >= 1 && p.vocab <= kMaxVocab,
               invalid_argument("lm_head: vocab in [1, 1000000]", p.vocab, kMaxVocab));
  DSV4_REQUIRE(p.hidden >= 1 && p.hidden <= kMaxHidden,
               invalid_argument("lm_head: hidden in [1, 2^30]", p.hidden, kMaxHidden));
  const std::int64_t logits_stride = stride_or(p.logits_stride, p.vocab);
  const std::int64_t x_stride = stride_or(p.x_stride, p.hidden);
  const std::int64_t head_stride = stride_or(p.head_stride, p.hidden);
  DSV4_REQUIRE(logits_stride >= p.vocab,
               invalid_argument("lm_head: logits_stride >= vocab", logits_stride, p.vocab));
  DSV4_REQUIRE(x_stride >= p.hidden, invalid_argument("lm_head: x_stride >= hidden", x_stride, p.hidden));
  DSV4_REQUIRE(head_stride >= p.hidden,
               invalid_argument("lm_head: head_stride >= hidden", head_stride, p.hidden));
  DSV4_REQUIRE(p.head_dtype == DType::kBf16 || p.head_dtype == DType::kF32,
               unsupported("lm_head: head_dtype", static_cast<std::int64_t>(p.head_dtype)));
  return with_type(p.dtype, "lm_head: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    if (p.tokens == 0) return {};
    DSV4_REQUIRE(p.logits && p.x && p.head, invalid_argument("lm_head: logits, x and head must not be null"));
    DSV4_REQUIRE(!p.rows || p.x_rows >= 1,
                 invalid_argument("lm_head: x_rows >= 1 where rows is given", p.x_rows, 1));
    DSV4_REQUIRE(is_aligned(p.logits, 4), invalid_argument("lm_head: logits must be aligned to their type"));
    DSV4_REQUIRE(is_aligned(p.rows, 4), invalid_argument("lm_head: rows must be aligned to their type"));
    DSV4_REQUIRE(is_aligned(p.x, sizeof(T)), invalid_argument("lm_head: x must be aligned to its type"));
    const bool bf16_head = p.head_dtype == DType::kBf16;
    DSV4_REQUIRE(is_aligned(p.head, bf16_head ? 2 : 4),
                 invalid_argument("lm_head: head must be aligned to its type"));
    if constexpr (std::is_same_v<T, bf16>) {
      if (bf16_head && is_aligned(p.x, 16) && is_aligned(p.head, 16) && p.hidden % 8 == 0 &&
          x_stride % 8 == 0 && head_stride % 8 == 0) {
        const dsv4::lm_head::LogitsProblem problem = {.logits = p.logits,
                                                      .x = static_cast<const bf16*>(p.x),
                                                      .head = static_cast<const bf16*>(p.head),
                                                      .rows_or_null = p.rows,
                                                      .tokens = p.tokens,
                                                      .x_rows = p.x_rows,
                                                      .vocab = p.vocab,
                                                      .hidden = p.hidden,
                                                      .logits_stride = logits_stride,
                                                      .x_stride = x_stride,
                                                      .head_stride = head_stride};
        return p.tokens <= 8    ? launch_mma<8>(problem, stream)
               : p.tokens <= 16 ? launch_mma<16>(problem, stream)
               : p.tokens <= 32 ? launch_mma<32>(problem, stream)
                                : launch_mma<64>(problem, stream);
      }
    }
    const auto dot = [&](auto head_type) {
      using THead = typename decltype(head_type)::type;
      return p.tokens == 1 ? launch_dot<1, T, THead>(p, logits_stride, x_stride, head_stride, stream)
                           : launch_dot<8, T, THead>(p, logits_stride, x_stride, head_stride, stream);
    };
    return bf16_head ? dot(Type<bf16>{}) : dot(Type<float>{});
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
