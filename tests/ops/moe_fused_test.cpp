// Op moe_fused on the SIMT machine: bit for bit the chain of ops, whoever runs when.
#include "tests/ops/moe_fused_case.hpp"

#include <dsv4/moe/fused.cuh>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/simt/policies.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using simt::Watch;
using test::at;
using test::ExpertShape;
using test::FusedCase;

namespace {

using Format = std::optional<WeightFormat>;
const std::vector<Format> kShared = {std::nullopt, WeightFormat::kFp4, WeightFormat::kFp8,
                                     WeightFormat::kBf16};

void check(const FusedCase& c) {
  const ExpertShape& s = c.shape();
  CAPTURE(s.tokens, s.hidden, s.inner, s.k, s.experts, static_cast<int>(s.up), static_cast<int>(s.down),
          c.shared.has_value());
  REQUIRE(test::difference_of(test::run_fused(c), test::run_chain(c)) == "");
}

simt::Options resident(int blocks) {
  simt::Options o = simt::options();
  o.resident_blocks = blocks;
  return o;
}

}  // namespace

TEST_CASE("the queue holds every item once, each behind those it waits for", "[ops][moe]") {
  using Queue = moe::FusedQueue;
  const std::int32_t up = GENERATE(1, 2, 5), down = GENERATE(1, 3), wave = GENERATE(1, 2, 3, 7, 40);
  for (const std::int32_t combine : {0, 1, 6})
    for (std::int32_t tiles = 0; tiles <= 22; ++tiles) {
      CAPTURE(up, down, wave, tiles, combine);
      const Queue queue = {tiles, wave, up, down, combine};
      std::vector<std::int32_t> ups(at(tiles)), downs(at(tiles));
      std::int32_t all_downs = 0, combines = 0, overlapped = 0;
      for (std::int32_t q = 0; q < queue.size(); ++q) {
        const Queue::Item item = queue.item(q);
        if (item.kind == Queue::Kind::kCombine) {
          REQUIRE(all_downs == tiles * down);
          REQUIRE(item.part == combines++);
          continue;
        }
        REQUIRE(item.tile >= 0);
        REQUIRE(item.tile < tiles);
        auto& mine = (item.kind == Queue::Kind::kUp ? ups : downs)[at(item.tile)];
        REQUIRE(item.part == mine++);
        if (item.kind == Queue::Kind::kUp) continue;
        REQUIRE(ups[at(item.tile)] == up);
        ++all_downs;
        // Linear 1 of the next wave stands before it.
        const std::int32_t next = std::min((item.tile / wave + 2) * wave, tiles);
        for (std::int32_t tile = 0; tile < next; ++tile) REQUIRE(ups[at(tile)] == up);
        overlapped += next < tiles ? 1 : 0;
      }
      REQUIRE(combines == combine);
      REQUIRE(all_downs == tiles * down);
      if (tiles > 2 * wave) REQUIRE(overlapped > 0);
    }
}

TEST_CASE("moe_fused equals the chain for any number of tokens", "[ops][moe]") {
  const std::int64_t tokens = GENERATE(0, 1, 2, 6, 63, 64, 65, 257);
  if (tokens > 6 && test::reduced()) return;
  const int blocks = GENERATE(1, 5);
  if (tokens > 65 && blocks == 1) return;
  const simt::ScopedOptions scope(resident(blocks));
  ExpertShape s{.tokens = tokens, .hidden = tokens > 6 ? 128 : 288};
  if (tokens > 65) s.hidden = s.inner = 64;
  check(FusedCase(s, test::random_experts(tokens, s.k, s.experts, 3), 1, WeightFormat::kFp8));
}

TEST_CASE("moe_fused of many tokens, all of them one expert's", "[ops][moe]") {
  const simt::ScopedOptions scope(resident(3));
  if (test::reduced()) return;
  const ExpertShape s{.tokens = 1031, .hidden = 32, .inner = 32, .k = 1, .experts = 3};
  check(FusedCase(s, std::vector<std::int32_t>(1031, 1), 31, WeightFormat::kFp8));
  ExpertShape most = s;
  most.tokens = ops::kMoeFusedMaxTokens, most.hidden = most.inner = 8;
  most.up = most.down = WeightFormat::kBf16;
  check(FusedCase(most, std::vector<std::int32_t>(at(most.tokens), 2), 32, std::nullopt));
}

