// attn_out_proj: exact operands bit for bit through both products; rotated ones within a bound.
#include "tests/gpu/caches.hpp"
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

constexpr std::int32_t kDim = 512;

struct Case {
  std::int64_t tokens, hidden;
  std::int32_t heads, groups, rank;
  bool fp8_a;        // wo_a as published checkpoints store it; else bf16
  bool rotate_back;  // not exact
};

std::vector<Case> cases(bool small) {
  if (small) return {{3, 136, 2, 2, 64, true, false}};
  return {{1, 264, 16, 8, 128, false, false},
          {65, 136, 4, 2, 64, true, false},
          {130, 256, 2, 1, 192, true, true},
          {8, 128, 16, 16, 64, false, true}};
}

constexpr std::int64_t blocks(std::int64_t n) { return (n + 127) / 128; }

template <class T>
void compare_case(Tally& tally, const Case& c) {
  const std::int64_t k = std::int64_t{c.heads} * kDim / c.groups, z = std::int64_t{c.groups} * c.rank;
  const auto fp8 = [](Operands& m, std::int64_t n, std::int64_t width, std::uint64_t seed) {
    return ops::LinearWeight{.data = m.in(e4m3_codes(n * width, seed)),
                             .scales = m.in(scale_bytes(blocks(n) * blocks(width), seed + 1)),
                             .format = ops::WeightFormat::kFp8};
  };
  const auto plain = [](Operands& m, const std::vector<T>& w) {
    return ops::LinearWeight{.data = m.in(w),
                             .format = kF32<T> ? ops::WeightFormat::kF32 : ops::WeightFormat::kBf16};
  };
  // Rotated back: z is a sum of k products of size 1 / sqrt(k), rounded to bf16, perhaps to the neighbour.
  // At most one in eight does (their sums are equal but for 1e-5), so that y, with products of size 1 and
  // bf16 weights, moves by six times 2^-7 sqrt(z / 8).
  Agreement agreement = kSameBits;
  if (c.rotate_back && !kF32<T>)
    agreement = {6 * 0x1p-7 * std::sqrt(static_cast<double>(z) / 8) + sum_bound(z, 1), 0x1p-7, 0.5};
  const std::string more = c.rotate_back ? " rotated back" : c.fp8_a ? " FP8 Wo_a" : " bf16 Wo_a";
  tally.compare(title<T>("attn_out_proj", c.tokens, c.hidden) + more, [&](const OpTable& f, Operands& m) {
    const std::int64_t n = c.tokens * c.heads * kDim;
    ops::AttnOutProjParams p = {.y = m.out<T>("y", c.tokens * c.hidden, agreement),
                                .o = m.in(c.rotate_back ? normal<T>(n, 1) : whole<T>(n, 1, 2)),
                                .positions = m.in(test::integers(c.tokens, 2, 0, 1 << 20)),
                                .tokens = c.tokens,
                                .hidden = c.hidden,
                                .heads = c.heads,
                                .head_dim = kDim,
                                .rope_dim = 64,
                                .groups = c.groups,
                                .rank = c.rank,
                                .rotate_back = c.rotate_back,
                                .dtype = kDType<T>};
    const double unit = 1.0 / std::sqrt(static_cast<double>(k));
    p.wo_a = c.rotate_back ? plain(m, normal<T>(z * k, 3, unit))
             : c.fp8_a     ? fp8(m, z, k, 4)
                           : plain(m, whole<T>(z * k, 3, 2));
    p.wo_b = c.rotate_back ? plain(m, normal<T>(c.hidden * z, 5)) : fp8(m, c.hidden, z, 6);
    if (c.rotate_back) p.rope.freq = m.in(frequencies());
    m.workspace(p, f.attn_out_proj_workspace_bytes(p));
    return f.attn_out_proj(p, nullptr);
  });
}

void refusals(Tally& tally) {
  const auto refuse = [&](Code code, const char* text, auto change) {
    tally.refuse("attn_out_proj", code, text, [change](const OpTable& f, Operands& m) {
      ops::AttnOutProjParams p = {.y = m.scratch<bf16>(128),
                                  .o = m.in(normal<bf16>(2 * kDim, 1)),
                                  .wo_a = {.data = m.in(normal<bf16>(64 * kDim, 2))},
                                  .wo_b = {.data = m.in(normal<bf16>(128 * 64, 3))},
                                  .tokens = 1,
                                  .hidden = 128,
                                  .heads = 2,
                                  .head_dim = kDim,
                                  .rope_dim = 64,
                                  .groups = 2,
                                  .rank = 32};
      m.workspace(p, f.attn_out_proj_workspace_bytes(p));
      change(p);
      return f.attn_out_proj(p, nullptr);
    });
  };
  using P = ops::AttnOutProjParams;
  refuse(Code::kInvalidArgument, "groups", [](P& p) { p.groups = 17; });
  refuse(Code::kInvalidArgument, "heads", [](P& p) { p.heads = 3; });
  refuse(Code::kInvalidArgument, "y", [](P& p) { p.y = nullptr; });
  refuse(Code::kWorkspaceTooSmall, "workspace", [](P& p) { p.workspace_bytes = 0; });
}

}  // namespace

void compare_attn_out_proj(Tally& tally, bool small) {
  for (const Case& c : cases(small)) {
    compare_case<bf16>(tally, c);
    compare_case<float>(tally, c);
  }
  refusals(tally);
}

}  // namespace dsv4::gpu
