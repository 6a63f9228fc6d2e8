// Sparse attention: decode by lists (CSA) and by ranges (HCA), several draft tokens, prefill.
#include "bench/gpu/bench.hpp"
#include "tests/support/random.hpp"

#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/ops/attn_attend.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

using ops::CacheFormat;
using ops::SelectionKind;

constexpr std::int32_t kDim = 512, kWindow = 128;

struct Case {
  const char* layer;  // "CSA": entries by a list of k; "HCA": entries by range, 0 .. k - 1
  std::int64_t tokens, per_sequence;
  std::int32_t heads;
  std::int64_t k;
  CacheFormat format;
  std::int32_t window_page, entry_page;
  bool prefill;  // one sequence; else tokens / per_sequence of them, at the same length
};

std::string name(const Case& c) {
  std::string n = std::string("attn_attend/") + c.layer + (c.prefill ? "/prefill" : "/decode") +
                  "/h:" + std::to_string(c.heads) + "/k:" + std::to_string(c.k) +
                  (c.format == CacheFormat::kRows ? "/bf16" : "/FP8");
  if (c.prefill) return n + "/T:" + std::to_string(c.tokens);
  return n + "/B:" + std::to_string(c.tokens / c.per_sequence) + "/s:" + std::to_string(c.per_sequence);
}

std::int64_t row_bytes(const Case& c) { return c.format == CacheFormat::kRows ? 2 * kDim : 584; }

/// Rows 0 .. rows - 1 of every sequence, its pages spread over the pool.
ops::PageTable table(Arena& a, const Case& c, std::int64_t sequences, std::int64_t rows,
                     std::int32_t page_rows) {
  const std::int64_t pages = (rows + page_rows - 1) / page_rows;
  std::vector<std::int32_t> numbers, sequence_of;
  for (std::int64_t i = 0; i < sequences * pages; ++i)
    numbers.push_back(static_cast<std::int32_t>(i % pages * sequences + i / pages));
  for (std::int64_t t = 0; t < c.tokens; ++t)
    sequence_of.push_back(static_cast<std::int32_t>(c.prefill ? 0 : t / c.per_sequence));
  return {.pages = a.copy(numbers),
          .sequence_of = a.copy(sequence_of),
          .stride = pages,
          .sequences = sequences,
          .page_rows = page_rows};
}

/// Operands of a case, and what its algorithm must do.
struct Problem {
  ops::AttnAttendParams p;
  Work work;
  std::vector<const std::int32_t*> lists;  // of entries, one a turn
};

/// Device memory of the two pools.
double pool_bytes(const Case& c) {
  const std::int64_t sequences = c.prefill ? 1 : c.tokens / c.per_sequence;
  const std::int64_t window = c.prefill ? c.tokens : kWindow + c.per_sequence;
  return static_cast<double>(sequences * (window + 4 * c.k + c.window_page + c.entry_page) * row_bytes(c));
}