TEST_CASE("moe_fused with every pair of formats that has a kernel, with and without a shared expert",
          "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  const Format shared = GENERATE(from_range(kShared));
  const bool beside = format == WeightFormat::kFp4 && shared == WeightFormat::kFp8;
  if (shared && shared != format && !beside) return;
  const simt::ScopedOptions scope(resident(3));
  const ExpertShape s{
      .up = format, .down = format, .tokens = 5, .hidden = 160, .inner = 96, .experts = 3, .pad = 1};
  check(FusedCase(s, test::random_experts(5, 2, 3, 4), 5, shared));
}

TEST_CASE("moe_fused with every routing a gate may give", "[ops][moe]") {
  const simt::ScopedOptions scope(resident(4));
  const Format shared = GENERATE(from_range(std::vector<Format>{std::nullopt, WeightFormat::kFp8}));
  const ExpertShape s{.tokens = 11, .hidden = 128, .inner = 160};
  const auto run = [&](const ExpertShape& shape, const std::vector<std::int32_t>& idx) {
    check(FusedCase(shape, idx, 6, shared));
  };
  SECTION("all tokens to one expert") { run(s, std::vector<std::int32_t>(22, 5)); }
  SECTION("dropped slots, and a token with none left") {
    auto idx = test::random_experts(11, 2, 8, 6);
    for (std::size_t i = 0; i < idx.size(); i += 3) idx[i] = -1;
    idx[10] = idx[11] = -1;
    run(s, idx);
  }
  SECTION("nobody at all") { run(s, std::vector<std::int32_t>(22, -1)); }
  SECTION("this rank's experts alone") {
    ExpertShape local = s;
    local.experts = 3, local.first_expert = 4;
    run(local, test::random_experts(11, 2, 12, 7));
  }
  SECTION("a token that names an expert twice") {
    auto idx = test::random_experts(11, 2, 8, 8);
    idx[0] = idx[1] = 7;
    run(s, idx);
  }
}

TEST_CASE("moe_fused of many experts reads those with rows alone", "[ops][moe]") {
  const simt::ScopedOptions scope(resident(3));
  const std::int32_t experts = GENERATE(256, 384);
  const ExpertShape s{.tokens = 2, .hidden = 128, .inner = 64, .k = 6, .experts = experts};
  check(FusedCase(s, test::random_experts(2, 6, 12, 9, experts - 12), 10, WeightFormat::kFp8));
}

TEST_CASE("moe_fused takes quantised activations, and no routing weights", "[ops][moe]") {
  const ExpertShape s{.tokens = 3, .hidden = 256, .inner = 64, .experts = 4};
  FusedCase c(s, test::random_experts(3, 2, 4, 11), 12, WeightFormat::kFp8);
  const auto want = test::run_fused(c);
  const test::Factor f = test::quantised(c.routed.x, s.hidden);
  test::Rows<e4m3> rows(s.tokens, s.hidden, test::RowLayout{s.hidden + 16, 16});
  for (std::int64_t i = 0; i < s.tokens * s.hidden; ++i)
    rows.row(i / s.hidden)[i % s.hidden] = to_e4m3(f.values[at(i)]);
  const auto got = test::run_fused(c, [&](ops::MoeFusedParams& p) {
    p.input = {.codes = rows.data(), .codes_stride = rows.stride()};
    p.input.scales = f.scales.data(), p.input.scale_type = ops::ScaleType::kF32;
    p.input.scale_layout = ops::ScaleLayout::kRowMajor;
  });
  REQUIRE(test::difference_of(got, want) == "");

  std::fill(c.routed.routing.begin(), c.routed.routing.end(), 1.0f);
  const auto ones = test::run_chain(c);
  REQUIRE(test::difference_of(test::run_fused(c, [](ops::MoeFusedParams& p) { p.routing = nullptr; }),
                              ones) == "");
}

TEST_CASE("moe_fused of a batch that is all zero gives zeros", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  const ExpertShape s{.up = format, .down = format, .tokens = 9, .hidden = 160, .inner = 96, .experts = 3};
  const Format shared = format == WeightFormat::kFp4 ? WeightFormat::kFp8 : format;
  FusedCase c(s, test::random_experts(9, 2, 3, 27), 28, shared);
  std::fill(c.routed.x.begin(), c.routed.x.end(), 0.0f);
  for (const bf16 v : test::run_fused(c)) REQUIRE(to_float(v) == 0.0f);
}

