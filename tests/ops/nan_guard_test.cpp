// The NaN guard on the SIMT machine, in a library that was built with it (the asan preset); elsewhere that
// set_nan_guard says so.
#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/attn_index.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/moe_experts.hpp>
#include <dsv4/ops/nan_guard.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>

#include "tests/ops/moe_experts_case.hpp"
#include "tests/ops/row_ops.hpp"

#include <limits>
#include <thread>

using namespace dsv4;
using test::at;
using test::RowLayout;
using test::Rows;

namespace {

const float kNaN = std::numeric_limits<float>::quiet_NaN();

bool built_with_guard() {
  static const bool with = ops::set_nan_guard(nullptr).ok();
  return with;
}

/// What the guard says of the ops that f calls.
template <class F>
std::string seen(F f) {
  ops::NanGuardRecord record;
  REQUIRE_OK(ops::set_nan_guard(&record));
  f();
  REQUIRE_OK(ops::set_nan_guard(nullptr));
  REQUIRE(record.arrived == 0);
  REQUIRE(record.nearest == 0);
  return ops::describe(record);
}

/// RMSNorm of rows of ones, but for NaNs at `where`.
constexpr std::int64_t kRows = 70, kWidth = 264;
struct Normed {
  Rows<bf16> x = Rows<bf16>(kRows, kWidth, std::vector<bf16>(at(kRows* kWidth), from_float<bf16>(1.0f)));
  Rows<bf16> out = Rows<bf16>(kRows, kWidth, RowLayout{kWidth + 24, 16});  // NaNs between the rows
  std::vector<float> weight = std::vector<float>(at(kWidth), 1.0f);

  void run() {
    REQUIRE_OK(ops::rms_norm({.out = out.data(),
                              .x = x.data(),
                              .weight = weight.data(),
                              .rows = kRows,
                              .n = kWidth,
                              .eps = 1e-6f,
                              .out_stride = out.stride()},
                             nullptr));
  }
};

}  // namespace

TEST_CASE("set_nan_guard is there only where it was built", "[ops][nan_guard]") {
  ops::NanGuardRecord record;
  if (built_with_guard())
    REQUIRE_OK(ops::set_nan_guard(nullptr));
  else
    REQUIRE_REFUSED(ops::set_nan_guard(&record), Code::kUnsupported, 0, 0, "DSV4_NAN_GUARD");
}

TEST_CASE("the guard names op, tensor, row and column of the first NaN", "[ops][nan_guard]") {
  if (!built_with_guard()) return;
  Normed n;
  REQUIRE(seen([&] { n.run(); }) == "");
  n.weight[263] = n.weight[260] = kNaN;  // every row: the first is row 0
  REQUIRE(seen([&] { n.run(); }) == "rms_norm: out[0, 260] is NaN");
  n.weight.assign(at(kWidth), 1.0f);
  n.x.row(69)[3] = n.x.row(31)[200] = from_float<bf16>(kNaN);  // spoil their rows
  REQUIRE(seen([&] { n.run(); }) == "rms_norm: out[31, 0] is NaN");
  REQUIRE(seen([&] { n.run(), n.weight[0] = kNaN, n.run(); }) == "rms_norm: out[31, 0] is NaN");
  // Nobody looks without a record, on another thread, or at a call that was refused.
  ops::NanGuardRecord record;
  REQUIRE_OK(ops::set_nan_guard(&record));
  std::thread([&] { n.run(); }).join();
  REQUIRE(!ops::rms_norm({.rows = -1}, nullptr).ok());
  REQUIRE_OK(ops::set_nan_guard(nullptr));
  n.run();
  REQUIRE(ops::describe(record) == "");
}

TEST_CASE("the guard reads codes and scales, and lets infinities pass", "[ops][nan_guard]") {
  if (!built_with_guard()) return;
  const auto layout = GENERATE(ops::ScaleLayout::kRowMajor, ops::ScaleLayout::kColumnMajor);
  const auto type = GENERATE(ops::ScaleType::kUe8m0, ops::ScaleType::kF32);
  std::vector<bf16> x(at(4 * 256), from_float<bf16>(2.0f));
  Rows<e4m3> codes(4, 256);
  const bool by_rows = layout == ops::ScaleLayout::kRowMajor;
  Rows<std::uint32_t> scales(by_rows ? 4 : 2, by_rows ? 2 : 4, RowLayout{9, 16});
  const auto run = [&] {
    REQUIRE_OK(ops::act_quant({.codes = codes.data(),
                               .scales = scales.data(),
                               .x = x.data(),
                               .rows = 4,
                               .n = 256,
                               .block = 128,
                               .scale_type = type,
                               .scale_layout = layout,
                               .scales_stride = 9},
                              nullptr));
  };
  REQUIRE(seen(run) == "");
  x[at(2 * 256 + 130)] = from_float<bf16>(kNaN);
  const std::string got = seen(run);
  // The block's scale is NaN; its codes are looked at first, where they are NaN too.
  REQUIRE((got == "act_quant: scales[2, 1] is NaN" || got.starts_with("act_quant: codes[2, 1")));

  Normed n;
  n.weight[7] = std::numeric_limits<float>::infinity();
  REQUIRE(seen([&] { n.run(); }) == "");
}

