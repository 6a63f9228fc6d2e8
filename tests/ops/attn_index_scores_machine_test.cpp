// How attn_index_scores runs: what it reads and how often, that a score depends on nothing but its token and
// entry, memory far apart, and what it refuses.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/ops/index_scores_case.hpp"
#include "tests/support/shapes.hpp"

#include <sys/mman.h>

using namespace dsv4;
using ops::CacheFormat;
using test::IndexCase;
using test::IndexShape;
using test::Rows;

namespace {

const std::vector<CacheFormat> kFormats = {CacheFormat::kIndexFp4, CacheFormat::kIndexFp8,
                                           CacheFormat::kRows};

}  // namespace

TEST_CASE("attn_index_scores reads each visible key once", "[ops][attn_index][traffic]") {
  const CacheFormat format = GENERATE(from_range(kFormats));
  const std::int64_t entries = test::reduced() ? 700 : 4096;
  IndexCase c({.max_entries = entries, .queries = format, .keys = format, .seed = 31},
              {static_cast<std::int32_t>(entries) - 3});
  auto p = c.params();
  Rows<float> scores(1, entries);
  const auto pool_bytes = static_cast<std::size_t>(c.pool->rows() * c.pool->stride());
  const simt::Watch keys(c.pool->data(), pool_bytes, true);
  const simt::Watch q(p.q, c.q_bytes.size()), table(p.table.pages, c.pages.size() * 4);
  const simt::Watch writes(scores.data(), static_cast<std::size_t>(entries) * 4, true);
  simt::reset_counters();
  REQUIRE_OK(ops::attn_index_scores({.scores = scores.data(), .queries = p}, nullptr));
  const auto seen = static_cast<std::uint64_t>(c.visible[0]);
  const std::uint64_t key_bytes =
      static_cast<std::uint64_t>(c.data_bytes()) + (format == CacheFormat::kRows ? 0 : 4);
  REQUIRE(keys.read_bytes() == seen * key_bytes);
  REQUIRE(keys.max_reads_of_a_byte() == 1);
  REQUIRE(keys.written_bytes() == 0);
  REQUIRE(writes.written_bytes() == seen * 4);
  REQUIRE(writes.max_writes_of_a_byte() == 1);
  REQUIRE(writes.read_bytes() == 0);
  REQUIRE(table.read_bytes() == seen * 4);
  // Every warp holds the query; it comes from L1 to all but the first.
  const simt::Counters n = simt::counters();
  REQUIRE(n.launches == 1);
  REQUIRE(q.read_bytes() == n.blocks * 8 * c.q_bytes.size());
  REQUIRE(n.shared_wavefronts == 0);
  REQUIRE(n.mma == (seen + 31) / 32 * 4 * 8 * 4);  // 8 entries, 16 channels, 16 heads each
}

TEST_CASE("attn_index_scores does not touch keys that nobody sees", "[ops][attn_index][traffic]") {
  const CacheFormat format = GENERATE(from_range(kFormats));
  IndexCase c({.tokens = 2,
               .heads = 3,
               .max_entries = 90,
               .queries = format,
               .keys = format,
               .page_rows = 4,
               .table_rows = 4,
               .sequences = 2,
               .seed = 32},
              {5, 70});
  c.pages[0] = -1;
  std::vector<std::unique_ptr<simt::Watch>> watches;
  std::vector<std::uint64_t> want;
  const auto bytes = static_cast<std::size_t>(c.data_bytes());
  for (std::int64_t slot = 0; slot < c.slots; ++slot) {
    std::uint64_t readers = 0;
    for (std::int64_t t = 0; t < 2; ++t)
      for (std::int64_t i = 0; i < c.visible[std::size_t(t)]; ++i) readers += c.slot_of(t, i) == slot ? 1 : 0;
    watches.push_back(std::make_unique<simt::Watch>(c.code_bytes(slot), bytes));
    want.push_back(readers * bytes);
    if (format == CacheFormat::kRows) continue;
    watches.push_back(std::make_unique<simt::Watch>(c.scale_bytes(slot), 4));
    want.push_back(readers * 4);
  }
  c.check(*c.run());
  for (std::size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    REQUIRE(watches[i]->read_bytes() == want[i]);
  }
}

