// Op moe_dispatch on the SIMT machine against its primitive and against a stable sort.
#include <dsv4/moe/dispatch.hpp>
#include <dsv4/ops/moe_route.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/shapes.hpp"

#include <algorithm>
#include <limits>

using namespace dsv4;
using test::Rows;

namespace {

using Ints = std::vector<std::int32_t>;

struct Routing {
  Ints idx;  // [tokens, k]
  std::int64_t tokens;
  std::int32_t k, first_expert, experts, tile_rows;
};

// A plan in memory whose surroundings are watched.
struct Buffers {
  Rows<std::int32_t> counts, offsets, pair_of, row_of, tile_offsets, tile_expert;

  explicit Buffers(const Routing& r)
      : counts(1, r.experts),
        offsets(1, r.experts + 1),
        pair_of(1, std::max<std::int64_t>(r.tokens * r.k, 1)),
        row_of(1, std::max<std::int64_t>(r.tokens * r.k, 1)),
        tile_offsets(1, r.experts + 1),
        tile_expert(1, std::max<std::int64_t>(ops::moe_max_tiles(r.tokens, r.k, r.experts, r.tile_rows), 1)) {
  }

  ops::MoePlan plan() {
    return {counts.data(), offsets.data(),      pair_of.data(),
            row_of.data(), tile_offsets.data(), tile_expert.data()};
  }
  std::vector<Ints> values() const {
    return {counts.values(), offsets.values(),      pair_of.values(),
            row_of.values(), tile_offsets.values(), tile_expert.values()};
  }
  void require_intact() const {
    for (const auto* rows : {&counts, &offsets, &pair_of, &row_of, &tile_offsets, &tile_expert})
      REQUIRE(rows->intact() == "");
  }
};

void dispatch(const Routing& r, Buffers& b) {
  REQUIRE_OK(ops::moe_dispatch({.plan = b.plan(),
                                .idx = r.idx.data(),
                                .tokens = r.tokens,
                                .k = r.k,
                                .first_expert = r.first_expert,
                                .experts = r.experts,
                                .tile_rows = r.tile_rows},
                               nullptr));
  b.require_intact();
}

// The plan by a stable sort, and the tiles by walking over its rows.
void check(const Routing& r) {
  CAPTURE(r.tokens, r.k, r.first_expert, r.experts, r.tile_rows);
  Buffers got(r);
  dispatch(r, got);

  Ints pairs;
  const auto local = [&](std::int32_t p) {
    return std::int64_t{r.idx[static_cast<std::size_t>(p)]} - r.first_expert;
  };
  for (std::int32_t p = 0; p < r.tokens * r.k; ++p)
    if (local(p) >= 0 && local(p) < r.experts) pairs.push_back(p);
  std::stable_sort(pairs.begin(), pairs.end(),
                   [&](std::int32_t a, std::int32_t b) { return local(a) < local(b); });

  Ints row_of(static_cast<std::size_t>(got.row_of.cols()), -1);  // 0xff bytes too where there is no pair
  for (std::size_t row = 0; row < pairs.size(); ++row) {
    REQUIRE(got.pair_of.data()[row] == pairs[row]);
    row_of[static_cast<std::size_t>(pairs[row])] = static_cast<std::int32_t>(row);
  }
  for (auto row = static_cast<std::int64_t>(pairs.size()); row < got.pair_of.cols(); ++row)
    REQUIRE(got.pair_of.data()[row] == -1);  // as it was
  REQUIRE(got.row_of.values() == row_of);

  std::int32_t offset = 0, tile = 0;
  for (std::int32_t e = 0; e < r.experts; ++e) {
    CAPTURE(e);
    const auto count = static_cast<std::int32_t>(
        std::count_if(pairs.begin(), pairs.end(), [&](std::int32_t p) { return local(p) == e; }));
    REQUIRE(got.counts.data()[e] == count);
    REQUIRE(got.offsets.data()[e] == offset);
    REQUIRE(got.tile_offsets.data()[e] == tile);
    for (std::int32_t row = 0; row < count; row += r.tile_rows) REQUIRE(got.tile_expert.data()[tile++] == e);
    offset += count;
  }
  REQUIRE(got.offsets.data()[r.experts] == offset);
  REQUIRE(got.tile_offsets.data()[r.experts] == tile);
  REQUIRE(tile <= ops::moe_max_tiles(r.tokens, r.k, r.experts, r.tile_rows));
  for (; tile < got.tile_expert.cols(); ++tile) REQUIRE(got.tile_expert.data()[tile] == -1);
}

Routing random_routing(std::int64_t tokens, std::int32_t k, std::int32_t experts, std::int32_t tile_rows,
                       std::int64_t low, std::int64_t high, std::uint64_t seed) {
  return {test::integers(tokens * k, seed, low, high), tokens, k, 0, experts, tile_rows};
}

}  // namespace

