// The primitives of include/dsv4 pass every vector: an engine of other arithmetic than the oracles'.
#include "tests/vectors/engine.hpp"

#include <dsv4/attention/attend.hpp>
#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/out_proj.hpp>
#include <dsv4/attention/q_proj.hpp>
#include <dsv4/attention/select.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/mhc/head.hpp>
#include <dsv4/mhc/post.hpp>
#include <dsv4/mhc/pre.hpp>
#include <dsv4/mhc/project.hpp>
#include <dsv4/mhc/split.hpp>
#include <dsv4/moe/combine.hpp>
#include <dsv4/moe/expert.hpp>
#include <dsv4/moe/gate.hpp>
#include <dsv4/mtp/input.hpp>

#include "reference/vectors/report.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

namespace dsv4::test::engine {

using reference::DType;
using reference::vectors::Array;
using reference::vectors::Outputs;
using reference::vectors::Problem;

namespace {

constexpr SerialCoop kCoop;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

std::vector<float> floats(const Array& a) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < a.count(); ++i) out.push_back(static_cast<float>(a.at(i)));
  return out;
}
std::vector<float> floats(const Problem& p, const char* name) { return floats(p.array(name)); }

std::vector<std::int32_t> integers(const Array& a) {
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i < a.count(); ++i) out.push_back(static_cast<std::int32_t>(a.integer(i)));
  return out;
}

// Elements as they are stored.
template <class T>
std::vector<T> raw(const Array& a) {
  std::vector<T> out(a.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), a.bytes.data(), a.bytes.size());
  return out;
}