TEST_CASE("the two clamps of moe_fused are separate", "[ops][moe]") {
  const ExpertShape s{.tokens = 3, .hidden = 128, .inner = 64, .experts = 4, .limit = 0.25f};
  FusedCase c(s, test::random_experts(3, 2, 4, 13), 14, WeightFormat::kFp8);
  const auto without = test::run_chain(c);
  REQUIRE(test::difference_of(test::run_fused(c), without) == "");
  c.shared->s.limit = 0.125f;
  const auto want = test::run_chain(c);
  REQUIRE(test::difference_of(want, without) != "");
  REQUIRE(test::difference_of(test::run_fused(c, [](ops::MoeFusedParams& p) { p.shared_limit = 0.125f; }),
                              want) == "");
}

TEST_CASE("calls share a state that was zeroed once", "[ops][moe]") {
  const simt::ScopedOptions scope(resident(3));
  ExpertShape s{.tokens = 9, .hidden = 128, .inner = 64};
  const FusedCase large(s, test::random_experts(9, 2, 8, 15), 16, WeightFormat::kFp8);
  test::FusedState state(ops::moe_fused_state_bytes(test::fused_params(large)));
  s.tokens = 2, s.experts = 5;
  const FusedCase small(s, test::random_experts(2, 2, 5, 17), 18, std::nullopt);
  const auto wants = std::pair(test::run_chain(large), test::run_chain(small));
  for (int i = 0; i < 4; ++i) {
    REQUIRE(test::difference_of(test::run_fused(large, state), wants.first) == "");
    const auto blocks = [&](ops::MoeFusedParams& p) { p.blocks = 2 * i + 1; };
    REQUIRE(test::difference_of(test::run_fused(small, state, blocks), wants.second) == "");
  }
}

TEST_CASE("moe_fused streams the weights of each touched expert once, in one launch", "[ops][moe][traffic]") {
  const std::int64_t tokens = GENERATE(1, 8);
  const simt::ScopedOptions scope(resident(4));
  const ExpertShape s{.tokens = tokens, .hidden = 416, .inner = 160, .k = 3, .experts = 16};
  const FusedCase c(s, test::random_experts(tokens, 3, 16, 21), 22, WeightFormat::kFp8);
  std::vector<std::unique_ptr<Watch>> watches;
  std::uint64_t needed = 0, read = 0, most = 0;
  for (const auto* one : {&c.routed, &*c.shared})
    for (const auto* w : {&one->w1, &one->w3, &one->w2})
      for (std::int32_t e = 0; e < one->s.experts; ++e) {
        const auto bytes = static_cast<std::size_t>(w->data->cols());
        watches.push_back(std::make_unique<Watch>(w->data->row(e), bytes, true));
        if (!one->rows_of(e).empty()) needed += bytes;
      }
  simt::reset_counters();
  test::run_fused(c);
  for (const auto& w : watches) {
    read += w->read_bytes();
    most = std::max<std::uint64_t>(most, w->max_reads_of_a_byte());
  }
  REQUIRE(read == needed);
  REQUIRE(most == 1);
  REQUIRE(simt::counters().launches == 1);
  REQUIRE(simt::counters().shared_bank_conflicts == 0);  // counted in instrumented builds
}

TEST_CASE("a token's output depends neither on the batch nor on the blocks", "[ops][moe]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = resident(2);
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const ExpertShape s{.tokens = 17, .hidden = 128, .inner = 160, .experts = 3};
  const FusedCase c(s, test::random_experts(17, 2, 3, 23), 24, WeightFormat::kFp8);
  const auto all = test::run_fused(c);
  REQUIRE(test::difference_of(all, test::run_chain(c)) == "");
  for (const std::int64_t count : {1, 2, 9}) {  // the last tokens alone
    FusedCase some = c;
    const std::int64_t first = s.tokens - count;
    some.routed.s.tokens = count;
    some.routed.idx.erase(some.routed.idx.begin(), some.routed.idx.begin() + first * s.k);
    some.routed.routing.erase(some.routed.routing.begin(), some.routed.routing.begin() + first * s.k);
    some.routed.x.erase(some.routed.x.begin(), some.routed.x.begin() + first * s.hidden);
    const std::vector<bf16> want(all.begin() + first * s.hidden, all.end());
    CAPTURE(static_cast<int>(rounding), count);
    REQUIRE(test::difference_of(test::run_fused(some), want) == "");
  }
}

