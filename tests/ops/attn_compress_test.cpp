// Op attn_compress on the SIMT machine: the primitives' bits, however a sequence is cut into calls and
// whatever is taken back in between.
#include <dsv4/simt/options.hpp>

#include "tests/ops/attn_compress_case.hpp"
#include "tests/ops/row_ops.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using namespace dsv4::test;
using ops::CacheFormat;

namespace {

/// A length cut into pieces of 1 .. most.
std::vector<std::int64_t> cut(std::int64_t length, std::int64_t most, std::uint64_t seed) {
  std::vector<std::int64_t> pieces;
  for (const std::int32_t n : integers(length, seed, 1, most)) {
    pieces.push_back(std::min<std::int64_t>(n, length));
    length -= pieces.back();
    if (length == 0) break;
  }
  return pieces;
}

/// The first byte in which two states differ, or -1.
std::int64_t differing_byte(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
  REQUIRE(a.size() == b.size());
  const auto at = std::mismatch(a.begin(), a.end(), b.begin()).first;
  return at == a.end() ? -1 : at - a.begin();
}

}  // namespace

TEMPLATE_TEST_CASE("attn_compress writes the primitives' entries", "[ops][attn_compress]", bf16, float) {
  const int ratio = GENERATE(4, 128);
  const CacheFormat main = GENERATE(CacheFormat::kKv584, CacheFormat::kRows);
  const CacheFormat index = main == CacheFormat::kKv584
                                ? CacheFormat::kIndexFp4
                                : GENERATE(CacheFormat::kIndexFp8, CacheFormat::kRows);
  if (ratio == 128 && index == CacheFormat::kIndexFp8) return;  // has no index
  CAPTURE(ratio, static_cast<int>(main), static_cast<int>(index));
  CompressCase<TestType> c({.ratio = ratio, .main = main, .index = index, .page_rows = 53});
  c.append({{0, 0, 3 * ratio + 2}}, 2);
  c.append({{0, 3 * ratio + 2, 2 * ratio - 3}});
}

TEST_CASE("attn_compress: an entry is visible as soon as its last token", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  CompressCase<bf16> c({.ratio = ratio});
  c.append({{0, 0, ratio - 1}});  // t = 2, 126: nothing
  const auto before = c.main->cache();
  REQUIRE(std::all_of(before.begin(), before.end(), [](std::uint8_t b) { return b == 0xff; }));
  c.append({{0, ratio - 1, 1}});  // t = 3, 127
  REQUIRE((c.main->cache() != before));
  const auto after = c.main->cache();
  c.append({{0, ratio, 1}});  // t = 4, 128
  REQUIRE((c.main->cache() == after));
}

TEST_CASE("attn_compress: any chunking leaves the same cache and the same state", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  const int rollback = GENERATE(0, 16, 64);
  const std::int64_t length = reduced() && ratio == 4 ? 75 : 300;
  const CompressSetup setup = {.ratio = ratio, .max_rollback = rollback};
  CompressCase<bf16> whole(setup);
  whole.append({{0, 0, length}});
  std::vector<std::vector<std::int64_t>> chunkings;
  if (rollback != 64) chunkings.push_back(std::vector<std::int64_t>(static_cast<std::size_t>(length), 1));
  for (const std::int64_t most : {3, 9, 40, 200})
    chunkings.push_back(cut(length, most, static_cast<std::uint64_t>(most)));
  if (length == 300)
    chunkings.push_back({128, 172}), chunkings.push_back({127, 1, 1, 127, 44}),
        chunkings.push_back({144, 112, 44});
  for (const auto& pieces : chunkings) {
    CAPTURE(ratio, rollback, pieces.size(), pieces[0]);
    CompressCase<bf16> c(setup);
    std::int64_t at = 0;
    for (const std::int64_t n : pieces) {
      if (n == 0) continue;
      c.lay_out({{0, at, n}});
      REQUIRE_OK(ops::attn_compress(c.params(), nullptr));
      at += n;
    }
    REQUIRE(at == length);
    c.expect();
    REQUIRE(c.check() == "");
    REQUIRE(differing_byte(c.state(), whole.state()) == -1);
  }
}

