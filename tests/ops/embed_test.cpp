// Op embed on the SIMT machine against its primitive.
#include <dsv4/embed/embed.hpp>
#include <dsv4/ops/embed.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/shapes.hpp"
#include "tests/support/ulp.hpp"

#include <limits>

using namespace dsv4;
using test::RowLayout;
using test::Rows;

namespace {

constexpr int kStreams = 4;

std::vector<std::int32_t> some_ids(std::int64_t tokens, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < tokens; ++t) ids.push_back(static_cast<std::int32_t>((t * 17 + 3) % vocab));
  return ids;
}

template <class T, class TTable>
void check(std::int64_t tokens, std::int64_t hidden, RowLayout out_layout, RowLayout table_layout) {
  CAPTURE(tokens, hidden, sizeof(T), sizeof(TTable), out_layout.stride, out_layout.align, table_layout.stride,
          table_layout.align);
  const std::int64_t vocab = 50;
  const auto values = test::row_of<TTable>(test::normal(vocab * hidden, 1));
  const auto ids = some_ids(tokens, vocab);
  Rows<TTable> table(vocab, hidden, values, table_layout);
  Rows<T> out(tokens, kStreams * hidden, out_layout);
  std::vector<T> want(static_cast<std::size_t>(tokens * kStreams * hidden));
  for (std::int64_t t = 0; t < tokens; ++t)
    embed::replicate<kStreams>(SerialCoop{}, want.data() + t * kStreams * hidden,
                               values.data() + ids[static_cast<std::size_t>(t)] * hidden,
                               static_cast<int>(hidden));
  REQUIRE_OK(ops::embed({.out = out.data(),
                         .table = table.data(),
                         .ids = ids.data(),
                         .tokens = tokens,
                         .hidden = hidden,
                         .vocab = vocab,
                         .streams = kStreams,
                         .dtype = test::kDType<T>,
                         .table_dtype = test::kDType<TTable>,
                         .out_stride = out_layout.stride,
                         .table_stride = table_layout.stride},
                        nullptr));
  REQUIRE_ROWS(out, want);
  REQUIRE_ROWS(table, values);
}

template <class T, class TTable>
void check_layouts(std::int64_t tokens, std::int64_t hidden) {
  const auto outs = test::layouts<T>(kStreams * hidden);
  const auto tables = test::layouts<TTable>(hidden);
  for (std::size_t i = 0; i < outs.size(); ++i) check<T, TTable>(tokens, hidden, outs[i], tables[i]);
  check<T, TTable>(tokens, hidden, outs[0], tables[2]);  // either side alone forbids vectors
  check<T, TTable>(tokens, hidden, outs[2], tables[0]);
}

}  // namespace

TEMPLATE_TEST_CASE("embed gathers rows and repeats them", "[ops][embed]", bf16, float) {
  const std::int64_t tokens = GENERATE(0, 1, 2, 63, 64, 65, 257);
  for (const std::int64_t hidden : {1, 128, 130, 256}) check_layouts<TestType, TestType>(tokens, hidden);
}

TEST_CASE("embed at the sizes of the models", "[ops][embed]") {
  check_layouts<bf16, bf16>(3, 4096);
  for (const auto& [tokens, hidden] : test::model_shapes()) check<bf16, bf16>(tokens, hidden, {}, {});
}

TEST_CASE("embed converts the table's type", "[ops][embed]") {
  check_layouts<bf16, float>(5, 130);
  check_layouts<float, bf16>(5, 128);
}

TEST_CASE("embed gives NaNs for an id outside the vocabulary", "[ops][embed]") {
  const std::int64_t hidden = 136, vocab = 7;
  const std::vector<std::int32_t> ids = {6, 7, -1, 0, std::numeric_limits<std::int32_t>::max()};
  const std::int64_t tokens = static_cast<std::int64_t>(ids.size());
  const auto values = test::row_of<bf16>(test::normal(vocab * hidden, 2));
  for (const RowLayout& layout : test::layouts<bf16>(kStreams * hidden)) {
    Rows<bf16> out(tokens, kStreams * hidden, layout);
    REQUIRE_OK(ops::embed({.out = out.data(),
                           .table = values.data(),
                           .ids = ids.data(),
                           .tokens = tokens,
                           .hidden = hidden,
                           .vocab = vocab,
                           .streams = kStreams,
                           .out_stride = layout.stride},
                          nullptr));
    REQUIRE(out.intact() == "");
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t i = 0; i < kStreams * hidden; ++i) {
        CAPTURE(t, i);
        if (t == 0 || t == 3)
          REQUIRE(out.row(t)[i].bits ==
                  values[static_cast<std::size_t>((t == 0 ? 6 : 0) * hidden + i % hidden)].bits);
        else
          REQUIRE(std::isnan(to_float(out.row(t)[i])));
      }
  }
}

TEST_CASE("embed under every policy of the machine", "[ops][embed]") {
  test::under_all_policies([] { check_layouts<bf16, bf16>(3, 136); });
}

TEST_CASE("embed by vocabulary ranges: the shards' sum is the whole", "[ops][embed][parallel]") {
  const std::int64_t vocab = 51, hidden = 136, tokens = 12;
  auto values = test::row_of<bf16>(test::normal(vocab * hidden, 2));
  const std::vector<std::int64_t> ids = {0, 12, 13, 25, 26, 50, 38, 39, 51, -1, 1LL << 40, 7};
  const auto run = [&](std::int64_t first, std::int64_t rows) {
    Rows<bf16> out(tokens, 4 * hidden);
    // A table that ends with the shard's last row.
    const Rows<bf16> table(rows, hidden, test::slice(values, hidden, first, rows));
    REQUIRE_OK(ops::embed({.out = out.data(),
                           .table = table.data(),
                           .ids = ids.data(),
                           .tokens = tokens,
                           .hidden = hidden,
                           .vocab = vocab,
                           .first_row = first,
                           .rows = first == 0 && rows == vocab ? 0 : rows,
                           .streams = 4,
                           .wide_ids = true},
                          nullptr));
    REQUIRE(out.intact() == "");
    std::vector<float> f;
    for (const bf16 v : out.values()) f.push_back(test::value(v));
    return f;
  };
  const std::vector<float> whole = run(0, vocab);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const std::int64_t id = ids[i / static_cast<std::size_t>(4 * hidden)];
    const bool exists = id >= 0 && id < vocab;
    REQUIRE(test::identical(
        whole[i],
        exists ? test::value(
                     values[static_cast<std::size_t>(id * hidden) + i % static_cast<std::size_t>(hidden)])
               : NAN));
  }
  for (const int ranks : {2, 4}) {
    std::vector<float> sum(whole.size(), 0.0f);
    for (int r = 0; r < ranks; ++r) {
      const std::int64_t first = vocab * r / ranks;
      const std::vector<float> partial = run(first, vocab * (r + 1) / ranks - first);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += partial[i];
    }
    for (std::size_t i = 0; i < whole.size(); ++i)
      REQUIRE((std::isnan(whole[i]) ? std::isnan(sum[i]) : sum[i] == whole[i]));  // no id exists nowhere
  }
}
