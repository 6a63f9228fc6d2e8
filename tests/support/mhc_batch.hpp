// Inputs of mHC's ops, their outputs in watched buffers, and what the primitives make of the same.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/mhc/head.hpp>
#include <dsv4/mhc/post.hpp>
#include <dsv4/mhc/pre.hpp>
#include <dsv4/mhc/project.hpp>
#include <dsv4/mhc/split.hpp>
#include <dsv4/ops/mhc.hpp>

#include "tests/support/op_buffers.hpp"
#include "tests/support/random.hpp"
#include "tests/support/typed.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace dsv4::test {

inline constexpr float kMhcMixEps = 1e-6f, kMhcHcEps = 1e-6f, kMhcNormEps = 1e-5f;
inline constexpr std::int32_t kMhcIterations = 20;

/// Random tokens and one site's weights. Token t of a batch is the same whatever the number of tokens.
template <class T>
struct MhcInputs {
  std::int64_t tokens, hidden;
  std::vector<T> streams;              // [tokens, 4, hidden]
  std::vector<T> y;                    // [tokens, hidden]
  std::vector<float> post, comb;       // [tokens, 4], [tokens, 4, 4]
  std::vector<float> fn, scale, base;  // [rows, 4 * hidden], [3], [24]
  std::vector<float> norm_weight;      // [hidden]

  MhcInputs(std::int64_t t, std::int64_t h, std::int64_t rows = 24, std::uint64_t seed = 1)
      : tokens(t), hidden(h) {
    for (std::int64_t i = 0; i < t; ++i) {
      const auto s = seed + 10 * static_cast<std::uint64_t>(i);
      append(streams, row_of<T>(normal_bf16(4 * h, s, 1.0 + static_cast<double>(i % 3))));
      append(y, row_of<T>(normal_bf16(h, s + 1)));
      append(post, uniform(4, s + 2, 0.1, 2.0));
      append(comb, uniform(16, s + 3));  // not symmetric
    }
    fn = normal(rows * 4 * h, seed + 4, 2.0 / std::sqrt(4.0 * static_cast<double>(h)));
    scale = {0.9f, 1.1f, 1.3f};
    base = normal(24, seed + 5, 0.5);
    norm_weight = uniform(h, seed + 6, 0.5, 1.5);
  }

 private:
  template <class E>
  static void append(std::vector<E>& to, const std::vector<E>& from) {
    to.insert(to.end(), from.begin(), from.end());
  }
};

/// How the buffers of a case lie: contiguous, or every row padded and every start as little aligned as is
/// legal.
enum class Lay { kContiguous, kStrided };

template <class T>
RowLayout lay_rows(Lay lay, std::int64_t cols) {
  return {.stride = lay == Lay::kStrided ? cols + 24 : 0, .align = 16};
}
inline RowLayout lay_scalars(Lay lay, std::int64_t cols, std::size_t align) {
  return {.stride = lay == Lay::kStrided ? cols + 4 : 0, .align = align};
}

/// The outputs that mhc_pre and mhc_head can have.
template <class T>
struct MhcOutputs {
  Rows<T> x, normed;
  Rows<e4m3> codes;
  Rows<e8m0> scales;
  Rows<float> post, comb, pre, mixes;

  MhcOutputs(std::int64_t t, std::int64_t h, Lay lay, std::int64_t mix_rows = 24)
      : x(t, h, lay_rows<T>(lay, h)),
        normed(t, h, lay_rows<T>(lay, h)),
        codes(t, h, RowLayout{.stride = lay == Lay::kStrided ? h + 8 : 0, .align = 8}),
        scales(t, (h + 127) / 128,
               RowLayout{.stride = lay == Lay::kStrided ? (h + 127) / 128 + 3 : 0, .align = 1}),
        // Inputs of a later mhc_post, hence 16 bytes.
        post(t, 4, lay_scalars(lay, 4, 16)),
        comb(t, 16, lay_scalars(lay, 16, 16)),
        pre(t, 4, RowLayout{.stride = lay == Lay::kStrided ? 5 : 0, .align = 4}),
        mixes(t, mix_rows, RowLayout{.stride = lay == Lay::kStrided ? mix_rows + 1 : 0, .align = 4}) {}
};

/// A workspace of exactly the size asked for.
struct MhcWorkspace {
  Rows<std::uint8_t> bytes;
  explicit MhcWorkspace(std::size_t n)
      : bytes(1, std::max<std::int64_t>(1, static_cast<std::int64_t>(n)), RowLayout{.align = 256}) {}
};

