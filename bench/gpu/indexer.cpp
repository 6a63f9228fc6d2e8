// The lightning indexer: scores of every entry, exact top-k, and the two in one.
#include "bench/gpu/bench.hpp"
#include "tests/support/random.hpp"

#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/ops/attn_index.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

using ops::CacheFormat;

constexpr std::int32_t kDim = 128, kHeads = 64, kPage = 64;

struct Case {
  std::int64_t entries, batch;
  std::int32_t k;
  CacheFormat format;
  bool prefill;  // one sequence whose tokens see ever more of its entries; else a sequence for each token
};

std::string name(const char* op, const Case& c) {
  const char* format = c.format == CacheFormat::kIndexFp4 ? "FP4" : "FP8";
  const std::string n = std::to_string(c.entries), b = std::to_string(c.batch), k = std::to_string(c.k);
  return std::string(op) + (c.prefill ? "/prefill/" : "/decode/") + format + "/n:" + n + "/B:" + b +
         "/k:" + k;
}

std::int64_t key_bytes(const Case& c) { return c.format == CacheFormat::kIndexFp4 ? 68 : 132; }

/// Sums over all tokens of the entries that each sees.
double visible_sum(const Case& c) {
  const auto all = static_cast<double>(c.entries * c.batch);
  return c.prefill ? all - static_cast<double>(c.batch) / 8 * static_cast<double>(c.batch - 1) : all;
}

ops::IndexQueries queries(Arena& a, const Case& c) {
  const std::int64_t sequences = c.prefill ? 1 : c.batch, pages = c.entries / kPage;
  const std::int64_t rows = c.batch * kHeads;
  const bool fp4 = c.format == CacheFormat::kIndexFp4;
  ops::IndexQueries q = {
      .q = fp4 ? a.filled(rows * kDim / 2, Pattern::kE2m1) : a.filled(rows * kDim, Pattern::kE4m3),
      .scales = fp4 ? a.filled(rows * 4, Pattern::kE8m0) : nullptr,
      .weights = a.floats(rows),
      .keys = a.pool(c.format, sequences * c.entries, kPage, kDim),
      .tokens = c.batch,
      .max_entries = c.entries,
      .heads = kHeads,
      .dim = kDim,
      .format = c.format};
  std::vector<std::int32_t> table, sequence_of(static_cast<std::size_t>(c.batch), 0), counts;
  for (std::int64_t i = 0; i < sequences * pages; ++i)  // neighbours in a sequence are none in memory
    table.push_back(static_cast<std::int32_t>(i % pages * sequences + i / pages));
  for (std::int64_t t = 0; t < c.batch; ++t) {
    if (!c.prefill) sequence_of[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(t);
    counts.push_back(static_cast<std::int32_t>(c.entries - (c.prefill ? (c.batch - 1 - t) / 4 : 0)));
  }
  q.table = {.pages = a.copy(table),
             .sequence_of = a.copy(sequence_of),
             .stride = pages,
             .sequences = sequences,
             .page_rows = kPage};
  q.visible = {.counts = a.copy(counts)};
  return q;
}

/// Scores of the last token's first entries against the primitive on the host.
template <class Pool>
std::string first_scores_are_right(const ops::IndexQueries& q, const float* scores) {
  constexpr std::int64_t kCount = 32;
  const std::int64_t t = q.tokens - 1, sequence = download<std::int32_t>(q.table.sequence_of + t, 1)[0];
  const std::int64_t page = download<std::int32_t>(q.table.pages + sequence * q.table.stride, 1)[0];
  auto keys = download<std::uint8_t>(at<std::uint8_t>(q.keys.data, page * q.keys.stride), q.keys.stride);
  Pool pool{};
  pool.pages = keys.data(), pool.page_stride = q.keys.stride, pool.page_entries = kPage, pool.slots = kPage;
  std::vector<float> decoded(kHeads * kDim), want(kCount), scratch(32 * (kHeads + kDim));
  if (q.scales) {
    const auto codes = download<e2m1x2>(at<e2m1x2>(q.q, t * kHeads * kDim / 2), kHeads * kDim / 2);
    const auto bits = download<e8m0>(at<e8m0>(q.scales, t * kHeads * 4), kHeads * 4);
    for (std::size_t b = 0; b < bits.size(); ++b)
      quant::fp4_decode(decoded.data() + 32 * b, codes.data() + 16 * b, 32, to_float(bits[b]));
  } else {
    const auto codes = download<e4m3>(at<e4m3>(q.q, t * kHeads * kDim), kHeads * kDim);
    quant::fp8_decode(decoded.data(), codes.data(), kHeads * kDim, 1.0f);
  }
  const auto weights = download<float>(q.weights + t * kHeads, kHeads);
  attention::index_scores(SerialCoop{}, want.data(), decoded.data(), weights.data(), pool, 0, kCount, kHeads,
                          kDim, scratch.data());
  const auto got = download<float>(scores + t * q.max_entries, kCount);
  // Products of up to 36 in sums of 128, 64 of them with weights of up to 1.
  for (std::size_t i = 0; i < got.size(); ++i)
    if (!(std::fabs(got[i] - want[i]) <= 1e-4f * kHeads * kDim)) {
      char text[100];
      std::snprintf(text, sizeof text, "score %zu is %.7g, want %.7g", i, got[i], want[i]);
      return text;
    }
  return "";
}

/// The last token's selection against a sort of its scores on the host.
std::string selection_is_right(const ops::AttnSelectParams& p, std::int64_t visible) {
  const std::int64_t t = p.tokens - 1;
  const auto scores = download<float>(p.scores + t * p.max_entries, visible);
  std::vector<std::int32_t> order(scores.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  const auto k = static_cast<std::ptrdiff_t>(std::min<std::int64_t>(p.output.k, visible));
  std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](std::int32_t x, std::int32_t y) {
    const float a = scores[static_cast<std::size_t>(x)], b = scores[static_cast<std::size_t>(y)];
    return a != b ? a > b : x < y;
  });
  order.resize(static_cast<std::size_t>(k));
  order.resize(static_cast<std::size_t>(p.output.k), -1);
  return order == download<std::int32_t>(p.output.idx + t * p.output.k, p.output.k)
             ? ""
             : "not the order of a full sort";
}

