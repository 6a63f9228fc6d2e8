// linear_bf16, linear_fp8, linear_multi. Operands of few bits, whose products and sums are exact, must give
// the same bits on any tensor core; for normal operands the bound is that of inputs.hpp.
#include "tests/gpu/caches.hpp"
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

struct Size {
  std::int64_t tokens, n, k;
};

/// Sizes that the multiples of 16 bytes between rows allow; tiles of tokens, rows and channels are ragged.
std::vector<Size> sizes(bool small) {
  if (small) return {{1, 72, 144}, {65, 40, 256}};
  return {{1, 200, 144}, {2, 72, 1008}, {8, 136, 4096}, {65, 264, 512}, {130, 128, 128}, {3, 1, 16}};
}

std::string name(const char* op, const Size& s, const char* more) {
  return std::string(op) + " T=" + std::to_string(s.tokens) + " N=" + std::to_string(s.n) +
         " K=" + std::to_string(s.k) + " " + more;
}

constexpr std::int64_t blocks(std::int64_t n) { return (n + 127) / 128; }

ops::LinearWeight fp8_weight(Operands& m, std::int64_t n, std::int64_t k, std::uint64_t seed) {
  return {.data = m.in(e4m3_codes(n * k, seed)),
          .scales = m.in(scale_bytes(blocks(n) * blocks(k), seed + 1)),
          .format = ops::WeightFormat::kFp8};
}

template <class T>
ops::LinearWeight plain_weight(Operands& m, const std::vector<T>& w) {
  return {.data = m.in(w), .format = kF32<T> ? ops::WeightFormat::kF32 : ops::WeightFormat::kBf16};
}

/// Normal operands, with the norm in front: products of unit size, or of unit size after the norm.
template <class T>
void compare_normal(Tally& tally, const Size& s, bool norm, ops::DType y_type) {
  const auto x = normal<T>(s.tokens * s.k, 1), w = normal<T>(s.n * s.k, 2);
  const auto norm_weight = test::uniform(s.k, 3, 0.5, 1.0);
  const bool wide = y_type == ops::DType::kF32;
  // Rounded to bf16 a sum may land on the neighbour, 2^-7 away, where the sums lie around a midpoint.
  Agreement agreement = kSameBits;
  if (!kF32<T>) agreement = {sum_bound(s.k, 1), wide ? 0 : 0x1p-7, wide ? 1 : 0.05};
  tally.compare(name("linear_bf16", s, norm ? "normal, norm" : "normal"), [&](const OpTable& f, Operands& m) {
    ops::LinearBf16Params p = {.y = wide ? static_cast<void*>(m.out<float>("y", s.tokens * s.n, agreement))
                                         : m.out<bf16>("y", s.tokens * s.n, agreement),
                               .input = {.x = m.in(x)},
                               .weight = plain_weight(m, w),
                               .tokens = s.tokens,
                               .n = s.n,
                               .k = s.k,
                               .dtype = kDType<T>,
                               .y_type = y_type};
    if (norm) p.input.norm_weight = m.in(norm_weight), p.input.norm_eps = 1e-6f;
    m.workspace(p, f.linear_bf16_workspace_bytes(p));
    return f.linear_bf16(p, nullptr);
  });
}

/// Exact sums: rows of x and of y with padding between them.
template <class T>
void compare_exact(Tally& tally, const Size& s) {
  const std::int64_t x_stride = s.k + 32, y_stride = s.n + 8;
  const auto x = whole<T>(s.tokens * x_stride, 4, 3), w = whole<T>(s.n * s.k, 5, 3);
  tally.compare(name("linear_bf16", s, "exact"), [&](const OpTable& f, Operands& m) {
    ops::LinearBf16Params p = {.y = m.out<T>("y", s.tokens * y_stride),
                               .input = {.x = m.in(x), .x_stride = x_stride},
                               .weight = plain_weight(m, w),
                               .tokens = s.tokens,
                               .n = s.n,
                               .k = s.k,
                               .y_stride = y_stride,
                               .dtype = kDType<T>,
                               .y_type = kDType<T>};
    m.workspace(p, f.linear_bf16_workspace_bytes(p));
    return f.linear_bf16(p, nullptr);
  });
  for (const bool quantise : {true, false})
    tally.compare(name("linear_fp8", s, quantise ? "exact, quantised" : "exact"),
                  [&](const OpTable& f, Operands& m) {
                    ops::LinearFp8Params p = {.y = m.out<float>("y", s.tokens * y_stride),
                                              .input = {.x = m.in(x), .x_stride = x_stride},
                                              .weight = fp8_weight(m, s.n, s.k, 6),
                                              .tokens = s.tokens,
                                              .n = s.n,
                                              .k = s.k,
                                              .y_stride = y_stride,
                                              .dtype = kDType<T>,
                                              .y_type = ops::DType::kF32,
                                              .quantise = quantise};
                    m.workspace(p, f.linear_fp8_workspace_bytes(p));
                    return f.linear_fp8(p, nullptr);
                  });
}

