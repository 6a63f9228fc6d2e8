// Op moe_gate on the SIMT machine: against its primitives bit for bit where the order of the logits is
// canonical, against an fp64 oracle where tensor cores make them.
#include <dsv4/moe/gate.hpp>
#include <dsv4/ops/moe_route.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/shapes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>

using namespace dsv4;
using ops::GateScore;
using test::Rows;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Routing {
  std::vector<std::int32_t> idx;
  std::vector<float> weights, scores;
  bool operator==(const Routing&) const = default;
};

// Everything a call needs; T of x and TGate of the gate's weights.
template <class T, class TGate>
struct Gate {
  std::int64_t tokens, hidden;
  std::int32_t experts, k;
  std::vector<T> x;         // [tokens, hidden]
  std::vector<TGate> gate;  // [experts, hidden]
  std::vector<float> bias;  // [experts], or empty
  GateScore score = GateScore::kSqrtSoftplus;
  float route_scale = 1.5f;
  std::vector<std::int32_t> table = {}, ids = {};  // [vocab, k] [tokens]
  std::int32_t error = 0;

  Gate(std::int64_t t, std::int64_t h, std::int32_t e, std::int32_t active, double sigma = 1.0)
      : tokens(t),
        hidden(h),
        experts(e),
        k(active),
        x(test::row_of<T>(test::normal(t * h, 1))),
        gate(test::row_of<TGate>(test::normal(e * h, 2, sigma / std::sqrt(static_cast<double>(h))))),
        bias(test::normal(e, 3, 0.3)) {}

  ops::MoeGateParams params() {
    return {
        .error = &error,
        .x = x.data(),
        .gate = {.data = gate.data(),
                 .format = std::is_same_v<TGate, float> ? ops::WeightFormat::kF32 : ops::WeightFormat::kBf16},
        .bias = bias.empty() ? nullptr : bias.data(),
        .table = table.empty() ? nullptr : table.data(),
        .token_ids = ids.empty() ? nullptr : ids.data(),
        .tokens = tokens,
        .hidden = hidden,
        .vocab = static_cast<std::int64_t>(table.size()) / k,
        .experts = experts,
        .k = k,
        .route_scale = route_scale,
        .score = score,
        .dtype = test::kDType<T>};
  }

  Routing run() { return run(params()); }
  Routing run(ops::MoeGateParams p) {
    Rows<std::int32_t> idx(tokens, k);
    Rows<float> weights(tokens, k), scores(tokens, experts);
    p.idx = idx.data(), p.weights = weights.data(), p.scores = scores.data();
    p.workspace_bytes = ops::moe_gate_workspace_bytes(p);
    Rows<std::byte> workspace(1, static_cast<std::int64_t>(std::max<std::size_t>(p.workspace_bytes, 1)),
                              {0, 256});
    p.workspace = workspace.data();
    REQUIRE_OK(ops::moe_gate(p, nullptr));
    REQUIRE(idx.intact() == "");
    REQUIRE(weights.intact() == "");
    REQUIRE(scores.intact() == "");
    REQUIRE(workspace.intact() == "");
    return {idx.values(), weights.values(), scores.values()};
  }
};

// The primitives, from the scores that the op gave.
template <class T, class TGate>
void require_routing_of_scores(const Gate<T, TGate>& g, const Routing& got) {
  std::vector<float> biased(static_cast<std::size_t>(g.experts)), weights(static_cast<std::size_t>(g.k));
  std::vector<float> no_bias(static_cast<std::size_t>(g.experts), 0.0f);
  std::vector<std::int32_t> idx(static_cast<std::size_t>(g.k)), chosen(static_cast<std::size_t>(g.k));
  for (std::int64_t t = 0; t < g.tokens; ++t) {
    CAPTURE(t);
    const float* scores = got.scores.data() + t * g.experts;
    if (g.table.empty())
      moe::gate_scored(SerialCoop{}, idx.data(), weights.data(), scores,
                       g.bias.empty() ? no_bias.data() : g.bias.data(), g.experts, g.k, g.route_scale,
                       biased.data(), chosen.data());
    else
      moe::gate_hashed(SerialCoop{}, idx.data(), weights.data(), scores, g.table.data(),
                       g.ids[static_cast<std::size_t>(t)], g.k, g.route_scale);
    REQUIRE(test::slice(got.idx, g.k, t, 1) == idx);
    for (int j = 0; j < g.k; ++j) {
      CAPTURE(j);
      REQUIRE(bits_as<std::uint32_t>(got.weights[static_cast<std::size_t>(t * g.k + j)]) ==
              bits_as<std::uint32_t>(weights[static_cast<std::size_t>(j)]));
    }
  }
}