TEST_CASE("a token's scores do not depend on the batch, the bound or the segment around it",
          "[ops][attn_index]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const CacheFormat format = GENERATE(from_range(kFormats));
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t tokens = 6, entries = 530;
  IndexCase c({.tokens = tokens,
               .heads = 20,
               .max_entries = entries,
               .queries = format,
               .keys = format,
               .page_rows = 16,
               .table_rows = 16,
               .sequences = 3,
               .seed = 33},
              {530, 1, 300, 529, 0, 77});
  const auto together = c.run();
  const auto q = c.q_bytes, q_scales = c.q_scales;
  const auto weights = c.weights;
  for (std::int64_t t = 0; t < tokens; ++t) {
    auto p = c.params();
    const std::size_t row = q.size() / static_cast<std::size_t>(tokens);
    alignas(16) std::uint8_t alone[64 * test::kIndexDim * 2];
    std::memcpy(alone, q.data() + static_cast<std::size_t>(t) * row, row);
    p.q = alone;
    if (p.scales) p.scales = q_scales.data() + t * 20 * 4;
    p.weights = weights.data() + t * 20;
    p.table.sequence_of = c.sequence_of.data() + t;
    p.visible.counts = c.visible.data() + t;
    p.tokens = 1;
    p.max_entries = c.visible[std::size_t(t)];
    const auto scores = c.run(p);
    for (std::int64_t i = 0; i < p.max_entries; ++i) {
      CAPTURE(t, i);
      REQUIRE(test::bits_of(scores->row(0)[i]) == test::bits_of(together->row(t)[i]));
    }
  }
  // As a single token sees a third as much: an entry's place in its row changes nothing either.
  auto p = c.params();
  std::vector<std::int32_t> swapped = c.pages;
  const std::int64_t stride = c.table_stride;
  std::swap(swapped[0], swapped[std::size_t(stride - 2)]);
  p.table.pages = swapped.data();
  const auto moved = c.run(p);
  for (std::int64_t i = 0; i < 16; ++i) {
    REQUIRE(test::bits_of(moved->row(0)[i]) == test::bits_of(together->row(0)[(stride - 2) * 16 + i]));
    REQUIRE(test::bits_of(moved->row(0)[(stride - 2) * 16 + i]) == test::bits_of(together->row(0)[i]));
  }
}

TEST_CASE("attn_index_scores gives the same bits again and under every schedule", "[ops][attn_index]") {
  const CacheFormat format = GENERATE(from_range(kFormats));
  IndexCase c({.tokens = 2, .heads = 33, .max_entries = 270, .queries = format, .keys = format, .seed = 34},
              {270, 100});
  const auto first = c.run()->values();
  for (int i = 0; i < 20; ++i)
    REQUIRE(std::memcmp(c.run()->values().data(), first.data(), first.size() * 4) == 0);
  test::under_all_policies(
      [&] { REQUIRE(std::memcmp(c.run()->values().data(), first.data(), first.size() * 4) == 0); });
}

TEST_CASE("attn_index_scores: rows of scores apart, and the red zones around them", "[ops][attn_index]") {
  const std::int64_t stride = GENERATE(40, 41, 64);
  IndexCase c({.tokens = 3, .heads = 4, .max_entries = 40, .padding = 2, .seed = 35}, {40, 9, 0});
  c.check(*c.run({stride, 4}));
}

TEST_CASE("attn_index_scores finds keys and scores beyond 2^31", "[ops][attn_index]") {
  // One page in front, one 3 * 2^32 bytes behind: only what is touched is ever mapped.
  const CacheFormat format = GENERATE(from_range(kFormats));
  const std::size_t far = std::size_t{3} << 32, bytes = far + (std::size_t{1} << 16);
  const auto map = [&] {
    void* const p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(p != MAP_FAILED);
    return static_cast<std::uint8_t*>(p);
  };
  const bool rows = format == CacheFormat::kRows;
  const std::int32_t page = rows ? 1 : 8;
  IndexCase c({.tokens = 2,
               .heads = 5,
               .max_entries = 2 * page,
               .queries = format,
               .keys = format,
               .page_rows = page,
               .table_rows = 0,
               .seed = 36});
  const auto want = c.run();
  std::uint8_t *const keys = map(), *const scores = map();
  for (std::int64_t r = 0; r < c.pool->rows(); ++r)
    std::memcpy(keys + static_cast<std::size_t>(r) * far, c.pool->row(r),
                static_cast<std::size_t>(c.pool->cols()));
  auto p = c.params();
  p.keys.data = keys;
  p.keys.stride = static_cast<std::int64_t>(rows ? far / 2 : far);
  REQUIRE_OK(ops::attn_index_scores({.scores = reinterpret_cast<float*>(scores),
                                     .queries = p,
                                     .scores_stride = static_cast<std::int64_t>(far / 4)},
                                    nullptr));
  for (std::size_t t = 0; t < 2; ++t)
    REQUIRE(std::memcmp(scores + t * far, want->row(static_cast<std::int64_t>(t)),
                        2 * std::size_t(page) * 4) == 0);
  munmap(keys, bytes), munmap(scores, bytes);
}

