// Op embed on the SIMT machine against its definition.
#include <dsv4/core/types.hpp>
#include <dsv4/ops/embed.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"

#include <vector>

using namespace dsv4;

TEST_CASE("embed gathers rows and repeats them", "[ops][embed]") {
  const std::int64_t tokens = GENERATE(0, 1, 2, 63, 64, 65, 257), hidden = 128, vocab = 50;
  std::vector<float> table = test::normal(vocab * hidden, 1);
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < tokens; ++t) ids.push_back(static_cast<std::int32_t>((t * 17) % vocab));
  std::vector<float> out(static_cast<std::size_t>(tokens * 4 * hidden), -7.0f);
  const Status s = ops::embed({.out = out.data(),
                               .table = table.data(),
                               .ids = ids.data(),
                               .tokens = tokens,
                               .hidden = hidden,
                               .vocab = vocab,
                               .streams = 4,
                               .dtype = ops::DType::kF32,
                               .table_dtype = ops::DType::kF32},
                              nullptr);
  INFO(s.what);
  REQUIRE(s.ok());
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t i = 0; i < 4 * hidden; ++i)
      REQUIRE(out[static_cast<std::size_t>(t * 4 * hidden + i)] ==
              table[static_cast<std::size_t>(ids[static_cast<std::size_t>(t)] * hidden + i % hidden)]);
}