double exact_score(double u) { return std::sqrt(std::log1p(std::exp(-std::abs(u))) + std::max(u, 0.0)); }

}  // namespace

TEST_CASE("moe_gate in canonical order is the primitives, bit for bit", "[ops][moe_gate]") {
  const auto check = [](auto g) {
    CAPTURE(g.tokens, g.experts, g.k, static_cast<int>(g.score));
    const Routing got = g.run();
    for (std::int64_t t = 0; t < g.tokens; ++t) {
      std::vector<float> want(static_cast<std::size_t>(g.experts));
      for (std::int32_t e = 0; e < g.experts; ++e)
        want[static_cast<std::size_t>(e)] =
            SerialCoop::reduce_sum(static_cast<int>(g.hidden), [&](float a, int i) {
              return math::fma(to_float(g.x[static_cast<std::size_t>(t * g.hidden + i)]),
                               to_float(g.gate[static_cast<std::size_t>(e * g.hidden + i)]), a);
            });
      moe::score_all(SerialCoop{}, want.data(), g.experts, static_cast<moe::ScoreKind>(g.score));
      REQUIRE(test::slice(got.scores, g.experts, t, 1) == want);
    }
    require_routing_of_scores(g, got);
  };
  for (const auto score : {GateScore::kSqrtSoftplus, GateScore::kSigmoid, GateScore::kSoftmax})
    for (const std::int32_t experts : {1, 8, 33, 256, 384, 1024}) {
      Gate<float, float> g(3, 65, experts, std::min(experts, 6));
      g.score = score;
      check(g);
    }
  check(Gate<float, bf16>(5, 64, 40, 16));
  check(Gate<bf16, float>(5, 64, 40, 3));
  check(Gate<bf16, bf16>(2, 61, 17, 6));  // rows that are no whole vectors
}

TEST_CASE("moe_gate with tensor cores against fp64", "[ops][moe_gate]") {
  const std::int64_t tokens = GENERATE(as<std::int64_t>{}, 6, from_range(test::token_counts()));
  for (const std::int32_t experts : {8, 256, 384}) {
    if (tokens > 65 && experts > 256) continue;
    Gate<bf16, bf16> g(tokens, 256, experts, 6);
    CAPTURE(tokens, experts);
    const Routing got = g.run();
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int32_t e = 0; e < experts; ++e) {
        double u = 0, scale = 0;
        for (std::int64_t i = 0; i < g.hidden; ++i) {
          const double term = double{to_float(g.x[static_cast<std::size_t>(t * g.hidden + i)])} *
                              double{to_float(g.gate[static_cast<std::size_t>(e * g.hidden + i)])};
          u += term, scale += std::abs(term);
        }
        // 16 products an addition, 16 additions of parts: 32 roundings of sums below `scale`; the score's
        // slope is at most 0.5 there.
        const double bound = 33 * 0x1p-24 * scale + 4 * 0x1p-24;
        REQUIRE(std::abs(got.scores[static_cast<std::size_t>(t * experts + e)] - exact_score(u)) <= bound);
      }
    require_routing_of_scores(g, got);
  }
}

TEST_CASE("moe_gate at the sizes of the models", "[ops][moe_gate]") {
  for (const auto& [hidden, experts] : {std::pair{4096, 256}, std::pair{7168, 384}}) {
    if (test::reduced() && hidden > 4096) continue;
    Gate<bf16, bf16> g(1, hidden, experts, 6);
    require_routing_of_scores(g, g.run());
  }
}

