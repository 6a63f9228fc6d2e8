// The products around attention at the sizes of the published models.
#include "bench/gpu/bench.hpp"

#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/linear.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

constexpr std::int64_t kHeadDim = 512, kIndexDim = 128, kIndexHeads = 64;

struct Model {
  const char* name;
  std::int64_t hidden, heads, q_rank, groups, o_rank;
};
constexpr Model kModels[] = {{"Flash", 4096, 64, 1024, 8, 1024}, {"Pro", 7168, 128, 1536, 16, 1024}};

struct Matrix {
  std::int64_t n;
  ops::WeightFormat format;
  ops::DType y_type = ops::DType::kBf16;
  std::int64_t x_column = 0;
};

std::string name(const char* op, const Model& m, std::int64_t tokens) {
  return std::string(op) + '/' + m.name + "/T:" + std::to_string(tokens);
}
bool is_common(std::int64_t tokens) { return tokens == 1 || tokens == 64 || tokens == 8192; }

/// Value of weight [row, k] of a matrix, from the device.
std::vector<double> weight_row(const ops::LinearWeight& w, std::int64_t row, std::int64_t k) {
  std::vector<double> v;
  if (w.format == ops::WeightFormat::kBf16) {
    for (const bf16 x : download<bf16>(at<bf16>(w.data, row * k), k)) v.push_back(to_float(x));
    return v;
  }
  const std::int64_t blocks = (k + 127) / 128;
  const auto codes = download<e4m3>(at<e4m3>(w.data, row * k), k);
  const auto scales = download<e8m0>(at<e8m0>(w.scales, row / 128 * blocks), blocks);
  for (std::size_t i = 0; i < codes.size(); ++i)
    v.push_back(static_cast<double>(to_float(codes[i])) * to_float(scales[i / 128]));
  return v;
}

/// One element y[token, row] of a product, whose matrix starts at a column of x, against double precision.
/// Activations that are quantised may be off by 2^-4 each: tolerance for the root of their squares.
std::string element_is_right(const ops::LinearPart& part, const void* x, std::int64_t x_stride,
                             std::int64_t k, std::int64_t token, std::int64_t row) {
  const auto w = weight_row(part.weight, row, k);
  const auto a = download<bf16>(at<bf16>(x, token * x_stride + part.x_column), k);
  const std::int64_t i = token * part.n + row;
  const double got = part.y_type == ops::DType::kF32 ? download<float>(at<float>(part.y, i), 1)[0]
                                                     : to_float(download<bf16>(at<bf16>(part.y, i), 1)[0]);
  double want = 0, squares = 0;
  for (std::size_t j = 0; j < w.size(); ++j) {
    const double term = to_float(a[j]) * w[j];
    want += term, squares += term * term;
  }
  const double limit = std::sqrt(squares) * (part.quantise ? 6 * 0x1p-4 : 1e-3) + 0x1p-8 * std::fabs(want);
  if (std::fabs(got - want) <= limit) return "";
  char text[120];
  std::snprintf(text, sizeof text, "y[%lld, %lld] = %.6g, want %.6g within %.2g",
                static_cast<long long>(token), static_cast<long long>(row), got, want, limit);
  return text;
}