TEST_CASE("moe_fused refuses what it cannot do, and leaves its state alone", "[ops][moe]") {
  const ExpertShape s{.tokens = 2, .hidden = 128, .inner = 64};
  const FusedCase c(s, test::random_experts(2, 2, 8, 25), 26, WeightFormat::kFp8);
  const test::Rows<bf16> x(2, 128, test::row_of<bf16>(c.routed.x), test::RowLayout{128, 16});
  test::Rows<bf16> out(2, 128);
  ops::MoeFusedParams good = test::fused_params(c);
  good.out = out.data(), good.input.x = x.data();
  test::FusedState state(ops::moe_fused_state_bytes(good));
  test::TestWorkspace space(ops::moe_fused_workspace_bytes(good));
  good.state = state.data(), good.state_bytes = state.bytes();
  good.workspace = space.data(), good.workspace_bytes = space.bytes();
  REQUIRE_OK(ops::moe_fused(good, nullptr));

  simt::reset_counters();
  const auto refuses = [&](Code code, const std::string& what, auto change) {
    ops::MoeFusedParams p = good;
    change(p);
    const Status status = ops::moe_fused(p, nullptr);
    CAPTURE(status.what);
    REQUIRE(status.code == code);
    REQUIRE(std::string(status.what).rfind("moe_fused: " + what, 0) == 0);
  };
  using P = ops::MoeFusedParams;
  const auto as = [](ops::ExpertMatrix& m, WeightFormat format) {
    m.format = format, m.expert_stride = m.scales_expert_stride = 0;
  };
  const auto invalid = Code::kInvalidArgument, unsupported = Code::kUnsupported;
  refuses(invalid, "tokens", [](P& p) { p.tokens = -1; });
  refuses(unsupported, "tokens", [](P& p) { p.tokens = ops::kMoeFusedMaxTokens + 1; });
  refuses(invalid, "k", [](P& p) { p.k = 0; });
  refuses(invalid, "k", [](P& p) { p.k = 17; });
  refuses(invalid, "experts", [](P& p) { p.experts = 1025; });
  refuses(invalid, "first_expert", [](P& p) { p.first_expert = -1; });
  refuses(invalid, "blocks", [](P& p) { p.blocks = -1; });
  refuses(unsupported, "peers.ranks", [](P& p) { p.peers.ranks = 2; });
  refuses(unsupported, "dtype", [](P& p) { p.dtype = static_cast<ops::DType>(9); });
  refuses(invalid, "limit", [](P& p) { p.limit = -1.0f; });
  refuses(invalid, "shared_limit", [](P& p) { p.shared_limit = -1.0f; });
  refuses(invalid, "hidden", [](P& p) { p.hidden = 0; });
  refuses(unsupported, "inner", [](P& p) { p.inner = 12; });
  refuses(unsupported, "hidden and inner", [](P& p) { p.hidden = 16384; });
  refuses(invalid, "out_stride", [](P& p) { p.out_stride = 127; });
  refuses(invalid, "weights.w3.format", [&](P& p) { as(p.weights.w3, WeightFormat::kFp8); });
  refuses(unsupported, "shared.w2.format", [&](P& p) { as(p.shared.w2, WeightFormat::kF32); });
  refuses(unsupported, "weights.w2.format", [&](P& p) { as(p.weights.w2, WeightFormat::kFp8); });
  refuses(unsupported, "shared.w1.format", [&](P& p) {
    for (auto* w : {&p.weights.w1, &p.weights.w3, &p.weights.w2}) as(*w, WeightFormat::kBf16);
  });
  refuses(invalid, "shared.w1.data", [](P& p) { p.shared.w1.data = nullptr; });
  refuses(invalid, "weights.w2.scales", [](P& p) { p.weights.w2.scales = nullptr; });
  refuses(invalid, "out", [](P& p) { p.out = nullptr; });
  refuses(invalid, "idx", [](P& p) { p.idx = nullptr; });
  refuses(invalid, "input.x", [](P& p) { p.input.x = nullptr; });
  refuses(invalid, "input.codes", [&](P& p) {
    p.input.codes = static_cast<const e4m3*>(p.input.x);
    for (auto* set : {&p.weights, &p.shared})
      for (auto* w : {&set->w1, &set->w3, &set->w2}) as(*w, WeightFormat::kBf16);
  });
  refuses(invalid, "state", [](P& p) { p.state = nullptr; });
  refuses(Code::kWorkspaceTooSmall, "state_bytes", [](P& p) { --p.state_bytes; });
  refuses(invalid, "workspace", [](P& p) { p.workspace = static_cast<char*>(p.workspace) + 16; });
  refuses(Code::kWorkspaceTooSmall, "workspace_bytes", [](P& p) { --p.workspace_bytes; });
  REQUIRE(simt::counters().launches == 0);
  REQUIRE(state.zero());
  good.tokens = 0, good.state = nullptr;
  REQUIRE_OK(ops::moe_fused(good, nullptr));
  REQUIRE(simt::counters().launches == 0);
}
