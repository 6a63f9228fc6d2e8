// The engine's attention.
#pragma once

#include <dsv4/attention/attend.hpp>
#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/out_proj.hpp>
#include <dsv4/attention/q_proj.hpp>
#include <dsv4/attention/select.hpp>

#include "tests/vectors/engine_common.hpp"

#include <cmath>

namespace dsv4::test::engine {

inline Outputs attn_q_proj(const Problem& p) {
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

inline Outputs attn_kv_proj(const Problem& p) {
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

inline Outputs attn_compress(const Problem& p) {
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

inline Outputs attn_index_prep(const Problem& p) {
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

inline Outputs attn_index_scores(const Problem& p) {
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

inline Outputs visibility(const Problem& p) {
  std::vector<std::int64_t> begin, entries;
  const Array& positions = p.array("positions");
  for (std::int64_t i = 0; i < positions.count(); ++i) {
    begin.push_back(attention::window_begin(positions.integer(i), kWindow));
    entries.push_back(attention::visible_entries(positions.integer(i), static_cast<int>(p.integer("ratio"))));
  }
  return {{"window_begin", stored(DType::kI64, positions.shape, begin)},
          {"entries", stored(DType::kI64, positions.shape, entries)}};
}

inline Outputs attn_select(const Problem& p) {
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

inline Outputs attn_attend(const Problem& p) {
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

inline Outputs attn_out_proj(const Problem& p) {
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

}  // namespace dsv4::test::engine
