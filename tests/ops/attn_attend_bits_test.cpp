// Op attn_attend of bf16: what must not change a bit of its results.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "kernels/attention/attn_attend.hpp"
#include "tests/ops/attn_attend.hpp"

using namespace dsv4;
using ops::CacheFormat;
using test::AttendBatch;
using test::AttendPool;

namespace {

struct Bits {
  std::vector<bf16> o;
  std::vector<float> lse;
};
Bits bits(const AttendBatch& b) { return {b.o.values(), b.lse.values()}; }

void require_same(const Bits& a, const Bits& b) {
  REQUIRE(test::differing(a.o, b.o) == "");
  REQUIRE(test::differing(a.lse, b.lse) == "");
}

// The op by a plan of the test's choice.
Bits by_plan(AttendBatch& b, kernels::AttendPlan plan) {
  b.take_workspace();
  const kernels::AttendArguments a = kernels::attend_arguments(b.p);
  Workspace w(b.p.workspace);
  const auto parts = kernels::take_attend_parts(w, b.p.tokens, b.p.heads, kernels::attend_groups(b.p));
  CAPTURE(plan.tile, plan.packed, plan.halves, plan.split, plan.ring);
  REQUIRE_OK(kernels::launch_attend(a, plan, parts, nullptr));
  return bits(b);
}

simt::Options rounding(simt::Rounding r) {
  simt::Options o = simt::options();
  o.rounding = r;
  return o;
}

}  // namespace

TEST_CASE("attn_attend has the same bits whole or split, for any tile of heads, ring and layout",
          "[ops][attn_attend]") {
  const simt::ScopedOptions scope(rounding(GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper)));
  const bool packed = GENERATE(true, false);
  const std::int64_t window_rows = 37, entry_rows = test::reduced() ? 100 : 300;
  AttendPool window(packed ? CacheFormat::kKv584 : CacheFormat::kRows, 64, 64);
  AttendPool entries(CacheFormat::kKv584, 128, 64);
  window.fill(0, 64, 1), entries.fill(0, 128, 2);
  const auto window_idx = test::slots_of(2 * window_rows, 64, 3);
  auto entry_idx = test::slots_of(2 * entry_rows, 128, 4);
  for (std::int64_t i = 80; i < 91; ++i) entry_idx[std::size_t(i)] = -1;
  AttendBatch b(1, test::reduced() ? 9 : 40, 5);
  b.p.window = test::listed(window, window_idx, window_rows);
  b.p.entries = test::listed(entries, entry_idx, entry_rows);
  const Bits want = by_plan(b, {.tile = 64, .packed = packed});
  for (const bool split : {false, true})
    for (const int tile : {16, 32, 64}) {
      if (test::reduced() && tile == 64) continue;  // as 32, and slow
      require_same(by_plan(b, {.tile = tile, .packed = packed, .split = split}), want);
      require_same(by_plan(b, {.tile = tile, .packed = false, .split = split}), want);
    }
  for (const int ring : {144, 176, 192})
    require_same(by_plan(b, {.tile = 16, .packed = packed, .ring = ring}), want);
  for (const bool split : {false, true})
    require_same(by_plan(b, {.tile = 16, .packed = false, .halves = 2, .split = split, .ring = 64}), want);
  b.run();
  require_same(bits(b), want);
}

TEST_CASE("attn_attend of a token does not depend on the batch", "[ops][attn_attend]") {
  const simt::ScopedOptions scope(rounding(simt::Rounding::kHopper));
  const int heads = 8;
  const std::int64_t tokens = 70, rows = 130;  // more than are split
  AttendPool entries(CacheFormat::kKv584, 128, 64);
  entries.fill(0, 128, 1);
  const auto idx = test::slots_of(tokens * rows, 128, 2);
  AttendBatch all(tokens, heads, 3);
  all.p.entries = test::listed(entries, idx, rows);
  all.run();
  for (const std::int64_t t : {0, 33, 69}) {
    AttendBatch one(1, heads, 9);
    std::memcpy(static_cast<void*>(one.q.data()), all.q.row(t * heads), std::size_t(heads) * 1024);
    one.sink = all.sink, one.p.sink = one.sink.data();
    one.p.entries = test::listed(entries, idx, rows);
    one.p.entries.idx = idx.data() + t * rows;
    one.run();
    CAPTURE(t);
    REQUIRE(std::memcmp(one.o.data(), all.o.row(t * heads), std::size_t(heads) * 1024) == 0);
    REQUIRE(std::memcmp(one.lse.data(), all.lse.row(t), std::size_t(heads) * 4) == 0);
  }
}

