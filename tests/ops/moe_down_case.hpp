// Experts of which W2's product alone shows in the output.
#pragma once

#include "tests/ops/moe_experts_case.hpp"

namespace dsv4::test {

/// One expert whose W1 and W3 pick one channel of x for each row, exact on any tensor core: what comes in
/// front of W2 is known, and y is W2's product alone.
struct DownCase {
  ExpertCase c;
  std::vector<float> h;  // [tokens, inner], rounded to bf16

  DownCase(ops::WeightFormat down, std::int64_t tokens, std::int64_t hidden, std::int64_t inner,
           double magnitude)
      : c({.up = ops::WeightFormat::kBf16,
           .down = down,
           .tokens = tokens,
           .hidden = hidden,
           .inner = inner,
           .k = 1,
           .experts = 1,
           .limit = 0.0f},
          std::vector<std::int32_t>(at(tokens), 0), 21) {
    for (std::int64_t t = 0; t < tokens; ++t) c.routing[at(t)] = static_cast<float>(magnitude);
    for (std::int64_t r = 0; r < inner; ++r)
      for (std::int64_t i = 0; i < hidden; ++i) {
        c.w1.put(0, r, i, i == r % hidden ? 1.0f : 0.0f);
        c.w3.put(0, r, i, i == (7 * r + 3) % hidden ? 1.0f : 0.0f);
      }
    const Factor f{c.x, {}};
    const auto g = rounded_to<bf16>(expert_product(f, c.w1, 0, tokens));
    const auto u = rounded_to<bf16>(expert_product(f, c.w3, 0, tokens));
    std::vector<bf16> row(at(inner));
    for (std::int64_t t = 0; t < tokens; ++t) {
      moe::swiglu(SerialCoop{}, row.data(), g.data() + t * inner, u.data() + t * inner,
                  static_cast<int>(inner), 0.0f, static_cast<float>(magnitude));
      for (const bf16 v : row) h.push_back(value(v));
    }
  }
};

/// The exact product of a token's row of f, as the op multiplies it, and row r of expert 0's w; its terms'
/// magnitudes.
inline Exact exact_of(const ExpertBytes& w, const Factor& f, std::int64_t t, std::int64_t r) {
  Exact e;
  for (std::int64_t i = 0; i < w.k; ++i) {
    double term = double{f.values[at(t * w.k + i)]} * w.value(0, r, i);
    if (!f.scales.empty()) term *= f.scales[at(t * chunks_of(w.k) + i / 128)];
    e.value += term, e.magnitude += std::abs(term);
  }
  return e;
}

}  // namespace dsv4::test