TEST_CASE("the guard looks at what an op writes and at nothing else", "[ops][nan_guard]") {
  if (!built_with_guard()) return;
  const std::vector<float> freq(32, 0.5f);
  SECTION("rope: the channels that it turns") {
    Rows<bf16> x(3, 2 * 512), out(3, 2 * 512, RowLayout{1100, 4});
    for (std::int64_t t = 0; t < 3; ++t)
      for (int i = 0; i < 1024; ++i) x.row(t)[i] = from_float<bf16>(i % 512 < 448 ? kNaN : 1.0f);
    const std::vector<std::int32_t> positions = {0, 1, 2};
    const auto run = [&] {
      REQUIRE_OK(ops::rope({.out = out.data(),
                            .x = x.data(),
                            .positions = positions.data(),
                            .table = {.freq = freq.data()},
                            .tokens = 3,
                            .heads = 2,
                            .head_dim = 512,
                            .rope_dim = 64,
                            .out_stride = 1100},
                           nullptr));
    };
    REQUIRE(seen(run) == "");
    x.row(1)[512 + 500] = from_float<bf16>(kNaN);
    REQUIRE(seen(run) == "rope: out[1, 1012] is NaN");
  }
  SECTION("attn_kv_proj: the slots that it fills, in every page") {
    const auto format = GENERATE(ops::CacheFormat::kKv584, ops::CacheFormat::kRows);
    const bool packed = format == ops::CacheFormat::kKv584;
    Rows<bf16> kv(4, 512, test::row_of<bf16>(test::normal(4 * 512, 1)));
    const Rows<float> norm(1, 512, std::vector<float>(512, 1.0f));
    const std::vector<std::int64_t> slots = {-1, 5, 1LL << 32, 2};
    const std::vector<std::int32_t> positions = {0, 1, 2, 3};
    Rows<std::uint8_t> memory(7, packed ? 1760 : 1024);  // 0xff
    const auto run = [&] {
      REQUIRE_OK(ops::attn_kv_proj({.window = {.data = memory.data(),
                                               .format = format,
                                               .slots = 7,
                                               .stride = packed ? 1760 : 512,
                                               .page_rows = 3},
                                    .slots = slots.data(),
                                    .kv = kv.data(),
                                    .norm = norm.data(),
                                    .positions = positions.data(),
                                    .rope = {.freq = freq.data()},
                                    .tokens = 4,
                                    .head_dim = 512,
                                    .rope_dim = 64,
                                    .eps = 1e-6f,
                                    .slot_type = ops::SlotType::kInt64},
                                   nullptr));
    };
    REQUIRE(seen(run) == "");
    kv.row(0)[0] = kv.row(2)[0] = from_float<bf16>(kNaN);  // are not stored
    REQUIRE(seen(run) == "");
    kv.row(3)[0] = from_float<bf16>(kNaN);  // spoils its row
    REQUIRE(seen(run).starts_with("attn_kv_proj: window[3, "));
  }
  SECTION("moe_experts: the rows of the plan") {
    test::ExpertShape s{.tokens = 4, .hidden = 64, .inner = 64, .k = 2, .experts = 3};
    test::ExpertCase c(s, {0, 1, 7, 8, 2, 9, 1, 0});  // 5 plan rows
    const auto run = [&] {
      Rows<bf16> y(8, s.hidden);  // room for all pairs
      test::run_experts(c, 8, [&](ops::MoeExpertsParams& p) { p.y = y.data(), p.y_stride = y.stride(); });
    };
    REQUIRE(seen(run) == "");
    c.x[at(3 * s.hidden)] = kNaN;
    REQUIRE(seen(run).starts_with("moe_experts: y["));
  }
  SECTION("attn_index_scores: entries that a token sees, and that have a slot") {
    const std::int64_t tokens = 2, entries = 9;
    const Rows<bf16> q(tokens, 2 * 128, test::row_of<bf16>(test::normal(tokens * 256, 1)));
    Rows<bf16> keys(8, 128, test::row_of<bf16>(test::normal(8 * 128, 2)));
    const Rows<float> weights(tokens, 2, {1, 2, 3, 4});
    const std::vector<std::int32_t> pages = {3, -1, 2, 0, 7, 8, 1, 1, 1, 4, 5, 6, 6, 6, 6, 6, 6, 6},
                                    counts = {7, 3};
    Rows<float> scores(tokens, entries);
    const auto run = [&] {
      REQUIRE_OK(
          ops::attn_index_scores({.scores = scores.data(),
                                  .queries = {.q = q.data(),
                                              .weights = weights.data(),
                                              .keys = {.data = keys.data(), .slots = 8},
                                              .table = {.pages = pages.data(), .stride = 9, .sequences = 2},
                                              .visible = {.counts = counts.data()},
                                              .tokens = tokens,
                                              .max_entries = entries,
                                              .heads = 2,
                                              .dim = 128,
                                              .format = ops::CacheFormat::kRows}},
                                 nullptr));
    };
    REQUIRE(seen(run) == "");
    keys.row(6)[0] = from_float<bf16>(kNaN);  // of entry 2 of token 1, and of those behind
    REQUIRE(seen(run) == "attn_index_scores: scores[1, 2] is NaN");
  }
}