/// linear_multi of these matrices: timed with as many copies of the weights as keep them out of L2.
void multi(Bench& bench, const std::string& n, std::int64_t tokens, std::int64_t k, std::int64_t x_stride,
           const std::vector<Matrix>& matrices, bool common, bool quantise) {
  if (!bench.wanted(n, common)) return;
  double weight_bytes = 0, y_bytes = 0, flops = 0;
  for (const Matrix& m : matrices) {
    weight_bytes += static_cast<double>(m.n * k * (m.format == ops::WeightFormat::kBf16 ? 2 : 1));
    y_bytes += static_cast<double>(tokens * m.n * (m.y_type == ops::DType::kF32 ? 4 : 2));
    flops += 2.0 * static_cast<double>(tokens * m.n * k);
  }
  const int copies = bench.copies(weight_bytes);
  if (!bench.fits(n, copies * weight_bytes + y_bytes + static_cast<double>(2 * tokens * x_stride))) return;
  Arena a;
  const void* x = a.bf16s(tokens * x_stride);
  std::vector<ops::LinearMultiParams> turns(static_cast<std::size_t>(copies));
  for (ops::LinearMultiParams& p : turns) {
    p.count = static_cast<std::int32_t>(matrices.size());
    p.input.x = x, p.input.x_stride = x_stride;
    p.tokens = tokens, p.k = k;
    for (std::size_t i = 0; i < matrices.size(); ++i) {
      const Matrix& m = matrices[i];
      const bool first = &p == &turns[0];
      const std::int64_t y = tokens * m.n * (m.y_type == ops::DType::kF32 ? 4 : 2);
      p.parts[i] = {.y = first ? a.bytes(y) : turns[0].parts[i].y,
                    .weight = a.weight(m.n, k, m.format),
                    .n = m.n,
                    .x_column = m.x_column,
                    .y_type = m.y_type,
                    .quantise = quantise && m.format == ops::WeightFormat::kFp8};
    }
    if (&p == &turns[0])
      a.workspace(p, ops::linear_multi_workspace_bytes(p));
    else
      p.workspace = turns[0].workspace, p.workspace_bytes = turns[0].workspace_bytes;
  }
  const Work work = {weight_bytes + y_bytes + static_cast<double>(2 * tokens * x_stride), flops};
  bench.measure(
      n, tokens > 64 ? Timing::kCold : Timing::kGraph, work,
      [&](Stream s, int turn) {
        return ops::linear_multi(turns[static_cast<std::size_t>(turn % copies)], s);
      },
      [&]() -> std::string {
        for (std::int32_t i = 0; i < turns[0].count; ++i) {
          const ops::LinearPart& part = turns[0].parts[i];
          for (const std::int64_t token : {std::int64_t{0}, tokens - 1})
            for (const std::int64_t row : {std::int64_t{0}, part.n / 2, part.n - 1}) {
              const std::string problem = element_is_right(part, x, x_stride, k, token, row);
              if (!problem.empty()) return "part " + std::to_string(i) + ": " + problem;
            }
        }
        return "";
      });
}

void products(Bench& bench, const Model& m, std::int64_t tokens) {
  using ops::DType, ops::WeightFormat;
  constexpr WeightFormat kFp8 = WeightFormat::kFp8, kBf16 = WeightFormat::kBf16;
  const bool common = is_common(tokens);
  const auto over_hidden = [&](const char* what, const std::vector<Matrix>& matrices) {
    multi(bench, name(what, m, tokens), tokens, m.hidden, m.hidden, matrices, common, true);
  };
  over_hidden("linear/Wq_a|Wkv", {{m.q_rank, kFp8}, {kHeadDim, kFp8}});
  // a and b of the compressors (overlapping at ratio 4: twice as wide); the indexer's head weights
  const Matrix csa = {2 * kHeadDim, kBf16, DType::kF32}, index = {2 * kIndexDim, kBf16, DType::kF32},
               hca = {kHeadDim, kBf16, DType::kF32};
  over_hidden("linear/CSA compressors", {csa, csa, index, index, {kIndexHeads, kBf16}});
  over_hidden("linear/HCA compressor", {hca, hca});
  multi(bench, name("linear/Wq_b|Wq_bI", m, tokens), tokens, m.q_rank, m.q_rank,
        {{m.heads * kHeadDim, kFp8}, {kIndexHeads * kIndexDim, kFp8}}, common, true);

  const std::int64_t group = m.heads * kHeadDim / m.groups;
  std::vector<Matrix> wo_a;
  for (std::int64_t g = 0; g < m.groups; ++g) wo_a.push_back({m.o_rank, kFp8, DType::kBf16, g * group});
  multi(bench, name("linear/Wo_a", m, tokens), tokens, group, m.heads * kHeadDim, wo_a, common, false);
  multi(bench, name("linear/Wo_b", m, tokens), tokens, m.groups * m.o_rank, m.groups * m.o_rank,
        {{m.hidden, kFp8}}, common, true);
}