/// Parameters of mhc_pre with every output; the workspace is still missing.
template <class T>
ops::MhcPreParams pre_params(const MhcInputs<T>& in, const Rows<T>& streams, MhcOutputs<T>& out) {
  return {.x = out.x.data(),
          .normed = out.normed.data(),
          .quantised = {.codes = out.codes.data(),
                        .scales = out.scales.data(),
                        .codes_stride = out.codes.stride(),
                        .scales_stride = out.scales.stride()},
          .post = out.post.data(),
          .comb = out.comb.data(),
          .pre = out.pre.data(),
          .mixes = out.mixes.data(),
          .streams = streams.data(),
          .fn = in.fn.data(),
          .scale = in.scale.data(),
          .base = in.base.data(),
          .norm_weight = in.norm_weight.data(),
          .tokens = in.tokens,
          .hidden = in.hidden,
          .stream_count = 4,
          .sinkhorn_iterations = kMhcIterations,
          .mix_eps = kMhcMixEps,
          .hc_eps = kMhcHcEps,
          .norm_eps = kMhcNormEps,
          .dtype = kDType<T>,
          .x_stride = out.x.stride(),
          .normed_stride = out.normed.stride(),
          .post_stride = out.post.stride(),
          .comb_stride = out.comb.stride(),
          .pre_stride = out.pre.stride(),
          .mixes_stride = out.mixes.stride(),
          .streams_stride = streams.stride()};
}

/// Runs an op of mHC with a workspace of its own, which must keep within its bytes.
inline Status run_pre(ops::MhcPreParams p) {
  MhcWorkspace w(ops::mhc_pre_workspace_bytes(p));
  p.workspace = w.bytes.data();
  p.workspace_bytes = ops::mhc_pre_workspace_bytes(p);
  const Status s = ops::mhc_pre(p, nullptr);
  REQUIRE(w.bytes.intact() == "");
  return s;
}
inline Status run_post_pre(ops::MhcPostPreParams p) {
  MhcWorkspace w(ops::mhc_post_pre_workspace_bytes(p));
  p.pre.workspace = w.bytes.data();
  p.pre.workspace_bytes = ops::mhc_post_pre_workspace_bytes(p);
  const Status s = ops::mhc_post_pre(p, nullptr);
  REQUIRE(w.bytes.intact() == "");
  return s;
}
inline Status run_head(ops::MhcHeadParams p) {
  MhcWorkspace w(ops::mhc_head_workspace_bytes(p));
  p.workspace = w.bytes.data();
  p.workspace_bytes = ops::mhc_head_workspace_bytes(p);
  const Status s = ops::mhc_head(p, nullptr);
  REQUIRE(w.bytes.intact() == "");
  return s;
}

/// Parameters of mhc_post; out may be the buffer of the streams.
template <class T>
ops::MhcPostParams post_params(const MhcInputs<T>& in, Rows<T>& out, const Rows<T>& y, const Rows<T>& streams,
                               const Rows<float>& post, const Rows<float>& comb) {
  return {.out = out.data(),
          .y = y.data(),
          .streams = streams.data(),
          .post = post.data(),
          .comb = comb.data(),
          .tokens = in.tokens,
          .hidden = in.hidden,
          .stream_count = 4,
          .dtype = kDType<T>,
          .out_stride = out.stride(),
          .y_stride = y.stride(),
          .streams_stride = streams.stride(),
          .post_stride = post.stride(),
          .comb_stride = comb.stride()};
}

/// Inputs of mhc_post in watched buffers.
template <class T>
struct MhcPostBuffers {
  Rows<T> streams, y;
  Rows<float> post, comb;

  MhcPostBuffers(const MhcInputs<T>& in, Lay lay)
      : streams(in.tokens, 4 * in.hidden, in.streams, lay_rows<T>(lay, 4 * in.hidden)),
        y(in.tokens, in.hidden, in.y, lay_rows<T>(lay, in.hidden)),
        post(in.tokens, 4, in.post, lay_scalars(lay, 4, 16)),
        comb(in.tokens, 16, in.comb, lay_scalars(lay, 16, 16)) {}
};

/// mhc::post, token by token.
template <class T>
std::vector<T> reference_post(const MhcInputs<T>& in) {
  std::vector<T> out(in.streams.size());
  for (std::int64_t t = 0; t < in.tokens; ++t) {
    const std::int64_t row = t * 4 * in.hidden;
    mhc::post<4>(SerialCoop{}, out.data() + row, in.y.data() + t * in.hidden, in.streams.data() + row,
                 in.post.data() + t * 4, in.comb.data() + t * 16, static_cast<int>(in.hidden));
  }
  return out;
}

