// The mixture of experts at the sizes of the published models: FP4 experts, an FP8 shared one.
#include <dsv4/ops/moe_experts.hpp>
#include <dsv4/ops/moe_fused.hpp>
#include <dsv4/ops/moe_route.hpp>

#include "bench/gpu/bench.hpp"
#include "tests/support/random.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <set>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

constexpr std::int32_t kActive = 6;
constexpr float kLimit = 10.0f;

struct Model {
  const char* name;
  std::int64_t hidden, inner;
  std::int32_t experts;
};
constexpr Model kModels[] = {{"Flash", 4096, 2048, 256}, {"Pro", 7168, 3072, 384}};

std::string name(const char* op, const Model& m, std::int64_t tokens) {
  return std::string(op) + '/' + m.name + "/T:" + std::to_string(tokens);
}
bool is_common(std::int64_t tokens) { return tokens == 1 || tokens == 8 || tokens == 8192; }
Timing timing(std::int64_t tokens) { return tokens > 64 ? Timing::kCold : Timing::kGraph; }

/// Bytes of one expert's three matrices and their scales.
double expert_bytes(const Model& m, bool fp4) {
  const auto elements = static_cast<double>(3 * m.inner * m.hidden);
  return fp4 ? elements / 2 + elements / 32 : elements + elements / (128 * 128);
}

ops::ExpertMatrix matrix(Arena& a, std::int64_t experts, std::int64_t n, std::int64_t k, bool fp4) {
  // Two e2m1 of any bits are a byte of any bits.
  const std::int64_t bytes = fp4 ? n * k / 2 : n * k,
                     scales = fp4 ? n * k / 32 : (n + 127) / 128 * ((k + 127) / 128);
  return {.data = a.filled(experts * bytes, Pattern::kE4m3),
          .scales = a.filled(experts * scales, Pattern::kE8m0),
          .format = fp4 ? ops::WeightFormat::kFp4 : ops::WeightFormat::kFp8};
}
ops::ExpertWeights weights(Arena& a, const Model& m, std::int64_t experts, bool fp4) {
  return {.w1 = matrix(a, experts, m.inner, m.hidden, fp4),
          .w3 = matrix(a, experts, m.inner, m.hidden, fp4),
          .w2 = matrix(a, experts, m.hidden, m.inner, fp4)};
}

/// Random experts, distinct in a row.
std::vector<std::int32_t> routing(const Model& m, std::int64_t tokens, std::uint64_t seed) {
  test::Random random(seed);
  std::vector<std::int32_t> idx;
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::set<std::int32_t> row;
    while (row.size() < kActive) {
      const auto e = static_cast<std::int32_t>(random.integer(0, m.experts - 1));
      if (row.insert(e).second) idx.push_back(e);
    }
  }
  return idx;
}

/// A batch on one model's weights. Launches in a graph take turns with routings, so that the weights of a
/// turn do not stay in L2 for the next.
class Batch {
 public:
  Batch(Bench& bench, const Model& model, const ops::ExpertWeights& routed, const ops::ExpertWeights& shared,
        std::int64_t count)
      : m(model), tokens(count), routed_(routed), shared_(shared) {
    const std::int64_t pairs = tokens * kActive;
    x = arena.bf16s(tokens * m.hidden);
    out = arena.bytes(2 * tokens * m.hidden);
    route_weights = arena.floats(pairs, 0.25f);
    const std::vector<std::int32_t> first = routing(m, tokens, 1);
    touched = static_cast<double>(std::set<std::int32_t>(first.begin(), first.end()).size());
    idx.push_back(arena.copy(first));
    const int turns = tokens > 64 ? 1 : bench.copies(touched * expert_bytes(m, true));
    for (int i = 1; i < turns; ++i)
      idx.push_back(arena.copy(routing(m, tokens, 1 + static_cast<std::uint64_t>(i))));

    tile_rows = ops::moe_tile_rows(tokens, kActive, m.experts);
    for (std::size_t i = 0; i < idx.size(); ++i) {
      plans.push_back({.counts = ints(m.experts),
                       .offsets = ints(m.experts + 1),
                       .pair_of = ints(pairs),
                       .row_of = ints(pairs),
                       .tile_offsets = ints(m.experts + 1),
                       .tile_expert = ints(ops::moe_max_tiles(tokens, kActive, m.experts, tile_rows))});
      require(ops::moe_dispatch(dispatch(static_cast<int>(i)), nullptr));
    }
  }