TEST_CASE("attn_attend has the same bits in 20 runs and by any schedule", "[ops][attn_attend]") {
  AttendPool window(CacheFormat::kKv584, 64, 64), entries(CacheFormat::kRows, 64, 64);
  window.fill(0, 64, 1), entries.fill(0, 64, 2);
  const auto window_idx = test::slots_of(20, 64, 3), entry_idx = test::slots_of(120, 64, 4);
  AttendBatch b(1, 3, 5);
  b.p.window = test::listed(window, window_idx, 20);
  b.p.entries = test::listed(entries, entry_idx, 120);
  b.run();
  const Bits want = bits(b);
  for (std::uint64_t run = 0; run < (test::reduced() ? 3u : 20u); ++run) {
    simt::Options o = simt::options();
    o.seed = run;
    o.async = simt::Async::kRandom;
    o.schedule = run % 3 == 0   ? simt::Schedule::kFifo
                 : run % 3 == 1 ? simt::Schedule::kLifo
                                : simt::Schedule::kRandom;
    const simt::ScopedOptions scope(o);
    b.run();
    require_same(bits(b), want);
  }
}

TEST_CASE("attn_attend of ranges has the bits of the lists that name the same rows", "[ops][attn_attend]") {
  const auto type = GENERATE(ops::PositionType::kInt32, ops::PositionType::kInt64);
  const bool ring = GENERATE(false, true);
  // Two sequences, two draft tokens each: a window of 24 rows, HCA-like entries.
  const int window_rows = 24, heads = 5;
  const std::vector<std::int32_t> sequence = {1, 1, 0, 0}, narrow = {30, 31, 4, 5}, visible = {9, 9, 0, 1};
  const std::vector<std::int64_t> wide(narrow.begin(), narrow.end());
  const std::int32_t window_ring = ring ? 32 : 0;
  const std::vector<std::int32_t> window_pages = {3, 0, 5, 1, 2, 4, 6, 7}, entry_pages = {1, -1, 3, 0, 2, 9};
  AttendPool window(CacheFormat::kKv584, 64, 53), entries(CacheFormat::kKv584, 16, 2);
  window.fill(0, 64, 1), entries.fill(0, 16, 2);
  AttendBatch b(4, heads, 5);
  b.p.positions = type == ops::PositionType::kInt32 ? static_cast<const void*>(narrow.data()) : wide.data();
  b.p.position_type = type;
  b.p.window = {.pool = window.view(),
                .kind = ops::SelectionKind::kWindow,
                .table = {.pages = window_pages.data(),
                          .sequence_of = sequence.data(),
                          .stride = 4,
                          .sequences = 2,
                          .page_rows = 8,
                          .ring = window_ring},
                .max_count = window_rows,
                .window = window_rows};
  b.p.entries = {.pool = entries.view(),
                 .kind = ops::SelectionKind::kEntries,
                 .table = {.pages = entry_pages.data(),
                           .sequence_of = sequence.data(),
                           .stride = 3,
                           .sequences = 2,
                           .page_rows = 4},
                 .visible = {.counts = visible.data()},
                 .max_count = 8};
  b.run();
  const Bits want = bits(b);
  std::vector<std::int32_t> window_idx(4 * window_rows, INT32_MAX), entry_idx(4 * 8, INT32_MAX),
      window_counts, entry_counts;
  for (std::size_t t = 0; t < 4; ++t) {
    const int last = narrow[t], first = std::max(0, last - window_rows + 1);
    for (int r = first; r <= last; ++r)
      window_idx[t * window_rows + std::size_t(r - first)] =
          window_pages[std::size_t(sequence[t] * 4 + r / 8)] * 8 + r % 8;
    window_counts.push_back(last - first + 1);
    entry_counts.push_back(std::min(visible[t], 8));
    for (int r = 0; r < entry_counts[t]; ++r) {
      const int page = entry_pages[std::size_t(sequence[t] * 3 + r / 4)];
      entry_idx[t * 8 + std::size_t(r)] = page < 0 ? -1 : page * 4 + r % 4;
    }
  }
  b.p.window = test::listed(window, window_idx, window_rows, window_counts.data());
  b.p.entries = test::listed(entries, entry_idx, 8, entry_counts.data());
  b.run();
  require_same(bits(b), want);
}

