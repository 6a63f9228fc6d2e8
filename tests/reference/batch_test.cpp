#include "reference/batch.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/random_model.hpp"

#include <string>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;

TEST_CASE("make_batch lays rows out in append order", "[batch]") {
  const Model model = test::random_model(test::tiny_config(), NumericMode::kExact, 1);
  SequenceState a(model.config, model.mode), b(model.config, model.mode), c(model.config, model.mode);
  b.advance(10);
  const std::vector<std::int32_t> two{5, 6}, three{7, 8, 9};
  const Append appends[] = {{&a, two, {}}, {&c, {}, {}}, {&b, three, {}}};
  Batch batch;
  REQUIRE(make_batch(model, appends, &batch).ok());
  REQUIRE(batch.tokens == std::vector<std::int32_t>{5, 6, 7, 8, 9});
  REQUIRE(batch.position == std::vector<std::int64_t>{0, 1, 10, 11, 12});
  REQUIRE(batch.segment_of == std::vector<std::int32_t>{0, 0, 2, 2, 2});
  REQUIRE(batch.segments[2].first == 2);
  REQUIRE(batch.segments[2].start == 10);
  REQUIRE(batch.segments[1].count == 0);
  REQUIRE_FALSE(batch.mtp());
}

TEST_CASE("make_batch refuses what cannot be run, with the value and the limit, and touches nothing",
          "[batch]") {
  ModelConfig config = test::tiny_config();
  config.max_positions = 50;
  const Model model = test::random_model(config, NumericMode::kExact, 1);
  SequenceState state(config, model.mode), mtp(config, model.mode, {.mtp = true}),
      deploy(config, NumericMode::kDeploy);
  ModelConfig other = config;
  std::swap(other.compress_ratio[0], other.compress_ratio[2]);
  SequenceState swapped(other, model.mode);
  const std::vector<std::int32_t> ids{1, 2, 3}, next{2, 3, 4}, low{-1}, high{config.vocab}, many(51, 0);
  Batch batch;
  batch.tokens = {42};
  Status last;
  const auto refused = [&](std::vector<Append> appends, const std::string& part) {
    last = make_batch(model, appends, &batch);
    CAPTURE(part, last.what);
    REQUIRE(last.code == Code::kInvalidArgument);
    REQUIRE(std::string(last.what).find(part) != std::string::npos);
    REQUIRE(batch.tokens == std::vector<std::int32_t>{42});
  };
  refused({{nullptr, ids, {}}}, "null");
  refused({{&deploy, ids, {}}}, "numeric mode");
  refused({{&swapped, ids, {}}}, "configuration");
  refused({{&state, ids, {}}, {&state, ids, {}}}, "twice");
  refused({{&state, ids, next}}, "next_tokens");
  refused({{&mtp, ids, {}}}, "next_tokens");
  refused({{&state, ids, {}}, {&mtp, ids, next}}, "with and without");
  refused({{&state, high, {}}}, "token id");
  REQUIRE(last.value == config.vocab);
  REQUIRE(last.limit == config.vocab);
  refused({{&state, low, {}}}, "token id");
  refused({{&mtp, ids, std::vector<std::int32_t>{1, 2, -7}}}, "token id");
  refused({{&state, many, {}}}, "max_position");
  REQUIRE(last.value == 51);
  REQUIRE(last.limit == 50);
}

TEST_CASE("chunk_limit shrinks with the width of the model and the context, and is at least 1", "[batch]") {
  const std::int64_t tiny = chunk_limit(test::tiny_config(), 0), flash = chunk_limit(kFlash, 0);
  REQUIRE(tiny >= flash);
  REQUIRE(flash >= chunk_limit(kPro, 0));
  REQUIRE(flash >= chunk_limit(kFlash, 1 << 20));
  REQUIRE(chunk_limit(kPro, 1 << 20) >= 1);
}