/// Activations that come quantised, their scales as TMA-fed kernels lay them out.
void compare_codes(Tally& tally, const Size& s) {
  tally.compare(name("linear_fp8", s, "codes"), [&](const OpTable& f, Operands& m) {
    ops::LinearFp8Params p = {.y = m.out<bf16>("y", s.tokens * s.n),
                              .input = {.codes = m.in(e4m3_codes(s.tokens * s.k, 8)),
                                        .scales = m.in(scale_bytes(s.tokens * blocks(s.k), 9)),
                                        .scale_layout = ops::ScaleLayout::kColumnMajor},
                              .weight = fp8_weight(m, s.n, s.k, 10),
                              .tokens = s.tokens,
                              .n = s.n,
                              .k = s.k};
    m.workspace(p, f.linear_fp8_workspace_bytes(p));
    return f.linear_fp8(p, nullptr);
  });
}

/// Matrices of both formats and several heights at once, one of them over other columns of x.
template <class T>
void compare_multi(Tally& tally, const Size& s) {
  const std::int64_t columns = blocks(s.k) * 128 + s.k;
  const auto x = whole<T>(s.tokens * columns, 11, 3);
  const auto w = whole<T>(s.n * s.k, 12, 3);
  tally.compare(name("linear_multi", s, kF32<T> ? "f32" : "bf16"), [&](const OpTable& f, Operands& m) {
    ops::LinearMultiParams p = {.count = 4,
                                .input = {.x = m.in(x), .x_stride = columns},
                                .tokens = s.tokens,
                                .k = s.k,
                                .dtype = kDType<T>};
    p.parts[0] = {
        .y = m.out<T>("bf16", s.tokens * s.n), .weight = plain_weight(m, w), .n = s.n, .y_type = kDType<T>};
    p.parts[1] = {.y = m.out<float>("fp8", s.tokens * s.n),
                  .weight = fp8_weight(m, s.n, s.k, 13),
                  .n = s.n,
                  .y_type = ops::DType::kF32,
                  .quantise = true};
    p.parts[2] = {.y = m.out<float>("columns", s.tokens * s.n),
                  .weight = plain_weight(m, w),
                  .n = s.n,
                  .x_column = blocks(s.k) * 128,
                  .y_type = ops::DType::kF32};
    p.parts[3] = {
        .y = m.out<T>("one row", s.tokens), .weight = fp8_weight(m, 1, s.k, 14), .n = 1, .y_type = kDType<T>};
    m.workspace(p, f.linear_multi_workspace_bytes(p));
    return f.linear_multi(p, nullptr);
  });
}

void refusals(Tally& tally) {
  const auto call = [](auto change) {
    return [change](const OpTable& f, Operands& m) {
      ops::LinearFp8Params p = {.y = m.scratch<bf16>(4 * 16),
                                .input = {.x = m.in(normal<bf16>(4 * 128, 1))},
                                .weight = fp8_weight(m, 16, 128, 2),
                                .tokens = 4,
                                .n = 16,
                                .k = 128};
      change(p);
      return f.linear_fp8(p, nullptr);
    };
  };
  const auto refuse = [&](Code code, const char* text, auto change) {
    tally.refuse("linear_fp8", code, text, call(change));
  };
  refuse(Code::kInvalidArgument, "tokens", [](ops::LinearFp8Params& p) { p.tokens = -1; });
  refuse(Code::kInvalidArgument, "n", [](ops::LinearFp8Params& p) { p.n = 0; });
  refuse(Code::kInvalidArgument, "y", [](ops::LinearFp8Params& p) { p.y = nullptr; });
  refuse(Code::kInvalidArgument, "weight", [](ops::LinearFp8Params& p) { p.weight.scales = nullptr; });
}

}  // namespace

void compare_linear(Tally& tally, bool small) {
  for (const Size& s : sizes(small)) {
    compare_normal<bf16>(tally, s, false, ops::DType::kBf16);
    compare_normal<bf16>(tally, s, true, ops::DType::kF32);
    compare_normal<float>(tally, s, true, ops::DType::kF32);
    compare_exact<bf16>(tally, s);
    compare_exact<float>(tally, s);
    compare_codes(tally, s);
    compare_multi<bf16>(tally, s);
    compare_multi<float>(tally, s);
  }
  refusals(tally);
}

}  // namespace dsv4::gpu
