// Op attn_index_scores on the SIMT machine: within a derived bound of the fp64 oracle in every format, exact
// where sums are exact, bit for bit the primitive for fp32.
#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/kv_cache.hpp>

#include "tests/ops/index_scores_case.hpp"
#include "tests/support/shapes.hpp"

#include <limits>

using namespace dsv4;
using ops::CacheFormat;
using test::IndexCase;
using test::IndexShape;

namespace {

void check(const IndexShape& shape, std::vector<std::int32_t> counts = {-1}) {
  IndexCase c(shape, std::move(counts));
  c.check(*c.run());
}

}  // namespace

TEST_CASE("attn_index_scores computes its equation in every format", "[ops][attn_index]") {
  const auto [queries, keys] = GENERATE(from_range(test::index_formats()));
  const std::int32_t heads = GENERATE(1, 7, 8, 16, 33, 64);
  check({.heads = heads, .max_entries = 45, .queries = queries, .keys = keys, .seed = 11});
}

TEST_CASE("attn_index_scores is exact where sums are", "[ops][attn_index]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const auto [queries, keys] = GENERATE(from_range(test::index_formats()));
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  check({.tokens = 2, .max_entries = 70, .queries = queries, .keys = keys, .integers = true, .seed = 12},
        {70, 33});
}

TEST_CASE("attn_index_scores keeps its bound however tensor cores round", "[ops][attn_index]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const auto [queries, keys] = GENERATE(from_range(test::index_formats()));
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  check({.max_entries = 40, .queries = queries, .keys = keys, .seed = 13});
}

TEST_CASE("attn_index_scores around its tiles and segments", "[ops][attn_index]") {
  const std::int64_t entries = GENERATE(1, 7, 8, 9, 31, 32, 33, 255, 256, 257, 511, 512, 513, 1030);
  const CacheFormat keys = GENERATE(CacheFormat::kIndexFp4, CacheFormat::kIndexFp8, CacheFormat::kRows);
  check({.heads = 5, .max_entries = entries, .queries = keys, .keys = keys, .seed = 14});
}

TEST_CASE("attn_index_scores over pages of any size", "[ops][attn_index]") {
  const CacheFormat format = GENERATE(CacheFormat::kIndexFp4, CacheFormat::kIndexFp8, CacheFormat::kRows);
  const std::int32_t page = GENERATE(1, 2, 53, 64, 256);
  const bool dense = GENERATE(false, true);
  if (dense && format == CacheFormat::kRows) return;
  IndexShape s{.tokens = 3,
               .heads = 9,
               .max_entries = 300,
               .queries = format,
               .keys = format,
               .page_rows = page,
               .table_rows = page,
               .sequences = 2,
               .padding = 3,
               .dense = dense,
               .seed = 15};
  check(s, {300, 57, 128});  // tokens 0 and 2 share a sequence
  s.padding = 0;
  s.table_rows = 7;  // a table of pages of its own size
  check(s, {1, 300, 0});
  s.table_rows = 0;  // slot = entry
  check(s, {299, 300, 3});
}

TEST_CASE("attn_index_scores: an entry without a slot scores NaN", "[ops][attn_index]") {
  const CacheFormat format = GENERATE(CacheFormat::kIndexFp4, CacheFormat::kIndexFp8, CacheFormat::kRows);
  IndexShape s{.tokens = 4,
               .heads = 8,
               .max_entries = 100,
               .queries = format,
               .keys = format,
               .page_rows = 16,
               .table_rows = 16,
               .sequences = 2,
               .seed = 16};
  IndexCase c(s);
  c.pages[0] = -1, c.pages[3] = std::numeric_limits<std::int32_t>::min();   // holes
  c.pages[5] = std::numeric_limits<std::int32_t>::max(), c.pages[8] = 100;  // outside the pool
  c.sequence_of = {1, 0, -1, 2};                                            // two sequences do not exist
  c.check(*c.run());
  c.sequence_of = {0, 1, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()};
  c.check(*c.run());
  c.table_stride = 3;  // a table that ends before the entries do: sequence 1 begins in the middle of 0
  c.check(*c.run());
  s.table_rows = 0;
  IndexCase flat(s);
  flat.slots = 61;
  flat.check(*flat.run());
  flat.slots = 0;
  flat.check(*flat.run());
}

TEST_CASE("attn_index_scores: sequences by token, and a ring", "[ops][attn_index]") {
  IndexCase own({.tokens = 3, .heads = 4, .max_entries = 40, .table_rows = 8, .sequences = 3, .seed = 17});
  auto p = own.params();
  p.table.sequence_of = nullptr;  // row t for token t
  own.check(*own.run(p));
  check({.heads = 4, .max_entries = 90, .table_rows = 8, .ring = 24, .seed = 18});
  check({.heads = 4, .max_entries = 90, .table_rows = 0, .ring = 17, .seed = 18});
}

