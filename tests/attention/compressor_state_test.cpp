// Mirrors include/dsv4/attention/compressor_state.hpp.
#include <dsv4/attention/compressor_state.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"

using namespace dsv4;
using attention::BlockFold;
using attention::Chunk;
using attention::CompressorLayout;

namespace {

// A state that holds the NAMES of tokens: a fold is a list, the ring a list of rows. What an op does with
// numbers is done with names here, so that a token that is lost, doubled or stale is seen.
struct Names {
  CompressorLayout layout;
  std::int64_t length = 0;
  std::vector<int> checkpoint;
  std::vector<int> ring;

  explicit Names(const CompressorLayout& l) : layout(l), ring(static_cast<std::size_t>(l.ring_rows()), -1) {}

  int& at(std::int64_t position) { return ring[static_cast<std::size_t>(position % layout.ring_rows())]; }

  /// Appends tokens from position `start` on; `history` already has them. Returns what each entry that this
  /// completes was pooled from.
  struct Entry {
    std::int64_t entry;
    std::vector<int> terms;
  };
  std::vector<Entry> append(const std::vector<int>& history, std::int64_t start) {
    const Chunk chunk{start, static_cast<std::int64_t>(history.size())};
    const int ratio = layout.shape.ratio;
    if (start == 0) length = 0, checkpoint.clear();
    const auto token = [&](std::int64_t p) {
      return p >= start ? history[static_cast<std::size_t>(p)] : at(p);
    };
    std::vector<Entry> entries;
    for (std::int64_t i = start / ratio; (i + 1) * ratio <= chunk.end; ++i) {
      if (layout.folds() && needs_state(layout, i, chunk)) continue;  // below
      const std::int64_t reach = i > 0 ? (i + 1) * ratio - layout.shape.span() : 0;
      REQUIRE((reach < start) == needs_state(layout, i, chunk));
      std::vector<int> terms;
      for (std::int64_t p = reach; p < (i + 1) * ratio; ++p) terms.push_back(token(p));
      entries.push_back({i, terms});
    }
    if (layout.folds()) {
      std::vector<std::int64_t> blocks = {start / ratio};
      if (layout.folded(chunk.end) / ratio != blocks[0]) blocks.push_back(layout.folded(chunk.end) / ratio);
      for (const std::int64_t block : blocks) {
        const BlockFold f = fold_of(layout, block, length, chunk, true);
        REQUIRE(f.begin % CompressorLayout::kGranule == 0);
        std::vector<int> sum;
        if (f.end > f.begin && f.begin > block * ratio) sum = checkpoint;
        for (std::int64_t p = f.begin; p < f.end; ++p) {
          if (p == f.save) checkpoint = sum;
          sum.push_back(token(p));
        }
        if (f.save == f.end) checkpoint = sum;
        if (f.pools) entries.push_back({block, sum});
      }
    }
    for (std::int64_t p = std::max(start, chunk.end - layout.ring_rows()); p < chunk.end; ++p)
      at(p) = history[static_cast<std::size_t>(p)];
    length = std::max(length, chunk.end);
    return entries;
  }
};

CompressorLayout layout(int ratio, int rollback) { return {{ratio, 512}, rollback}; }

}  // namespace

TEST_CASE("attention::CompressorLayout: bytes", "[attention][compressor]") {
  REQUIRE(layout(4, 16).bytes() == 23 * 8192);
  REQUIRE(layout(4, 0).bytes() == 7 * 8192);
  REQUIRE(CompressorLayout{{4, 128}, 16}.bytes() == 23 * 2048);
  REQUIRE(layout(128, 16).bytes() == 31 * 4096 + 3 * 2048 + 16);
  REQUIRE(layout(128, 0).bytes() == 15 * 4096 + 3 * 2048 + 16);
  for (const int rollback : {0, 1, 16, 1024}) REQUIRE(layout(128, rollback).ring_offset() % 16 == 0);
}