/// Wq_b by the op for one matrix, with the norm of its input in front.
void norm_and_product(Bench& bench, const Model& m, std::int64_t tokens) {
  const std::string n = name("linear_fp8/norm, Wq_b", m, tokens);
  const std::int64_t rows = m.heads * kHeadDim;
  if (!bench.wanted(n, is_common(tokens))) return;
  Arena a;
  ops::LinearFp8Params p = {
      .y = a.bytes(2 * tokens * rows),
      .input = {.x = a.bf16s(tokens * m.q_rank), .norm_weight = a.floats(m.q_rank, 1.0f), .norm_eps = 1e-6f},
      .weight = a.weight(rows, m.q_rank, ops::WeightFormat::kFp8),
      .tokens = tokens,
      .n = rows,
      .k = m.q_rank};
  a.workspace(p, ops::linear_fp8_workspace_bytes(p));
  const auto elements = static_cast<double>(rows * m.q_rank);
  const Work work = {elements + static_cast<double>(2 * tokens * (rows + m.q_rank)),
                     2 * elements * static_cast<double>(tokens)};
  bench.measure(
      n, tokens > 64 ? Timing::kCold : Timing::kGraph, work,
      [=](Stream s, int) { return ops::linear_fp8(p, s); },
      [=] {
        return same_alone(at<bf16>(p.y, (tokens - 1) * rows), 2 * rows, [&](Arena& scratch, void* alone) {
          ops::LinearFp8Params q = p;
          q.y = alone, q.tokens = 1, q.input.x = at<bf16>(p.input.x, (tokens - 1) * m.q_rank);
          scratch.workspace(q, ops::linear_fp8_workspace_bytes(q));
          return ops::linear_fp8(q, nullptr);
        });
      });
}

void out_proj(Bench& bench, const Model& m, std::int64_t tokens) {
  const std::string n = name("attn_out_proj", m, tokens);
  if (!bench.wanted(n, is_common(tokens))) return;
  const std::int64_t width = m.heads * kHeadDim, z = m.groups * m.o_rank, group = width / m.groups;
  Arena a;
  ops::AttnOutProjParams p = {.y = a.bytes(2 * tokens * m.hidden),
                              .o = a.bf16s(tokens * width),
                              .wo_a = a.weight(z, group, ops::WeightFormat::kFp8),
                              .wo_b = a.weight(m.hidden, z, ops::WeightFormat::kFp8),
                              .tokens = tokens,
                              .hidden = m.hidden,
                              .heads = static_cast<std::int32_t>(m.heads),
                              .head_dim = static_cast<std::int32_t>(kHeadDim),
                              .rope_dim = 64,
                              .groups = static_cast<std::int32_t>(m.groups),
                              .rank = static_cast<std::int32_t>(m.o_rank)};
  a.workspace(p, ops::attn_out_proj_workspace_bytes(p));
  const auto weights = static_cast<double>(z * group + m.hidden * z);
  const Work work = {weights + static_cast<double>(2 * tokens * (width + m.hidden)),
                     2 * weights * static_cast<double>(tokens)};
  bench.measure(
      n, tokens > 64 ? Timing::kCold : Timing::kGraph, work,
      [=](Stream s, int) { return ops::attn_out_proj(p, s); },
      [=] {
        return same_alone(at<bf16>(p.y, (tokens - 1) * m.hidden), 2 * m.hidden,
                          [&](Arena& scratch, void* alone) {
                            ops::AttnOutProjParams q = p;
                            q.y = alone, q.tokens = 1, q.o = at<bf16>(p.o, (tokens - 1) * width);
                            scratch.workspace(q, ops::attn_out_proj_workspace_bytes(q));
                            return ops::attn_out_proj(q, nullptr);
                          });
      });
}

}  // namespace

void bench_linear(Bench& bench) {
  for (const Model& m : kModels)
    for (const std::int64_t tokens : {1, 8, 64, 512, 8192}) {
      products(bench, m, tokens);
      norm_and_product(bench, m, tokens);
      out_proj(bench, m, tokens);
    }
}

}  // namespace dsv4::gpu
