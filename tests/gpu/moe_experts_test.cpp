// moe_experts and moe_fused. Sums of few bits, which any tensor core makes exactly, must give the same bits
// through both linears; for normal operands few results may differ.
#include "tests/gpu/caches.hpp"
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

using ops::WeightFormat;

/// kSparse   x and W1, W3 of few bits, so that gate and up are exact and take many values; W2 holds one
/// weight
///           in 128 channels of a row, so that its sums are single products
/// kClamped  x and W1 positive, and clamps below every step of gate and up: activations have one magnitude,
///           or are zero, so that W2 may be dense
/// kNormal   as kSparse, but x and the sums of W1 and W3 are what they are
enum class Kind { kSparse, kClamped, kNormal };

struct Case {
  const char* what;
  WeightFormat up, down;
  std::int64_t tokens, hidden, inner;
  std::int32_t k, experts;
};

const char* name_of(Kind kind) {
  return kind == Kind::kSparse ? "sparse" : kind == Kind::kClamped ? "clamped" : "normal";
}
float limit_of(Kind kind) { return kind == Kind::kClamped ? 0x1p-6f : 10.0f; }

std::string name(const char* op, const Case& c, Kind kind, const std::string& more) {
  return std::string(op) + ' ' + c.what + " T=" + std::to_string(c.tokens) +
         " D=" + std::to_string(c.hidden) + " I=" + std::to_string(c.inner) + ' ' + name_of(kind) + more;
}

constexpr std::int64_t blocks(std::int64_t n) { return (n + 127) / 128; }

enum class Pattern { kDense, kPositive, kSparse };

/// Does W2 of kSparse hold a weight there?
bool is_kept(std::int64_t row, std::int64_t channel) {
  return channel % 128 == (row * 37 + channel / 128 * 11) % 128;
}

/// One matrix [n, k] of every expert. Weights between 1/2 and 16, times `unit`, a power of two.
ops::ExpertMatrix matrix(Operands& m, WeightFormat format, std::int64_t experts, std::int64_t n,
                         std::int64_t k, Pattern pattern, int exponent, std::uint64_t seed) {
  const std::int64_t elements = experts * n * k;
  const auto kept = [&](std::int64_t i) { return pattern != Pattern::kSparse || is_kept(i / k % n, i % k); };
  const auto shifted = [&](std::vector<std::uint8_t> scales) {
    for (std::uint8_t& s : scales) s = static_cast<std::uint8_t>(s + exponent);
    return scales;
  };
  if (format == WeightFormat::kFp4) {
    auto codes = test::bytes(elements / 2, seed);
    for (std::int64_t i = 0; i < elements; ++i) {
      std::uint8_t& byte = codes[static_cast<std::size_t>(i / 2)];
      if (!kept(i)) byte = static_cast<std::uint8_t>(byte & (i % 2 == 0 ? 0xf0 : 0x0f));
      if (pattern == Pattern::kPositive) byte = (byte & 0x77) | 0x11;
    }
    return {
        .data = m.in(codes), .scales = m.in(shifted(scale_bytes(elements / 32, seed + 1))), .format = format};
  }
  if (format == WeightFormat::kFp8) {
    auto codes = e4m3_codes(elements, seed);
    for (std::int64_t i = 0; i < elements; ++i) {
      std::uint8_t& code = codes[static_cast<std::size_t>(i)];
      if (!kept(i)) code = 0;
      if (pattern == Pattern::kPositive) code &= 0x7f;
    }
    return {.data = m.in(codes),
            .scales = m.in(shifted(scale_bytes(experts * blocks(n) * blocks(k), seed + 1))),
            .format = format};
  }
  const auto plain = [&](auto values) {
    for (std::int64_t i = 0; i < elements; ++i) {
      auto& v = values[static_cast<std::size_t>(i)];
      if (!kept(i)) v = {};
      if (pattern == Pattern::kPositive)
        v = from_float<std::decay_t<decltype(v)>>(1 + std::fabs(to_float(v)));
    }
    return ops::ExpertMatrix{.data = m.in(values), .format = format};
  };
  const float unit = std::ldexp(1.0f, exponent);
  return format == WeightFormat::kBf16 ? plain(whole<bf16>(elements, seed, 3, unit))
                                       : plain(whole<float>(elements, seed, 3, unit));
}

