// Op attn_attend of bf16 on the SIMT machine, against attention in double.
#include "tests/ops/attn_attend.hpp"

using namespace dsv4;
using ops::CacheFormat;
using test::AttendBatch;
using test::AttendPool;

namespace {

// Decoded rows of the slots that exist, in list order.
std::vector<std::vector<double>> decoded(AttendPool& pool, const std::int32_t* idx, std::int64_t n) {
  std::vector<std::vector<double>> rows;
  for (std::int64_t i = 0; i < n; ++i)
    if (idx[i] >= 0 && idx[i] < pool.slots()) rows.push_back(pool.get(idx[i]));
  return rows;
}

}  // namespace

TEST_CASE("attn_attend of lists is attention over both pools", "[ops][attn_attend]") {
  const CacheFormat window_format = GENERATE(CacheFormat::kKv584, CacheFormat::kRows);
  const CacheFormat entry_format = GENERATE(CacheFormat::kKv584, CacheFormat::kRows);
  const int heads = GENERATE(from_range(test::reduced() ? std::vector<int>{9} : std::vector<int>{1, 16, 33}));
  const std::int64_t tokens = test::reduced() ? 1 : 2, window_rows = 20, entry_rows = 150;
  CAPTURE(static_cast<int>(window_format), static_cast<int>(entry_format), heads);
  AttendPool window(window_format, 64, 53), entries(entry_format, 256, 64);
  window.fill(0, 64, 100), entries.fill(0, 256, 1000);
  const auto window_idx = test::slots_of(tokens * window_rows, 64, 1);
  const auto entry_idx = test::slots_of(tokens * entry_rows, 256, 2);
  AttendBatch b(tokens, heads, 7);
  b.p.window = test::listed(window, window_idx, window_rows);
  b.p.entries = test::listed(entries, entry_idx, entry_rows);
  b.run();
  for (std::int64_t t = 0; t < tokens; ++t) {
    auto rows = decoded(window, window_idx.data() + t * window_rows, window_rows);
    for (auto& r : decoded(entries, entry_idx.data() + t * entry_rows, entry_rows)) rows.push_back(r);
    std::vector<const std::vector<double>*> at;
    for (const auto& r : rows) at.push_back(&r);
    b.check(t, at);
  }
}

TEST_CASE("attn_attend ignores indices that mean no row, and what lies behind them", "[ops][attn_attend]") {
  const std::int64_t page_rows =
      GENERATE(from_range(test::reduced() ? std::vector<std::int64_t>{1, 53, 256}
                                          : std::vector<std::int64_t>{1, 2, 53, 64, 256}));
  const std::int64_t slots = 150, count = 40;
  CAPTURE(page_rows);
  // Rows 0 .. 99 exist; the pages' last rows, beyond `slots` or not, are NaN.
  AttendPool entries(CacheFormat::kKv584, slots, page_rows);
  entries.fill(0, 100, 3);
  std::vector<std::int32_t> idx = test::slots_of(3 * count, 100, 4);
  const std::vector<std::int32_t> none = {INT32_MIN, INT32_MAX, -1, 150, -2, 151, 1 << 30};
  for (std::size_t i = 0; i < idx.size(); ++i)
    if (i % 3 == 0 || i / count == 1) idx[i] = none[i % none.size()];
  const std::vector<std::int32_t> counts = {40, 40, 17};  // token 2: 17 rows; behind them slots of NaNs
  for (std::size_t i = 2 * count + 17; i < 3 * count; ++i) idx[i] = 120;
  AttendBatch b(3, 2, 5);
  b.p.empty_lse = 1234.5f;
  b.p.entries = test::listed(entries, idx, count, counts.data());
  b.run();
  for (std::int64_t t = 0; t < 3; ++t) {
    const auto rows = decoded(entries, idx.data() + t * count, counts[std::size_t(t)]);
    std::vector<const std::vector<double>*> at;
    for (const auto& r : rows) at.push_back(&r);
    REQUIRE(rows.empty() == (t == 1));
    b.check(t, at);
  }
}