TEST_CASE("moe_dispatch sorts the pairs of a batch by expert, stably", "[ops][moe_dispatch]") {
  const std::int64_t tokens = GENERATE(as<std::int64_t>{}, 6, from_range(test::token_counts()));
  for (const std::int32_t experts : {1, 8, 256, 384})
    check(random_routing(tokens, 6, experts, 64, 0, experts - 1, 3));
}

TEST_CASE("moe_dispatch: one block and many make the same plan", "[ops][moe_dispatch]") {
  // 1024 pairs are the most of one block.
  for (const std::int64_t tokens : {511, 512, 513}) check(random_routing(tokens, 2, 33, 16, 0, 32, 5));
}

TEST_CASE("moe_dispatch: any k, tile and number of experts", "[ops][moe_dispatch]") {
  for (const std::int32_t k : {1, 3, 16})
    for (const std::int32_t tile_rows : {1, 7, 128, 1024})
      check(random_routing(70, k, 1024, tile_rows, 0, 1023, 7));
}

TEST_CASE("moe_dispatch: dropped slots and other ranks' experts are left out", "[ops][moe_dispatch]") {
  for (const std::int64_t tokens : {9, 400}) {
    Routing r = random_routing(tokens, 6, 64, 32, -1, 255, 11);
    r.first_expert = 64;
    r.idx[5] = std::numeric_limits<std::int32_t>::min();
    r.idx[6] = std::numeric_limits<std::int32_t>::max();
    check(r);
    r.first_expert = 300;  // nobody's
    check(r);
  }
}

TEST_CASE("moe_dispatch: all tokens on one expert, and a token that names one twice", "[ops][moe_dispatch]") {
  for (const std::int64_t tokens : {65, 300}) {
    Routing r{Ints(static_cast<std::size_t>(tokens * 6), 17), tokens, 6, 0, 256, 64};
    check(r);
    for (std::size_t i = 0; i < r.idx.size(); i += 2) r.idx[i] = 255;
    check(r);
    std::fill(r.idx.begin(), r.idx.end(), -1);
    check(r);
  }
}

TEST_CASE("moe_dispatch is the primitive's plan", "[ops][moe_dispatch]") {
  const Routing r = random_routing(65, 6, 8, 16, -1, 9, 13);
  Buffers got(r);
  dispatch(r, got);
  Ints counts(8), offsets(9), pair_of(r.idx.size(), -1), row_of(r.idx.size());
  moe::dispatch(SerialCoop{}, counts.data(), offsets.data(), pair_of.data(), row_of.data(), r.idx.data(),
                static_cast<int>(r.idx.size()), 0, 8);
  REQUIRE(got.counts.values() == counts);
  REQUIRE(got.offsets.values() == offsets);
  REQUIRE(got.pair_of.values() == pair_of);
  REQUIRE(got.row_of.values() == row_of);
}

TEST_CASE("moe_dispatch under every policy of the machine", "[ops][moe_dispatch]") {
  for (const std::int64_t tokens : {20, 300}) {
    const Routing r = random_routing(tokens, 6, 16, 8, -1, 15, 17);
    std::vector<Ints> first;
    test::under_all_policies([&] {
      Buffers b(r);
      dispatch(r, b);
      if (first.empty()) first = b.values();
      REQUIRE(b.values() == first);
    });
  }
}

TEST_CASE("moe_dispatch refuses what it cannot do, by name", "[ops][moe_dispatch][errors]") {
  const Routing r = random_routing(4, 2, 8, 16, 0, 7, 1);
  Buffers b(r);
  const ops::MoeDispatchParams good = {
      .plan = b.plan(), .idx = r.idx.data(), .tokens = 4, .k = 2, .experts = 8, .tile_rows = 16};
  const auto refuse = [&](auto change, const char* argument) {
    ops::MoeDispatchParams p = good;
    change(p);
    const Status s = ops::moe_dispatch(p, nullptr);
    CAPTURE(argument, s.what);
    REQUIRE(s.code == Code::kInvalidArgument);
    REQUIRE(std::string(s.what).find(std::string("moe_dispatch: ") + argument) == 0);
  };
  refuse([](auto& p) { p.tokens = -1; }, "tokens");
  refuse([](auto& p) { p.tokens = (1 << 24) + 1; }, "tokens");
  refuse([](auto& p) { p.k = 0; }, "k");
  refuse([](auto& p) { p.k = 17; }, "k");
  refuse([](auto& p) { p.experts = 1025; }, "experts");
  refuse([](auto& p) { p.first_expert = -1; }, "first_expert");
  refuse([](auto& p) { p.tile_rows = 0; }, "tile_rows");
  refuse([](auto& p) { p.plan.counts = nullptr; }, "plan.counts");
  refuse([](auto& p) { p.plan.tile_expert = nullptr; }, "plan.tile_expert");
  refuse([](auto& p) { p.idx = nullptr; }, "idx");
  for (const std::int32_t x : b.counts.values()) REQUIRE(x == -1);  // nothing was launched
}
