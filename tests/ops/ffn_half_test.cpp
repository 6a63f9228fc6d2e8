// The FFN half of a layer in decode, composed of fused ops as an engine would: how many launches it takes,
// what each stage computes beside the primitives, and replays with tokens and routings changed in device
// memory.
#include <dsv4/core/norm.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/linear/linear.hpp>
#include <dsv4/linear/weight.hpp>
#include <dsv4/mhc/post.hpp>
#include <dsv4/mhc/pre.hpp>
#include <dsv4/mhc/project.hpp>
#include <dsv4/mhc/split.hpp>
#include <dsv4/moe/combine.hpp>
#include <dsv4/moe/expert.hpp>
#include <dsv4/moe/gate.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/ops/moe_fused.hpp>
#include <dsv4/ops/moe_route.hpp>

#include "tests/ops/moe_fused_case.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/op_buffers.hpp"
#include "tests/support/random.hpp"
#include "tests/support/shapes.hpp"

#include <dsv4/simt/counters.hpp>

#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

using namespace dsv4;
using namespace dsv4::test;

namespace {

constexpr SerialCoop kCoop;
constexpr int kTokens = 3, kHidden = 512, kInner = 256, kExperts = 32, kActive = 4;
constexpr float kEps = 1e-6f, kRouteScale = 2.5f, kLimit = 10.0f;

double relative(const bf16* got, const bf16* want, std::int64_t n) {
  double error = 0, norm = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double g = to_float(got[i]), w = to_float(want[i]);
    error += (g - w) * (g - w);
    norm += w * w;
  }
  return std::sqrt(error / norm);
}

std::vector<bf16> rounded(const std::vector<float>& v) { return row_of<bf16>(v); }

// Memory of the half as an engine holds it. The experts' weights are those of the tests of moe_fused.
struct FfnHalf {
  struct Launches {
    ops::MhcPostPreParams mhc;
    ops::MoeGateParams gate;
    ops::MoeFusedParams ffn;
  };

  // Weights.
  std::vector<float> fn = normal(24 * 4 * kHidden, 2, 0.02), scale{0.9f, 1.1f, 1.3f},
                     base = normal(24, 3, 0.5), norm = uniform(kHidden, 4, 0.5, 1.5),
                     bias = normal(kExperts, 5, 0.1);
  std::vector<bf16> gate = rounded(normal(kExperts * kHidden, 6, 0.06));
  FusedCase experts;

  // What changes from replay to replay: the streams, and what the attention half before gave.
  std::vector<bf16> streams = rounded(normal(kTokens * 4 * kHidden, 7)),
                    y = rounded(normal(kTokens * kHidden, 8));
  std::vector<float> post_in = uniform(kTokens * 4, 9, 0.1, 2.0), comb_in = uniform(kTokens * 16, 10);

  // Results.
  std::vector<float> post = std::vector<float>(kTokens * 4), comb = std::vector<float>(kTokens * 16),
                     weights = std::vector<float>(kTokens * kActive);
  std::vector<bf16> x = std::vector<bf16>(kTokens * kHidden), out = x;
  std::vector<std::int32_t> idx = std::vector<std::int32_t>(kTokens * kActive);

  std::vector<std::unique_ptr<TestWorkspace>> workspaces;
  std::unique_ptr<FusedState> state;

  // Every expert has weights: which are used, the gate decides.
  FfnHalf()
      : experts({.tokens = kExperts,
                 .hidden = kHidden,
                 .inner = kInner,
                 .k = 1,
                 .experts = kExperts,
                 .limit = kLimit},
                every_expert(), 20, ops::WeightFormat::kFp8) {}

  static std::vector<std::int32_t> every_expert() {
    std::vector<std::int32_t> idx;
    for (std::int32_t e = 0; e < kExperts; ++e) idx.push_back(e);
    return idx;
  }