TEST_CASE("attn_index_scores: visible entries by position", "[ops][attn_index]") {
  const bool wide = GENERATE(false, true);
  const std::int32_t ratio = GENERATE(4, 128);
  const std::vector<std::int64_t> positions = {0, 2, 3, 4, 7, 126, 127, 128, 255, 5000};
  std::vector<std::int32_t> narrow, counts;
  for (const std::int64_t position : positions) {
    narrow.push_back(static_cast<std::int32_t>(position));
    // Entry i is seen from the last of its tokens on; the op is asked for 50 at most.
    std::int32_t n = 0;
    while (n < 50 && (n + 1) * ratio - 1 <= position) ++n;
    counts.push_back(n);
  }
  IndexCase c({.tokens = static_cast<std::int64_t>(positions.size()),
               .heads = 3,
               .max_entries = 50,
               .table_rows = 16,
               .seed = 19},
              counts);
  auto p = c.params();
  p.visible = {.counts = nullptr,
               .positions = wide ? static_cast<const void*>(positions.data()) : narrow.data(),
               .position_type = wide ? ops::PositionType::kInt64 : ops::PositionType::kInt32,
               .ratio = ratio};
  c.check(*c.run(p));
}

TEST_CASE("attn_index_scores: counts beyond the op's entries, and negative ones", "[ops][attn_index]") {
  IndexCase c({.tokens = 4, .heads = 2, .max_entries = 20, .seed = 20}, {20, 0, 0, 20});
  auto p = c.params();
  const std::vector<std::int32_t> counts = {21, -1, std::numeric_limits<std::int32_t>::min(),
                                            std::numeric_limits<std::int32_t>::max()};
  p.visible.counts = counts.data();
  c.check(*c.run(p));
}

TEST_CASE("attn_index_scores is right for every scale byte", "[ops][attn_index]") {
  // Up to 252, where no code overflows fp32. The other side's scales keep the products in its range.
  const auto set_query_scales = [](IndexCase& c, std::size_t head, int byte) {
    for (std::size_t d = 0; d < test::kIndexDim; ++d) {
      const std::size_t i = head * test::kIndexDim + d;
      c.q_scales[i / 32] = static_cast<std::uint8_t>(byte);
      c.q[i] = test::oracle::e2m1_value(c.q_bytes[i / 2] >> (d % 2 * 4) & 15u) *
               test::oracle::e8m0_value(static_cast<unsigned>(byte));
    }
  };
  for (const int byte : {0, 1, 2, 64, 126, 127, 128, 129, 130, 200, 251, 252, 255}) {
    CAPTURE(byte);
    const int other = std::clamp(254 - byte, 40, 214);
    IndexCase keys({.heads = 3, .max_entries = 9, .page_rows = 3, .table_rows = 0, .seed = 21});
    for (std::size_t h = 0; h < 3; ++h) set_query_scales(keys, h, other);
    keys.scale_bytes(5)[2] = static_cast<std::uint8_t>(byte);
    keys.check(*keys.run());
    IndexCase queries({.heads = 3, .max_entries = 9, .table_rows = 0, .seed = 22});
    set_query_scales(queries, 1, byte);
    for (int i = 0; i < 9; ++i)
      for (int b = 0; b < 4; ++b) queries.scale_bytes(i)[b] = static_cast<std::uint8_t>(other);
    queries.check(*queries.run());
  }
}

TEST_CASE("attn_index_scores: one bad key, and its neighbours", "[ops][attn_index]") {
  const std::int32_t heads = GENERATE(1, 16, 40);
  const std::int64_t bad = GENERATE(0, 6, 31, 32);
  for (const auto& [queries, keys] : test::index_formats()) {
    IndexCase c(
        {.heads = heads, .max_entries = 40, .queries = queries, .keys = keys, .table_rows = 0, .seed = 23});
    const auto clean = c.run()->values();
    std::uint8_t* codes = c.code_bytes(bad);
    if (keys == CacheFormat::kIndexFp4)
      c.scale_bytes(bad)[3] = 255;
    else if (keys == CacheFormat::kIndexFp8)
      codes[77] = bad % 2 == 0 ? 0x7f : 0xff;
    else
      codes[2 * 77] = 0x81, codes[2 * 77 + 1] = 0xff;  // a negative NaN
    const auto got = c.run()->values();
    for (std::size_t i = 0; i < got.size(); ++i) {
      CAPTURE(i, bad, static_cast<int>(keys));
      if (std::int64_t(i) == bad)
        REQUIRE(std::isnan(got[i]));
      else
        REQUIRE(test::bits_of(got[i]) == test::bits_of(clean[i]));
    }
  }
  // A key's scale that is a NaN.
  IndexCase c({.heads = heads,
               .max_entries = 40,
               .queries = CacheFormat::kIndexFp8,
               .keys = CacheFormat::kIndexFp8,
               .seed = 23});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(c.scale_bytes(c.slot_of(0, bad)), &nan, 4);
  REQUIRE(std::isnan(c.run()->row(0)[bad]));
}

