// Op attn_index_select on the SIMT machine: bit for bit the sorted scores of attn_index_scores, in every
// format, however the rows are split.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/ops/index_scores_case.hpp"
#include "tests/ops/select_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using namespace dsv4::test;
using ops::CacheFormat;

namespace {

// The op with a workspace of its own, into idx.
void run_index_select(ops::AttnIndexSelectParams p, Rows<std::int32_t>& idx) {
  p.output.idx = idx.data();
  p.output.idx_stride = idx.stride();
  p.workspace_bytes = ops::attn_index_select_workspace_bytes(p);
  SelectWorkspace workspace(p.workspace_bytes);
  p.workspace = workspace.bytes.data();
  REQUIRE_OK(ops::attn_index_select(p, nullptr));
  REQUIRE(workspace.bytes.intact() == "");
}

std::vector<std::int32_t> sorted(const Rows<float>& scores, const IndexCase& c, std::int32_t k) {
  std::vector<std::int32_t> want;
  for (std::int64_t t = 0; t < c.shape.tokens; ++t) {
    const auto row = best_by_sorting(scores.row(t), c.visible[static_cast<std::size_t>(t)], k);
    want.insert(want.end(), row.begin(), row.end());
  }
  return want;
}

void check(IndexCase& c, std::initializer_list<std::int32_t> ks) {
  const auto scores = c.run();
  for (const std::int32_t k : ks) {
    CAPTURE(k, c.shape.heads, c.shape.max_entries, static_cast<int>(c.shape.queries),
            static_cast<int>(c.shape.keys), c.visible);
    Rows<std::int32_t> idx(c.shape.tokens, k, RowLayout{k + 1, 4});
    run_index_select({.output = {.k = k}, .queries = c.params()}, idx);
    REQUIRE_ROWS(idx, sorted(*scores, c, k));
  }
}

}  // namespace

TEST_CASE("attn_index_select chooses by attn_index_scores in every format", "[ops][attn_index]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kHopper);
  const auto [queries, keys] = GENERATE(from_range(index_formats()));
  const std::int32_t heads = GENERATE(3, 33);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  IndexCase c({.tokens = 3,
               .heads = heads,
               .max_entries = 700,
               .queries = queries,
               .keys = keys,
               .sequences = 2,
               .seed = 31},
              {700, 30, 513});
  check(c, {1, 64, 600});
}

TEST_CASE("attn_index_select around its tiles, its k and its pieces", "[ops][attn_index]") {
  const bool ties = GENERATE(false, true);
  const std::int64_t most = 3 * 1024 + 200;
  std::vector<std::int32_t> visible = {0, 1, 2};
  for (const std::int32_t edge : {64, 256, 1024, 2048, 3072}) {
    visible.push_back(edge - 1), visible.push_back(edge), visible.push_back(edge + 1);
  }
  visible.push_back(static_cast<std::int32_t>(most));
  IndexCase c({.tokens = static_cast<std::int64_t>(visible.size()),
               .heads = 2,
               .max_entries = most,
               .integers = ties,
               .seed = 32},
              visible);
  check(c, {64});
  if (!reduced()) check(c, {256, 1});
}

TEST_CASE("attn_index_select with both instances, k up to 4096", "[ops][attn_index]") {
  IndexCase c({.tokens = 2, .heads = 2, .max_entries = 6000, .integers = true, .seed = 33}, {6000, 4097});
  check(c, {1, 1023, 1024, 1025, 4095, 4096});
}

TEST_CASE("attn_index_select of fp32 is the primitive's choice", "[ops][attn_index]") {
  IndexCase c({.tokens = 4,
               .heads = 3,
               .max_entries = 300,
               .queries = CacheFormat::kRows,
               .keys = CacheFormat::kRows,
               .dtype = ops::DType::kF32,
               .sequences = 2,
               .seed = 34},
              {300, 0, 31, 257});
  check(c, {1, 40, 1024, 1500});
  c.pages[0] = -1;
  check(c, {300});
}

TEST_CASE("attn_index_select never chooses an entry without a slot or with a NaN", "[ops][attn_index]") {
  IndexCase c({.tokens = 3,
               .heads = 4,
               .max_entries = 400,
               .page_rows = 16,
               .table_rows = 16,
               .sequences = 3,
               .seed = 35});
  c.pages[0] = -1, c.pages[3] = std::numeric_limits<std::int32_t>::max();
  c.sequence_of = {0, 7, 2};  // token 1 has none at all
  const std::int64_t slot = c.slot_of(2, 5);
  c.scale_bytes(slot)[0] = 0xff;  // a NaN
  c.weights[2 * 4] = std::abs(c.weights[2 * 4]);
  const auto scores = c.run();
  REQUIRE(std::isnan(scores->row(2)[5]));
  check(c, {400});
  c.weights[0] = kNan;
  check(c, {10});
}