TEST_CASE("attn_attend with any sink", "[ops][attn_attend]") {
  const bool split = GENERATE(false, true);
  const std::int64_t count = split ? 140 : 20;
  AttendPool entries(CacheFormat::kKv584, 64, 64);
  entries.fill(0, 64, 3);
  const auto idx = test::slots_of(count, 64, 4);
  AttendBatch b(1, 8, 5);
  const auto inf = test::kInf;
  b.sink = {inf, -inf, 1e30f, -1e30f, 0.0f, 100.0f, -100.0f, 3.0f};
  b.p.sink = b.sink.data();
  b.p.entries = test::listed(entries, idx, count);
  b.run();
  const auto rows = decoded(entries, idx.data(), count);
  std::vector<const std::vector<double>*> at;
  for (const auto& r : rows) at.push_back(&r);
  b.check(0, at);
  const std::vector<bf16> o = b.o.values();
  for (std::size_t d = 0; d < 512; ++d) {  // zeros of either sign
    REQUIRE((o[d].bits & 0x7fff) == 0);
    REQUIRE((o[2 * 512 + d].bits & 0x7fff) == 0);
    REQUIRE(test::value(o[512 + d]) == test::value(o[512 + d]));
  }
  b.p.sink = nullptr;
  b.run();
  b.check(0, at);
  REQUIRE(std::memcmp(b.o.row(1), o.data() + 512, 1024) == 0);  // -inf is no sink
}

TEST_CASE("attn_attend where all scores are equal is the mean", "[ops][attn_attend]") {
  const std::int64_t count = 200;
  AttendPool entries(CacheFormat::kRows, 64);
  entries.fill(0, 64, 3);
  const auto idx = test::slots_of(count, 64, 4);
  AttendBatch b(2, 3, 5, 0.0);  // queries of zeros
  b.p.sink = nullptr;
  b.p.entries = test::listed(entries, idx, count / 2);
  b.p.window = b.p.entries;
  b.run();
  for (std::int64_t t = 0; t < 2; ++t) {
    auto rows = decoded(entries, idx.data() + t * 100, 100);
    const auto twice = rows;
    rows.insert(rows.end(), twice.begin(), twice.end());
    std::vector<const std::vector<double>*> at;
    for (const auto& r : rows) at.push_back(&r);
    b.check(t, at);
  }
}

TEST_CASE("attn_attend carries NaNs of a selected row to its heads alone", "[ops][attn_attend]") {
  // A NaN code, a NaN scale, a NaN of the bf16 channels, in rows of their own.
  const int kind = GENERATE(0, 1, 2);
  AttendPool entries(CacheFormat::kKv584, 64, 64);
  entries.fill(0, 64, 3);
  const std::int64_t bad = 7;
  if (kind == 0) entries.data()[576 * bad + 100] = 0xff;
  if (kind == 1) entries.data()[576 * 64 + 8 * bad + 3] = 255;
  if (kind == 2) entries.data()[576 * bad + 448 + 21] = 0x7f, entries.data()[576 * bad + 448 + 20] = 0xc0;
  const std::vector<std::int32_t> idx = {1, 2, 3, 4, 5, 7, 8, 9};
  AttendBatch b(2, 2, 5);
  b.p.entries = test::listed(entries, idx, 4);  // the second token has the bad row
  b.run();
  for (int h = 0; h < 2; ++h)
    for (int d = 0; d < 512; ++d) {
      REQUIRE(!std::isnan(test::value(b.o.row(h)[d])));
      REQUIRE(std::isnan(test::value(b.o.row(2 + h)[d])));
    }
}

TEST_CASE("attn_attend of no selection, no rows and no tokens", "[ops][attn_attend]") {
  AttendPool entries(CacheFormat::kKv584, 0, 64);
  AttendBatch b(3, 5, 5);
  const std::vector<double> none;
  const bool listed = GENERATE(false, true);
  const std::vector<std::int32_t> idx = {0, 1, 2, 0, 1, 2};
  if (listed) b.p.entries = test::listed(entries, idx, 2);
  b.run();
  for (std::int64_t t = 0; t < 3; ++t) b.check(t, {});
  AttendBatch empty(0, 5, 5);
  empty.run();
  REQUIRE(empty.o.intact() == "");
}