/// Everything that follows from given mixes, by the primitives.
template <class T>
struct MhcReference {
  std::vector<T> x, normed;
  std::vector<e4m3> codes;
  std::vector<e8m0> scales;
  std::vector<float> post, comb, pre;

  /// mixes [tokens, 24], or [tokens, 4] of the head, whose post and comb stay empty.
  MhcReference(const MhcInputs<T>& in, const std::vector<T>& streams, const std::vector<float>& mixes,
               bool head) {
    const int h = static_cast<int>(in.hidden);
    for (std::int64_t t = 0; t < in.tokens; ++t) {
      float coefficient[4], p[4], c[16];
      if (head) {
        mhc::head<4>(coefficient, mixes.data() + t * 4, in.scale.data(), in.base.data(), kMhcHcEps);
      } else {
        mhc::split<4>(coefficient, p, c, mixes.data() + t * 24, in.scale.data(), in.base.data(),
                      kMhcIterations, kMhcHcEps);
        post.insert(post.end(), p, p + 4);
        comb.insert(comb.end(), c, c + 16);
      }
      pre.insert(pre.end(), coefficient, coefficient + 4);
      std::vector<T> row(static_cast<std::size_t>(h)), norm(row.size());
      mhc::pre<4>(SerialCoop{}, row.data(), streams.data() + t * 4 * h, coefficient, h);
      dsv4::rms_norm(SerialCoop{}, norm.data(), row.data(), in.norm_weight.data(), h, kMhcNormEps);
      std::vector<e4m3> code(row.size());
      for (int d = 0; d < h; d += 128)
        scales.push_back(
            quant::fp8_block(SerialCoop{}, code.data() + d, norm.data() + d, std::min(128, h - d)));
      x.insert(x.end(), row.begin(), row.end());
      normed.insert(normed.end(), norm.begin(), norm.end());
      codes.insert(codes.end(), code.begin(), code.end());
    }
  }
};

/// mhc::project, token by token.
inline std::vector<float> reference_mixes(const MhcInputs<float>& in, const std::vector<float>& streams,
                                          int rows) {
  std::vector<float> mixes(static_cast<std::size_t>(in.tokens * rows));
  const int n = static_cast<int>(4 * in.hidden);
  mhc::project(SerialCoop{}, mixes.data(), {streams.data(), n}, static_cast<int>(in.tokens), in.fn.data(),
               rows, n, kMhcMixEps);
  return mixes;
}

/// The largest error of mixes against fp64, in units of |fn row| * |streams| * rho: what the op promises to
/// keep within 1e-6.
template <class T>
double mix_error(const MhcInputs<T>& in, const std::vector<T>& streams, const std::vector<float>& mixes,
                 std::int64_t rows) {
  const std::int64_t n = 4 * in.hidden;
  std::vector<double> weight_norm(static_cast<std::size_t>(rows));
  for (std::int64_t m = 0; m < rows; ++m) {
    double squares = 0;
    for (std::int64_t k = 0; k < n; ++k) {
      const double w = in.fn[static_cast<std::size_t>(m * n + k)];
      squares += w * w;
    }
    weight_norm[static_cast<std::size_t>(m)] = std::sqrt(squares);
  }
  double worst = 0;
  for (std::int64_t t = 0; t < in.tokens; ++t) {
    std::vector<double> f;
    double squares = 0;
    for (std::int64_t k = 0; k < n; ++k) {
      f.push_back(value(streams[static_cast<std::size_t>(t * n + k)]));
      squares += f.back() * f.back();
    }
    const double rho = 1.0 / std::sqrt(squares / static_cast<double>(n) + double{kMhcMixEps});
    for (std::int64_t m = 0; m < rows; ++m) {
      double sum = 0;
      for (std::int64_t k = 0; k < n; ++k)
        sum += double{in.fn[static_cast<std::size_t>(m * n + k)]} * f[static_cast<std::size_t>(k)];
      const double unit = weight_norm[static_cast<std::size_t>(m)] * std::sqrt(squares) * rho;
      const double error = std::abs(double{mixes[static_cast<std::size_t>(t * rows + m)]} - sum * rho) / unit;
      if (!(error <= worst)) worst = error;  // a NaN stays
    }
  }
  return worst;
}

}  // namespace dsv4::test
