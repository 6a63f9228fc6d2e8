// Op moe_experts: how often it touches memory, the published models' experts, refusals.
#include <dsv4/arch/convert.cuh>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/ops/moe_experts_case.hpp"
#include "tests/simt/policies.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using simt::Watch;
using test::at;
using test::ExpertCase;
using test::ExpertShape;

namespace {

// Bytes that the op must read of the touched experts, and what it read of all.
struct WeightBytes {
  std::uint64_t needed = 0, read = 0, most = 0;
};

WeightBytes weight_bytes(const ExpertCase& c, std::int32_t tile_rows, std::vector<bf16>* y = nullptr) {
  std::vector<std::unique_ptr<Watch>> watches;
  WeightBytes b;
  for (const auto* w : {&c.w1, &c.w3, &c.w2})
    for (std::int32_t e = 0; e < c.s.experts; ++e) {
      const auto bytes = static_cast<std::size_t>(w->data->cols());
      watches.push_back(std::make_unique<Watch>(w->data->row(e), bytes, true));
      if (!c.rows_of(e).empty()) b.needed += bytes;
    }
  const auto rows = test::run_experts(c, tile_rows);
  if (y) *y = rows;
  for (const auto& w : watches) {
    b.read += w->read_bytes();
    b.most = std::max<std::uint64_t>(b.most, w->max_reads_of_a_byte());
  }
  return b;
}

// A whole expert of a published model, the one of a token's six that this rank has: what the token reads, and
// that its bits are those of the documented order; then eight tokens, which cost no more.
void check_model(std::int64_t hidden, std::int64_t inner, WeightFormat format) {
  const ExpertCase one(
      {.up = format, .down = format, .tokens = 1, .hidden = hidden, .inner = inner, .k = 6, .experts = 2},
      {9, 2, 1, 7, -1, 3}, 42);
  const auto once = [](const ExpertCase& c) {
    std::vector<bf16> y;
    const WeightBytes b = weight_bytes(c, ops::moe_tile_rows(c.s.tokens, c.s.k, c.s.experts), &y);
    REQUIRE(b.read == b.needed);
    REQUIRE(b.most == 1);
    return y;
  };
  const std::vector<bf16> y = once(one);
  REQUIRE(test::difference_of(y, one.want()) == "");

  ExpertCase eight = one;  // the last of them is the one above
  eight.s.tokens = 8;
  for (int i = 1; i < 8; ++i) {
    eight.idx.insert(eight.idx.end(), one.idx.begin(), one.idx.end());
    eight.routing.insert(eight.routing.end(), one.routing.begin(), one.routing.end());
  }
  eight.x = test::normal_bf16(7 * hidden, 43);
  eight.x.insert(eight.x.end(), one.x.begin(), one.x.end());
  const std::vector<bf16> rows = once(eight);
  REQUIRE(test::difference_of({rows.end() - hidden, rows.end()}, y) == "");
}

}  // namespace

TEST_CASE("moe_experts streams the weights of each touched expert once, without bank conflicts",
          "[ops][moe][traffic]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  const std::int64_t tokens = GENERATE(1, 8, 20);
  const std::int32_t tile_rows = ops::moe_tile_rows(tokens, 3, 16);
  REQUIRE(tile_rows == (tokens <= 8 ? 8 : 32));
  const ExpertShape s{
      .up = format, .down = format, .tokens = tokens, .hidden = 416, .inner = 160, .k = 3, .experts = 16};
  const ExpertCase c(s, test::random_experts(tokens, 3, 16, 43), 44);
  simt::reset_counters();
  const WeightBytes b = weight_bytes(c, tile_rows);
  CAPTURE(static_cast<int>(format), tokens);
  REQUIRE(b.read == b.needed);  // and nothing of the others
  REQUIRE(b.most == 1);
  REQUIRE(simt::counters().shared_bank_conflicts == 0);  // counted in instrumented builds
  // moe_dispatch's one, and the op's.
  REQUIRE(simt::counters().launches == (tokens > 8 && format != WeightFormat::kBf16 ? 4 : 3));
}

TEST_CASE("moe_experts at the published models' shapes", "[ops][moe][traffic]") {
  if (test::reduced()) return check_model(1024, 512, WeightFormat::kFp4);
  check_model(4096, 2048, WeightFormat::kFp4);  // V4-Flash
  check_model(4096, 2048, WeightFormat::kFp8);  // its shared expert's
  check_model(7168, 3072, WeightFormat::kFp4);  // V4-Pro
}

TEST_CASE("e2m1x8_to_bf16 is exact for every code in every place and every factor in range", "[ops][moe]") {
  for (unsigned code = 0; code < 16; ++code)
    for (unsigned place = 0; place < 8; ++place)
      for (const unsigned exponent : {0u, 189u, 252u, 253u}) {
        const std::uint32_t word = (0x5ea1c937u & ~(15u << 4 * place)) | code << 4 * place;
        std::uint32_t pair[4];
        arch::e2m1x8_to_bf16(pair, word, exponent * 0x00800080u);
        for (unsigned i = 0; i < 8; ++i) {
          const double scale = exponent == 0 ? 0.0 : std::ldexp(1.0, static_cast<int>(exponent) - 253);
          CAPTURE(code, place, exponent, i);
          REQUIRE(test::oracle::bf16_value(pair[i / 2] >> 16 * (i % 2) & 0xffffu) ==
                  test::oracle::e2m1_value(word >> 4 * i & 15u) * scale);
        }
      }
}