TEST_CASE("attn_attend finds rows far beyond 2^31 elements", "[ops][attn_attend]") {
  // Only the pages that exist are touched: the pool starts a long way before them.
  AttendPool page(CacheFormat::kKv584, 64, 64);
  page.fill(0, 64, 3);
  const std::int64_t stride = std::int64_t{1} << 40;  // bytes
  const std::vector<std::int32_t> near = test::slots_of(20, 64, 4);
  std::vector<std::int32_t> far = near;
  for (auto& i : far) i += 3 * 64;
  AttendBatch b(1, 2, 5);
  b.p.entries = test::listed(page, near, 20);
  b.run();
  const auto want = b.o.values();
  b.p.entries.idx = far.data();
  b.p.entries.pool.stride = stride;
  b.p.entries.pool.slots = 4 * 64;
  b.p.entries.pool.data = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(page.data()) -
                                                  static_cast<std::uintptr_t>(3 * stride));
  b.run();
  REQUIRE_ROWS(b.o, want);
}

TEST_CASE("attn_attend at the widths of the models", "[ops][attn_attend]") {
  if (test::reduced()) return;
  const auto [heads, top_k] = GENERATE(std::pair{64, 512}, std::pair{128, 1024});
  AttendPool window(CacheFormat::kKv584, 128, 64), entries(CacheFormat::kKv584, 1100, 64);
  window.fill(0, 128, 1), entries.fill(0, 1100, 1000);
  const auto window_idx = test::slots_of(128, 128, 1), entry_idx = test::slots_of(top_k, 1100, 2);
  AttendBatch b(1, heads, 7);
  b.p.window = test::listed(window, window_idx, 128);
  b.p.entries = test::listed(entries, entry_idx, top_k);
  b.run();
  auto rows = decoded(window, window_idx.data(), 128);
  for (auto& r : decoded(entries, entry_idx.data(), top_k)) rows.push_back(r);
  std::vector<const std::vector<double>*> at;
  std::vector<float> q(static_cast<std::size_t>(heads) * 512), sink = b.sink;
  for (const auto& r : rows) at.push_back(&r);
  b.check(0, at);
  // The primitive rounds weights against the final maximum: two independent errors of 2^-9 / sqrt(3) rms at
  // most, which rows that point everywhere do not average out, and a rounding of each result.
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(test::value(b.q.data()[i]));
  const auto pool = [](AttendPool& p) {
    attention::KvPagePool pages{};
    pages.pages = p.data(), pages.page_stride = 64 * 584, pages.page_entries = 64, pages.slots = p.slots();
    return pages;
  };
  std::vector<bf16> want(q.size());
  std::vector<float> scratch(
      static_cast<std::size_t>(attention::attend_scratch_floats(heads, 128 + top_k, 512)));
  attention::attend(SerialCoop{}, want.data(), static_cast<float*>(nullptr), q.data(), heads, sink.data(),
                    attention::Selection<attention::KvPagePool>{pool(window), window_idx.data(), 128},
                    attention::Selection<attention::KvPagePool>{pool(entries), entry_idx.data(), top_k}, 512,
                    b.p.scale, scratch.data());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double w = test::value(want[i]), g = test::value(b.o.data()[i]);
    difference += (g - w) * (g - w), norm += w * w;
  }
  REQUIRE(std::sqrt(difference / norm) < 0x1p-9);
}

TEST_CASE("attn_attend takes int64 lists", "[ops][attn_attend]") {
  const auto format = GENERATE(CacheFormat::kKv584, CacheFormat::kRows);
  const std::int64_t tokens = 3, slots = 90, count = 150;
  AttendPool window(format, slots, 53), entries(CacheFormat::kKv584, slots, 64);
  window.fill(0, slots, 100), entries.fill(0, slots, 1000);
  auto idx = test::slots_of(tokens * count, slots, 2);
  for (std::size_t i = 0; i < idx.size(); i += 4) idx[i] = i % 8 == 0 ? -1 : INT32_MAX;
  const auto wide = test::wide_slots(idx, slots);
  AttendBatch narrow(tokens, 3, 7), b(tokens, 3, 7);
  for (AttendBatch* x : {&narrow, &b}) {
    x->p.window = test::listed(window, idx, 20);
    x->p.entries = test::listed(entries, idx, count);
  }
  b.p.window.idx = b.p.entries.idx = wide.data();
  b.p.window.idx_type = b.p.entries.idx_type = ops::SlotType::kInt64;
  narrow.run(), b.run();
  REQUIRE_ROWS(b.o, narrow.o.values());
  REQUIRE_ROWS(b.lse, narrow.lse.values());
  b.p.entries.idx_type = static_cast<ops::SlotType>(7);
  REQUIRE_REFUSED(ops::attn_attend(b.p, nullptr), Code::kUnsupported, 7, 0, "entries.idx_type");
}
