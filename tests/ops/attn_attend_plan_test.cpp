// Op attn_attend of bf16 by the plan that the op itself chooses: what it moves at the models' widths, and
// ranges of several groups of rows, replayed with other lengths and in other batches, against lists.
#include <dsv4/simt/watch.hpp>

#include "tests/ops/attn_attend.hpp"
#include "tests/support/sparse.hpp"

using namespace dsv4;
using ops::CacheFormat;
using simt::Watch;
using test::AttendBatch;
using test::AttendPool;

// A token's rows, q and o once are what the algorithm needs; index lists are left out.
//   whole   a token's rows once for every 64 heads; q, o once
//   split   a block for each of G groups (128 rows) and 64 heads scores group 0 as well, and reads q; parts
//   of
//           2048 bytes a head and group are written and read
// What is more than once comes from L2: blocks of a token are neighbours, and its parts are the last writes.
TEST_CASE("attn_attend's own plan moves what the header says", "[ops][attn_attend][traffic]") {
  struct Width {
    int heads;
    std::int64_t top_k;
    double whole, split;  // of the algorithm's bytes
  };
  const Width width = GENERATE(Width{64, 512, 1.0, 4.8}, Width{128, 1024, 1.8, 9.4});
  const std::int64_t tokens = GENERATE(1, 8, 66), window_rows = 128;
  if (test::reduced() && width.heads == 128) return;
  const std::int64_t entry_rows = test::reduced() ? 128 : width.top_k;
  AttendPool window(CacheFormat::kKv584, 128), entries(CacheFormat::kKv584, entry_rows);
  window.fill(0, 128, 1), entries.fill(0, entry_rows, 2);
  const auto window_idx = test::slots_of(tokens * window_rows, 128, 3),
             entry_idx = test::slots_of(tokens * entry_rows, entry_rows, 4);
  // Only the last token has rows: the others cost their q and o.
  std::vector<std::int32_t> window_counts(static_cast<std::size_t>(tokens), 0), entry_counts(window_counts);
  window_counts.back() = static_cast<std::int32_t>(window_rows);
  entry_counts.back() = static_cast<std::int32_t>(entry_rows);
  AttendBatch b(tokens, width.heads, 5);
  b.p.window = test::listed(window, window_idx, window_rows, window_counts.data());
  b.p.entries = test::listed(entries, entry_idx, entry_rows, entry_counts.data());
  b.take_workspace();
  const std::int64_t groups = (window_rows + entry_rows + 127) / 128, tiles = (width.heads + 63) / 64;
  const bool split = tokens * tiles <= 64;  // and groups > 1
  const std::int64_t o = std::int64_t{width.heads} * 1024, parts = groups * width.heads * 2048;
  const Watch rows_w(window.data(), window.bytes()), rows_e(entries.data(), entries.bytes());
  const Watch last_q(b.q.row((tokens - 1) * width.heads), static_cast<std::size_t>(o));
  const Watch last_o(b.o.row((tokens - 1) * width.heads), static_cast<std::size_t>(o));
  auto* last_parts = static_cast<std::byte*>(b.p.workspace) + (tokens - 1) * parts;
  const Watch values(split ? static_cast<void*>(last_parts) : b.o.data(),
                     static_cast<std::size_t>(split ? parts : 1));
  REQUIRE_OK(ops::attn_attend(b.p, nullptr));
  const auto bytes = [](std::uint64_t n) { return static_cast<std::int64_t>(n); };
  const std::int64_t rows = (window_rows + entry_rows) * 584;
  CAPTURE(width.heads, tokens, split, groups);
  REQUIRE(bytes(rows_w.read_bytes() + rows_e.read_bytes()) ==
          tiles * (rows + (split ? (groups - 1) * 128 * 584 : 0)));
  REQUIRE(bytes(last_q.read_bytes()) == (split ? groups : 1) * o);
  REQUIRE(bytes(last_o.written_bytes()) == o);
  std::int64_t moved = bytes(rows_w.read_bytes() + rows_e.read_bytes() + last_q.read_bytes()) + o;
  if (split) {
    REQUIRE(bytes(values.written_bytes()) == parts);
    REQUIRE(bytes(values.read_bytes()) == parts);
    moved += 2 * parts;
  }
  const double ratio = static_cast<double>(moved) / static_cast<double>(rows + 2 * o);
  CAPTURE(ratio);
  REQUIRE(ratio <= (split ? width.split : width.whole));
}

namespace {

// Ranges of one sequence, HCA's: a ring of window rows, and an entry for every 128 positions. Pages repeat,
// so that a small pool serves 8192 entries.
struct Ranges {
  static constexpr int kPage = 16, kWindow = 128;
  AttendPool window, entries;
  std::vector<std::int32_t> window_pages, entry_pages, sequence;
  std::vector<std::int32_t> position;

  Ranges(CacheFormat format, std::int64_t max_entries)
      : window(format, 144, kPage), entries(format, 160, kPage) {
    window.fill(0, 144, 1), entries.fill(0, 160, 2);
    for (std::int32_t i = 0; i < kWindow / kPage; ++i) window_pages.push_back((5 * i + 3) % 9);
    for (std::int64_t i = 0; i < (max_entries + kPage - 1) / kPage; ++i)
      entry_pages.push_back(static_cast<std::int32_t>((7 * i + 2) % 10));
  }