  Launches capture() {
    Launches l;
    l.mhc.post = {.out = streams.data(),
                  .y = y.data(),
                  .streams = streams.data(),
                  .post = post_in.data(),
                  .comb = comb_in.data(),
                  .tokens = kTokens,
                  .hidden = kHidden,
                  .stream_count = 4};
    l.mhc.pre = {.normed = x.data(),
                 .post = post.data(),
                 .comb = comb.data(),
                 .streams = streams.data(),
                 .fn = fn.data(),
                 .scale = scale.data(),
                 .base = base.data(),
                 .norm_weight = norm.data(),
                 .tokens = kTokens,
                 .hidden = kHidden,
                 .stream_count = 4,
                 .sinkhorn_iterations = 20,
                 .mix_eps = kEps,
                 .hc_eps = kEps,
                 .norm_eps = kEps};
    l.mhc.pre.workspace_bytes = ops::mhc_post_pre_workspace_bytes(l.mhc);
    l.mhc.pre.workspace = workspace(l.mhc.pre.workspace_bytes);
    l.gate = {.idx = idx.data(),
              .weights = weights.data(),
              .x = x.data(),
              .gate = {.data = gate.data(), .format = ops::WeightFormat::kBf16},
              .bias = bias.data(),
              .tokens = kTokens,
              .hidden = kHidden,
              .experts = kExperts,
              .k = kActive,
              .route_scale = kRouteScale};
    l.gate.workspace_bytes = ops::moe_gate_workspace_bytes(l.gate);
    l.gate.workspace = workspace(l.gate.workspace_bytes);
    l.ffn = fused_params(experts);
    l.ffn.out = out.data();
    l.ffn.idx = idx.data();
    l.ffn.routing = weights.data();
    l.ffn.input = {.x = x.data()};
    l.ffn.tokens = kTokens;
    l.ffn.k = kActive;
    l.ffn.state_bytes = ops::moe_fused_state_bytes(l.ffn);
    state = std::make_unique<FusedState>(l.ffn.state_bytes);
    l.ffn.state = state->data();
    l.ffn.workspace_bytes = ops::moe_fused_workspace_bytes(l.ffn);
    l.ffn.workspace = workspace(l.ffn.workspace_bytes);
    return l;
  }

  static void replay(const Launches& l) {
    REQUIRE_OK(ops::mhc_post_pre(l.mhc, nullptr));
    REQUIRE_OK(ops::moe_gate(l.gate, nullptr));
    REQUIRE_OK(ops::moe_fused(l.ffn, nullptr));
  }

 private:
  void* workspace(std::size_t bytes) {
    if (bytes == 0) return nullptr;
    return workspaces.emplace_back(std::make_unique<TestWorkspace>(bytes))->data();
  }
};

void check_mhc(const FfnHalf& h, const std::vector<bf16>& before, int t) {
  std::vector<bf16> streams(4 * kHidden), x(kHidden), normed(kHidden);
  mhc::post<4>(kCoop, streams.data(), h.y.data() + t * kHidden, before.data() + t * 4 * kHidden,
               h.post_in.data() + t * 4, h.comb_in.data() + t * 16, kHidden);
  CHECK(std::memcmp(h.streams.data() + t * 4 * kHidden, streams.data(), streams.size() * sizeof(bf16)) == 0);
  std::vector<float> f;
  for (const bf16 v : streams) f.push_back(to_float(v));
  float mixes[24], pre[4], post[4], comb[16];
  mhc::project(kCoop, mixes, {f.data(), 4 * kHidden}, 1, h.fn.data(), 24, 4 * kHidden, kEps);
  mhc::split<4>(pre, post, comb, mixes, h.scale.data(), h.base.data(), 20, kEps);
  mhc::pre<4>(kCoop, x.data(), streams.data(), pre, kHidden);
  rms_norm(kCoop, normed.data(), x.data(), h.norm.data(), kHidden, kEps);
  CHECK(relative(h.x.data() + t * kHidden, normed.data(), kHidden) <= 2e-3);
  for (int i = 0; i < 4; ++i)
    CHECK(h.post[static_cast<std::size_t>(4 * t + i)] == Approx(post[i]).epsilon(1e-4));
}

// Routing of the op's own rows. No two scores here lie as close as sums are rounded.
void check_gate(const FfnHalf& h, int t) {
  std::vector<float> x, scores(kExperts), biased(kExperts);
  for (int d = 0; d < kHidden; ++d) x.push_back(to_float(h.x[static_cast<std::size_t>(t * kHidden + d)]));
  std::vector<float> decoded(linear::kDecodeRows * kHidden);
  linear::tile(kCoop, scores.data(), kExperts, {x.data(), kHidden}, 1,
               linear::WeightView{linear::WeightType::kBf16, h.gate.data(), nullptr, kExperts, kHidden}, 0,
               kExperts, decoded.data());
  for (float& s : scores) s = moe::score(s);
  std::int32_t idx[kActive], chosen[kActive];
  float weights[kActive];
  moe::gate_scored(kCoop, idx, weights, scores.data(), h.bias.data(), kExperts, kActive, kRouteScale,
                   biased.data(), chosen);
  for (int j = 0; j < kActive; ++j) {
    const auto at = static_cast<std::size_t>(t * kActive + j);
    CHECK(h.idx[at] == idx[j]);
    CHECK(h.weights[at] == Approx(weights[j]).epsilon(1e-4));
  }
}