Problem problem(Arena& a, const Case& c, int turns) {
  const bool list = std::string(c.layer) == "CSA";
  const std::int64_t sequences = c.prefill ? 1 : c.tokens / c.per_sequence;
  const std::int64_t window_rows = c.prefill ? c.tokens : kWindow + c.per_sequence - 1;
  // By list: k of four times as many entries.
  const std::int64_t entry_rows = list ? 4 * c.k : c.k;
  const auto whole = [](std::int64_t rows, std::int32_t page) { return (rows + page - 1) / page * page; };
  std::vector<std::int32_t> positions;
  for (std::int64_t t = 0; t < c.tokens; ++t)
    positions.push_back(static_cast<std::int32_t>(c.prefill ? t : kWindow - 1 + t % c.per_sequence));

  Problem r;
  ops::AttnAttendParams& p = r.p;
  p.o = a.bytes(c.tokens * c.heads * kDim * 2);
  p.lse = a.bytes<float>(c.tokens * c.heads * 4);
  p.q = a.bf16s(c.tokens * c.heads * kDim);
  p.sink = a.floats(c.heads);
  p.positions = a.copy(positions);
  p.tokens = c.tokens, p.heads = c.heads, p.head_dim = kDim;
  p.scale = 1.0f / std::sqrt(static_cast<float>(kDim));

  p.window.pool = a.pool(c.format, sequences * whole(window_rows, c.window_page), c.window_page, kDim);
  p.window.kind = SelectionKind::kWindow;
  p.window.table = table(a, c, sequences, window_rows, c.window_page);
  p.window.window = kWindow, p.window.max_count = kWindow;

  p.entries.pool = a.pool(c.format, sequences * whole(entry_rows, c.entry_page), c.entry_page, kDim);
  p.entries.max_count = c.k;
  if (list) {
    p.entries.kind = SelectionKind::kList;
    for (int turn = 0; turn < turns; ++turn) {
      // Different slots for each token: of its own sequence's share of the pool.
      std::vector<std::int32_t> idx;
      test::Random random(static_cast<std::uint64_t>(turn) + 1);
      for (std::int64_t t = 0; t < c.tokens; ++t) {
        const std::int64_t s = c.prefill ? 0 : t / c.per_sequence, first = random.integer(0, 3);
        for (std::int64_t i = 0; i < c.k; ++i)
          idx.push_back(static_cast<std::int32_t>(s * entry_rows + (i * 4 + first + i / 7) % entry_rows));
      }
      r.lists.push_back(a.copy(idx));
    }
    p.entries.idx = r.lists[0];
  } else {
    p.entries.kind = SelectionKind::kEntries;
    p.entries.table = table(a, c, sequences, entry_rows, c.entry_page);
    p.entries.visible.counts =
        a.copy(std::vector<std::int32_t>(static_cast<std::size_t>(c.tokens), static_cast<std::int32_t>(c.k)));
  }
  a.workspace(p, ops::attn_attend_workspace_bytes(p));

  double window_seen = 0;
  for (const std::int32_t t : positions) window_seen += t + 1 < kWindow ? t + 1 : kWindow;
  const double seen = window_seen + static_cast<double>(c.tokens * c.k);
  // Rows of a range are read once a sequence; listed entries once a token, but the pool once at most.
  const double listed = static_cast<double>(c.tokens * c.k),
               held = static_cast<double>(sequences * entry_rows);
  const double rows = static_cast<double>(sequences * window_rows) + (listed < held ? listed : held);
  r.work = {rows * static_cast<double>(row_bytes(c)) +
                static_cast<double>(c.tokens * c.heads * (4 * kDim + 4) + (list ? 4 * c.tokens * c.k : 0)),
            4.0 * seen * c.heads * kDim};
  return r;
}

/// Row `slot` of a pool, decoded.
std::vector<float> row_of(const ops::CachePool& p, std::int64_t slot) {
  std::vector<float> row(kDim);
  if (p.format == CacheFormat::kRows) {
    const auto v = download<bf16>(at<bf16>(p.data, slot * kDim), kDim);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = to_float(v[i]);
    return row;
  }
  const attention::KvPagePool device = {static_cast<std::uint8_t*>(p.data), p.stride, p.page_rows, p.slots};
  auto bytes = download<std::uint8_t>(device.data_of(slot), 576);
  const auto scales = download<std::uint8_t>(device.scales_of(slot), 8);
  bytes.insert(bytes.end(), scales.begin(), scales.end());
  attention::KvPagePool{bytes.data(), 584, 1, 1}.read(0, row.data());
  return row;
}

std::int64_t slot_of(const ops::PageTable& t, std::int64_t token, std::int64_t row) {
  const std::int64_t sequence = download<std::int32_t>(t.sequence_of + token, 1)[0];
  const std::int64_t page = download<std::int32_t>(t.pages + sequence * t.stride + row / t.page_rows, 1)[0];
  return page * t.page_rows + row % t.page_rows;
}

