// Mirrors include/dsv4/embed/embed.hpp.
#include <dsv4/embed/embed.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/rounded.hpp"
#include "tests/support/thread_coop.hpp"

#include <vector>

namespace dsv4 {
namespace {

using test::identical;
using test::stored;
using test::value;

// Replicates row 1 of a table of three different rows; every stream must be that row rounded to TOut, and
// nothing beyond the streams may be written.
template <int kMult, class TOut, class TIn>
bool streams_equal_row(int hidden) {
  const auto table = stored<TIn>(test::normal(std::int64_t{3} * hidden, 7));
  const TIn* row = table.data() + hidden;
  const auto sentinel = stored<TOut>(-77.0);
  std::vector<TOut> out(static_cast<std::size_t>(kMult) * hidden + 1, sentinel);
  embed::replicate<kMult>(SerialCoop{}, out.data(), row, hidden);
  for (int s = 0; s < kMult; ++s)
    for (int d = 0; d < hidden; ++d)
      if (!identical(out[s * hidden + d], stored<TOut>(value(row[d])))) return false;
  return identical(out.back(), sentinel);
}

TEST_CASE("embed::replicate makes every stream the token's row", "[embed]") {
  const int hidden = GENERATE(1, 3, 31, 257, 4096, 7168);
  CAPTURE(hidden);
  REQUIRE(streams_equal_row<4, bf16, bf16>(hidden));
  REQUIRE(streams_equal_row<4, float, bf16>(hidden));
  REQUIRE(streams_equal_row<4, float, float>(hidden));
  REQUIRE(streams_equal_row<4, bf16, float>(hidden));  // rounds, to nearest even
  REQUIRE(streams_equal_row<1, bf16, bf16>(hidden));
  REQUIRE(streams_equal_row<2, float, bf16>(hidden));
}

TEST_CASE("embed::replicate keeps every bf16 number, subnormals, -0, inf and NaN included", "[embed]") {
  std::vector<bf16> row(65536);
  for (unsigned code = 0; code < row.size(); ++code) row[code] = {static_cast<std::uint16_t>(code)};
  std::vector<bf16> same(4 * row.size());
  std::vector<float> wide(4 * row.size());
  embed::replicate<4>(SerialCoop{}, same.data(), row.data(), 65536);
  embed::replicate<4>(SerialCoop{}, wide.data(), row.data(), 65536);
  int wrong = 0;
  for (int s = 0; s < 4; ++s)
    for (unsigned code = 0; code < row.size(); ++code) {
      wrong += !identical(same[s * row.size() + code], row[code]);
      wrong += !identical(wide[s * row.size() + code], static_cast<float>(value(row[code])));
    }
  REQUIRE(wrong == 0);
}

TEST_CASE("embed::replicate rounds ties to the even bf16", "[embed]") {
  const std::vector<float> row = {1 + 0x1p-8f, 1 + 0x3p-8f, -1 - 0x1p-8f, 1 + 0x1p-8f + 0x1p-23f};
  const std::vector<double> want = {1, 1 + 0x1p-6, -1, 1 + 0x1p-7};
  std::vector<bf16> out(8);
  embed::replicate<2>(SerialCoop{}, out.data(), row.data(), 4);
  for (int i = 0; i < 8; ++i) REQUIRE(value(out[i]) == want[i % 4]);
}

TEST_CASE("embed::replicate is the same for any number of threads", "[embed]") {
  const int hidden = GENERATE(1, 3, 257);
  const auto row = stored<bf16>(test::normal(hidden, 8));
  std::vector<float> alone(std::size_t{4} * hidden), group(alone);
  embed::replicate<4>(SerialCoop{}, alone.data(), row.data(), hidden);
  test::run_group<5>([&](auto coop) { embed::replicate<4>(coop, group.data(), row.data(), hidden); });
  REQUIRE(identical(alone, group));
}

}  // namespace
}  // namespace dsv4
