// Op attn_compress on the SIMT machine: ragged batches, what is skipped, pools and strides of every kind.
#include <dsv4/simt/options.hpp>

#include <sys/mman.h>

#include <algorithm>
#include <climits>
#include <memory>
#include <utility>
#include <vector>

#include "tests/ops/attn_compress_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using namespace dsv4::test;
using ops::CacheFormat;

namespace {

using Case = CompressCase<bf16>;

/// Bytes of one sequence's state in each compressor.
std::vector<std::uint8_t> state_of(const Case& c, std::int64_t sequence) {
  std::vector<std::uint8_t> bytes;
  for (const CompressorCase<bf16>* x : {c.main.get(), c.index.get()}) {
    if (!x) continue;
    const auto all = x->state();
    const auto size = static_cast<std::int64_t>(all.size()) / c.setup.sequences;
    bytes.insert(bytes.end(), all.begin() + sequence * size, all.begin() + (sequence + 1) * size);
  }
  return bytes;
}

}  // namespace

TEST_CASE("attn_compress of ragged batches", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  const std::int64_t sequences = reduced() ? 5 : ratio == 4 ? 70 : 9;
  Case c({.ratio = ratio, .sequences = sequences, .entries = 16});
  std::vector<std::int64_t> length(static_cast<std::size_t>(sequences), 0);
  for (int round = 0; round < 5; ++round) {
    const auto random = integers(3 * sequences, static_cast<std::uint64_t>(round), 0, 1 << 20);
    std::vector<Case::Append> appends;
    for (std::int64_t k = 0; k < sequences; ++k) {
      const std::int64_t s = (k * 17 + round) % sequences;  // in another order each time
      // A third have no new tokens; the others one, a few, or more than a block.
      const std::int32_t r = random[static_cast<std::size_t>(k)];
      const std::int64_t count = r % 3 == 0 ? 0 : r % 3 == 1 ? 1 : 1 + r / 3 % (ratio == 4 ? 11 : 150);
      appends.push_back({s, length[static_cast<std::size_t>(s)], count});
      length[static_cast<std::size_t>(s)] += count;
    }
    CAPTURE(ratio, round);
    c.append(appends, round % 3);
  }
}

TEST_CASE("attn_compress: the same sequence in any batch gives the same bits", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t first = ratio + 1, then = 2 * ratio;
  Case alone({.ratio = ratio, .sequences = 5, .entries = 16}), together(alone.setup);
  alone.append({{2, 0, first}});
  alone.append({{2, first, then}}, 3);
  together.append({{4, 0, 3}, {2, 0, first}, {0, 0, ratio}, {1, 0, 0}});
  together.append({{0, ratio, 1}, {1, 0, 7}, {3, 0, 2 * ratio}, {2, first, then}}, 1);
  REQUIRE((state_of(alone, 2) == state_of(together, 2)));
}

TEST_CASE("attn_compress skips sequences without a state, and entries without a slot",
          "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  Case c({.ratio = ratio, .sequences = 4, .entries = 16});
  c.lay_out({{0, 0, 2 * ratio + 1}, {1, 0, 3 * ratio}, {2, 0, 2 * ratio}, {3, 0, 3 * ratio}});
  c.skip(1, GENERATE(-1, 4, INT_MAX, INT_MIN));
  const std::int32_t bad = GENERATE(-1, 64, INT_MAX, INT_MIN);
  c.unstore(0, 1, bad), c.unstore(2, 0, bad), c.unstore(3, 0, bad), c.unstore(3, 1, bad);
  const auto untouched = state_of(c, 1);
  REQUIRE_OK(ops::attn_compress(c.params(), nullptr));
  c.expect();
  REQUIRE(c.check() == "");
  REQUIRE((state_of(c, 1) == untouched));
  // What was not stored was pooled all the same, as far as the entries behind need it.
  c.append({{0, 2 * ratio + 1, ratio}, {2, 2 * ratio, ratio}, {3, 3 * ratio, ratio + 2}});
}