  std::size_t turn_of(int turn) const { return static_cast<std::size_t>(turn) % idx.size(); }
  ops::MoeDispatchParams dispatch(int turn) const {
    return {.plan = plans[turn_of(turn)],
            .idx = idx[turn_of(turn)],
            .tokens = tokens,
            .k = kActive,
            .experts = m.experts,
            .tile_rows = tile_rows};
  }
  ops::MoeExpertsParams experts(int turn, void* y) const {
    return {.y = y,
            .input = {.x = x},
            .weights = routed_,
            .routing = route_weights,
            .plan = plans[turn_of(turn)],
            .tokens = tokens,
            .hidden = m.hidden,
            .inner = m.inner,
            .k = kActive,
            .experts = m.experts,
            .tile_rows = tile_rows,
            .limit = kLimit};
  }
  ops::MoeCombineParams combine(const void* y, const void* shared) const {
    return {.out = out,
            .y = y,
            .shared = shared,
            .row_of = plans[0].row_of,
            .tokens = tokens,
            .rows = tokens * kActive,
            .hidden = m.hidden,
            .k = kActive};
  }
  ops::MoeFusedParams fused(int turn, bool with_shared) const {
    return {.out = out,
            .idx = idx[turn_of(turn)],
            .routing = route_weights,
            .input = {.x = x},
            .weights = routed_,
            .shared = with_shared ? shared_ : ops::ExpertWeights{},
            .tokens = tokens,
            .hidden = m.hidden,
            .inner = m.inner,
            .k = kActive,
            .experts = m.experts,
            .limit = kLimit};
  }

  /// The last token's `out` of turn 0 beside that of moe_fused for this token alone.
  std::string last_is_right(bool with_shared) const {
    return same_alone(at<bf16>(out, (tokens - 1) * m.hidden), 2 * m.hidden, [&](Arena& scratch, void* alone) {
      ops::MoeFusedParams p = fused(0, with_shared);
      p.out = alone, p.tokens = 1;
      p.idx += (tokens - 1) * kActive, p.routing += (tokens - 1) * kActive;
      p.input.x = at<bf16>(x, (tokens - 1) * m.hidden);
      memory(scratch, p);
      return ops::moe_fused(p, nullptr);
    });
  }
  static void memory(Arena& a, ops::MoeFusedParams& p) {
    p.state_bytes = ops::moe_fused_state_bytes(p);
    p.state = a.bytes(static_cast<std::int64_t>(p.state_bytes));  // zeros
    a.workspace(p, ops::moe_fused_workspace_bytes(p));
  }

  /// Each touched expert once, x, and `rows` rows of results.
  Work work(std::int64_t rows, bool with_shared) const {
    const double bytes = touched * expert_bytes(m, true) + (with_shared ? expert_bytes(m, false) : 0.0);
    const std::int64_t products = tokens * (kActive + (with_shared ? 1 : 0));
    return {bytes + static_cast<double>(2 * (tokens + rows) * m.hidden),
            6.0 * static_cast<double>(products * m.inner * m.hidden)};
  }

  Arena arena;
  const Model& m;
  std::int64_t tokens;
  std::int32_t tile_rows = 0;
  double touched = 0;  // experts of turn 0
  const void* x = nullptr;
  void* out = nullptr;
  float* route_weights = nullptr;
  std::vector<std::int32_t*> idx;  // by turns
  std::vector<ops::MoePlan> plans;

 private:
  std::int32_t* ints(std::int64_t n) { return arena.bytes<std::int32_t>(4 * n); }

  ops::ExpertWeights routed_, shared_;
};

void gate(Bench& bench, const Model& m, std::int64_t tokens) {
  const std::string n = name("moe_gate", m, tokens);
  if (!bench.wanted(n, is_common(tokens))) return;
  Arena a;
  ops::MoeGateParams p = {.idx = a.bytes<std::int32_t>(4 * tokens * kActive),
                          .weights = a.bytes<float>(4 * tokens * kActive),
                          .x = a.bf16s(tokens * m.hidden),
                          .gate = a.weight(m.experts, m.hidden, ops::WeightFormat::kBf16),
                          .bias = a.floats(m.experts, 0.0f),
                          .tokens = tokens,
                          .hidden = m.hidden,
                          .experts = m.experts,
                          .k = kActive,
                          .route_scale = 1.5f};
  a.workspace(p, ops::moe_gate_workspace_bytes(p));
  const Work work = {static_cast<double>(2 * (tokens + m.experts) * m.hidden + 8 * tokens * kActive),
                     2.0 * static_cast<double>(tokens * m.experts * m.hidden)};
  bench.measure(
      n, timing(tokens), work, [=](Stream s, int) { return ops::moe_gate(p, s); },
      [=] {
        return same_alone(p.idx + (tokens - 1) * kActive, 4 * kActive, [&](Arena& scratch, void* alone) {
          ops::MoeGateParams q = p;
          q.idx = static_cast<std::int32_t*>(alone), q.tokens = 1;
          q.weights = scratch.bytes<float>(4 * kActive);
          q.x = at<bf16>(p.x, (tokens - 1) * m.hidden);
          scratch.workspace(q, ops::moe_gate_workspace_bytes(q));
          return ops::moe_gate(q, nullptr);
        });
      });
}