ops::ExpertWeights weights(Operands& m, const Case& c, std::int32_t experts, Kind kind, std::uint64_t seed) {
  // Normal: gate and up of unit size.
  const int exponent = kind == Kind::kNormal
                           ? -1 - static_cast<int>(std::lround(std::log2(static_cast<double>(c.hidden)) / 2))
                           : 0;
  const bool clamped = kind == Kind::kClamped;
  return {.w1 = matrix(m, c.up, experts, c.inner, c.hidden, clamped ? Pattern::kPositive : Pattern::kDense,
                       exponent, seed),
          .w3 = matrix(m, c.up, experts, c.inner, c.hidden, Pattern::kDense, exponent, seed + 10),
          .w2 = matrix(m, c.down, experts, c.hidden, c.inner, clamped ? Pattern::kDense : Pattern::kSparse, 0,
                       seed + 20)};
}

template <class T>
std::vector<T> activations(const Case& c, Kind kind) {
  const std::int64_t n = c.tokens * c.hidden;
  if (kind == Kind::kNormal) return normal<T>(n, 1);
  std::vector<T> x = whole<T>(n, 1, 3);
  if (kind == Kind::kClamped)
    for (T& v : x) v = from_float<T>(1 + std::fabs(to_float(v)));
  return x;
}

/// k different experts a token of one more than there are: the last is another rank's. Every seventh slot is
/// dropped, and every third round all tokens go to one expert.
std::vector<std::int32_t> routing(const Case& c, int round) {
  std::vector<std::int32_t> idx;
  test::Random random(static_cast<std::uint64_t>(30 + round));
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    std::set<std::int32_t> mine;
    while (static_cast<std::int32_t>(mine.size()) < c.k) {
      const auto e = static_cast<std::int32_t>(random.integer(0, c.experts));
      if (mine.insert(e).second) idx.push_back(round % 3 == 2 ? 1 : idx.size() % 7 == 6 ? -1 : e);
    }
  }
  return idx;
}

/// What W2 gives where some activation was rounded to a neighbour: that of a bf16, and perhaps of an FP8
/// code, 1/8 away, times a weight of up to 16, the activation being below 40. Sums of W1 and W3 differ by
/// 1e-6, so that one activation in hundreds is rounded so; rows of y take one in 128.
Agreement agreement_of(const Case& c, Kind kind) {
  if (kind != Kind::kNormal) return kSameBits;
  return {c.down == WeightFormat::kBf16 ? 0x1p-7 * 16 * 40 : 0x1p-3 * 16 * 40, 0, 0.02};
}

/// A plan by the side's own moe_dispatch.
ops::MoePlan plan_of(const OpTable& f, Operands& m, const Case& c, const std::int32_t* idx,
                     std::int32_t tile_rows) {
  const std::int64_t pairs = c.tokens * c.k;
  const auto ints = [&](std::int64_t n) { return m.scratch<std::int32_t>(n); };
  const ops::MoePlan plan = {
      ints(c.experts), ints(c.experts + 1), ints(pairs),
      ints(pairs),     ints(c.experts + 1), ints(ops::moe_max_tiles(c.tokens, c.k, c.experts, tile_rows))};
  const Status s = f.moe_dispatch(
      {.plan = plan, .idx = idx, .tokens = c.tokens, .k = c.k, .experts = c.experts, .tile_rows = tile_rows},
      nullptr);
  return s.ok() ? plan : ops::MoePlan{};
}

template <class T>
void compare_experts(Tally& tally, const Case& c, Kind kind, std::int32_t tile_rows) {
  const std::int64_t y_stride = c.hidden + 8;
  const auto x = activations<T>(c, kind);
  const Agreement agreement = kF32<T> ? kSameBits : agreement_of(c, kind);
  tally.compare(name("moe_experts", c, kind, " tile=" + std::to_string(tile_rows)),
                [&](const OpTable& f, Operands& m) {
                  ops::MoeExpertsParams p = {.y = m.out<T>("y", c.tokens * c.k * y_stride, agreement),
                                             .input = {.x = m.in(x)},
                                             .weights = weights(m, c, c.experts, kind, 100),
                                             .routing = m.in(whole<float>(c.tokens * c.k, 2, 8, 0.25f)),
                                             .plan = plan_of(f, m, c, m.in(routing(c, 0)), tile_rows),
                                             .tokens = c.tokens,
                                             .hidden = c.hidden,
                                             .inner = c.inner,
                                             .k = c.k,
                                             .experts = c.experts,
                                             .tile_rows = tile_rows,
                                             .limit = limit_of(kind),
                                             .dtype = kDType<T>,
                                             .y_stride = y_stride};
                  m.workspace(p, f.moe_experts_workspace_bytes(p));
                  return f.moe_experts(p, nullptr);
                });
}