TEST_CASE("attention::CompressorLayout::folded: whole granules that cannot be taken back",
          "[attention][compressor]") {
  for (const int rollback : {0, 1, 16, 64, 1024}) {
    const CompressorLayout l = layout(128, rollback);
    std::int64_t before = 0;
    for (std::int64_t length = 0; length < 3000; ++length) {
      const std::int64_t folded = l.folded(length);
      CAPTURE(rollback, length, folded);
      REQUIRE(folded % 16 == 0);
      REQUIRE(folded >= before);
      REQUIRE(folded <= std::max<std::int64_t>(0, length - rollback));
      REQUIRE(length - folded <= l.ring_rows());  // the ring has the rest
      before = folded;
    }
  }
  REQUIRE(layout(4, 16).folded(100000) == 0);
}

TEST_CASE("attention::fold_of: every entry from its tokens, whatever was taken back before",
          "[attention][compressor]") {
  const int ratio = GENERATE(4, 128), rollback = GENERATE(0, 1, 16, 17, 64, 300, 1024);
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const CompressorLayout l = layout(ratio, rollback);
    Names state(l);
    std::vector<int> history;
    std::int64_t greatest = 0;
    int name = 0;
    const auto random = test::integers(1200, seed, 0, 1 << 20);
    for (std::size_t step = 0; step + 3 < random.size(); step += 3) {
      if (random[step] % 3 == 0) {
        const std::int64_t floor = std::max<std::int64_t>(0, greatest - rollback);
        const std::int64_t room = static_cast<std::int64_t>(history.size()) - floor + 1;
        history.resize(
            static_cast<std::size_t>(floor + (random[step] % 12 == 0 ? 0 : random[step + 1] % room)));
      }
      const auto start = static_cast<std::int64_t>(history.size());
      if (start == 0) greatest = 0;
      const int most = random[step + 2] % 5 == 0 ? 500 : random[step + 2] % 2 == 0 ? 1 : 20;
      for (int n = random[step + 2] % most; n >= 0; --n) history.push_back(name++);
      greatest = std::max(greatest, static_cast<std::int64_t>(history.size()));
      std::vector<Names::Entry> entries = state.append(history, start);
      std::sort(entries.begin(), entries.end(), [](auto& a, auto& b) { return a.entry < b.entry; });
      const auto end = static_cast<std::int64_t>(history.size());
      CAPTURE(ratio, rollback, seed, step, start, end, greatest);
      REQUIRE(static_cast<std::int64_t>(entries.size()) == end / ratio - start / ratio);
      for (std::size_t k = 0; k < entries.size(); ++k) {
        const std::int64_t i = start / ratio + static_cast<std::int64_t>(k);
        REQUIRE(entries[k].entry == i);
        const std::int64_t reach = std::max<std::int64_t>(0, (i + 1) * ratio - l.shape.span());
        const bool same =
            entries[k].terms == std::vector<int>(history.begin() + reach, history.begin() + (i + 1) * ratio);
        REQUIRE(same);
      }
    }
  }
}

TEST_CASE("attention::fold_of: any chunking leaves the same state", "[attention][compressor]") {
  const int ratio = GENERATE(4, 128), rollback = GENERATE(0, 5, 16, 64, 300);
  const CompressorLayout l = layout(ratio, rollback);
  std::vector<int> all(1500);
  for (int i = 0; i < 1500; ++i) all[static_cast<std::size_t>(i)] = i;
  Names at_once(l);
  at_once.append(all, 0);
  for (const std::int64_t most : {1, 2, 17, 128, 700}) {
    const auto sizes = test::integers(1500, static_cast<std::uint64_t>(most), 1, most);
    Names pieces(l);
    std::int64_t length = 0;
    for (std::size_t k = 0; length < 1500; ++k) {
      const std::int64_t start = length;
      length = std::min<std::int64_t>(1500, length + sizes[k]);
      pieces.append({all.begin(), all.begin() + length}, start);
    }
    CAPTURE(ratio, rollback, most);
    REQUIRE((pieces.ring == at_once.ring));
    REQUIRE((pieces.checkpoint == at_once.checkpoint));
    REQUIRE(pieces.length == at_once.length);
  }
}