TEST_CASE("attn_index_select puts out slots of another pool", "[ops][attn_index]") {
  const std::int32_t k = 50;
  IndexCase c({.tokens = 2, .heads = 2, .max_entries = 2100, .seed = 36});
  const std::vector<std::int32_t> pages = {7, -1, 2, 0, 90, 3};  // of the pool to attend to, 400 rows each
  ops::AttnIndexSelectParams p = {
      .output = {.table = {.pages = pages.data(), .stride = 6, .sequences = 1, .page_rows = 400},
                 .slots = 3500,
                 .k = k,
                 .as_slots = true},
      .queries = c.params()};
  const std::vector<std::int32_t> sequence_of = {0, 0};
  p.output.table.sequence_of = sequence_of.data();
  auto want = sorted(*c.run(), c, k);
  for (std::int32_t& entry : want) {
    const std::int32_t page = pages[static_cast<std::size_t>(entry / 400)];
    entry = page < 0 || page * 400 + entry % 400 >= 3500 ? -1 : page * 400 + entry % 400;
  }
  Rows<std::int32_t> idx(2, k);
  run_index_select(p, idx);
  REQUIRE_ROWS(idx, want);
}

TEST_CASE("attn_index_select does not depend on the batch, the bound or the schedule", "[ops][attn_index]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int32_t k = 90, n = 2500;
  IndexCase c({.tokens = 1, .heads = 17, .max_entries = n, .seed = 37});
  const auto want = sorted(*c.run(), c, k);
  ops::AttnIndexSelectParams p = {.output = {.k = k}, .queries = c.params()};
  for (const std::int64_t bound : {2500, 5000, 100000, 1 << 20}) {
    CAPTURE(bound);
    p.queries.max_entries = bound;
    Rows<std::int32_t> idx(1, k);
    run_index_select(p, idx);
    REQUIRE_ROWS(idx, want);
  }
  p.queries.max_entries = 5000;
  under_all_policies([&] {
    simt::Options own = simt::options();
    own.rounding = rounding;
    const simt::ScopedOptions inner(own);
    Rows<std::int32_t> idx(1, k);
    run_index_select(p, idx);
    REQUIRE_ROWS(idx, want);
  });
  // The same query as the last of a batch of others that see little.
  for (const std::int64_t tokens : {5, 300}) {
    CAPTURE(tokens);
    IndexCase batch({.tokens = tokens, .heads = 17, .max_entries = n, .seed = 37}, {9});
    const std::size_t row = 17 * kIndexDim / 2, last = static_cast<std::size_t>(tokens - 1);
    std::copy(c.q_bytes.begin(), c.q_bytes.end(),
              batch.q_bytes.begin() + static_cast<std::ptrdiff_t>(last * row));
    std::copy(c.q_scales.begin(), c.q_scales.end(),
              batch.q_scales.begin() + static_cast<std::ptrdiff_t>(last * 17 * 4));
    std::copy(c.weights.begin(), c.weights.end(),
              batch.weights.begin() + static_cast<std::ptrdiff_t>(last * 17));
    batch.visible[last] = n;
    ops::AttnIndexSelectParams q = {.output = {.k = k}, .queries = batch.params()};
    q.queries.keys = p.queries.keys;
    q.queries.table.pages = c.pages.data();
    Rows<std::int32_t> idx(tokens, k);
    run_index_select(q, idx);
    REQUIRE(std::equal(want.begin(), want.end(), idx.row(tokens - 1)));
  }
}

TEST_CASE("attn_index_select without tokens or entries", "[ops][attn_index]") {
  IndexCase c({.tokens = 2, .heads = 2, .max_entries = 30});
  ops::AttnIndexSelectParams p = {.output = {.k = 7}, .queries = c.params()};
  Rows<std::int32_t> idx(2, 7);
  p.queries.max_entries = 0;
  p.queries.q = nullptr, p.queries.scales = nullptr, p.queries.weights = nullptr;
  run_index_select(p, idx);
  REQUIRE_ROWS(idx, std::vector<std::int32_t>(14, -1));
}