void experts(Bench& bench, const Model& m, std::int64_t tokens, const ops::ExpertWeights& routed,
             const ops::ExpertWeights& shared) {
  const bool common = is_common(tokens);
  const std::int64_t pairs = tokens * kActive;
  const std::string dispatch_name = name("moe_dispatch", m, tokens),
                    experts_name = name("moe_experts", m, tokens),
                    combine_name = name("moe_combine", m, tokens), fused_name = name("moe_fused", m, tokens);
  if (!bench.wanted(dispatch_name, common) && !bench.wanted(experts_name, common) &&
      !bench.wanted(combine_name, common) && !bench.wanted(fused_name, common))
    return;
  const double room = static_cast<double>(2 * pairs * (m.hidden + 2 * m.inner) + 8 * tokens * m.hidden);
  if (!bench.fits(experts_name, room)) return;
  Batch b(bench, m, routed, shared, tokens);
  void* const y = b.arena.bytes(2 * pairs * m.hidden);
  ops::MoeExpertsParams sized = b.experts(0, y);
  b.arena.workspace(sized, ops::moe_experts_workspace_bytes(sized));
  const auto run_experts = [&](Stream s, int turn) {
    ops::MoeExpertsParams p = b.experts(turn, y);
    p.workspace = sized.workspace, p.workspace_bytes = sized.workspace_bytes;
    return ops::moe_experts(p, s);
  };
  // What routed experts alone give in turn 0, combined.
  const auto chain_is_right = [&] {
    require(run_experts(nullptr, 0));
    require(ops::moe_combine(b.combine(y, nullptr), nullptr));
    return b.last_is_right(false);
  };
  if (bench.wanted(dispatch_name, common))
    bench.measure(
        dispatch_name, timing(tokens), {static_cast<double>(12 * pairs), 0},
        [&](Stream s, int turn) { return ops::moe_dispatch(b.dispatch(turn), s); }, chain_is_right);
  if (bench.wanted(experts_name, common))
    bench.measure(experts_name, timing(tokens), b.work(pairs, false), run_experts, chain_is_right);
  if (bench.wanted(combine_name, common)) {
    require(run_experts(nullptr, 0));
    bench.measure(
        combine_name, timing(tokens),
        {static_cast<double>(2 * (pairs + tokens) * m.hidden), static_cast<double>(pairs * m.hidden)},
        [&](Stream s, int) { return ops::moe_combine(b.combine(y, nullptr), s); },
        [&] { return b.last_is_right(false); });
  }
  if (tokens > ops::kMoeFusedGoodTokens || !bench.wanted(fused_name, common)) return;
  ops::MoeFusedParams memory = b.fused(0, true);
  Batch::memory(b.arena, memory);
  bench.measure(
      fused_name, timing(tokens), b.work(tokens, true),
      [&](Stream s, int turn) {
        ops::MoeFusedParams p = memory;
        p.idx = b.idx[b.turn_of(turn)];
        return ops::moe_fused(p, s);
      },
      [&] { return b.last_is_right(true); });
}

}  // namespace

void bench_moe(Bench& bench) {
  constexpr std::int64_t kTokens[] = {1, 8, 32, 128, 512, 2048, 8192};
  for (const Model& m : kModels) {
    for (const std::int64_t tokens : kTokens) gate(bench, m, tokens);
    const std::string layer = std::string("moe layer/") + m.name;
    const bool any = std::any_of(std::begin(kTokens), std::end(kTokens), [&](std::int64_t tokens) {
      for (const char* op : {"moe_dispatch", "moe_experts", "moe_combine", "moe_fused"})
        if (bench.wanted(name(op, m, tokens), is_common(tokens))) return true;
      return false;
    });
    if (!any || !bench.fits(layer, m.experts * expert_bytes(m, true) + expert_bytes(m, false))) continue;
    Arena a;
    const ops::ExpertWeights routed = weights(a, m, m.experts, true), shared = weights(a, m, 1, false);
    for (const std::int64_t tokens : kTokens) experts(bench, m, tokens, routed, shared);
  }
}

}  // namespace dsv4::gpu