TEST_CASE("attn_compress: bad numbers stay in the entries of their tokens", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  constexpr std::uint64_t kBad = CompressorCase<bf16>::kBadVersion;
  Case c({.ratio = ratio, .main = CacheFormat::kRows, .index = CacheFormat::kRows});
  const std::vector<Case::Append> calls = {{0, 0, ratio + 2},
                                           {0, ratio + 2, 1, kBad},
                                           {0, ratio + 3, 4 * ratio},
                                           {0, 5 * ratio + 3 - 16, 20}};  // far behind the bad token
  for (const Case::Append& call : calls) {
    c.lay_out({call});
    REQUIRE_OK(ops::attn_compress(c.params(), nullptr));
    c.expect();
  }
  // The bad numbers are in the first half of a row of block 1: with overlap, entry 2 is made from it. All of
  // an entry is NaN, for a norm knows no channels; which NaN is open.
  for (CompressorCase<bf16>* x : {c.main.get(), c.index.get()}) {
    if (!x) continue;
    const auto got = x->cache();
    for (std::int64_t i = 0; i < 5; ++i)
      for (std::int64_t d = 0; d < x->shape.dim; ++d) {
        const auto at = static_cast<std::size_t>(c.slot(0, i) * x->mirror.pool.stride + d) * sizeof(bf16);
        bf16 g, w;
        std::memcpy(&g, got.data() + at, sizeof g), std::memcpy(&w, x->mirror.bytes.data() + at, sizeof w);
        CAPTURE(ratio, x->shape.dim, i, d);
        const bool bad = i == (ratio == 4 ? 2 : 1);
        REQUIRE(math::is_nan(to_float(w)) == bad);
        REQUIRE((bad ? math::is_nan(to_float(g)) : g.bits == w.bits));
      }
  }
}

TEST_CASE("attn_compress: pages of any size", "[ops][attn_compress]") {
  const std::int32_t page_rows = GENERATE(1, 2, 53, 64, 256);
  const CacheFormat index = GENERATE(CacheFormat::kIndexFp4, CacheFormat::kIndexFp8);
  const int ratio = index == CacheFormat::kIndexFp4 ? GENERATE(4, 128) : 4;
  CAPTURE(page_rows, static_cast<int>(index), ratio);
  Case c({.ratio = ratio, .sequences = 2, .index = index, .page_rows = page_rows, .entries = 300});
  c.append({{0, 0, 3 * ratio}, {1, 0, 2 * ratio + 1}});
}

TEST_CASE("attn_compress: scales of index keys in a tensor of their own", "[ops][attn_compress]") {
  const CacheFormat format = GENERATE(CacheFormat::kIndexFp4, CacheFormat::kIndexFp8);
  const std::int32_t page_rows = 3;
  const std::int64_t entries = 7, data = format == CacheFormat::kIndexFp4 ? 64 : 128;
  Case c({.index = format, .page_rows = page_rows, .entries = entries, .has_main = false});
  c.lay_out({{0, 0, 4 * entries}});
  ops::AttnCompressParams p = c.params();
  Rows<std::uint8_t> codes(3, page_rows * data, RowLayout{page_rows * data + 16}),
      scales(3, 12, RowLayout{20});
  p.index.entries.data = codes.data(), p.index.entries.stride = codes.stride();
  p.index.entries.scales = scales.data(), p.index.entries.scales_stride = scales.stride();
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  REQUIRE(codes.intact() == "");
  REQUIRE(scales.intact() == "");
  REQUIRE_OK(ops::attn_compress(c.params(), nullptr));
  const auto paged = c.index->cache();
  for (std::int64_t i = 0; i < entries; ++i) {
    const std::int64_t page = c.slot(0, i) / page_rows, row = c.slot(0, i) % page_rows;
    const auto* from = paged.data() + page * c.index->mirror.pool.stride;
    CAPTURE(i);
    REQUIRE(std::equal(from + row * data, from + (row + 1) * data, codes.row(page) + row * data));
    const auto* scale = from + page_rows * data + row * 4;
    REQUIRE(std::equal(scale, scale + 4, scales.row(page) + row * 4));
  }
}

TEST_CASE("attn_compress at positions around 2^20, in either integer type", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  const bool wide = GENERATE(false, true);
  Case c({.ratio = ratio, .main = CacheFormat::kRows, .index = CacheFormat::kRows});
  const std::int64_t start = (1 << 20) - ratio;
  c.histories[0].assign(static_cast<std::size_t>(start), 0);
  // As if the tokens before had been there: what is pooled from them is not stored.
  c.lay_out({{0, start, 3 * ratio}});
  c.unstore(0, start / ratio, -1);
  ops::AttnCompressParams p = c.params();
  if (wide) p.start = c.start64.data(), p.start_type = ops::PositionType::kInt64;
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  c.expect();
  REQUIRE(c.check() == "");
  c.append({{0, start + 3 * ratio - 2, ratio + 2, 2}});
}