void run(Bench& bench, const Case& c, bool common) {
  const std::string scores_name = name("attn_index_scores", c), select_name = name("attn_select", c),
                    fused_name = name("attn_index_select", c);
  if (!bench.wanted(scores_name, common) && !bench.wanted(select_name, common) &&
      !bench.wanted(fused_name, common))
    return;
  const double seen = visible_sum(c), matrix = 4.0 * static_cast<double>(c.entries * c.batch);
  const double keys = static_cast<double>((c.prefill ? 1 : c.batch) * c.entries * key_bytes(c));
  const double in = static_cast<double>(c.batch * kHeads * (kDim + 4));
  const double out = 4.0 * static_cast<double>(c.batch * c.k);
  if (!bench.fits(fused_name, matrix + 1.1 * keys + in + 2 * out)) return;
  Arena a;
  const ops::IndexQueries q = queries(a, c);
  float* scores = a.bytes<float>(4 * c.entries * c.batch);
  const double flops = 2.0 * seen * kHeads * kDim;
  const Timing timing = keys < 256e6 && c.batch <= 64 ? Timing::kGraph : Timing::kCold;

  const ops::AttnIndexScoresParams p = {.scores = scores, .queries = q};
  const auto score = [=](Stream s, int) { return ops::attn_index_scores(p, s); };
  const auto scores_right = [=] {
    return c.format == CacheFormat::kIndexFp4 ? first_scores_are_right<attention::IndexFp4Pool>(q, scores)
                                              : first_scores_are_right<attention::IndexFp8Pool>(q, scores);
  };
  if (bench.wanted(scores_name, common))
    bench.measure(scores_name, timing, {keys + in + 4 * seen, flops}, score, scores_right);
  else
    require(score(nullptr, 0));

  ops::AttnSelectParams select = {.output = {.idx = a.bytes<std::int32_t>(4 * c.batch * c.k), .k = c.k},
                                  .scores = scores,
                                  .visible = q.visible,
                                  .tokens = c.batch,
                                  .max_entries = c.entries};
  a.workspace(select, ops::attn_select_workspace_bytes(select));
  const auto choose = [=](Stream s, int) { return ops::attn_select(select, s); };
  if (bench.wanted(select_name, common))
    bench.measure(select_name, timing, {4 * seen + out, 0}, choose,
                  [=] { return selection_is_right(select, c.entries); });
  else
    require(choose(nullptr, 0));

  if (!bench.wanted(fused_name, common)) return;
  ops::AttnIndexSelectParams fused = {.output = {.idx = a.bytes<std::int32_t>(4 * c.batch * c.k), .k = c.k},
                                      .queries = q};
  a.workspace(fused, ops::attn_index_select_workspace_bytes(fused));
  bench.measure(
      fused_name, timing, {keys + in + out, flops},
      [=](Stream s, int) { return ops::attn_index_select(fused, s); },
      [=] {
        return download<std::int32_t>(fused.output.idx, c.batch * c.k) ==
                       download<std::int32_t>(select.output.idx, c.batch * c.k)
                   ? ""
                   : "not what attn_index_scores and attn_select give";
      });
}

}  // namespace

void bench_indexer(Bench& bench) {
  constexpr std::int64_t kKi = 1024;
  for (const std::int64_t entries : {4 * kKi, 8 * kKi, 32 * kKi, 128 * kKi, 256 * kKi, kKi * kKi})
    for (const std::int64_t batch : {1, 8, 64, 256})
      for (const std::int32_t k : {512, 1024})
        for (const CacheFormat format : {CacheFormat::kIndexFp4, CacheFormat::kIndexFp8}) {
          const bool length =
              entries == 8 * kKi || entries == 128 * kKi || (entries == kKi * kKi && batch <= 8);
          run(bench, {entries, batch, k, format, false},
              length && batch != 256 && k == 1024 && format == CacheFormat::kIndexFp4);
        }
  for (const std::int64_t entries : {2 * kKi, 8 * kKi, 32 * kKi})
    for (const CacheFormat format : {CacheFormat::kIndexFp4, CacheFormat::kIndexFp8})
      run(bench, {entries, 4096, 1024, format, true}, entries == 8 * kKi && format == CacheFormat::kIndexFp4);
}

}  // namespace dsv4::gpu
