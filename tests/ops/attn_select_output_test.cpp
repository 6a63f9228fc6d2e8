// Op attn_select: where its answer goes, what it takes for lengths, what it refuses, and how much memory it
// moves.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/ops/select_case.hpp"

using namespace dsv4;
using namespace dsv4::test;

namespace {

constexpr std::int32_t kMin = std::numeric_limits<std::int32_t>::min();
constexpr std::int32_t kMax = std::numeric_limits<std::int32_t>::max();

}  // namespace

TEST_CASE("attn_select puts out slots through a page table", "[ops][attn_select]") {
  const std::int32_t page_rows = GENERATE(1, 2, 53, 64, 256);
  const std::int32_t k = 40, n = 600;
  const bool by_token = GENERATE(true, false);
  const SelectCase c(n, {600, 30, 599}, "random", 21);
  const std::int64_t stride = (n + page_rows - 1) / page_rows, sequences = 4, slots = 2000;
  std::vector<std::int32_t> pages(static_cast<std::size_t>(sequences * stride));
  Random random(22);
  for (std::int32_t& page : pages)
    page = static_cast<std::int32_t>(random.integer(-1, 2 * slots / page_rows));
  pages[0] = kMin, pages[1] = kMax;
  const std::vector<std::int32_t> sequence_of = {2, 0, 3};
  const std::int32_t ring = GENERATE(0, 100);
  CAPTURE(page_rows, by_token, ring);
  ops::AttnSelectParams p = c.params(k);
  p.output.as_slots = true;
  p.output.slots = slots;
  p.output.table = {.pages = pages.data(),
                    .sequence_of = by_token ? sequence_of.data() : nullptr,
                    .stride = stride,
                    .sequences = sequences,
                    .page_rows = page_rows,
                    .ring = ring};
  std::vector<std::int32_t> want = c.want(k);
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (want[i] < 0) continue;
    const std::int64_t token = static_cast<std::int64_t>(i) / k;
    const std::int64_t s = by_token ? sequence_of[static_cast<std::size_t>(token)] : token;
    const std::int64_t row = ring > 0 ? want[i] % ring : want[i];
    const std::int64_t page = pages[static_cast<std::size_t>(s * stride + row / page_rows)];
    const std::int64_t slot = page * page_rows + row % page_rows;
    want[i] = page < 0 || slot >= slots ? -1 : static_cast<std::int32_t>(slot);
  }
  Rows<std::int32_t> idx(3, k, RowLayout{k + 5, 4});
  run_select(p, idx);
  REQUIRE_ROWS(idx, want);
}

TEST_CASE("attn_select puts out -1 for sequences and pages outside the table", "[ops][attn_select]") {
  const SelectCase c(20, {20, 20, 20, 20}, "descending");
  const std::vector<std::int32_t> pages = {5, 4, 3}, sequence_of = {0, -1, 1, kMax};  // one sequence, 3 pages
  ops::AttnSelectParams p = c.params(20);
  p.output.as_slots = true;
  p.output.slots = 22;  // page 5 is 20 .. 23
  p.output.table = {
      .pages = pages.data(), .sequence_of = sequence_of.data(), .stride = 3, .sequences = 1, .page_rows = 4};
  std::vector<std::int32_t> want(80, -1);
  const std::vector<std::int32_t> first = {20, 21, -1, -1, 16, 17, 18, 19, 12, 13, 14, 15};
  std::copy(first.begin(), first.end(), want.begin());
  Rows<std::int32_t> idx(4, 20);
  run_select(p, idx);
  REQUIRE_ROWS(idx, want);

  p.output.table = {};  // slots are entries
  p.output.slots = 7;
  for (std::size_t i = 0; i < want.size(); ++i) want[i] = i % 20 < 7 ? static_cast<std::int32_t>(i % 20) : -1;
  Rows<std::int32_t> direct(4, 20);
  run_select(p, direct);
  REQUIRE_ROWS(direct, want);
}

TEST_CASE("attn_select takes lengths from counts or positions, within its bound", "[ops][attn_select]") {
  const std::int32_t n = 100, k = 30;
  SelectCase c(n, {-5, kMin, 0, 99, 100, 101, kMax}, "random", 23);
  check_select(c, k);
  const std::vector<std::int64_t> wide = {-1, 2, 3, 10, 127, 255, 511, std::int64_t{1} << 40};
  for (const std::int32_t ratio : {4, 128}) {
    std::vector<std::int32_t> narrow, counts;
    for (const std::int64_t position : wide) {
      narrow.push_back(static_cast<std::int32_t>(std::min<std::int64_t>(position, kMax)));
      counts.push_back(static_cast<std::int32_t>(std::min<std::int64_t>((position + 1) / ratio, n)));
    }
    const SelectCase by_count(n, counts, "random", 24);
    for (const bool is_wide : {false, true}) {
      CAPTURE(ratio, is_wide);
      ops::AttnSelectParams p = by_count.params(k);
      p.visible = {.positions = is_wide ? static_cast<const void*>(wide.data()) : narrow.data(),
                   .position_type = is_wide ? ops::PositionType::kInt64 : ops::PositionType::kInt32,
                   .ratio = ratio};
      Rows<std::int32_t> idx(by_count.tokens(), k);
      run_select(p, idx);
      REQUIRE_ROWS(idx, by_count.want(k));
    }
  }
}