TEST_CASE("attn_compress: tokens are taken back and replaced by others", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  const int rollback = GENERATE(0, 16, 64, 200);
  const auto seed = static_cast<std::uint64_t>(GENERATE(1, 2, 3));
  if (reduced() && seed > 1) return;
  CAPTURE(ratio, rollback, seed);
  CompressCase<bf16> c({.ratio = ratio, .max_rollback = rollback, .entries = 512});
  // A walk: forward by some tokens, most of few, and now and then back by up to what is allowed, the floor
  // itself included. Each call's entries are checked when they are written.
  const std::int64_t most = ratio == 4 ? 11 : 90;
  const auto random = integers(400, seed, 0, 1 << 20);
  std::size_t next = 0;
  const auto draw = [&](std::int64_t n) { return random[next++ % random.size()] % n; };
  std::int64_t length = 0, greatest = 0;
  const int steps = reduced() ? 20 : 45;
  for (int step = 0; step < steps; ++step) {
    if (draw(3) == 0) {
      const std::int64_t floor = std::max<std::int64_t>(0, greatest - rollback);
      length = draw(4) == 0 ? floor : floor + draw(length - floor + 1);
    }
    const std::int64_t count = draw(3) == 0 ? 1 : 1 + draw(most);
    CAPTURE(step, length, count, greatest);
    c.append({{0, length, count, static_cast<std::uint64_t>(step + 1)}});
    length += count;
    greatest = length == count ? length : std::max(greatest, length);
  }
}

TEST_CASE("attn_compress: back across the boundary of a block, and to the floor", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  CompressCase<bf16> c({.ratio = ratio, .max_rollback = 16});
  const std::int64_t end = 2 * ratio + 15;
  c.append({{0, 0, end}});
  c.append({{0, end - 16, 16, 2}});              // entry 1, and more, once more and otherwise
  c.append({{0, end - 16, 3, 3}});               // shorter than before
  c.append({{0, end - 16, 16 + 2 * ratio, 4}});  // and beyond
  c.append({{0, end + 2 * ratio - 16, 1, 5}});   // the floor once more
  c.append({{0, end + 2 * ratio - 16, 2, 6}});
  c.append({{0, 0, ratio + 1, 7}});  // a new sequence in the same state
  c.append({{0, ratio + 1, ratio, 7}});
}

TEST_CASE("attn_compress does not read what a state holds before the first token", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  CompressCase<bf16> c({.ratio = ratio});  // states start as NaNs
  c.append({{0, 0, 2}});
  c.append({{0, 2, 3 * ratio}});
  c.append({{0, 0, 2, 5}});  // and here as those of another sequence
  c.append({{0, 2, 3 * ratio, 5}});
}

TEST_CASE("attn_compress: the same bits with every policy of the machine", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  under_all_policies([&] {
    CompressCase<bf16> c({.ratio = ratio});
    c.append({{0, 0, ratio + 3}});
    c.append({{0, ratio + 3, ratio}});
  });
}

TEST_CASE("attn_compress: 20 runs, one result", "[ops][attn_compress]") {
  const int ratio = GENERATE(4, 128);
  const std::int64_t length = 2 * ratio + 1;
  CompressCase<bf16> first({.ratio = ratio});
  first.append({{0, 0, length}});
  simt::Options o = simt::options();
  o.schedule = simt::Schedule::kRandom, o.async = simt::Async::kRandom;
  for (int run = 0; run < (reduced() ? 3 : 20); ++run) {
    o.seed = static_cast<std::uint64_t>(run);
    const simt::ScopedOptions scope(o);
    CompressCase<bf16> c({.ratio = ratio});
    c.append({{0, 0, length}});
    REQUIRE(differing_byte(c.state(), first.state()) == -1);
  }
}
