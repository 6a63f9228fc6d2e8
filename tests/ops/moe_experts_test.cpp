// Op moe_experts on the SIMT machine: bit for bit the documented order, for any batch, routing and tile.
#include "tests/ops/moe_experts_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::at;
using test::ExpertCase;
using test::ExpertShape;

namespace {

struct Formats {
  WeightFormat up, down;
};
const std::vector<Formats> kFormats = {{WeightFormat::kFp4, WeightFormat::kFp4},
                                       {WeightFormat::kFp8, WeightFormat::kFp8},
                                       {WeightFormat::kBf16, WeightFormat::kBf16},
                                       {WeightFormat::kFp4, WeightFormat::kBf16},
                                       {WeightFormat::kBf16, WeightFormat::kFp8}};

void check(const ExpertCase& c) {
  const auto want = c.want();
  for (const std::int32_t tile_rows : {8, 32, 5}) {
    if (tile_rows == 5 && c.s.tokens != 6 && test::reduced()) continue;
    CAPTURE(tile_rows, c.s.tokens, c.s.hidden, c.s.inner, c.s.experts, static_cast<int>(c.s.up),
            static_cast<int>(c.s.down));
    REQUIRE(test::difference_of(test::run_experts(c, tile_rows), want) == "");
  }
}

}  // namespace

TEST_CASE("moe_experts sums in one order for any number of tokens and either body", "[ops][moe]") {
  const Formats f = GENERATE(from_range(kFormats));
  const std::int64_t tokens = GENERATE(0, 1, 2, 6, 63, 64, 65, 257);
  if (tokens > 6 && (test::reduced() || (f.up != f.down && tokens != 65))) return;
  ExpertShape s{.up = f.up, .down = f.down, .tokens = tokens};
  if (tokens > 6) s.hidden = 128;  // the order is hidden's business, the batch is not
  if (tokens > 65 && f.up != WeightFormat::kFp4) s.hidden = 96, s.inner = 32;
  check(ExpertCase(s, test::random_experts(tokens, s.k, s.experts, 3)));
}

TEST_CASE("moe_experts at widths that are not whole chunks, with padding everywhere", "[ops][moe]") {
  const Formats f = GENERATE(from_range(kFormats));
  for (const auto& [hidden, inner] : {std::pair<std::int64_t, std::int64_t>{160, 96}, {32, 288}, {416, 32}}) {
    const ExpertShape s{
        .up = f.up, .down = f.down, .tokens = 5, .hidden = hidden, .inner = inner, .experts = 4, .pad = 1};
    check(ExpertCase(s, test::random_experts(5, 2, 4, 4), 5));
  }
}

TEST_CASE("moe_experts with every routing a gate may give", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  const ExpertShape s{.up = format, .down = format, .tokens = 21, .hidden = 128, .inner = 160};
  SECTION("all tokens to one expert") { check(ExpertCase(s, std::vector<std::int32_t>(at(42), 5))); }
  SECTION("all the weight on one of a token's experts") {
    ExpertCase c(s, test::random_experts(21, 2, 8, 5));
    for (std::size_t i = 0; i < c.routing.size(); ++i) c.routing[i] = i % 2 == i / 2 % 2 ? 1.0f : 0.0f;
    check(c);
  }
  SECTION("dropped slots, and tokens with none left") {
    auto idx = test::random_experts(21, 2, 8, 6);
    for (std::size_t i = 0; i < idx.size(); i += 3) idx[i] = -1;
    idx[10] = idx[11] = -1;
    check(ExpertCase(s, idx));
  }
  SECTION("nobody at all") { check(ExpertCase(s, std::vector<std::int32_t>(at(42), -1))); }
  SECTION("this rank's experts alone") {
    ExpertShape local = s;
    local.experts = 3, local.first_expert = 4;
    check(ExpertCase(local, test::random_experts(21, 2, 12, 7)));
  }
  SECTION("a token that names an expert twice, with two weights") {
    auto idx = test::random_experts(21, 2, 8, 8);
    idx[0] = idx[1] = 7, idx[40] = idx[41] = 7;
    check(ExpertCase(s, idx));
  }
}

TEST_CASE("moe_experts of many experts reads those with rows alone", "[ops][moe]") {
  // The others' weights and scales are NaNs, and none lies where one expert's would, were strides 32 bits.
  const std::int32_t experts = GENERATE(256, 384);
  const ExpertShape s{.tokens = 3, .hidden = 128, .inner = 64, .k = 6, .experts = experts};
  check(ExpertCase(s, test::random_experts(3, 6, 12, 9, experts - 12)));
}

TEST_CASE("without a plan every token is a row of expert 0", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp8, WeightFormat::kFp4, WeightFormat::kBf16);
  const std::int64_t tokens = GENERATE(1, 8, 33);
  const float limit = GENERATE(0.0f, 0.5f);
  const ExpertShape s{
      .up = format, .down = format, .tokens = tokens, .hidden = 128, .k = 1, .experts = 1, .limit = limit};
  const ExpertCase c(s, std::vector<std::int32_t>(at(tokens), 0), 10);
  for (const std::int32_t tile_rows : {8, 32}) {
    const auto y = test::run_experts(c, tile_rows, [](ops::MoeExpertsParams& p) {
      p.plan = {};
      p.routing = nullptr;
    });
    CAPTURE(tokens, limit, tile_rows);
    REQUIRE(test::difference_of(y, c.want(false)) == "");
  }
}

