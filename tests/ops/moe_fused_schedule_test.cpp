// Op moe_fused on the SIMT machine: whoever runs when, and however many blocks at once. Race builds look at
// its queues here.
#include "tests/ops/moe_fused_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::ExpertShape;
using test::FusedCase;

namespace {

constexpr ExpertShape kDecode{.tokens = 3, .hidden = 32, .inner = 32, .experts = 4};
// Tiles of the shared expert and of each of three more than one, in waves where blocks are few.
constexpr ExpertShape kBatch{.tokens = 20, .hidden = 32, .inner = 32, .experts = 3};

// A launch of `blocks`, of which `running` run side by side: the others wait until these are done.
class Schedules {
 public:
  Schedules(const ExpertShape& s, int blocks, int running)
      : blocks_(blocks),
        case_(s, test::random_experts(s.tokens, s.k, s.experts, 19), 20, WeightFormat::kFp8),
        want_(test::run_chain(case_)),
        state_(ops::moe_fused_state_bytes(test::fused_params(case_))),
        options_(simt::options()) {
    options_.resident_blocks = running;
  }

  void run(simt::Schedule schedule, std::uint64_t seed) {
    options_.schedule = schedule, options_.seed = seed;
    const simt::ScopedOptions scope(options_);
    CAPTURE(blocks_, options_.resident_blocks, static_cast<int>(schedule), seed);
    const auto got = test::run_fused(case_, state_, [&](ops::MoeFusedParams& p) { p.blocks = blocks_; });
    REQUIRE(test::difference_of(got, want_) == "");
  }
  void run_all(std::uint64_t seeds) {
    run(simt::Schedule::kFifo, 1);
    run(simt::Schedule::kLifo, 1);
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) run(simt::Schedule::kRandom, seed);
  }

 private:
  int blocks_;
  FusedCase case_;
  std::vector<bf16> want_;
  test::FusedState state_;
  simt::Options options_;
};

}  // namespace

TEST_CASE("moe_fused ends under every schedule with any number of resident blocks", "[ops][moe]") {
  const int blocks = GENERATE(1, 2, 7, 132);
  const bool all = GENERATE(true, false);
  if (!all && (blocks < 7 || (blocks > 100 && test::reduced()))) return;
  // Of 132 blocks the others are the soak test's.
  Schedules(kDecode, blocks, all ? blocks : 3).run_all(!all || test::reduced() ? 2 : blocks > 100 ? 8 : 200);
}

TEST_CASE("moe_fused of several tiles an expert ends under every schedule", "[ops][moe]") {
  const int blocks = GENERATE(2, 7, 132);
  Schedules(kBatch, blocks, blocks).run_all(test::reduced() ? 1 : blocks > 100 ? 4 : 20);
}

// Hidden, since it takes half a minute: ctest's entry `soak`, of the release preset.
TEST_CASE("moe_fused of 132 resident blocks ends under 200 random schedules", "[.soak]") {
  Schedules(kDecode, 132, 132).run_all(200);
}
