// Op moe_fused of f32 activations, the exact mode's instance: bit for bit the f32 chain.
#include "tests/ops/moe_fused_case.hpp"

#include <dsv4/simt/counters.hpp>

#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::at;
using test::ExpertCase;
using test::ExpertShape;
using test::FusedCase;
using test::RowLayout;
using test::Rows;

namespace {

using Format = std::optional<WeightFormat>;

// f32 activations of a case, padded; not those of bf16 that it has.
Rows<float> input_of(const ExpertShape& s) {
  return {s.tokens, s.hidden, test::normal(s.tokens * s.hidden, 41), RowLayout{s.hidden + s.pad, 4}};
}

std::vector<float> run_experts(const ExpertCase& c, const Rows<float>& x, bool shared) {
  Rows<float> y(c.plan_rows(), c.s.hidden);
  test::run_experts(c, 32, [&](ops::MoeExpertsParams& p) {
    p.y = y.data(), p.y_stride = 0;
    p.input = {.x = x.data(), .x_stride = x.stride()};
    p.dtype = ops::DType::kF32;
    if (shared) p.plan = {}, p.routing = nullptr;
  });
  REQUIRE(y.intact() == "");
  return y.values();
}

std::vector<float> run_chain(const FusedCase& c, const Rows<float>& x) {
  const ExpertShape& s = c.shape();
  const std::vector<float> y = run_experts(c.routed, x, false), none(1);
  const std::vector<float> shared = c.shared ? run_experts(*c.shared, x, true) : std::vector<float>();
  std::vector<float> out(at(s.tokens * s.hidden));
  REQUIRE_OK(ops::moe_combine({.out = out.data(),
                               .y = y.empty() ? none.data() : y.data(),
                               .shared = c.shared ? shared.data() : nullptr,
                               .row_of = test::ExpertPlanBuffers(c.routed, 32).row_of.data(),
                               .tokens = s.tokens,
                               .rows = c.routed.plan_rows(),
                               .hidden = s.hidden,
                               .k = s.k,
                               .dtype = ops::DType::kF32},
                              nullptr));
  return out;
}

void check(const FusedCase& c) {
  const ExpertShape& s = c.shape();
  CAPTURE(s.tokens, s.hidden, s.inner, s.k, s.experts, s.pad, static_cast<int>(s.up),
          static_cast<int>(s.down));
  const Rows<float> x = input_of(s);
  const std::vector<float> want = run_chain(c, x);
  Rows<float> out(s.tokens, s.hidden, RowLayout{s.hidden + 3 * s.pad, 4});
  test::run_fused(c, [&](ops::MoeFusedParams& p) {
    p.out = out.data(), p.out_stride = out.stride();
    p.input = {.x = x.data(), .x_stride = x.stride()};
    p.dtype = ops::DType::kF32;
  });
  REQUIRE_ROWS(out, want);
}

}  // namespace

TEST_CASE("moe_fused of f32 activations equals the f32 chain, with weights of any format", "[ops][moe]") {
  const auto up = GENERATE(WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kFp4);
  const Format shared =
      GENERATE(from_range(std::vector<Format>{std::nullopt, WeightFormat::kFp8, WeightFormat::kFp4}));
  if (test::reduced() && shared != WeightFormat::kFp8) return;
  simt::Options o = simt::options();
  o.resident_blocks = 3;
  const simt::ScopedOptions scope(o);
  // W2 of another format than W1 and W3.
  const WeightFormat down = up == WeightFormat::kF32 ? WeightFormat::kFp4 : WeightFormat::kF32;
  const ExpertShape s{.up = up, .down = down, .tokens = 5, .hidden = 96, .inner = 32, .experts = 3, .pad = 1};
  check(FusedCase(s, test::random_experts(5, 2, 3, 42), 43, shared));
}

TEST_CASE("moe_fused of f32 activations for any number of tokens and every routing", "[ops][moe]") {
  const std::int64_t tokens = GENERATE(0, 1, 2, 6, 63, 64, 65, 257);
  if (tokens > 6 && test::reduced()) return;
  simt::Options o = simt::options();
  o.resident_blocks = 5;
  const simt::ScopedOptions scope(o);
  // Neither hidden nor inner fills a block's last rows of weights.
  ExpertShape s{.up = WeightFormat::kF32, .down = WeightFormat::kF32, .tokens = tokens, .hidden = 72};
  s.inner = 40;
  if (tokens > 6) s.hidden = 16, s.inner = 8;
  auto idx = test::random_experts(tokens, s.k, s.experts, 44);
  check(FusedCase(s, idx, 45, WeightFormat::kF32));
  for (std::size_t i = 0; i < idx.size(); ++i) idx[i] = i % 3 == 0 ? -1 : 5;
  check(FusedCase(s, idx, 46, std::nullopt));
}

TEST_CASE("moe_fused of f32 activations refuses codes, and rows that are no whole vectors", "[ops][moe]") {
  const ExpertShape s{
      .up = WeightFormat::kF32, .down = WeightFormat::kF32, .tokens = 2, .hidden = 32, .inner = 16};
  const FusedCase c(s, test::random_experts(2, 2, 8, 47), 48, std::nullopt);
  const auto refuses = [&](Code code, const std::string& what, auto change) {
    ops::MoeFusedParams p = test::fused_params(c);
    p.dtype = ops::DType::kF32;
    p.input.x = &p;
    change(p);
    const Status status = ops::moe_fused(p, nullptr);
    CAPTURE(status.what);
    REQUIRE(status.code == code);
    REQUIRE(std::string(status.what).rfind("moe_fused: " + what, 0) == 0);
  };
  using P = ops::MoeFusedParams;
  refuses(Code::kUnsupported, "hidden", [](P& p) { p.hidden = 36; });
  refuses(Code::kUnsupported, "inner", [](P& p) { p.inner = 12; });
  refuses(Code::kInvalidArgument, "inner", [](P& p) { p.inner = (1 << 20) + 8; });
  refuses(Code::kInvalidArgument, "input.codes",
          [](P& p) { p.input.codes = static_cast<const e4m3*>(p.input.x); });
  refuses(Code::kInvalidArgument, "out", [](P& p) { p.out = reinterpret_cast<char*>(&p) + 2; });
}