/// Every token a row of one expert, its activations as codes with column-major scales.
void compare_codes(Tally& tally, const Case& c, std::int32_t tile_rows) {
  tally.compare(name("moe_experts", c, Kind::kSparse, " codes, tile=" + std::to_string(tile_rows)),
                [&](const OpTable& f, Operands& m) {
                  ops::MoeExpertsParams p = {
                      .y = m.out<bf16>("y", c.tokens * c.hidden),
                      .input = {.codes = m.in(e4m3_codes(c.tokens * c.hidden, 3)),
                                .scales = m.in(scale_bytes(c.tokens * blocks(c.hidden), 4)),
                                .scale_layout = ops::ScaleLayout::kColumnMajor},
                      .weights = weights(m, c, 1, Kind::kSparse, 200),
                      .tokens = c.tokens,
                      .hidden = c.hidden,
                      .inner = c.inner,
                      .k = 1,
                      .experts = 1,
                      .tile_rows = tile_rows};
                  m.workspace(p, f.moe_experts_workspace_bytes(p));
                  return f.moe_experts(p, nullptr);
                });
}

/// Replays of one graph with other experts in device memory; the state must come back zero each time.
template <class T>
void compare_fused(Tally& tally, const Case& c, Kind kind, const WeightFormat* shared, std::int32_t blocks) {
  const auto x = activations<T>(c, kind);
  const Agreement agreement = kF32<T> ? kSameBits : agreement_of(c, kind);
  const std::string more = std::string(kF32<T> ? " f32" : "") +
                           (shared ? *shared == c.up ? " shared" : " shared FP8" : "") +
                           " blocks=" + std::to_string(blocks);
  tally.replay(name("moe_fused", c, kind, more), 3, [&, shared](const OpTable& f, Operands& m) -> Replay {
    const std::int32_t* idx = m.in(routing(c, 0));
    ops::MoeFusedParams p = {.out = m.out<T>("out", c.tokens * c.hidden, agreement),
                             .idx = idx,
                             .routing = m.in(whole<float>(c.tokens * c.k, 2, 8, 0.25f)),
                             .input = {.x = m.in(x)},
                             .weights = weights(m, c, c.experts, kind, 100),
                             .tokens = c.tokens,
                             .hidden = c.hidden,
                             .inner = c.inner,
                             .k = c.k,
                             .experts = c.experts,
                             .limit = limit_of(kind),
                             .shared_limit = limit_of(kind),
                             .dtype = kDType<T>,
                             .blocks = blocks};
    if (shared) {
      Case one = c;
      one.up = one.down = *shared;
      p.shared = weights(m, one, 1, kind, 300);
    }
    p.state_bytes = f.moe_fused_state_bytes(p);
    p.state = m.inout("state", std::vector<std::uint8_t>(p.state_bytes, 0));
    m.workspace(p, f.moe_fused_workspace_bytes(p));
    return {[&f, p](Stream stream) { return f.moe_fused(p, stream); },
            [&m, &c, idx](int round) { m.set(idx, routing(c, round)); }};
  });
}