  void select(AttendBatch& b, std::int64_t max_entries) {
    sequence.assign(static_cast<std::size_t>(b.tokens), 0);
    position.assign(static_cast<std::size_t>(b.tokens), 0);
    const ops::PageTable table{.sequence_of = sequence.data(), .sequences = 1, .page_rows = kPage};
    b.p.positions = position.data();
    b.p.window = {.pool = window.view(),
                  .kind = ops::SelectionKind::kWindow,
                  .table = table,
                  .max_count = kWindow,
                  .window = kWindow};
    b.p.window.table.pages = window_pages.data(), b.p.window.table.ring = kWindow;
    b.p.window.table.stride = static_cast<std::int64_t>(window_pages.size());
    b.p.entries = {.pool = entries.view(),
                   .kind = ops::SelectionKind::kEntries,
                   .table = table,
                   .visible = {.positions = position.data(), .ratio = 128},
                   .max_count = max_entries};
    b.p.entries.table.pages = entry_pages.data();
    b.p.entries.table.stride = static_cast<std::int64_t>(entry_pages.size());
  }

  // The last token of `b`, alone, by lists.
  void check_last(const AttendBatch& b, std::int64_t max_entries) {
    const std::int32_t p = position.back();
    std::vector<std::int32_t> window_idx, entry_idx;
    for (std::int32_t r = std::max(0, p - kWindow + 1); r <= p; ++r)
      window_idx.push_back(window_pages[std::size_t(r % kWindow / kPage)] * kPage + r % kPage);
    for (std::int32_t e = 0; e < std::min<std::int64_t>((p + 1) / 128, max_entries); ++e)
      entry_idx.push_back(entry_pages[std::size_t(e / kPage)] * kPage + e % kPage);
    AttendBatch one(1, b.heads, 9);
    const std::int64_t last = b.tokens - 1;
    std::memcpy(static_cast<void*>(one.q.data()), b.q.row(last * b.heads), std::size_t(b.heads) * 1024);
    one.p.sink = b.p.sink;
    one.p.window = test::listed(window, window_idx, static_cast<std::int64_t>(window_idx.size()));
    one.p.entries = test::listed(entries, entry_idx, static_cast<std::int64_t>(entry_idx.size()));
    one.run();
    CAPTURE(b.tokens, b.heads, p, entry_idx.size());
    REQUIRE(std::memcmp(one.o.data(), b.o.row(last * b.heads), std::size_t(b.heads) * 1024) == 0);
    REQUIRE(std::memcmp(one.lse.data(), b.lse.row(last), std::size_t(b.heads) * 4) == 0);
  }
};

}  // namespace

TEST_CASE("attn_attend of ranges of many groups has the bits of lists, replayed with any lengths",
          "[ops][attn_attend]") {
  const std::int64_t max_entries = test::reduced() ? 512 : 8192;
  // 65 groups: one token is split over keys, eight are not.
  const std::int64_t tokens = GENERATE(1, 8);
  if (test::reduced() && tokens > 1) return;
  Ranges ranges(CacheFormat::kKv584, max_entries);
  AttendBatch b(tokens, 3, 5);
  ranges.select(b, max_entries);
  b.take_workspace();
  for (const std::int64_t visible :
       {std::int64_t{0}, max_entries, std::int64_t{1}, std::int64_t{127}, std::int64_t{128},
        std::int64_t{300}, std::int64_t{129}, max_entries + 7}) {
    ranges.position.back() = static_cast<std::int32_t>(128 * visible + 100);
    REQUIRE_OK(ops::attn_attend(b.p, nullptr));  // same parameters and workspace
    ranges.check_last(b, max_entries);
  }
}

TEST_CASE("attn_attend of ranges does not depend on the batch at the models' heads", "[ops][attn_attend]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const auto format = GENERATE(CacheFormat::kKv584, CacheFormat::kRows);
  const int heads = GENERATE(64, 128);
  if (test::reduced() && heads == 128) return;
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t max_entries = 160;
  Ranges ranges(format, max_entries);
  AttendBatch b(heads == 64 ? 65 : 33, heads, 5);  // more than are split; all but the last have a row
  ranges.select(b, max_entries);
  ranges.position.back() = 128 * 150 + 17;
  b.run();
  ranges.check_last(b, max_entries);
}

TEST_CASE("attn_attend finds q, o and lse far beyond 2^31 elements", "[ops][attn_attend]") {
  const int heads = 3;
  AttendPool entries(CacheFormat::kKv584, 64);
  entries.fill(0, 64, 1);
  const auto idx = test::slots_of(2 * 20, 64, 2);
  AttendBatch b(2, heads, 3);
  b.p.entries = test::listed(entries, idx, 20);
  b.run();
  const std::int64_t stride = (std::int64_t{1} << 31) + 8;
  const test::Sparse q(static_cast<std::size_t>(2 * stride) * sizeof(bf16)),
      o(static_cast<std::size_t>(2 * stride) * sizeof(bf16)),
      lse(static_cast<std::size_t>(2 * stride) * sizeof(float));
  auto* far_q = static_cast<bf16*>(q.data());
  for (std::int64_t t = 0; t < 2; ++t)
    std::memcpy(static_cast<void*>(far_q + t * stride), b.q.row(t * heads), heads * 1024);
  ops::AttnAttendParams p = b.p;
  p.q = q.data(), p.o = o.data(), p.lse = static_cast<float*>(lse.data());
  p.q_stride = p.o_stride = p.lse_stride = stride;
  REQUIRE_OK(ops::attn_attend(p, nullptr));
  for (std::int64_t t = 0; t < 2; ++t) {
    REQUIRE(std::memcmp(static_cast<bf16*>(o.data()) + t * stride, b.o.row(t * heads), heads * 1024) == 0);
    REQUIRE(std::memcmp(static_cast<float*>(lse.data()) + t * stride, b.lse.row(t), heads * 4) == 0);
  }
}