TEST_CASE("attn_index_select replayed with other lengths, and 20 times by any schedule",
          "[ops][attn_index]") {
  const std::int32_t k = 65, n = 3 * 1024 + 70;  // rows are split in three pieces
  IndexCase c({.tokens = 2, .heads = 3, .max_entries = n, .seed = 40});
  const auto scores = c.run();
  ops::AttnIndexSelectParams p = {.output = {.k = k}, .queries = c.params()};
  std::vector<std::int32_t> visible(2, n);
  p.queries.visible = {.counts = visible.data()};
  Rows<std::int32_t> idx(2, k);
  p.output.idx = idx.data();
  p.workspace_bytes = ops::attn_index_select_workspace_bytes(p);
  SelectWorkspace workspace(p.workspace_bytes);
  p.workspace = workspace.bytes.data();
  const auto run = [&] {  // same parameters and workspace
    REQUIRE_OK(ops::attn_index_select(p, nullptr));
    std::vector<std::int32_t> want;
    for (std::int64_t t = 0; t < 2; ++t) {
      const auto row = best_by_sorting(scores->row(t), visible[static_cast<std::size_t>(t)], k);
      want.insert(want.end(), row.begin(), row.end());
    }
    CAPTURE(visible);
    REQUIRE_ROWS(idx, want);
  };
  for (const std::int32_t length : {0, n, 1, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 3073}) {
    visible = {length, n - length};
    run();
  }
  visible = {n, 1500};
  for (std::uint64_t seed = 0; seed < (reduced() ? 3u : 20u); ++seed) {
    simt::Options o = simt::options();
    o.seed = seed;
    o.async = simt::Async::kRandom;
    o.schedule = seed % 2 == 0 ? simt::Schedule::kRandom : simt::Schedule::kLifo;
    const simt::ScopedOptions scope(o);
    run();
  }
}

TEST_CASE("attn_index_select: two launches, a bounded workspace, keys read once",
          "[ops][attn_index][traffic]") {
  const std::int64_t n = reduced() ? 4096 : 16384;  // 64K positions
  const std::int32_t k = 512, heads = reduced() ? 16 : 64;
  IndexCase c({.tokens = 1, .heads = heads, .max_entries = n, .seed = 38});
  const auto want = sorted(*c.run(), c, k);
  ops::AttnIndexSelectParams p = {.output = {.k = k}, .queries = c.params()};
  p.workspace_bytes = ops::attn_index_select_workspace_bytes(p);
  REQUIRE(p.workspace_bytes <= static_cast<std::size_t>(n) * 2 + 512);  // half a row of scores
  SelectWorkspace workspace(p.workspace_bytes);
  p.workspace = workspace.bytes.data();
  Rows<std::int32_t> idx(1, k);
  p.output.idx = idx.data();
  const auto pool_bytes = static_cast<std::size_t>(c.pool->rows() * c.pool->stride());
  const simt::Watch keys(c.pool->data(), pool_bytes), pairs(workspace.bytes.data(), p.workspace_bytes);
  simt::reset_counters();
  REQUIRE_OK(ops::attn_index_select(p, nullptr));
  const simt::Counters counted = simt::counters();
  REQUIRE_ROWS(idx, want);
  REQUIRE(counted.launches <= 2);
  REQUIRE(counted.atomics == 0);
  REQUIRE(counted.shared_bank_conflicts == 0);  // counted in instrumented builds
  const auto least = static_cast<std::uint64_t>(n * 68 + k * 4);
  REQUIRE(keys.read_bytes() <= static_cast<std::uint64_t>(n * 68));
  REQUIRE(10 * (keys.read_bytes() + static_cast<std::uint64_t>(k) * 4 + pairs.read_bytes() +
                pairs.written_bytes()) <=
          11 * least);
}

TEST_CASE("attn_index_select over a million positions", "[ops][attn_index]") {
  const std::int64_t n = reduced() ? 16384 : 262144;
  IndexCase c({.tokens = 1, .heads = 2, .max_entries = n, .seed = 39});
  check(c, {1024});
}

TEST_CASE("attn_index_select_workspace_bytes: bounded and monotone", "[ops][attn_index]") {
  const auto bytes = [](std::int64_t tokens, std::int64_t entries, std::int32_t k) {
    return ops::attn_index_select_workspace_bytes(
        {.output = {.k = k}, .queries = {.tokens = tokens, .max_entries = entries}});
  };
  REQUIRE(bytes(1 << 20, 2047, 4096) == 0);
  REQUIRE(bytes(INT32_MAX, 1 << 20, 1024) == 512 * 1024 * 8);
  std::size_t before = 0;
  for (std::int64_t entries = 0; entries <= 1 << 20; entries += 4099) {
    REQUIRE(bytes(3, entries, 700) >= before);
    before = bytes(3, entries, 700);
  }
  before = 0;
  for (std::int32_t k = 1; k <= 4096; ++k) {
    REQUIRE(bytes(5, 300000, k) >= before);
    before = bytes(5, 300000, k);
  }
  before = 0;
  for (std::int64_t tokens = 0; tokens < 600; ++tokens) {
    REQUIRE(bytes(tokens, 50000, 700) >= before);
    before = bytes(tokens, 50000, 700);
  }
}