TEST_CASE("clamps come before the activation, the routing weight before W2", "[ops][moe]") {
  // W1, W3, W2 are diagonal: g = u = a, y = round(c h). What swapped versions would give stands beside it,
  // and differs.
  const float a = GENERATE(3.0f, -3.0f), limit = 1.5f, c2 = 1.0078125f;
  const std::int32_t tile_rows = GENERATE(8, 32);
  const std::int64_t tokens = 16, width = 32;
  const ExpertShape s{.up = WeightFormat::kBf16,
                      .down = WeightFormat::kBf16,
                      .tokens = tokens,
                      .hidden = width,
                      .inner = width,
                      .k = 1,
                      .experts = 1,
                      .limit = limit};
  ExpertCase c(s, std::vector<std::int32_t>(at(tokens), 0), 11);
  for (auto* w : {&c.w1, &c.w3, &c.w2})
    for (std::int64_t r = 0; r < width; ++r)
      for (std::int64_t k = 0; k < width; ++k) w->put(0, r, k, r != k ? 0.0f : w == &c.w2 ? c2 : 1.0f);
  c.x.assign(at(tokens * width), a);
  const auto y = test::run_experts(c, tile_rows);
  const auto round = [](double v) { return test::oracle::bf16_round(v); };
  const auto silu = [](double v) { return v / (1 + std::exp(-v)); };
  const double g = std::min(a, limit), u = std::clamp(a, -limit, limit);
  int late_clamps = 0, one_sided = 0, late_weights = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const double weight = c.routing[at(t)];
    const double right = round(round(silu(g) * u * weight) * c2);
    for (std::int64_t i = 0; i < width; ++i) REQUIRE(double{to_float(y[at(t * width + i)])} == right);
    late_clamps += round(round(std::min<double>(silu(a), limit) * u * weight) * c2) != right;
    one_sided += round(round(silu(std::max<double>(g, -limit)) * std::min(a, limit) * weight) * c2) != right;
    late_weights += round(round(round(silu(g) * u) * c2) * weight) != right;
  }
  REQUIRE((a > 0 ? late_clamps : one_sided) == tokens);
  REQUIRE(late_weights > 0);
}

TEST_CASE("activations that are all zero give zeros; NaN tokens spoil their own rows alone", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  const ExpertShape s{.up = format, .down = format, .tokens = 12, .experts = 2};
  ExpertCase c(s, test::random_experts(12, 2, 2, 12), 13);
  for (std::int64_t i = 0; i < s.hidden; ++i) c.x[at(3 * s.hidden + i)] = 0.0f;
  c.x[at(7 * s.hidden + 130)] = test::float_of(0x7fc00000u);
  check(c);
  const auto y = c.want();
  for (std::size_t row = 0; row < 24; ++row) {
    const std::int64_t token = c.rows_of(static_cast<std::int32_t>(row / 12))[row % 12] / 2;
    for (std::size_t i = 0; i < at(s.hidden); ++i) {
      const float v = to_float(y[row * at(s.hidden) + i]);
      if (token == 3) REQUIRE(v == 0.0f);
      REQUIRE(std::isnan(v) == (token == 7));
    }
  }
}

TEST_CASE("moe_experts of a batch that is all zero gives zeros", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  const float zero = GENERATE(0.0f, -0.0f);
  const ExpertShape s{.up = format, .down = format, .tokens = 9, .hidden = 160, .inner = 96, .experts = 3};
  ExpertCase c(s, test::random_experts(9, 2, 3, 18), 19);
  std::fill(c.x.begin(), c.x.end(), zero);
  for (const std::int32_t tile_rows : {8, 32})
    for (const bf16 v : test::run_experts(c, tile_rows)) REQUIRE(to_float(v) == 0.0f);
}

TEST_CASE("a plan row's output depends neither on the batch nor on the tile", "[ops][moe]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const ExpertShape s{.up = format, .down = format, .tokens = 40, .experts = 3};
  const ExpertCase c(s, test::random_experts(40, 2, 3, 14), 15);
  const auto all = test::run_experts(c, 32);
  REQUIRE(test::difference_of(test::run_experts(c, 8), all) == "");
  for (const std::int64_t count : {1, 2, 9}) {  // the last tokens alone
    ExpertCase some = c;
    some.s.tokens = count;
    const std::int64_t first = s.tokens - count;
    some.idx.erase(some.idx.begin(), some.idx.begin() + first * s.k);
    some.routing.erase(some.routing.begin(), some.routing.begin() + first * s.k);
    some.x.erase(some.x.begin(), some.x.begin() + first * s.hidden);
    std::vector<bf16> want;  // the same pairs' rows of the whole batch, in the smaller plan's order
    std::int64_t row = 0;
    for (std::int32_t e = 0; e < s.experts; ++e)
      for (const std::int64_t pair : c.rows_of(e)) {
        if (pair >= first * s.k)
          want.insert(want.end(), all.begin() + row * s.hidden, all.begin() + (row + 1) * s.hidden);
        ++row;
      }
    for (const std::int32_t tile_rows : {8, 32}) {
      CAPTURE(static_cast<int>(rounding), static_cast<int>(format), count, tile_rows);
      REQUIRE(test::difference_of(test::run_experts(some, tile_rows), want) == "");
    }
  }
}

TEST_CASE("moe_experts under every policy of the machine, and again", "[ops][moe]") {
  const std::int32_t tile_rows = GENERATE(8, 32);
  const ExpertShape s{.tokens = 5, .hidden = 160, .experts = 3};
  const ExpertCase c(s, test::random_experts(5, 2, 3, 16), 17);
  const auto want = c.want();
  const auto run = [&] { REQUIRE(test::difference_of(test::run_experts(c, tile_rows), want) == ""); };
  test::under_all_policies(run);
  for (int i = 0; i < (test::reduced() ? 3 : 20); ++i) run();
}
