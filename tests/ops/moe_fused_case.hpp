// What the tests of moe_fused share: a batch with routed and shared experts, through the op and through the
// chain of ops that it must equal.
#pragma once

#include <dsv4/ops/moe_fused.hpp>

#include "tests/ops/moe_experts_case.hpp"

#include <functional>
#include <optional>

namespace dsv4::test {

/// Counters as a caller keeps them: zeroed once, then handed from call to call.
class FusedState {
 public:
  explicit FusedState(std::size_t bytes)
      : words_(1, static_cast<std::int64_t>(bytes) / 4, std::vector<std::uint32_t>(bytes / 4, 0),
               RowLayout{0, 256}) {}
  void* data() { return words_.data(); }
  std::size_t bytes() const { return static_cast<std::size_t>(words_.cols()) * 4; }
  std::string intact() const { return words_.intact(); }
  bool zero() const {
    const auto words = words_.values();
    return std::all_of(words.begin(), words.end(), [](std::uint32_t w) { return w == 0; });
  }

 private:
  Rows<std::uint32_t> words_;
};

/// Routed experts, and a shared one where it has a format.
struct FusedCase {
  ExpertCase routed;
  std::optional<ExpertCase> shared;

  FusedCase(const ExpertShape& s, std::vector<std::int32_t> idx, std::uint64_t seed,
            std::optional<ops::WeightFormat> shared_format)
      : routed(s, std::move(idx), seed) {
    if (!shared_format) return;
    ExpertShape one = s;
    one.up = one.down = *shared_format;
    one.k = one.experts = 1, one.first_expert = 0, one.limit = 0.0f;
    shared.emplace(one, std::vector<std::int32_t>(at(s.tokens), 0), seed + 100);
    shared->x = routed.x;
    if (s.tokens > 0) return;
    for (auto* w : {&shared->w1, &shared->w3, &shared->w2}) w->randomise(0, seed);
  }
  const ExpertShape& shape() const { return routed.s; }
  ops::ExpertWeights shared_weights() const {
    return shared ? ops::ExpertWeights{shared->w1.view(), shared->w3.view(), shared->w2.view()}
                  : ops::ExpertWeights{};
  }
};

/// moe_dispatch and moe_experts: rows of the plan, and those of the shared expert, if there is one.
struct ChainRows {
  std::vector<bf16> y, shared;

  explicit ChainRows(const FusedCase& c) {
    const ExpertShape& s = c.shape();
    const std::int32_t tile_rows = ops::moe_tile_rows(s.tokens, s.k, s.experts);
    y = run_experts(c.routed, tile_rows);
    if (!c.shared) return;
    shared = run_experts(*c.shared, tile_rows, [](ops::MoeExpertsParams& p) {
      p.plan = {};
      p.routing = nullptr;
    });
  }
};

/// moe_combine of them.
inline std::vector<bf16> combine(const FusedCase& c, const ChainRows& rows) {
  const ExpertShape& s = c.shape();
  ExpertPlanBuffers plan(c.routed, ops::moe_tile_rows(s.tokens, s.k, s.experts));
  const std::vector<bf16> none(1);
  std::vector<bf16> out(at(s.tokens * s.hidden));
  REQUIRE_OK(ops::moe_combine({.out = out.data(),
                               .y = rows.y.empty() ? none.data() : rows.y.data(),
                               .shared = rows.shared.empty() ? nullptr : rows.shared.data(),
                               .row_of = plan.row_of.data(),
                               .tokens = s.tokens,
                               .rows = c.routed.plan_rows(),
                               .hidden = s.hidden,
                               .k = s.k},
                              nullptr));
  return out;
}

/// The ops that moe_fused stands for, one after another.
inline std::vector<bf16> run_chain(const FusedCase& c) { return combine(c, ChainRows(c)); }

using FusedChange = std::function<void(ops::MoeFusedParams&)>;

/// Parameters without memory: sizes, weights, routing.
inline ops::MoeFusedParams fused_params(const FusedCase& c) {
  const ExpertShape& s = c.shape();
  return {.idx = c.routed.idx.data(),
          .routing = c.routed.routing.data(),
          .weights = {c.routed.w1.view(), c.routed.w3.view(), c.routed.w2.view()},
          .shared = c.shared_weights(),
          .tokens = s.tokens,
          .hidden = s.hidden,
          .inner = s.inner,
          .k = s.k,
          .first_expert = s.first_expert,
          .experts = s.experts,
          .limit = s.limit};
}

/// Runs the op with a state that other calls may have used before; it must come back zero.
inline std::vector<bf16> run_fused(const FusedCase& c, FusedState& state, const FusedChange& change = {}) {
  const ExpertShape& s = c.shape();
  const Rows<bf16> x(s.tokens, s.hidden, row_of<bf16>(c.routed.x), RowLayout{s.hidden + 8 * s.pad, 16});
  Rows<bf16> out(s.tokens, s.hidden, RowLayout{s.hidden + 3 * s.pad, 2});
  ops::MoeFusedParams p = fused_params(c);
  p.out = out.data(), p.out_stride = out.stride();
  p.input = {.x = x.data(), .x_stride = x.stride()};
  p.state = state.data(), p.state_bytes = state.bytes();
  if (change) change(p);
  TestWorkspace w(ops::moe_fused_workspace_bytes(p));
  p.workspace = w.data(), p.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::moe_fused(p, nullptr));
  REQUIRE(w.intact() == "");
  REQUIRE(out.intact() == "");
  REQUIRE(state.intact() == "");
  REQUIRE(state.zero());
  return out.values();
}
inline std::vector<bf16> run_fused(const FusedCase& c, const FusedChange& change = {}) {
  FusedState state(ops::moe_fused_state_bytes(fused_params(c)));
  return run_fused(c, state, change);
}

}  // namespace dsv4::test
