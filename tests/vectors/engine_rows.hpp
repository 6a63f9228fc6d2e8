// The engine's norms, quantisers, rotation and mHC.
#pragma once

#include <dsv4/core/hadamard.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/mhc/head.hpp>
#include <dsv4/mhc/post.hpp>
#include <dsv4/mhc/pre.hpp>
#include <dsv4/mhc/project.hpp>
#include <dsv4/mhc/split.hpp>

#include "tests/vectors/engine_common.hpp"

#include <algorithm>

namespace dsv4::test::engine {

inline Outputs rms_norm(const Problem& p) {
  const Array& x = p.array("x");
  std::vector<bf16> rows = raw<bf16>(x);
  const std::vector<float> weight = floats(p, "weight");
  const int n = static_cast<int>(x.dim(1));
  for (std::int64_t t = 0; t < x.dim(0); ++t)
    dsv4::rms_norm(kCoop, rows.data() + t * n, rows.data() + t * n, weight.data(), n,
                   static_cast<float>(p.scalar("eps")));
  return {{"out", stored(DType::kBf16, x.shape, rows)}};
}

inline Outputs act_quant(const Problem& p) {
  const Array& x = p.array("x");
  const std::vector<bf16> rows = raw<bf16>(x);
  const std::int64_t n = x.dim(1), block = p.integer("block");
  const bool fp4 = p.integer("fp4") != 0;
  std::vector<std::uint8_t> codes(rows.size() / (fp4 ? 2 : 1)), scales;
  for (std::int64_t t = 0; t < x.dim(0); ++t)
    for (std::int64_t i = 0; i < n; i += block) {
      const int count = static_cast<int>(std::min(block, n - i));
      const bf16* from = rows.data() + t * n + i;
      const e8m0 s =
          fp4 ? quant::fp4_block(kCoop, reinterpret_cast<e2m1x2*>(codes.data()) + (t * n + i) / 2, from,
                                 count)
              : quant::fp8_block(kCoop, reinterpret_cast<e4m3*>(codes.data()) + t * n + i, from, count);
      scales.push_back(s.bits);
    }
  return {{"codes", stored(DType::kU8, {x.dim(0), fp4 ? n / 2 : n}, codes)},
          {"scales", stored(DType::kU8, {x.dim(0), (n + block - 1) / block}, scales)}};
}

inline Outputs rope(const Problem& p) {
  const Array& x = p.array("x");
  std::vector<bf16> rows = raw<bf16>(x);
  Angles angles(p);
  const std::int64_t heads = x.dim(1), n = x.dim(2);
  for (std::int64_t i = 0; i < x.dim(0) * heads; ++i)
    rope::rotate(kCoop, rows.data() + (i + 1) * n - kRopeDim,
                 angles.at(p.array("positions").integer(i / heads)), kRopeDim / 2,
                 p.integer("inverse") != 0 ? rope::Direction::kInverse : rope::Direction::kForward);
  return {{"out", stored(DType::kBf16, x.shape, rows)}};
}

inline Outputs hadamard(const Problem& p) {
  std::vector<bf16> rows = raw<bf16>(p.array("x"));
  float scratch[128];
  for (std::size_t i = 0; i + 128 <= rows.size(); i += 128)
    dsv4::hadamard<128>(kCoop, rows.data() + i, scratch);
  return {{"out", stored(DType::kBf16, p.array("x").shape, rows)}};
}

// Mixes, split and collapse; the head where fn has four rows.
inline Outputs mhc_collapse(const Problem& p) {
  const Array& streams = p.array("streams");
  const std::vector<bf16> rows = raw<bf16>(streams);
  const std::vector<float> f = floats(streams), fn = floats(p, "fn"), scale = floats(p, "scale"),
                           base = floats(p, "base");
  const auto tokens = static_cast<int>(streams.dim(0)), hidden = static_cast<int>(streams.dim(2));
  const auto mixes = static_cast<int>(p.array("fn").dim(0));
  const auto eps = static_cast<float>(p.scalar("hc_eps"));
  std::vector<float> z(size(tokens * mixes)), post(size(tokens * 4)), comb(size(tokens * 16));
  std::vector<bf16> x(size(tokens * hidden));
  mhc::project(kCoop, z.data(), linear::RowsF32{f.data(), 4 * hidden}, tokens, fn.data(), mixes, 4 * hidden,
               static_cast<float>(p.scalar("norm_eps")));
  for (int t = 0; t < tokens; ++t) {
    float pre[4];
    if (mixes == 4)
      mhc::head<4>(pre, z.data() + t * 4, scale.data(), base.data(), eps);
    else
      mhc::split<4>(pre, post.data() + t * 4, comb.data() + t * 16, z.data() + t * 24, scale.data(),
                    base.data(), static_cast<int>(p.integer("sinkhorn_iterations")), eps);
    mhc::pre<4>(kCoop, x.data() + t * hidden, rows.data() + std::int64_t{4} * t * hidden, pre, hidden);
  }
  Outputs out = {{"x", stored(DType::kBf16, {tokens, hidden}, x)}};
  if (mixes == 4) return out;
  out["post"] = stored(DType::kF32, {tokens, 4}, post);
  out["comb"] = stored(DType::kF32, {tokens, 4, 4}, comb);
  return out;
}

inline Outputs mhc_post(const Problem& p) {
  const Array& streams = p.array("streams");
  std::vector<bf16> rows = raw<bf16>(streams);
  const std::vector<bf16> y = raw<bf16>(p.array("y"));
  const std::vector<float> post = floats(p, "post"), comb = floats(p, "comb");
  const auto hidden = static_cast<int>(streams.dim(2));
  for (std::int64_t t = 0; t < streams.dim(0); ++t) {
    bf16* row = rows.data() + t * 4 * hidden;
    mhc::post<4>(kCoop, row, y.data() + t * hidden, row, post.data() + t * 4, comb.data() + t * 16, hidden);
  }
  return {{"out", stored(DType::kBf16, streams.shape, rows)}};
}

}  // namespace dsv4::test::engine