TEST_CASE("moe_experts refuses what it cannot do", "[ops][moe]") {
  const ExpertShape s{.tokens = 3, .experts = 4};
  const ExpertCase c(s, test::random_experts(3, 2, 4, 46), 47);
  test::ExpertPlanBuffers plan(c, 8);
  const test::Rows<bf16> x(3, 256, test::row_of<bf16>(c.x));
  test::Rows<bf16> y(6, 256);
  ops::MoeExpertsParams good{.y = y.data(),
                             .input = {.x = x.data()},
                             .weights = {c.w1.view(), c.w3.view(), c.w2.view()},
                             .routing = c.routing.data(),
                             .plan = plan.plan(),
                             .tokens = 3,
                             .hidden = 256,
                             .inner = 128,
                             .k = 2,
                             .experts = 4,
                             .tile_rows = 8};
  test::TestWorkspace w(ops::moe_experts_workspace_bytes(good));
  good.workspace = w.data(), good.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::moe_experts(good, nullptr));
  const auto refused = [&](auto change, Code code, const char* text) {
    ops::MoeExpertsParams p = good;
    change(p);
    const Status status = ops::moe_experts(p, nullptr);
    CAPTURE(text, status.what);
    REQUIRE(status.code == code);
    REQUIRE(std::string(status.what).find(std::string("moe_experts: ") + text) == 0);
  };
  using P = ops::MoeExpertsParams&;
  const auto kBad = Code::kInvalidArgument, kNo = Code::kUnsupported;
  refused([](P p) { p.tokens = -1; }, kBad, "tokens");
  refused([](P p) { p.k = 17; }, kBad, "k");
  refused([](P p) { p.experts = 0; }, kBad, "experts");
  refused([](P p) { p.tile_rows = 64; }, kNo, "tile_rows");
  refused([](P p) { p.hidden = 0; }, kBad, "hidden");
  refused([](P p) { p.inner = -5; }, kBad, "inner");
  refused([](P p) { p.hidden = 272; }, kNo, "weights.w1 must have rows");
  refused([](P p) { p.inner = 120; }, kNo, "weights.w2 must have rows");
  refused([](P p) { p.limit = -1.0f; }, kBad, "limit");
  refused([](P p) { p.limit = std::nanf(""); }, kBad, "limit");
  refused([](P p) { p.dtype = static_cast<ops::DType>(9); }, kNo, "dtype");
  refused([](P p) { p.plan.pair_of = nullptr; }, kBad, "plan");
  refused([](P p) { p.plan = {}; }, kBad, "plan");
  refused([](P p) { p.y_stride = 255; }, kBad, "y_stride");
  refused([](P p) { p.weights.w1.format = p.weights.w3.format = WeightFormat::kF32; }, kNo,
          "weights.w1.format");
  refused([](P p) { p.weights.w3.format = WeightFormat::kFp8; }, kBad, "weights.w3.format");
  refused([](P p) { p.weights.w2.expert_stride = 16; }, kBad, "weights.w2.expert_stride");
  refused([](P p) { p.weights.w2.expert_stride += 8 + 16384; }, kBad, "weights.w2.expert_stride");
  refused([](P p) { p.weights.w1.scales_expert_stride = 1; }, kBad, "weights.w1.scales_expert_stride");
  refused([&](P p) { p.input.norm_weight = c.routing.data(); }, kBad, "input.norm_weight");
  refused([](P p) { p.input.x_stride = 260; }, kBad, "input.x_stride");
  refused([](P p) { p.input.x = nullptr; }, kBad, "input.x");
  refused([](P p) { p.y = nullptr; }, kBad, "y");
  refused([](P p) { p.weights.w3.data = nullptr; }, kBad, "weights.w3.data");
  refused([](P p) { p.weights.w2.scales = nullptr; }, kBad, "weights.w2.scales");
  refused([](P p) { p.workspace = nullptr; }, kBad, "workspace");
  refused([](P p) { --p.workspace_bytes; }, Code::kWorkspaceTooSmall, "workspace_bytes");
  refused(
      [](P p) {
        p.input.codes = p.input.x;
        for (auto* m : {&p.weights.w1, &p.weights.w3})
          m->format = WeightFormat::kBf16, m->expert_stride = m->scales_expert_stride = 0;
      },
      kBad, "input.codes");
  good.tokens = 0, good.y = nullptr, good.workspace = nullptr, good.workspace_bytes = 0;
  good.input = {}, good.plan.pair_of = nullptr, good.plan.tile_expert = nullptr;
  REQUIRE_OK(ops::moe_experts(good, nullptr));
}