TEST_CASE("attn_index_scores: an infinite key has an infinite score, whatever the padding of heads",
          "[ops][attn_index]") {
  const std::int32_t heads = GENERATE(1, 16, 17, 64);
  IndexCase c({.heads = heads,
               .max_entries = 10,
               .queries = CacheFormat::kRows,
               .keys = CacheFormat::kRows,
               .table_rows = 0,
               .seed = 24});
  for (float& w : c.weights) w = 1;
  c.code_bytes(4)[20] = 0x80, c.code_bytes(4)[21] = 0x7f;
  for (std::int64_t h = 0; h < heads; ++h) {  // no 0 * inf, and a head with a positive dot
    c.q_bytes[std::size_t(h * 256 + 20)] = 0x80;
    c.q_bytes[std::size_t(h * 256 + 21)] = h == 0 || h % 2 == 0 ? 0x3f : 0xbf;
  }
  REQUIRE(c.run()->row(0)[4] == std::numeric_limits<float>::infinity());
}

TEST_CASE("attn_index_scores: the ReLU comes before the sum over heads; everything clipped gives +0",
          "[ops][attn_index]") {
  IndexCase c({.heads = 2,
               .max_entries = 3,
               .queries = CacheFormat::kRows,
               .keys = CacheFormat::kRows,
               .table_rows = 0,
               .integers = true});
  std::fill(c.q_bytes.begin(), c.q_bytes.end(), std::uint8_t{0});
  c.q_bytes[0] = 0x40, c.q_bytes[1] = 0x40;      // head 0: 3 in channel 0
  c.q_bytes[256] = 0xa0, c.q_bytes[257] = 0xc0;  // head 1: -5
  for (int i = 0; i < 3; ++i) {
    std::fill_n(c.code_bytes(i), 256, std::uint8_t{0});
    c.code_bytes(i)[0] = 0x80, c.code_bytes(i)[1] = i == 2 ? 0xbf : 0x3f;  // 1, 1, -1
  }
  for (const float w : {1.0f, -1.0f}) {
    c.weights = {1, w};
    const auto scores = c.run()->values();
    REQUIRE(scores[0] == 3.0f);
    REQUIRE(scores[2] == 5.0f * w);
  }
  c.q_bytes[1] = 0xc0, c.weights = {-2, -1};  // both dots negative, weights too
  REQUIRE(test::bits_of(c.run()->row(0)[1]) == 0);
}

TEST_CASE("attn_index_scores of fp32 rows is the primitive", "[ops][attn_index]") {
  const std::int32_t heads = GENERATE(1, 5, 64);
  if (heads == 64 && test::reduced()) return;
  IndexCase c({.tokens = 3,
               .heads = heads,
               .max_entries = 70,
               .queries = CacheFormat::kRows,
               .keys = CacheFormat::kRows,
               .dtype = ops::DType::kF32,
               .table_rows = 16,
               .sequences = 2,
               .padding = 1,
               .seed = 25},
              {70, 33, 0});
  c.pages[1] = -1;
  const auto scores = c.run();
  const attention::RowPool<float> pool{reinterpret_cast<float*>(c.pool->data()), c.pool->stride() / 4,
                                       c.slots, test::kIndexDim};
  std::vector<float> scratch(static_cast<std::size_t>(attention::kScoreTile * (heads + test::kIndexDim)));
  const auto q = test::row_of<float>(std::vector<float>(c.q.begin(), c.q.end()));
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t i = 0; i < 70; ++i) {
      CAPTURE(t, i);
      const float got = scores->row(t)[i];
      const std::int64_t slot = c.slot_of(t, i);
      if (i >= c.visible[std::size_t(t)]) {
        REQUIRE(test::bits_of(got) == 0xffffffffu);
      } else if (slot < 0) {
        REQUIRE(std::isnan(got));
      } else {
        std::vector<float> want(static_cast<std::size_t>(c.slots));
        attention::index_scores(SerialCoop{}, want.data(), q.data() + t * heads * test::kIndexDim,
                                c.weights.data() + t * heads, pool, slot, slot + 1, heads, test::kIndexDim,
                                scratch.data());
        REQUIRE(test::bits_of(got) == test::bits_of(want[std::size_t(slot)]));
      }
    }
}

TEST_CASE("attn_index_scores of nothing", "[ops][attn_index]") {
  check({.tokens = 0, .heads = 3});
  IndexCase c({.tokens = 2, .heads = 3, .max_entries = 4}, {0, 0});
  c.check(*c.run());
  auto p = c.params();
  p.max_entries = 0;
  REQUIRE_OK(ops::attn_index_scores({.queries = p}, nullptr));
  p.q = nullptr, p.weights = nullptr, p.tokens = 0, p.max_entries = 8;
  REQUIRE_OK(ops::attn_index_scores({.queries = p}, nullptr));
}