TEST_CASE("attn_compress: rows and states further apart than 2^31", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  const std::int64_t count = ratio == 4 ? 8 : 129;  // fills the ring
  Case c({.ratio = ratio, .max_rollback = 0, .sequences = 2, .entries = 16, .has_index = false});
  c.lay_out({{1, 0, count}});
  ops::AttnCompressParams p = c.params();
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  const auto want = state_of(c, 1);
  // Reserved, not backed: only the pages that are touched exist.
  const auto map = [](std::int64_t bytes) {
    void* const m = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(m != MAP_FAILED);
    return m;
  };
  const std::int64_t stride = (ratio == 4 ? std::int64_t{1} << 31 : std::int64_t{1} << 25) + 16;
  const std::int64_t kv_bytes = count * stride * 4, state_stride = std::int64_t{1} << 33;
  auto* const kv = static_cast<float*>(map(kv_bytes));
  auto* const states = static_cast<std::uint8_t*>(map(2 * state_stride));
  for (std::int64_t t = 0; t < count; ++t)
    std::copy_n(p.main.kv + t * p.main.kv_stride, c.main->shape.width(), kv + t * stride);
  p.main.kv = kv, p.main.kv_stride = stride, p.main.state = states, p.main.state_stride = state_stride;
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  c.expect();
  REQUIRE(c.check() == "");
  REQUIRE(std::equal(want.begin(), want.end(), states + state_stride));
  munmap(kv, static_cast<std::size_t>(kv_bytes)), munmap(states, static_cast<std::size_t>(2 * state_stride));
}

TEST_CASE("attn_compress: the same call again, with other lengths in memory", "[ops][attn_compress]") {
  // What a graph replays: the parameters stay, what they point at changes.
  const int ratio = GENERATE(4, 128);
  Case c({.ratio = ratio, .sequences = 3, .entries = 16});
  const std::int64_t most = 2 * ratio + 8;
  c.lay_out({{0, 0, most}, {1, 0, 0}, {2, 0, 0}});
  ops::AttnCompressParams p = c.params();
  // Memory of the graph's own.
  std::vector<std::int32_t> first_token = c.first_token, start = c.start, slots = c.slots;
  p.first_token = first_token.data(), p.start = start.data();
  std::vector<std::unique_ptr<Rows<float>>> rows;
  for (ops::CompressorParams* x : {&p.main, &p.index}) {
    if (!x->kv) continue;
    const std::int64_t width = (ratio == 4 ? 2 : 1) * x->dim;
    for (int k = 0; k < 2; ++k) rows.push_back(std::make_unique<Rows<float>>(most, width));
    x->gate = rows.back()->data(), x->gate_stride = width;
    x->kv = rows[rows.size() - 2]->data(), x->kv_stride = width;
    x->entry_slots = slots.data();
  }
  c.histories[0].clear();
  std::vector<std::int64_t> length(3, 0);
  const std::vector<std::vector<std::int64_t>> rounds = {
      {ratio, 3, 0}, {1, ratio, 2}, {0, 0, 0}, {0, 1, ratio + 5}};
  c.expect_nothing();
  for (const auto& counts : rounds) {
    std::vector<Case::Append> appends;
    for (std::int64_t s = 0; s < 3; ++s) {
      appends.push_back({s, length[static_cast<std::size_t>(s)], counts[static_cast<std::size_t>(s)]});
      length[static_cast<std::size_t>(s)] += counts[static_cast<std::size_t>(s)];
    }
    c.lay_out(appends);
    std::copy(c.first_token.begin(), c.first_token.end(), first_token.begin());
    std::copy(c.start.begin(), c.start.end(), start.begin());
    std::copy(c.slots.begin(), c.slots.end(), slots.begin());
    const ops::AttnCompressParams now = c.params();
    std::size_t k = 0;
    for (const ops::CompressorParams* x : {&now.main, &now.index}) {
      if (!x->kv) continue;
      for (const auto& [from, stride] :
           {std::pair{x->kv, x->kv_stride}, std::pair{x->gate, x->gate_stride}}) {
        for (std::int64_t t = 0; t < c.tokens; ++t)
          std::copy_n(from + t * stride, rows[k]->cols(), rows[k]->row(t));
        ++k;
      }
    }
    REQUIRE_OK(ops::attn_compress(p, nullptr));
    c.expect();
    REQUIRE(c.check() == "");
  }
}

TEST_CASE("attn_compress takes int64 slots", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  CompressCase<bf16> c({.ratio = ratio, .sequences = 2});
  c.lay_out({{0, 0, 3 * ratio + 1}, {1, 0, 2 * ratio}}, 2);
  c.unstore(0, 1, -1), c.unstore(1, 0, INT32_MAX);
  const auto wide = wide_slots(c.slots, c.main->mirror.pool.slots);
  ops::AttnCompressParams p = c.params();
  for (ops::CompressorParams* part : {&p.main, &p.index})
    part->entry_slots = wide.data(), part->slot_type = ops::SlotType::kInt64;
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  c.expect();
  REQUIRE(c.check() == "");
  p.main.slot_type = static_cast<ops::SlotType>(-1);
  REQUIRE_REFUSED(ops::attn_compress(p, nullptr), Code::kUnsupported, -1, 0, "main.slot_type");
}
