// moe_gate, moe_dispatch, moe_combine. Logits of few bits are exact on any tensor core, so scores, experts
// and weights must have the same bits, ties included; for normal ones scores agree within a bound.
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <climits>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

std::string name(const char* op, std::int64_t tokens, std::int32_t experts, std::int32_t k,
                 const char* more) {
  return std::string(op) + " T=" + std::to_string(tokens) + " E=" + std::to_string(experts) +
         " k=" + std::to_string(k) + ' ' + more;
}

struct GateCase {
  const char* what;
  std::int64_t tokens, hidden;
  std::int32_t experts, k;
  ops::GateScore score = ops::GateScore::kSqrtSoftplus;
  bool hashed = false;
};

std::vector<GateCase> gate_cases(bool small) {
  using ops::GateScore;
  if (small) return {{"scored", 3, 128, 33, 6}, {"hashed", 3, 128, 8, 2, GateScore::kSqrtSoftplus, true}};
  return {{"scored", 1, 4096, 256, 6},
          {"scored", 65, 128, 384, 6},
          {"scored", 130, 72, 1024, 16},
          {"sigmoid", 9, 256, 40, 8, GateScore::kSigmoid},
          {"softmax", 9, 256, 40, 1, GateScore::kSoftmax},
          {"hashed", 9, 256, 256, 6, GateScore::kSqrtSoftplus, true}};
}

constexpr std::int64_t kVocabulary = 50;

/// Every kind of operand that a GateCase leaves open.
template <class T>
ops::MoeGateParams gate_operands(const GateCase& c, Operands& m, const std::vector<T>& x,
                                 const std::vector<T>& gate) {
  ops::MoeGateParams p = {
      .x = m.in(x),
      .gate = {.data = m.in(gate), .format = kF32<T> ? ops::WeightFormat::kF32 : ops::WeightFormat::kBf16},
      .tokens = c.tokens,
      .hidden = c.hidden,
      .experts = c.experts,
      .k = c.k,
      .route_scale = 1.5f,
      .score = c.score,
      .dtype = kDType<T>};
  if (!c.hashed) {
    p.bias = m.in(whole<float>(c.experts, 3, 8, 0.125f));
    return p;
  }
  // Every tenth entry, and the first and last tokens' ids, are out of range.
  std::vector<std::int32_t> table = test::integers(kVocabulary * c.k, 4, 0, c.experts - 1);
  for (std::size_t i = 0; i < table.size(); i += 10) table[i] = i % 20 == 0 ? -1 : c.experts;
  std::vector<std::int64_t> ids;
  for (const std::int32_t id : test::integers(c.tokens, 5, 0, kVocabulary - 1)) ids.push_back(id);
  ids.front() = -1, ids.back() = kVocabulary;
  p.table = m.in(table), p.token_ids = m.in(ids), p.vocab = kVocabulary, p.wide_ids = true;
  p.error = m.inout("error", std::vector<std::int32_t>{0});
  return p;
}

template <class T>
void compare_gate(Tally& tally, const GateCase& c) {
  const auto run = [&](const OpTable& f, Operands& m, ops::MoeGateParams p) {
    m.workspace(p, f.moe_gate_workspace_bytes(p));
    return f.moe_gate(p, nullptr);
  };
  const std::int64_t pairs = c.tokens * c.k, scores = c.tokens * c.experts;
  const std::string title =
      name(kF32<T> ? "moe_gate f32" : "moe_gate bf16", c.tokens, c.experts, c.k, c.what);
  const auto x = whole<T>(c.tokens * c.hidden, 1, 3), gate = whole<T>(c.experts * c.hidden, 2, 2, 0.0625f);
  tally.compare(title + ", exact", [&](const OpTable& f, Operands& m) {
    ops::MoeGateParams p = gate_operands<T>(c, m, x, gate);
    p.idx = m.out<std::int32_t>("idx", pairs);
    p.weights = m.out<float>("weights", pairs), p.scores = m.out<float>("scores", scores);
    return run(f, m, p);
  });
  // A score moves by less than its logit.
  const Agreement agreement = kF32<T> ? kSameBits : Agreement{sum_bound(c.hidden, 0.25) + 1e-6, 0, 1};
  const auto normal_x = normal<T>(c.tokens * c.hidden, 6),
             normal_gate = normal<T>(c.experts * c.hidden, 7, 0.25);
  tally.compare(title + ", normal", [&](const OpTable& f, Operands& m) {
    ops::MoeGateParams p = gate_operands<T>(c, m, normal_x, normal_gate);
    p.idx = m.scratch<std::int32_t>(pairs), p.weights = m.scratch<float>(pairs);
    p.scores = m.out<float>("scores", scores, agreement);
    return run(f, m, p);
  });
}

struct DispatchCase {
  std::int64_t tokens;
  std::int32_t k, first_expert, experts, tile_rows;
  std::int32_t low, high;  // of idx
};