TEST_CASE("attn_attend reads each row once a tile of heads, without bank conflicts",
          "[ops][attn_attend][traffic]") {
  const int heads = 64;
  const std::int64_t window_rows = test::reduced() ? 16 : 128, entry_rows = test::reduced() ? 32 : 512;
  AttendPool window(CacheFormat::kKv584, window_rows, 64), entries(CacheFormat::kKv584, entry_rows, 64);
  window.fill(0, window_rows, 1), entries.fill(0, entry_rows, 2);
  const auto window_idx = test::slots_of(window_rows, window_rows, 3),
             entry_idx = test::slots_of(entry_rows, entry_rows, 4);
  AttendBatch b(1, heads, 5);
  b.p.window = test::listed(window, window_idx, window_rows);
  b.p.entries = test::listed(entries, entry_idx, entry_rows);
  const simt::Watch reads_window(window.data(), window.bytes()),
      reads_entries(entries.data(), entries.bytes());
  const simt::Watch reads_q(b.q.data(), heads * 1024), writes(b.o.data(), heads * 1024);
  simt::reset_counters();
  by_plan(b, {.tile = 64});
  REQUIRE(reads_window.read_bytes() == std::uint64_t(window_rows) * 584);
  REQUIRE(reads_entries.read_bytes() == std::uint64_t(entry_rows) * 584);
  REQUIRE(reads_q.read_bytes() == std::uint64_t(heads) * 1024);
  REQUIRE(writes.written_bytes() == std::uint64_t(heads) * 1024);
  REQUIRE(simt::counters().matrix_bank_conflicts == 0);
  REQUIRE(simt::counters().shared_bank_conflicts == 0);  // counted in instrumented builds
}

TEST_CASE("attn_attend of some heads has the bits of all", "[ops][attn_attend][parallel]") {
  const int heads = 20, rows = 70;
  const std::int64_t tokens = 2;
  test::AttendPool window(ops::CacheFormat::kKv584, 64), entries(ops::CacheFormat::kKv584, 128);
  window.fill(0, 64, 100), entries.fill(0, 128, 1000);
  const auto window_idx = test::slots_of(tokens * 20, 64, 1),
             entry_idx = test::slots_of(tokens * rows, 128, 2);
  test::AttendBatch all(tokens, heads, 7);
  const auto select = [&](test::AttendBatch& b) {
    b.p.window = test::listed(window, window_idx, 20);
    b.p.entries = test::listed(entries, entry_idx, rows);
  };
  select(all);
  all.run();
  for (const int ranks : {2, 3, 4})  // 3: shards of 6 and 7 heads
    for (int r = 0; r < ranks; ++r) {
      const std::int64_t first = heads * r / ranks, count = heads * (r + 1) / ranks - first;
      test::AttendBatch b(tokens, static_cast<int>(count), 7);
      select(b);
      b.p.q = all.q.row(first), b.p.q_stride = std::int64_t{heads} * test::kHeadDim;
      b.p.sink = all.sink.data() + first;
      b.run();
      CAPTURE(ranks, r);
      for (std::int64_t t = 0; t < tokens; ++t) {
        REQUIRE(std::memcmp(b.o.row(t * count), all.o.row(t * heads + first),
                            static_cast<std::size_t>(count * test::kHeadDim) * sizeof(bf16)) == 0);
        REQUIRE(std::memcmp(b.lse.row(t), all.lse.row(t) + first,
                            static_cast<std::size_t>(count) * sizeof(float)) == 0);
      }
    }
}