TEST_CASE("moe_gate: a token's routing does not depend on its batch", "[ops][moe_gate]") {
  for (const auto rounding : {simt::Rounding::kAmpere, simt::Rounding::kHopper}) {
    simt::Options o = simt::options();
    o.rounding = rounding;
    const simt::ScopedOptions scope(o);
    Gate<bf16, bf16> all(70, 256, 40, 6);
    const Routing whole = all.run();
    for (const std::int64_t count : {1, 9, 65}) {
      Gate<bf16, bf16> part = all;
      part.tokens = count;
      part.x = test::slice(all.x, all.hidden, 5, count);
      const Routing got = part.run();
      REQUIRE(got.idx == test::slice(whole.idx, all.k, 5, count));
      REQUIRE(got.weights == test::slice(whole.weights, all.k, 5, count));
    }
  }
}

TEST_CASE("moe_gate: logits of any size, equal scores, and NaNs", "[ops][moe_gate]") {
  // hidden = 8, x = e0: a logit is the gate's first column.
  Gate<bf16, bf16> g(1, 8, 12, 6);
  g.bias.assign(12, 0.0f);
  std::fill(g.x.begin(), g.x.end(), from_float<bf16>(0.0f));
  g.x[0] = from_float<bf16>(1.0f);
  const auto logits = [&](std::vector<float> u) {
    std::fill(g.gate.begin(), g.gate.end(), from_float<bf16>(0.0f));
    for (std::size_t e = 0; e < u.size(); ++e) g.gate[e * 8] = from_float<bf16>(u[e]);
  };
  using Ints = std::vector<std::int32_t>;

  logits({-1e4f, 1e4f, 0, 88, -88, 20, -104, 1e4f, 19.5f, -20, 3, 2});
  Routing got = g.run();
  REQUIRE(got.idx == Ints{1, 7, 3, 5, 8, 10});
  for (const float w : got.weights) REQUIRE(std::isfinite(w));

  logits(std::vector<float>(12, 0.5f));
  REQUIRE(g.run().idx == Ints{0, 1, 2, 3, 4, 5});  // equal scores: the lower expert

  logits(std::vector<float>(12, -1e4f));
  got = g.run();
  REQUIRE(got.idx == Ints{0, 1, 2, 3, 4, 5});
  REQUIRE(got.weights == std::vector<float>(6, 0.0f));  // scores of 0 divide nothing

  logits({kNan, 1, kNan, 2, kNan, kNan, kNan, kNan, kNan, kNan, kNan, kInf});
  g.x.assign(8, from_float<bf16>(0.0f));
  g.x[0] = from_float<bf16>(1.0f);
  got = g.run();
  REQUIRE(got.idx == Ints{11, 3, 1, -1, -1, -1});
  REQUIRE(got.weights[3] == 0.0f);
}

TEST_CASE("moe_gate: the bias selects and does nothing else", "[ops][moe_gate]") {
  Gate<bf16, bf16> g(20, 64, 32, 6);
  g.bias.assign(32, 0.0f);
  g.bias[31] = 100.0f;  // chosen by everyone
  g.bias[0] = -100.0f;  // by no one
  const Routing got = g.run();
  for (std::int64_t t = 0; t < g.tokens; ++t) {
    const std::int32_t* idx = got.idx.data() + t * 6;
    REQUIRE(idx[0] == 31);
    REQUIRE(std::find(idx, idx + 6, 0) == idx + 6);
    double sum = 0, chosen = 0;
    for (int j = 0; j < 6; ++j) {
      sum += got.weights[static_cast<std::size_t>(t * 6 + j)];
      chosen += got.scores[static_cast<std::size_t>(t * 32 + idx[j])];
    }
    REQUIRE(sum == Approx(1.5).epsilon(1e-6));  // renormalised, then scaled
    REQUIRE(got.weights[static_cast<std::size_t>(t * 6)] ==
            Approx(got.scores[static_cast<std::size_t>(t * 32 + 31)] / chosen * 1.5).epsilon(1e-6));
  }
}