// x [n] through a matrix of expert e, quantised on the way in.
std::vector<bf16> product(const ExpertBytes& m, std::int64_t e, const bf16* x) {
  std::vector<float> f(static_cast<std::size_t>(m.k)),
      decoded(static_cast<std::size_t>(linear::kDecodeRows * m.k));
  quant::fp8_round_trip(kCoop, f.data(), x, static_cast<int>(m.k), quant::kFp8LinearBlock);
  const bool fp4 = m.format == ops::WeightFormat::kFp4;
  const linear::WeightView w{fp4 ? linear::WeightType::kFp4 : linear::WeightType::kFp8, m.data->row(e),
                             reinterpret_cast<const e8m0*>(m.scales->row(e)), m.n, m.k};
  std::vector<bf16> out(static_cast<std::size_t>(m.n));
  linear::tile(kCoop, out.data(), m.n, {f.data(), m.k}, 1, w, 0, m.n, decoded.data());
  return out;
}
std::vector<bf16> expert(const ExpertCase& c, std::int64_t e, const bf16* x, float limit, float weight) {
  std::vector<bf16> g = product(c.w1, e, x), u = product(c.w3, e, x);
  moe::swiglu(kCoop, g.data(), g.data(), u.data(), static_cast<int>(g.size()), limit, weight);
  return product(c.w2, e, g.data());
}

void check_ffn(const FfnHalf& h, int t) {
  const bf16* x = h.x.data() + t * kHidden;
  std::vector<bf16> y, out(kHidden);
  std::vector<std::int32_t> rows;
  for (int j = 0; j < kActive; ++j) {
    const auto at = static_cast<std::size_t>(t * kActive + j);
    const std::vector<bf16> row = expert(h.experts.routed, h.idx[at], x, kLimit, h.weights[at]);
    y.insert(y.end(), row.begin(), row.end());
    rows.push_back(j);
  }
  const std::vector<bf16> shared = expert(*h.experts.shared, 0, x, 0.0f, 1.0f);
  moe::combine(kCoop, out.data(), y.data(), rows.data(), kActive, shared.data(), kHidden);
  // A step of bf16 between the linears may move a code of FP8 by one of its own.
  CHECK(relative(h.out.data() + t * kHidden, out.data(), kHidden) <= 1e-2);
}

}  // namespace

TEST_CASE("the FFN half of a layer in decode: at most 6 launches, the primitives' results, replays",
          "[ffn_half]") {
  FfnHalf half;
  // Built once, as a captured graph has them; what changes lies in device memory.
  const FfnHalf::Launches launches = half.capture();
  std::set<std::vector<std::int32_t>> routings;
  const int steps = reduced() ? 2 : 5;
  for (int step = 0; step < steps; ++step) {
    CAPTURE(step);
    const std::vector<bf16> streams = half.streams;
    simt::reset_counters();
    FfnHalf::replay(launches);
    CHECK(simt::counters().launches <= 6);
    CHECK(half.state->zero());
    routings.insert(half.idx);
    for (int t = 0; t < kTokens; ++t) {
      CAPTURE(t);
      check_mhc(half, streams, t);
      check_gate(half, t);
      check_ffn(half, t);
    }
    // The next sublayer's output: this half's, and what attention would add.
    const std::vector<float> fresh = normal(kTokens * kHidden, 30 + static_cast<std::uint64_t>(step), 3.0);
    for (std::size_t i = 0; i < half.y.size(); ++i)
      half.y[i] = from_float<bf16>(to_float(half.out[i]) + fresh[i]);
    half.post_in = half.post;
    half.comb_in = half.comb;
  }
  CHECK(routings.size() == static_cast<std::size_t>(steps));
  for (const auto& w : half.workspaces) CHECK(w->intact() == "");
  CHECK(half.state->intact() == "");
}