void refusals(Tally& tally) {
  const Case c = {"", WeightFormat::kFp4, WeightFormat::kFp4, 2, 128, 64, 2, 4};
  const auto refuse_experts = [&](Code code, const char* text, auto change) {
    tally.refuse("moe_experts", code, text, [&c, change](const OpTable& f, Operands& m) {
      ops::MoeExpertsParams p = {.y = m.scratch<bf16>(4 * 128),
                                 .input = {.x = m.in(normal<bf16>(2 * 128, 1))},
                                 .weights = weights(m, c, c.experts, Kind::kSparse, 1),
                                 .plan = plan_of(f, m, c, m.in(routing(c, 0)), 8),
                                 .tokens = 2,
                                 .hidden = 128,
                                 .inner = 64,
                                 .k = 2,
                                 .experts = 4,
                                 .tile_rows = 8};
      m.workspace(p, f.moe_experts_workspace_bytes(p));
      change(p);
      return f.moe_experts(p, nullptr);
    });
  };
  using Experts = ops::MoeExpertsParams;
  refuse_experts(Code::kUnsupported, "tile_rows", [](Experts& p) { p.tile_rows = 64; });
  refuse_experts(Code::kInvalidArgument, "weights.w2.scales",
                 [](Experts& p) { p.weights.w2.scales = nullptr; });
  refuse_experts(Code::kInvalidArgument, "plan", [](Experts& p) { p.plan.offsets = nullptr; });
  refuse_experts(Code::kWorkspaceTooSmall, "workspace", [](Experts& p) { p.workspace_bytes = 0; });
  const auto refuse_fused = [&](Code code, const char* text, auto change) {
    tally.refuse("moe_fused", code, text, [&c, change](const OpTable& f, Operands& m) {
      ops::MoeFusedParams p = {.out = m.scratch<bf16>(2 * 128),
                               .idx = m.in(routing(c, 0)),
                               .input = {.x = m.in(normal<bf16>(2 * 128, 1))},
                               .weights = weights(m, c, c.experts, Kind::kSparse, 1),
                               .tokens = 2,
                               .hidden = 128,
                               .inner = 64,
                               .k = 2,
                               .experts = 4};
      p.state_bytes = f.moe_fused_state_bytes(p);
      p.state = m.scratch<unsigned char>(static_cast<std::int64_t>(p.state_bytes));
      m.workspace(p, f.moe_fused_workspace_bytes(p));
      change(p);
      return f.moe_fused(p, nullptr);
    });
  };
  using Fused = ops::MoeFusedParams;
  refuse_fused(Code::kUnsupported, "peers.ranks", [](Fused& p) { p.peers.ranks = 2; });
  refuse_fused(Code::kUnsupported, "tokens", [](Fused& p) { p.tokens = ops::kMoeFusedMaxTokens + 1; });
  refuse_fused(Code::kInvalidArgument, "state", [](Fused& p) { p.state = nullptr; });
}

}  // namespace

void compare_moe_experts(Tally& tally, bool small) {
  constexpr WeightFormat kFp4 = WeightFormat::kFp4, kFp8 = WeightFormat::kFp8, kBf16 = WeightFormat::kBf16;
  std::vector<Case> cases = {{"FP4", kFp4, kFp4, 5, 160, 96, 2, 4}};
  if (!small)
    cases = {{"FP4", kFp4, kFp4, 1, 4096, 256, 6, 8},    {"FP4", kFp4, kFp4, 8, 256, 160, 2, 8},
             {"FP4", kFp4, kFp4, 65, 160, 288, 3, 5},    {"FP8", kFp8, kFp8, 8, 272, 144, 2, 8},
             {"FP8", kFp8, kFp8, 65, 128, 256, 3, 5},    {"bf16", kBf16, kBf16, 8, 136, 264, 2, 8},
             {"bf16", kBf16, kBf16, 65, 256, 136, 3, 5}, {"FP4, bf16 W2", kFp4, kBf16, 21, 128, 160, 2, 4}};
  for (const Case& c : cases) {
    for (const Kind kind : {Kind::kSparse, Kind::kClamped, Kind::kNormal})
      for (const std::int32_t tile_rows : {8, 32}) compare_experts<bf16>(tally, c, kind, tile_rows);
    compare_experts<float>(tally, c, Kind::kNormal, 8);
    if (c.up != kBf16)
      for (const std::int32_t tile_rows : {8, 32}) compare_codes(tally, c, tile_rows);
    compare_fused<float>(tally, c, Kind::kNormal, &kFp8, 0);
    if (c.up != c.down) continue;
    compare_fused<bf16>(tally, c, Kind::kSparse, nullptr, 0);
    compare_fused<bf16>(tally, c, Kind::kClamped, &c.up, 3);
    compare_fused<bf16>(tally, c, Kind::kNormal, c.up == kFp4 ? &kFp8 : nullptr, 0);
  }
  refusals(tally);
}

}  // namespace dsv4::gpu