TEST_CASE("moe_gate routes by token id", "[ops][moe_gate]") {
  Gate<bf16, bf16> g(9, 64, 16, 3);
  g.bias.clear();
  g.table = test::integers(20 * 3, 9, 0, 15);
  g.table[0] = g.table[1] = 7;  // a row that names an expert twice
  g.ids = {0, 19, 5, 5, 0, 1, 2, 3, 4};
  const Routing got = g.run();
  require_routing_of_scores(g, got);
  REQUIRE(g.error == 0);
  REQUIRE(got.idx[0] == 7);
  REQUIRE(got.weights[0] == got.weights[1]);

  SECTION("64-bit ids and table") {
    const std::vector<std::int64_t> ids(g.ids.begin(), g.ids.end()), table(g.table.begin(), g.table.end());
    auto p = g.params();
    p.token_ids = ids.data(), p.table = table.data(), p.wide_ids = p.wide_table = true;
    REQUIRE(g.run(p) == got);
  }
  SECTION("ids and entries out of range raise the flag") {
    Gate<bf16, bf16> bad = g;
    bad.ids[1] = 20, bad.ids[4] = -1;
    bad.table[5 * 3 + 1] = 16;
    const Routing r = bad.run();
    REQUIRE(bad.error == 1);
    for (const std::int64_t t : {1, 4})
      for (int j = 0; j < 3; ++j) {
        REQUIRE(r.idx[static_cast<std::size_t>(t * 3 + j)] == -1);
        REQUIRE(r.weights[static_cast<std::size_t>(t * 3 + j)] == 0.0f);
      }
    for (const std::int64_t t : {2, 3}) {  // that slot alone
      REQUIRE(r.idx[static_cast<std::size_t>(t * 3 + 1)] == -1);
      REQUIRE(r.weights[static_cast<std::size_t>(t * 3 + 1)] == 0.0f);
      REQUIRE(r.idx[static_cast<std::size_t>(t * 3)] == g.table[5 * 3]);
    }
    REQUIRE(test::slice(r.idx, 3, 5, 4) == test::slice(got.idx, 3, 5, 4));
  }
}

TEST_CASE("moe_gate under every policy of the machine", "[ops][moe_gate]") {
  Gate<bf16, bf16> g(10, 128, 40, 6);
  std::optional<Routing> first;
  test::under_all_policies([&] {
    const Routing got = g.run();
    if (!first) first = got;
    REQUIRE(got == *first);
  });
}

TEST_CASE("moe_gate refuses what it cannot do, by name", "[ops][moe_gate][errors]") {
  Gate<bf16, bf16> g(2, 64, 8, 2);
  std::vector<std::int32_t> idx(4);
  std::vector<float> weights(4);
  alignas(256) static std::byte workspace[4096];
  const auto refuse = [&](auto change, const char* argument, Code code = Code::kInvalidArgument) {
    ops::MoeGateParams p = g.params();
    p.idx = idx.data(), p.weights = weights.data();
    p.workspace = workspace, p.workspace_bytes = sizeof workspace;
    change(p);
    const Status s = ops::moe_gate(p, nullptr);
    CAPTURE(argument, s.what);
    REQUIRE(s.code == code);
    REQUIRE(std::string(s.what).find(std::string("moe_gate: ") + argument) == 0);
  };
  refuse([](auto& p) { p.tokens = -1; }, "tokens");
  refuse([](auto& p) { p.hidden = 0; }, "hidden");
  refuse([](auto& p) { p.experts = 1025; }, "experts");
  refuse([](auto& p) { p.k = 0; }, "k");
  refuse([](auto& p) { p.k = 9; }, "k");
  refuse([](auto& p) { p.x_stride = 63; }, "x_stride");
  refuse([](auto& p) { p.gate.format = ops::WeightFormat::kFp8; }, "gate.format", Code::kUnsupported);
  refuse([](auto& p) { p.score = static_cast<GateScore>(3); }, "score", Code::kUnsupported);
  refuse([](auto& p) { p.idx = nullptr; }, "idx");
  refuse([](auto& p) { p.x = nullptr; }, "x");
  refuse([](auto& p) { p.table = p.idx, p.vocab = 0; }, "vocab");
  refuse([](auto& p) { p.table = p.idx, p.vocab = 1, p.error = nullptr; }, "error");
  refuse([](auto& p) { p.workspace = nullptr; }, "workspace");
  refuse([](auto& p) { p.workspace_bytes = 8; }, "workspace_bytes", Code::kWorkspaceTooSmall);
}