std::vector<DispatchCase> dispatch_cases(bool small) {
  if (small) return {{9, 2, 0, 8, 8, -1, 7}, {300, 6, 8, 16, 32, 0, 31}};
  return {{1, 6, 0, 256, 8, 0, 255},    {9, 2, 0, 8, 8, -1, 7},    {65, 16, 0, 1024, 1, 0, 1023},
          {512, 6, 96, 96, 32, 0, 383}, {2000, 6, 0, 1, 64, 0, 0}, {5000, 6, 0, 384, 32, -1, 383}};
}

void compare_dispatch(Tally& tally, const DispatchCase& c) {
  auto idx = test::integers(c.tokens * c.k, 8, c.low, c.high);
  if (idx.size() > 8) idx[3] = INT_MIN, idx[5] = INT_MAX;
  tally.compare(name("moe_dispatch", c.tokens, c.experts, c.k, ""), [&](const OpTable& f, Operands& m) {
    const std::int64_t pairs = c.tokens * c.k;
    return f.moe_dispatch(
        {.plan = {.counts = m.out<std::int32_t>("counts", c.experts),
                  .offsets = m.out<std::int32_t>("offsets", c.experts + 1),
                  .pair_of = m.out<std::int32_t>("pair_of", pairs),
                  .row_of = m.out<std::int32_t>("row_of", pairs),
                  .tile_offsets = m.out<std::int32_t>("tile_offsets", c.experts + 1),
                  .tile_expert = m.out<std::int32_t>(
                      "tile_expert", ops::moe_max_tiles(c.tokens, c.k, c.experts, c.tile_rows))},
         .idx = m.in(idx),
         .tokens = c.tokens,
         .k = c.k,
         .first_expert = c.first_expert,
         .experts = c.experts,
         .tile_rows = c.tile_rows},
        nullptr);
  });
}

template <class T>
void compare_combine(Tally& tally, const Shape& s, std::int32_t k, bool with_shared) {
  const std::int64_t rows = s.tokens * k, stride = s.hidden + 8;
  const auto y = normal<T>(rows * stride, 9), shared = normal<T>(s.tokens * s.hidden, 10);
  auto row_of = test::integers(s.tokens * k, 11, -1, static_cast<std::int32_t>(rows) - 1);
  row_of[0] = static_cast<std::int32_t>(rows);
  tally.compare(title<T>("moe_combine", s.tokens, s.hidden), [&](const OpTable& f, Operands& m) {
    return f.moe_combine({.out = m.out<T>("out", s.tokens * s.hidden),
                          .y = m.in(y),
                          .shared = with_shared ? m.in(shared) : nullptr,
                          .row_of = m.in(row_of),
                          .tokens = s.tokens,
                          .rows = rows,
                          .hidden = s.hidden,
                          .k = k,
                          .dtype = kDType<T>,
                          .y_stride = stride},
                         nullptr);
  });
}

void refusals(Tally& tally) {
  const GateCase c = {"scored", 2, 64, 8, 2};
  const auto refuse_gate = [&](Code code, const char* text, auto change) {
    tally.refuse("moe_gate", code, text, [&c, change](const OpTable& f, Operands& m) {
      ops::MoeGateParams p = gate_operands<bf16>(c, m, normal<bf16>(2 * 64, 1), normal<bf16>(8 * 64, 2));
      p.idx = m.scratch<std::int32_t>(4), p.weights = m.scratch<float>(4);
      m.workspace(p, f.moe_gate_workspace_bytes(p));
      change(p);
      return f.moe_gate(p, nullptr);
    });
  };
  using Gate = ops::MoeGateParams;
  refuse_gate(Code::kInvalidArgument, "experts", [](Gate& p) { p.experts = 1025; });
  refuse_gate(Code::kInvalidArgument, "error", [](Gate& p) { p.table = p.idx, p.vocab = 1; });
  refuse_gate(Code::kUnsupported, "gate.format", [](Gate& p) { p.gate.format = ops::WeightFormat::kFp8; });
  refuse_gate(Code::kWorkspaceTooSmall, "workspace", [](Gate& p) { p.workspace_bytes = 0; });
  tally.refuse("moe_dispatch", Code::kInvalidArgument, "tile_rows", [](const OpTable& f, Operands&) {
    return f.moe_dispatch({.tokens = 1, .k = 1, .experts = 1}, nullptr);
  });
  tally.refuse("moe_combine", Code::kInvalidArgument, "row_of", [](const OpTable& f, Operands& m) {
    return f.moe_combine(
        {.out = m.scratch<bf16>(8), .y = m.scratch<bf16>(8), .tokens = 1, .rows = 1, .hidden = 8, .k = 1},
        nullptr);
  });
}

}  // namespace

void compare_moe_route(Tally& tally, bool small) {
  for (const GateCase& c : gate_cases(small)) {
    compare_gate<bf16>(tally, c);
    compare_gate<float>(tally, c);
  }
  for (const DispatchCase& c : dispatch_cases(small)) compare_dispatch(tally, c);
  for (const Shape& s : row_shapes(small)) {
    compare_combine<bf16>(tally, s, 6, true);
    compare_combine<float>(tally, s, 2, false);
  }
  refusals(tally);
}

}  // namespace dsv4::gpu