template <class T>
Array stored(DType dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

struct Angles {
  explicit Angles(const Problem& p)
      : freq(p.integer("ratio") == 0
                 ? rope::frequencies<kRopeDim>({p.scalar("rope_theta"), 1, 1, 1, 1})
                 : rope::frequencies<kRopeDim>({p.scalar("compress_rope_theta"), p.scalar("rope_factor"),
                                                p.integer("rope_original_length"), p.scalar("rope_beta_fast"),
                                                p.scalar("rope_beta_slow")})) {}
  const math::SinCos* at(std::int64_t position) {
    rope::angles(kCoop, table.data(), freq.data(), position, kRopeDim / 2);
    return table.data();
  }
  std::array<float, kRopeDim / 2> freq;
  std::array<math::SinCos, kRopeDim / 2> table{};
};

Outputs rms_norm(const Problem& p) {
  const Array& x = p.array("x");
  std::vector<bf16> rows = raw<bf16>(x);
  const std::vector<float> weight = floats(p, "weight");
  const int n = static_cast<int>(x.dim(1));
  for (std::int64_t t = 0; t < x.dim(0); ++t)
    dsv4::rms_norm(kCoop, rows.data() + t * n, rows.data() + t * n, weight.data(), n,
                   static_cast<float>(p.scalar("eps")));
  return {{"out", stored(DType::kBf16, x.shape, rows)}};
}

Outputs act_quant(const Problem& p) {
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

Outputs rope(const Problem& p) {
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

Outputs hadamard(const Problem& p) {
  std::vector<bf16> rows = raw<bf16>(p.array("x"));
  float scratch[128];
  for (std::size_t i = 0; i + 128 <= rows.size(); i += 128)
    dsv4::hadamard<128>(kCoop, rows.data() + i, scratch);
  return {{"out", stored(DType::kBf16, p.array("x").shape, rows)}};
}

// Mixes, split and collapse; the head where fn has four rows.
Outputs mhc_collapse(const Problem& p) {
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

Outputs mhc_post(const Problem& p) {
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

Outputs attn_q_proj(const Problem& p) {
  const Array& q = p.array("q");
  std::vector<bf16> rows = raw<bf16>(q);
  Angles angles(p);
  for (std::int64_t i = 0; i < q.dim(0) * q.dim(1); ++i)
    attention::finish_query(kCoop, rows.data() + i * kHeadDim,
                            angles.at(p.array("positions").integer(i / q.dim(1))), kHeadDim, kRopeDim,
                            static_cast<float>(p.scalar("eps")));
  return {{"q", stored(DType::kBf16, q.shape, rows)}};
}

// Bytes of rows in pages of one.
template <class Pool>
std::vector<std::uint8_t> packed(const std::vector<bf16>& rows, std::int64_t channels) {
  const std::int64_t count = static_cast<std::int64_t>(rows.size()) / channels;
  std::vector<std::uint8_t> bytes(size(count * Pool::kEntryBytes));
  const Pool pool{{bytes.data(), Pool::kEntryBytes, 1, count}};
  for (std::int64_t i = 0; i < count; ++i) pool.write(kCoop, i, rows.data() + i * channels);
  return bytes;
}

Outputs attn_kv_proj(const Problem& p) {
  const std::int64_t tokens = p.array("kv").dim(0);
  std::vector<bf16> rows = raw<bf16>(p.array("kv"));
  const std::vector<float> weight = floats(p, "weight");
  Angles angles(p);
  for (std::int64_t t = 0; t < tokens; ++t)
    attention::finish_key_value(kCoop, rows.data() + t * kHeadDim, weight.data(),
                                angles.at(p.array("positions").integer(t)), kHeadDim, kRopeDim,
                                static_cast<float>(p.scalar("eps")));
  return {{"entries", stored(DType::kU8, {tokens, 584}, packed<attention::KvPagePool>(rows, kHeadDim))}};
}

Outputs attn_compress(const Problem& p) {
  const std::int64_t ratio = p.integer("ratio"), start = p.integer("start"), count = p.integer("entries");
  std::vector<std::int64_t> row_of;  // of each token, padding left out
  std::int64_t row = 0;
  for (std::int64_t c = 0; c < p.array("chunks").dim(0); row += p.array("chunks").integer(2 * c), ++c)
    for (std::int64_t i = 0; i < p.array("chunks").integer(2 * c + 1); ++i) row_of.push_back(row + i);
  Angles angles(p);
  const auto eps = static_cast<float>(p.scalar("eps"));
  const auto rows_of = [&](const std::string& prefix, int dim) {
    const attention::CompressorShape shape{static_cast<int>(ratio), dim};
    const std::vector<float> a = floats(p, (prefix + "a").c_str()), b = floats(p, (prefix + "b").c_str()),
                             ape = floats(p, (prefix + "ape").c_str()),
                             norm = floats(p, (prefix + "norm").c_str());
    std::vector<float> tokens;  // a, then b
    for (const std::int64_t r : row_of)
      for (const std::vector<float>* part : {&a, &b})
        tokens.insert(tokens.end(), part->begin() + r * shape.width(),
                      part->begin() + (r + 1) * shape.width());
    std::vector<bf16> out(size(count * dim));
    std::vector<float> pooled(size(dim));
    for (std::int64_t e = 0; e < count; ++e) {
      const std::int64_t entry = start / ratio + p.integer("first_block") + e;
      const auto at = [&](std::int64_t position) {
        return tokens.data() + (position - start) * shape.row_floats();
      };
      attention::pool(kCoop, pooled.data(), at, entry, ape.data(), shape);
      const math::SinCos* table = angles.at(attention::entry_position(entry, shape.ratio));
      float scratch[128];
      if (dim == 128)
        attention::finish_index_key<128>(kCoop, out.data() + e * dim, pooled.data(), norm.data(), table,
                                         kRopeDim, eps, scratch);
      else
        attention::finish_entry(kCoop, out.data() + e * dim, pooled.data(), norm.data(), table, dim, kRopeDim,
                                eps);
    }
    return out;
  };
  Outputs out = {{"entries", stored(DType::kU8, {count, 584},
                                    packed<attention::KvPagePool>(rows_of("", 512), kHeadDim))}};
  if (ratio == 4)
    out["keys"] =
        stored(DType::kU8, {count, 68}, packed<attention::IndexFp4Pool>(rows_of("index_", 128), kIndexDim));
  return out;
}

Outputs attn_index_prep(const Problem& p) {
  const Array& q = p.array("q");
  const std::int64_t heads = q.dim(1);
  std::vector<bf16> rows = raw<bf16>(q);
  Angles angles(p);
  float scratch[128];
  for (std::int64_t i = 0; i < q.dim(0) * heads; ++i)
    attention::finish_index_query<kIndexDim>(kCoop, rows.data() + i * kIndexDim,
                                             angles.at(p.array("positions").integer(i / heads)), kRopeDim,
                                             scratch);
  std::vector<float> weights = floats(p, "weights");
  for (float& w : weights) w *= attention::index_weight_factor(kIndexDim, static_cast<int>(heads));
  return {{"q", stored(DType::kU8, {q.dim(0), heads, 68}, packed<attention::IndexFp4Pool>(rows, kIndexDim))},
          {"weights", stored(DType::kF32, {q.dim(0), heads}, weights)}};
}

Outputs attn_index_scores(const Problem& p) {
  const Array &q = p.array("q"), &keys = p.array("keys");
  const std::int64_t tokens = q.dim(0), heads = q.dim(1), entries = keys.dim(0);
  std::vector<std::uint8_t> query_bytes = raw<std::uint8_t>(q), key_bytes = raw<std::uint8_t>(keys);
  const attention::IndexFp4Pool queries{{query_bytes.data(), 68, 1, tokens * heads}};
  const attention::IndexFp4Pool pool{{key_bytes.data(), 68, 1, entries}};
  std::vector<float> decoded(size(tokens * heads * kIndexDim)), scores(size(tokens * entries)),
      scratch(size(attention::kScoreTile * (heads + kIndexDim)));
  for (std::int64_t i = 0; i < tokens * heads; ++i) queries.read(i, decoded.data() + i * kIndexDim);
  const std::vector<float> weights = floats(p, "weights");
  for (std::int64_t t = 0; t < tokens; ++t)
    attention::index_scores(kCoop, scores.data() + t * entries, decoded.data() + t * heads * kIndexDim,
                            weights.data() + t * heads, pool, 0, entries, static_cast<int>(heads), kIndexDim,
                            scratch.data());
  return {{"scores", stored(DType::kF32, {tokens, entries}, scores)}};
}

Outputs visibility(const Problem& p) {
  std::vector<std::int64_t> begin, entries;
  const Array& positions = p.array("positions");
  for (std::int64_t i = 0; i < positions.count(); ++i) {
    begin.push_back(attention::window_begin(positions.integer(i), kWindow));
    entries.push_back(attention::visible_entries(positions.integer(i), static_cast<int>(p.integer("ratio"))));
  }
  return {{"window_begin", stored(DType::kI64, positions.shape, begin)},
          {"entries", stored(DType::kI64, positions.shape, entries)}};
}

Outputs attn_select(const Problem& p) {
  const std::vector<float> scores = floats(p, "scores");
  const std::int64_t tokens = p.array("scores").dim(0), entries = p.array("scores").dim(1),
                     k = p.integer("k");
  std::vector<std::int32_t> idx(size(tokens * k)), scratch(size(k));
  for (std::int64_t t = 0; t < tokens; ++t)
    attention::select_top_k(kCoop, idx.data() + t * k, scores.data() + t * entries,
                            p.array("positions").integer(t), static_cast<int>(p.integer("ratio")),
                            static_cast<int>(k), scratch.data());
  return {{"idx", stored(DType::kI32, {tokens, k}, idx)}};
}

Outputs attn_attend(const Problem& p) {
  const Array& q = p.array("q");
  const std::int64_t tokens = q.dim(0);
  const int heads = static_cast<int>(q.dim(1));
  std::vector<std::uint8_t> window = raw<std::uint8_t>(p.array("window")),
                            entries = raw<std::uint8_t>(p.array("entries"));
  const std::vector<std::int32_t> wi = integers(p.array("window_idx")), ei = integers(p.array("entry_idx"));
  const int wn = static_cast<int>(p.array("window_idx").dim(1)),
            en = static_cast<int>(p.array("entry_idx").dim(1));
  const attention::KvPagePool first{{window.data(), 584, 1, p.array("window").dim(0)}};
  const attention::KvPagePool second{{entries.data(), 584, 1, p.array("entries").dim(0)}};
  const std::vector<float> query = floats(q), sink = floats(p, "sink");
  std::vector<bf16> o(query.size());
  std::vector<float> scratch(size(attention::attend_scratch_floats(heads, wn + en, kHeadDim)));
  for (std::int64_t t = 0; t < tokens; ++t)
    attention::attend(kCoop, o.data() + t * heads * kHeadDim, static_cast<float*>(nullptr),
                      query.data() + t * heads * kHeadDim, heads, sink.data(),
                      attention::Selection<attention::KvPagePool>{first, wi.data() + t * wn, wn},
                      attention::Selection<attention::KvPagePool>{second, ei.data() + t * en, en}, kHeadDim,
                      1.0f / std::sqrt(512.0f), scratch.data());
  return {{"o", stored(DType::kBf16, q.shape, o)}};
}

// y [T, N] = x w^T, x quantised and dequantised first where w is FP8 or FP4.
template <class T>
void linear_into(T* y, const std::vector<bf16>& x, const linear::WeightView& w) {
  const auto tokens = static_cast<int>(static_cast<std::int64_t>(x.size()) / w.cols);
  std::vector<float> rows(x.size()), scratch(size(linear::kDecodeRows * w.cols));
  for (std::size_t i = 0; i < x.size(); ++i) rows[i] = to_float(x[i]);
  for (std::int64_t t = 0; linear::quantises_activations(w.type) && t < tokens; ++t)
    quant::fp8_round_trip(kCoop, rows.data() + t * w.cols, rows.data() + t * w.cols, static_cast<int>(w.cols),
                          quant::kFp8LinearBlock);
  linear::tile(kCoop, y, w.rows, linear::RowsF32{rows.data(), w.cols}, tokens, w, 0, w.rows, scratch.data());
}

Outputs attn_out_proj(const Problem& p) {
  const Array &o = p.array("o"), &wo_a = p.array("wo_a"), &wo_b = p.array("wo_b");
  const std::int64_t tokens = o.dim(0), heads = o.dim(1), groups = p.integer("groups");
  const std::int64_t lora = wo_a.dim(0) / groups, hidden = wo_b.dim(0);
  std::vector<bf16> rows = raw<bf16>(o);
  Angles angles(p);
  for (std::int64_t i = 0; i < tokens * heads; ++i)
    attention::rotate_back(kCoop, rows.data() + i * kHeadDim,
                           angles.at(p.array("positions").integer(i / heads)), kHeadDim, kRopeDim);
  std::vector<float> x(rows.size()), scratch(size(linear::kDecodeRows * wo_a.dim(1)));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = to_float(rows[i]);
  std::vector<bf16> low(size(tokens * groups * lora)), y(size(tokens * hidden));
  const linear::WeightView a{linear::WeightType::kBf16, wo_a.bytes.data(), nullptr, groups * lora,
                             wo_a.dim(1)};
  for (std::int64_t g = 0; g < groups; ++g)
    attention::grouped_linear(kCoop, low.data(), groups * lora, linear::RowsF32{x.data(), heads * kHeadDim},
                              static_cast<int>(tokens), a, static_cast<int>(lora), g * lora, (g + 1) * lora,
                              scratch.data());
  linear_into(y.data(), low,
              {linear::WeightType::kFp8, wo_b.bytes.data(),
               reinterpret_cast<const e8m0*>(p.array("wo_b_scale").bytes.data()), hidden, groups * lora});
  return {{"y", stored(DType::kBf16, {tokens, hidden}, y)}};
}

Outputs moe_gate(const Problem& p) {
  std::vector<float> scores = floats(p, "logits");
  for (float& s : scores) s = moe::score(s);
  const std::int64_t tokens = p.array("logits").dim(0);
  const int experts = static_cast<int>(p.array("logits").dim(1)), k = static_cast<int>(p.integer("k"));
  const auto route_scale = static_cast<float>(p.scalar("route_scale"));
  std::vector<std::int32_t> idx(size(tokens * k)), chosen(size(k));
  std::vector<float> weights(size(tokens * k)), biased(size(experts));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* row = scores.data() + t * experts;
    if (p.in.contains("table"))
      moe::gate_hashed(kCoop, idx.data() + t * k, weights.data() + t * k, row,
                       integers(p.array("table")).data(), p.array("token_ids").integer(t), k, route_scale);
    else
      moe::gate_scored(kCoop, idx.data() + t * k, weights.data() + t * k, row, floats(p, "bias").data(),
                       experts, k, route_scale, biased.data(), chosen.data());
  }
  return {{"idx", stored(DType::kI32, {tokens, k}, idx)},
          {"weights", stored(DType::kF32, {tokens, k}, weights)}};
}

Outputs moe_experts(const Problem& p) {
  const Array &x = p.array("x"), &idx = p.array("idx");
  const std::int64_t tokens = x.dim(0), hidden = x.dim(1), k = idx.dim(1), experts = p.integer("experts");
  const std::int64_t inner = p.array("w1").dim(0) / experts;
  const bool fp4 = p.integer("fp4") != 0;
  const std::vector<bf16> rows = raw<bf16>(x);
  const auto matrix = [&](const std::string& name, std::int64_t e, std::int64_t n, std::int64_t cols) {
    const Array &data = p.array(name), &scale = p.array(name + "_scale");
    return linear::WeightView{
        fp4 ? linear::WeightType::kFp4 : linear::WeightType::kFp8, data.bytes.data() + e * n * data.dim(1),
        reinterpret_cast<const e8m0*>(scale.bytes.data()) + e * (fp4 ? n : (n + 127) / 128) * scale.dim(1), n,
        cols};
  };
  std::vector<bf16> y(size(tokens * k * hidden));
  for (std::int64_t pair = 0; pair < tokens * k; ++pair) {
    const std::int64_t e = idx.integer(pair);
    const std::vector<bf16> in(rows.begin() + pair / k * hidden, rows.begin() + (pair / k + 1) * hidden);
    std::vector<bf16> gate(size(inner)), up(size(inner));
    linear_into(gate.data(), in, matrix("w1", e, inner, hidden));
    linear_into(up.data(), in, matrix("w3", e, inner, hidden));
    moe::swiglu(kCoop, gate.data(), gate.data(), up.data(), static_cast<int>(inner),
                static_cast<float>(p.scalar("limit")), static_cast<float>(p.array("weights").at(pair)));
    linear_into(y.data() + pair * hidden, gate, matrix("w2", e, hidden, inner));
  }
  return {{"y", stored(DType::kBf16, {tokens, k, hidden}, y)}};
}

Outputs moe_combine(const Problem& p) {
  const Array& y = p.array("y");
  const std::vector<bf16> rows = raw<bf16>(y), shared = raw<bf16>(p.array("shared"));
  const std::int64_t tokens = y.dim(0), k = y.dim(1), hidden = y.dim(2);
  std::vector<std::int32_t> row_of = integers(p.array("idx"));
  for (std::size_t i = 0; i < row_of.size(); ++i)
    if (row_of[i] >= 0) row_of[i] = static_cast<std::int32_t>(i);
  std::vector<bf16> out(shared.size());
  for (std::int64_t t = 0; t < tokens; ++t)
    moe::combine(kCoop, out.data() + t * hidden, rows.data(), row_of.data() + t * k, static_cast<int>(k),
                 shared.data() + t * hidden, static_cast<int>(hidden));
  return {{"out", stored(DType::kBf16, {tokens, hidden}, out)}};
}

Outputs mtp_input(const Problem& p) {
  const std::vector<bf16> e = raw<bf16>(p.array("e"));
  std::vector<bf16> h = raw<bf16>(p.array("h"));
  const std::int64_t hidden = p.array("h").dim(2);
  for (std::int64_t t = 0; t < p.array("h").dim(0); ++t) {
    bf16* row = h.data() + t * 4 * hidden;
    mtp::input<4>(kCoop, row, e.data() + t * hidden, row, static_cast<int>(hidden));
  }
  return {{"out", stored(DType::kBf16, p.array("h").shape, h)}};
}

Outputs lm_head(const Problem& p) {
  const Array &x = p.array("x"), &head = p.array("head");
  std::vector<float> logits(size(x.dim(0) * head.dim(0)));
  linear_into(logits.data(), raw<bf16>(x),
              {linear::WeightType::kBf16, head.bytes.data(), nullptr, head.dim(0), head.dim(1)});
  return {{"logits", stored(DType::kF32, {x.dim(0), head.dim(0)}, logits)}};
}

}  // namespace

Outputs run(const std::string& op, const Problem& problem) {
  static const std::map<std::string, Outputs (*)(const Problem&)> all = {
      {"rms_norm", rms_norm},
      {"act_quant", act_quant},
      {"rope", rope},
      {"hadamard", hadamard},
      {"mhc_pre", mhc_collapse},
      {"mhc_post", mhc_post},
      {"mhc_head", mhc_collapse},
      {"attn_q_proj", attn_q_proj},
      {"attn_kv_proj", attn_kv_proj},
      {"attn_compress", attn_compress},
      {"attn_index_prep", attn_index_prep},
      {"attn_index_scores", attn_index_scores},
      {"visibility", visibility},
      {"attn_select", attn_select},
      {"attn_attend", attn_attend},
      {"attn_out_proj", attn_out_proj},
      {"moe_gate", moe_gate},
      {"moe_experts", moe_experts},
      {"moe_combine", moe_combine},
      {"mtp_input", mtp_input},
      {"lm_head", lm_head},
  };
  return all.at(op)(problem);
}

}  // namespace dsv4::test::engine

namespace {

using namespace dsv4::reference;
using namespace dsv4::reference::vectors;

// What is wrong with the primitives' outputs of an op, with nothing named as a mistake if nothing is wrong.
std::string wrong_outputs(const Op& op, const Sizes& sizes, std::uint64_t seed) {
  const dsv4::test::TempFolder folder;
  const auto bytes = vectors_bytes(op, sizes, "test", seed);
  const std::string path = folder / "v.safetensors";
  const std::array chunks = {std::span<const std::byte>(bytes)};
  write_atomically(path, chunks);
  const VectorFile vectors = read_vectors(path);
  SafetensorsWriter writer;
  for (const StoredCase& c : vectors.cases)
    dsv4::test::engine::add(writer, c.given.name,
                            dsv4::test::engine::run(std::string(op.name), c.given.problem));
  const OpResult result = check_op(vectors, dsv4::test::engine::in_memory(writer.bytes(), "outputs"), {});
  REQUIRE(result.likely.empty() == (result.wrong() == 0));
  if (result.wrong() == 0) return "";
  return report_text({{result}});
}

}  // namespace

TEST_CASE("vectors: the primitives pass every one of them", "[vectors]") {
  for (const Op& op : ops()) {
    CAPTURE(std::string(op.name));
    for (const std::uint64_t seed : {1, 2, 3}) REQUIRE(wrong_outputs(op, tiny_sizes(), seed) == "");
  }
}

TEST_CASE("vectors: the primitives pass them at other sizes", "[vectors]") {
  Sizes sizes = tiny_sizes();
  sizes.hidden = 416, sizes.heads = 6, sizes.o_groups = 3, sizes.o_lora_rank = 40, sizes.index_heads = 7;
  sizes.index_top_k = 9, sizes.experts = 61, sizes.active_experts = 6, sizes.expert_inner = 160;
  sizes.route_scale = 2.5f, sizes.swiglu_limit = 7, sizes.shared_swiglu_limit = 7;
  for (const Op& op : ops()) {
    CAPTURE(std::string(op.name));
    REQUIRE(wrong_outputs(op, sizes, 4) == "");
  }
}