/// One head of one token in double precision.
std::string head_is_right(const ops::AttnAttendParams& p, std::int64_t token, std::int64_t head) {
  std::vector<std::vector<float>> rows;
  const std::int64_t t = download<std::int32_t>(static_cast<const std::int32_t*>(p.positions) + token, 1)[0];
  for (std::int64_t r = t < kWindow ? 0 : t - kWindow + 1; r <= t; ++r)
    rows.push_back(row_of(p.window.pool, slot_of(p.window.table, token, r)));
  for (std::int64_t i = 0; i < p.entries.max_count; ++i)
    rows.push_back(row_of(
        p.entries.pool,
        p.entries.idx
            ? download<std::int32_t>(at<std::int32_t>(p.entries.idx, token * p.entries.max_count + i), 1)[0]
            : slot_of(p.entries.table, token, i)));
  const auto q = download<bf16>(at<bf16>(p.q, (token * p.heads + head) * kDim), kDim);
  const auto o = download<bf16>(at<bf16>(p.o, (token * p.heads + head) * kDim), kDim);
  std::vector<double> sum(kDim), magnitude(kDim);
  double denominator = std::exp(static_cast<double>(download<float>(p.sink + head, 1)[0]));
  for (const std::vector<float>& row : rows) {
    double score = 0;
    for (std::size_t d = 0; d < kDim; ++d) score += static_cast<double>(to_float(q[d])) * row[d];
    const double weight = std::exp(score * p.scale);
    denominator += weight;
    for (std::size_t d = 0; d < kDim; ++d)
      sum[d] += weight * row[d], magnitude[d] += weight * std::fabs(row[d]);
  }
  for (std::size_t d = 0; d < kDim; ++d) {
    const double want = sum[d] / denominator, got = to_float(o[d]);
    // Probabilities rounded to bf16, and o.
    if (std::fabs(got - want) <= 0x1p-8 * (magnitude[d] / denominator + std::fabs(want)) + 1e-5) continue;
    char text[120];
    std::snprintf(text, sizeof text, "o[%lld, %lld, %zu] = %.6g, want %.6g", static_cast<long long>(token),
                  static_cast<long long>(head), d, got, want);
    return text;
  }
  return "";
}

void run(Bench& bench, const Case& c, bool common) {
  const std::string n = name(c);
  if (!bench.wanted(n, common)) return;
  const double io = static_cast<double>(c.tokens * c.heads * kDim * 4);
  if (!bench.fits(n, 2 * io + pool_bytes(c))) return;
  const bool cold = c.prefill || c.tokens > 64;
  Arena a;
  const Problem r = problem(a, c, cold ? 1 : bench.copies(pool_bytes(c) / 2));
  bench.measure(
      n, cold ? Timing::kCold : Timing::kGraph, r.work,
      [&](Stream s, int turn) {
        ops::AttnAttendParams p = r.p;
        if (!r.lists.empty()) p.entries.idx = r.lists[static_cast<std::size_t>(turn) % r.lists.size()];
        return ops::attn_attend(p, s);
      },
      [&]() -> std::string {
        std::string problem = head_is_right(r.p, 0, c.heads - 1);
        if (problem.empty()) problem = head_is_right(r.p, c.tokens - 1, 0);
        return problem;
      });
}

}  // namespace

void bench_attend(Bench& bench) {
  for (const std::int64_t batch : {1, 2, 8, 32, 64, 128, 256})
    for (const std::int64_t drafts : {1, 2}) {
      const bool common = drafts == 1 || batch == 64;
      const std::int64_t tokens = batch * drafts;
      for (const CacheFormat format : {CacheFormat::kKv584, CacheFormat::kRows}) {
        const bool fp8 = format == CacheFormat::kKv584;
        run(bench, {"CSA", tokens, drafts, 64, 512, format, 256, 64, false}, common && fp8);
        run(bench, {"CSA", tokens, drafts, 128, 1024, format, 256, 64, false}, common && fp8);
      }
      for (const std::int64_t entries : {128, 512, 8192}) {  // of 16K, 64K and 1M positions
        run(bench, {"HCA", tokens, drafts, 64, entries, CacheFormat::kKv584, 256, 2, false},
            common && entries == 512);
        run(bench, {"HCA", tokens, drafts, 128, entries, CacheFormat::kKv584, 256, 2, false},
            common && entries == 8192 && batch <= 64);
      }
    }
  for (const std::int64_t tokens : {4096, 8192})
    for (const CacheFormat format : {CacheFormat::kKv584, CacheFormat::kRows}) {
      run(bench, {"CSA", tokens, 1, 64, 512, format, 256, 64, true}, tokens == 4096);
      run(bench, {"CSA", tokens, 1, 128, 1024, format, 256, 64, true},
          tokens == 4096 && format == CacheFormat::kKv584);
      run(bench, {"HCA", tokens, 1, 64, 64, format, 256, 2, true}, tokens == 8192);
    }
}

}  // namespace dsv4::gpu