TEST_CASE("attn_index_scores refuses what it cannot do", "[ops][attn_index]") {
  constexpr auto kInvalid = Code::kInvalidArgument, kUnsupported = Code::kUnsupported;
  constexpr std::int64_t kTwo31 = std::int64_t{1} << 31;
  IndexCase c({.tokens = 2, .heads = 3, .max_entries = 20, .page_rows = 8, .table_rows = 8});
  Rows<float> scores(2, 20);
  const ops::AttnIndexScoresParams good{.scores = scores.data(), .queries = c.params()};
  const auto refuse = [&](auto change, Code code, std::int64_t value, std::int64_t limit, const char* text) {
    ops::AttnIndexScoresParams p = good;
    change(p);
    const auto before = simt::counters().launches;
    REQUIRE_REFUSED(ops::attn_index_scores(p, nullptr), code, value, limit, text);
    REQUIRE(simt::counters().launches == before);
    REQUIRE(std::string(ops::attn_index_scores(p, nullptr).what).find("attn_index_scores: ") == 0);
  };
  using P = ops::AttnIndexScoresParams;
  refuse([](P& p) { p.queries.tokens = -1; }, kInvalid, -1, INT32_MAX, "queries.tokens");
  refuse([](P& p) { p.queries.tokens = kTwo31; }, kInvalid, kTwo31, INT32_MAX, "queries.tokens");
  refuse([](P& p) { p.queries.max_entries = -1; }, kInvalid, -1, 1 << 20, "queries.max_entries");
  refuse([](P& p) { p.queries.max_entries = (1 << 20) + 1; }, kInvalid, (1 << 20) + 1, 1 << 20,
         "queries.max_entries");
  refuse([](P& p) { p.queries.heads = 0; }, kInvalid, 0, 64, "queries.heads");
  refuse([](P& p) { p.queries.heads = 65; }, kInvalid, 65, 64, "queries.heads");
  refuse([](P& p) { p.queries.dim = 64; }, kUnsupported, 64, 128, "queries.dim");
  refuse([](P& p) { p.queries.format = CacheFormat::kKv584; }, kUnsupported, 1, 0, "queries.format");
  refuse([](P& p) { p.queries.format = CacheFormat::kRows, p.queries.dtype = static_cast<ops::DType>(9); },
         kUnsupported, 9, 0, "queries.dtype");
  refuse([](P& p) { p.queries.keys.format = CacheFormat::kIndexFp8; }, kUnsupported, 3, 2,
         "queries.keys.format");
  refuse([](P& p) { p.queries.format = CacheFormat::kIndexFp8; }, kUnsupported, 2, 3, "queries.keys.format");
  refuse([](P& p) { p.queries.format = CacheFormat::kRows, p.queries.dtype = ops::DType::kF32; },
         kUnsupported, 2, 0, "queries.keys.format");
  refuse(
      [](P& p) {
        p.queries.format = p.queries.keys.format = CacheFormat::kRows;
        p.queries.keys.dtype = ops::DType::kF32;
      },
      kUnsupported, static_cast<int>(ops::DType::kF32), static_cast<int>(ops::DType::kBf16),
      "queries.keys.dtype");
  refuse([](P& p) { p.queries.keys.slots = -1; }, kInvalid, -1, INT32_MAX, "queries.keys.slots");
  refuse([](P& p) { p.queries.keys.page_rows = 0; }, kInvalid, 0, 1, "queries.keys.page_rows");
  refuse([](P& p) { p.queries.keys.stride = 536; }, kInvalid, 536, 544, "queries.keys.stride");
  refuse([](P& p) { p.queries.keys.stride = 552; }, kInvalid, 552, 16, "queries.keys.stride");
  refuse([](P& p) { p.queries.table.page_rows = 0; }, kInvalid, 0, 1, "queries.table.page_rows");
  refuse([](P& p) { p.queries.table.ring = -1; }, kInvalid, -1, 0, "queries.table.ring");
  refuse([](P& p) { p.queries.table.stride = -1; }, kInvalid, -1, 0, "queries.table.stride");
  refuse([](P& p) { p.queries.visible.counts = nullptr; }, kInvalid, 0, 1, "queries.visible.ratio");
  refuse([](P& p) { p.queries.visible = {.ratio = 4}; }, kInvalid, 0, 0, "queries.visible.positions");
  refuse([](P& p) { p.scores_stride = 19; }, kInvalid, 19, 20, "scores_stride");
  refuse([](P& p) { p.scores = nullptr; }, kInvalid, 0, 0, "scores");
  refuse([](P& p) { p.queries.q = nullptr; }, kInvalid, 0, 0, "queries.q");
  refuse([](P& p) { p.queries.q = static_cast<const char*>(p.queries.q) + 8; }, kInvalid, 8, 16, "queries.q");
  refuse([](P& p) { p.queries.scales = nullptr; }, kInvalid, 0, 0, "queries.scales");
  refuse([](P& p) { p.queries.weights = nullptr; }, kInvalid, 0, 0, "queries.weights");
  refuse([](P& p) { p.queries.keys.data = nullptr; }, kInvalid, 0, 0, "queries.keys.data");
  REQUIRE(scores.intact() == "");
  REQUIRE_OK(ops::attn_index_scores(good, nullptr));
}
