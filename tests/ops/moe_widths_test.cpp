// The experts of the published models, whole, through moe_fused and through the chain that it must equal.
#include "tests/ops/moe_fused_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::at;
using test::ExpertShape;
using test::FusedCase;

namespace {

// Eight tokens of six experts each, of which this rank has the first `experts`, and a shared expert; then the
// last token alone without it.
void check_model(std::int64_t hidden, std::int64_t inner, std::int32_t experts) {
  simt::Options o = simt::options();
  o.resident_blocks = 7;
  const simt::ScopedOptions scope(o);
  const ExpertShape s{.tokens = 8, .hidden = hidden, .inner = inner, .k = 6, .experts = experts};
  std::vector<std::int32_t> idx;
  for (std::int32_t t = 0; t < 8; ++t)
    for (std::int32_t j = 0; j < 6; ++j) idx.push_back((j + t) % 6);
  FusedCase c(s, idx, 61, WeightFormat::kFp8);
  test::ChainRows rows(c);
  REQUIRE(test::difference_of(test::run_fused(c), test::combine(c, rows)) == "");

  rows.shared.clear();
  const std::vector<bf16> routed = test::combine(c, rows);
  c.shared.reset();
  c.routed.s.tokens = 1;
  c.routed.idx.erase(c.routed.idx.begin(), c.routed.idx.end() - s.k);
  c.routed.routing.erase(c.routed.routing.begin(), c.routed.routing.end() - s.k);
  c.routed.x.erase(c.routed.x.begin(), c.routed.x.end() - hidden);
  REQUIRE(test::difference_of(test::run_fused(c), {routed.end() - hidden, routed.end()}) == "");
}

}  // namespace

TEST_CASE("moe_fused at a published model's shape equals the chain", "[ops][moe]") {
  if (test::reduced()) return;
  check_model(4096, 2048, 1);  // V4-Flash
}

// Hidden: ctest's entry `soak`.
TEST_CASE("moe_fused at both published models' shapes equals the chain", "[.soak]") {
  check_model(4096, 2048, 2);  // V4-Flash
  check_model(7168, 3072, 1);  // V4-Pro
}