TEST_CASE("attn_select without tokens or entries", "[ops][attn_select]") {
  REQUIRE_OK(ops::attn_select({.output = {.k = 7}, .visible = {.ratio = 4}, .max_entries = 100}, nullptr));
  const std::vector<std::int32_t> counts = {3, 0};
  Rows<std::int32_t> idx(2, 7);
  REQUIRE_OK(ops::attn_select(
      {.output = {.idx = idx.data(), .k = 7}, .visible = {.counts = counts.data()}, .tokens = 2}, nullptr));
  REQUIRE_ROWS(idx, std::vector<std::int32_t>(14, -1));
}

TEST_CASE("attn_select replayed with other lengths", "[ops][attn_select]") {
  // The same parameters, as a graph holds them; only what the device reads changes.
  const std::int32_t n = 40000, k = 60;
  SelectCase c(n, {n, n}, "random", 25);
  ops::AttnSelectParams p = c.params(k);
  p.workspace_bytes = ops::attn_select_workspace_bytes(p);
  SelectWorkspace workspace(p.workspace_bytes);
  p.workspace = workspace.bytes.data();
  for (const std::int32_t length : {5, n, 59, 20000, 0, 8193}) {
    c.visible = {length, n - length};
    Rows<std::int32_t> idx(2, k);
    p.output.idx = idx.data();
    REQUIRE_OK(ops::attn_select(p, nullptr));
    REQUIRE_ROWS(idx, c.want(k));
  }
}

TEST_CASE("attn_select_workspace_bytes: bounded, monotone, nothing for short rows", "[ops][attn_select]") {
  const auto bytes = [](std::int64_t tokens, std::int64_t entries, std::int32_t k) {
    return ops::attn_select_workspace_bytes({.output = {.k = k}, .tokens = tokens, .max_entries = entries});
  };
  REQUIRE(bytes(1 << 20, 16383, 4096) == 0);
  std::size_t before = 0;
  for (const std::int64_t tokens : {0, 1, 2, 3, 64, 511, 512, 513, 100000, kMax}) {
    REQUIRE(bytes(tokens, 1 << 20, 1024) >= before);
    before = bytes(tokens, 1 << 20, 1024);
  }
  REQUIRE(before == 512 * 1024 * 8);
  before = 0;
  for (std::int64_t entries = 0; entries <= 1 << 20; entries += 4099) {
    REQUIRE(bytes(3, entries, 700) >= before);
    before = bytes(3, entries, 700);
  }
  before = 0;
  for (std::int32_t k = 1; k <= 4096; ++k) {
    REQUIRE(bytes(5, 300000, k) >= before);
    before = bytes(5, 300000, k);
  }
}

TEST_CASE("attn_select reads each score once and little else", "[ops][attn_select][traffic]") {
  struct Shape {
    std::int64_t entries;
    std::vector<std::int32_t> visible;
    std::int32_t k;
  };
  // 1M positions of one token; a decode batch; a prefill's rows.
  const std::vector<Shape> shapes = {{262144, {262144}, 512},
                                     {262144, {250001}, 1024},
                                     {32768, {32768, 20000, 31111}, 512},
                                     {3001, {3000, 3001, 1234}, 1024}};
  for (const Shape& s : shapes) {
    CAPTURE(s.entries, s.k);
    const SelectCase c(s.entries, s.visible, "random", 26);
    ops::AttnSelectParams p = c.params(s.k);
    p.workspace_bytes = ops::attn_select_workspace_bytes(p);
    SelectWorkspace workspace(p.workspace_bytes);
    p.workspace = workspace.bytes.data();
    Rows<std::int32_t> idx(c.tokens(), s.k);
    p.output.idx = idx.data();
    const simt::Watch scores(c.scores.data(), static_cast<std::size_t>(c.tokens() * c.scores.stride()) * 4,
                             true);
    const simt::Watch output(idx.data(), static_cast<std::size_t>(c.tokens() * s.k) * 4, true);
    const simt::Watch pairs(workspace.bytes.data(), std::max<std::size_t>(p.workspace_bytes, 1));
    simt::reset_counters();
    REQUIRE_OK(ops::attn_select(p, nullptr));
    const simt::Counters counted = simt::counters();
    REQUIRE_ROWS(idx, c.want(s.k));
    std::uint64_t seen = 0;
    for (std::int64_t t = 0; t < c.tokens(); ++t) seen += static_cast<std::uint64_t>(c.seen(t)) * 4;
    REQUIRE(scores.read_bytes() == seen);
    REQUIRE(scores.max_reads_of_a_byte() == 1);
    REQUIRE(scores.written_bytes() == 0);
    REQUIRE(output.written_bytes() == static_cast<std::uint64_t>(c.tokens() * s.k) * 4);
    REQUIRE(output.max_writes_of_a_byte() == 1);
    REQUIRE(output.read_bytes() == 0);
    const std::uint64_t least = seen + output.written_bytes();
    REQUIRE(10 * (least + pairs.read_bytes() + pairs.written_bytes()) <= 11 * least);
    REQUIRE(counted.launches <= 2);
    REQUIRE(counted.atomics == 0);
    REQUIRE(counted.shared_bank_conflicts == 0);  // counted in instrumented builds
  }
}
