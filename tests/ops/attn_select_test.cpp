// Op attn_select on the SIMT machine: the set and the order of a full sort, for every kind of row, length, k
// and way of splitting the work.
#include "tests/ops/select_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using namespace dsv4::test;

namespace {

std::vector<std::int32_t> counts_around(std::initializer_list<std::int32_t> edges, std::int32_t most) {
  std::vector<std::int32_t> counts = {0, 1, 2};
  for (const std::int32_t e : edges)
    for (const std::int32_t n : {e - 1, e, e + 1})
      if (n >= 0 && n <= most) counts.push_back(n);
  return counts;
}

}  // namespace

TEST_CASE("attn_select is a full sort, whatever the scores", "[ops][attn_select]") {
  for (const std::string& kind : score_kinds()) {
    CAPTURE(kind);
    const SelectCase c(5000, {5000, 4097, 700, 33}, kind, 3);
    for (const std::int32_t k : {1, 2, 512, 1000}) check_select(c, k);
  }
}

TEST_CASE("attn_select with every instance and around its k", "[ops][attn_select]") {
  const std::string kind = GENERATE("random", "few", "nan mixed");
  CAPTURE(kind);
  for (const std::int32_t k : {1, 511, 512, 513, 1024, 1025, 2048, 2049, 4095, 4096}) {
    const SelectCase c(k + 2500, counts_around({k}, k + 2500), kind, 5);
    check_select(c, k);
    check_select(SelectCase(9001, {9001}, kind, 6), k);
  }
}

TEST_CASE("attn_select of rows that keep replacing their best", "[ops][attn_select]") {
  const auto n = reduced() ? 12000 : 40000;
  for (const std::int32_t k : {7, 512, 1024, 2048, 4096}) {
    check_select(SelectCase(n, {n}, "ascending"), k);
    check_select(SelectCase(n, {n}, "ties at the end"), k);
  }
}

TEST_CASE("attn_select of rows cut into pieces, around the cuts", "[ops][attn_select]") {
  const std::string kind = GENERATE("random", "few", "equal", "all nan", "nan mixed");
  CAPTURE(kind);
  const std::int32_t most = 3 * 8192 + 100, third = (most + 2) / 3;
  // Up to 8192 entries are one piece, up to 16384 two; then all three grow.
  const SelectCase c(most, counts_around({8192, 2 * 8192, 3 * 8192, (third + 31) / 32 * 32}, most), kind, 8);
  for (const std::int32_t k : {1, 3, 200}) check_select(c, k);
}

TEST_CASE("attn_select does not depend on the batch, the bound or the split", "[ops][attn_select]") {
  const std::string kind = GENERATE("random", "few");
  const std::int32_t n = 33000, k = 77;
  const SelectCase one(n, {n}, kind, 9);
  const std::vector<std::int32_t> want = one.want(k);
  const auto check = [&](std::int64_t bound, std::int64_t tokens, std::int64_t place) {
    CAPTURE(bound, tokens, place);
    std::vector<std::int32_t> visible(static_cast<std::size_t>(tokens), 5);
    visible[static_cast<std::size_t>(place)] = n;
    std::vector<float> scores(static_cast<std::size_t>(bound * tokens), kInf);
    std::copy_n(one.scores.data(), n, scores.begin() + bound * place);
    ops::AttnSelectParams p = one.params(k);
    p.scores = scores.data();
    p.visible.counts = visible.data();
    p.tokens = tokens;
    p.max_entries = p.scores_stride = bound;
    Rows<std::int32_t> idx(tokens, k);
    run_select(p, idx);
    REQUIRE(std::equal(want.begin(), want.end(), idx.row(place)));
  };
  for (const std::int64_t bound : {33000, 50000}) {
    check(bound, 2, 0);
    check(bound, 60, 59);
    check(bound, 300, 130);  // a block a row
  }
  check(1 << 20, 1, 0);  // up to 116 pieces, of which 4 hold entries
}

TEST_CASE("attn_select gives the same whenever it runs and whoever runs first", "[ops][attn_select]") {
  const SelectCase c(17000, {17000, 9000, 0, 17000}, "few", 10);
  under_all_policies([&] { check_select(c, 100); });
  for (int run = 0; run < 20; ++run) check_select(c, 513);
}

TEST_CASE("attn_select of a million scores", "[ops][attn_select]") {
  const std::int32_t n = 1 << 20;
  check_select(SelectCase(n, {n}, "random", 11), 1024);
  check_select(SelectCase(n, {n}, "few", 12), 512);
  if (!reduced()) check_select(SelectCase(n, {n, n - 12345}, "neighbours", 13), 4096);
}
