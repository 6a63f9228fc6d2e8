// The engine's mixture of experts, and the ends of the model.
#pragma once

#include <dsv4/moe/combine.hpp>
#include <dsv4/moe/expert.hpp>
#include <dsv4/moe/gate.hpp>
#include <dsv4/mtp/input.hpp>

#include "tests/vectors/engine_common.hpp"

namespace dsv4::test::engine {

inline Outputs moe_gate(const Problem& p) {
  std::vector<float> scores = floats(p, "logits");
  for (float& s : scores) s = moe::score(s);
  const std::int64_t tokens = p.array("logits").dim(0);
  const int experts = static_cast<int>(p.array("logits").dim(1)), k = static_cast<int>(p.integer("k"));
  const auto route_scale = static_cast<float>(p.scalar("route_scale"));
  std::vector<std::int32_t> idx(size(tokens * k)), chosen(size(k));
  std::vector<float> weights(size(tokens * k)), biased(size(experts));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* row = scores.data() + t * experts;
    if (p.in.contains("table"))
      moe::gate_hashed(kCoop, idx.data() + t * k, weights.data() + t * k, row,
                       integers(p.array("table")).data(), p.array("token_ids").integer(t), k, route_scale);
    else
      moe::gate_scored(kCoop, idx.data() + t * k, weights.data() + t * k, row, floats(p, "bias").data(),
                       experts, k, route_scale, biased.data(), chosen.data());
  }
  return {{"idx", stored(DType::kI32, {tokens, k}, idx)},
          {"weights", stored(DType::kF32, {tokens, k}, weights)}};
}

inline Outputs moe_experts(const Problem& p) {
  const Array &x = p.array("x"), &idx = p.array("idx");
  const std::int64_t tokens = x.dim(0), hidden = x.dim(1), k = idx.dim(1), experts = p.integer("experts");
  const std::int64_t inner = p.array("w1").dim(0) / experts;
  const bool fp4 = p.integer("fp4") != 0;
  const std::vector<bf16> rows = raw<bf16>(x);
  const auto matrix = [&](const std::string& name, std::int64_t e, std::int64_t n, std::int64_t cols) {
    const Array &data = p.array(name), &scale = p.array(name + "_scale");
    return linear::WeightView{
        fp4 ? linear::WeightType::kFp4 : linear::WeightType::kFp8, data.bytes.data() + e * n * data.dim(1),
        reinterpret_cast<const e8m0*>(scale.bytes.data()) + e * (fp4 ? n : (n + 127) / 128) * scale.dim(1), n,
        cols};
  };
  std::vector<bf16> y(size(tokens * k * hidden));
  for (std::int64_t pair = 0; pair < tokens * k; ++pair) {
    const std::int64_t e = idx.integer(pair);
    const std::vector<bf16> in(rows.begin() + pair / k * hidden, rows.begin() + (pair / k + 1) * hidden);
    std::vector<bf16> gate(size(inner)), up(size(inner));
    linear_into(gate.data(), in, matrix("w1", e, inner, hidden));
    linear_into(up.data(), in, matrix("w3", e, inner, hidden));
    moe::swiglu(kCoop, gate.data(), gate.data(), up.data(), static_cast<int>(inner),
                static_cast<float>(p.scalar("limit")), static_cast<float>(p.array("weights").at(pair)));
    linear_into(y.data() + pair * hidden, gate, matrix("w2", e, hidden, inner));
  }
  return {{"y", stored(DType::kBf16, {tokens, k, hidden}, y)}};
}

inline Outputs moe_combine(const Problem& p) {
  const Array& y = p.array("y");
  const std::vector<bf16> rows = raw<bf16>(y), shared = raw<bf16>(p.array("shared"));
  const std::int64_t tokens = y.dim(0), k = y.dim(1), hidden = y.dim(2);
  std::vector<std::int32_t> row_of = integers(p.array("idx"));
  for (std::size_t i = 0; i < row_of.size(); ++i)
    if (row_of[i] >= 0) row_of[i] = static_cast<std::int32_t>(i);
  std::vector<bf16> out(shared.size());
  for (std::int64_t t = 0; t < tokens; ++t)
    moe::combine(kCoop, out.data() + t * hidden, rows.data(), row_of.data() + t * k, static_cast<int>(k),
                 shared.data() + t * hidden, static_cast<int>(hidden));
  return {{"out", stored(DType::kBf16, {tokens, hidden}, out)}};
}

inline Outputs mtp_input(const Problem& p) {
  const std::vector<bf16> e = raw<bf16>(p.array("e"));
  std::vector<bf16> h = raw<bf16>(p.array("h"));
  const std::int64_t hidden = p.array("h").dim(2);
  for (std::int64_t t = 0; t < p.array("h").dim(0); ++t) {
    bf16* row = h.data() + t * 4 * hidden;
    mtp::input<4>(kCoop, row, e.data() + t * hidden, row, static_cast<int>(hidden));
  }
  return {{"out", stored(DType::kBf16, p.array("h").shape, h)}};
}

inline Outputs lm_head(const Problem& p) {
  const Array &x = p.array("x"), &head = p.array("head");
  std::vector<float> logits(size(x.dim(0) * head.dim(0)));
  linear_into(logits.data(), raw<bf16>(x),
              {linear::WeightType::kBf16, head.bytes.data(), nullptr, head.dim(0), head.dim(1)});
  return {{"logits", stored(DType::kF32, {x.dim(0), head.dim(0)}, logits)}};
}

}  // namespace dsv4::test::engine
