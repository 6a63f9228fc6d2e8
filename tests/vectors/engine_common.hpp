// What the stages of the engine share: arrays as the primitives take them, angles, and the linear layer.
#pragma once

#include <dsv4/core/coop.hpp>
#include <dsv4/core/quant.hpp>
#include <dsv4/core/rope.hpp>
#include <dsv4/linear/linear.hpp>
#include <dsv4/model_config.hpp>

#include "tests/vectors/engine.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dsv4::test::engine {

using reference::DType;
using reference::vectors::Array;
using reference::vectors::Outputs;
using reference::vectors::Problem;

inline constexpr SerialCoop kCoop;

inline std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

inline std::vector<float> floats(const Array& a) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < a.count(); ++i) out.push_back(static_cast<float>(a.at(i)));
  return out;
}
inline std::vector<float> floats(const Problem& p, const char* name) { return floats(p.array(name)); }

inline std::vector<std::int32_t> integers(const Array& a) {
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i < a.count(); ++i) out.push_back(static_cast<std::int32_t>(a.integer(i)));
  return out;
}

// Elements as they are stored.
template <class T>
std::vector<T> raw(const Array& a) {
  std::vector<T> out(a.bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), a.bytes.data(), a.bytes.size());
  return out;
}

template <class T>
Array stored(DType dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

struct Angles {
  explicit Angles(const Problem& p)
      : freq(p.integer("ratio") == 0
                 ? rope::frequencies<kRopeDim>({p.scalar("rope_theta"), 1, 1, 1, 1})
                 : rope::frequencies<kRopeDim>({p.scalar("compress_rope_theta"), p.scalar("rope_factor"),
                                                p.integer("rope_original_length"), p.scalar("rope_beta_fast"),
                                                p.scalar("rope_beta_slow")})) {}
  const math::SinCos* at(std::int64_t position) {
    rope::angles(kCoop, table.data(), freq.data(), position, kRopeDim / 2);
    return table.data();
  }
  std::array<float, kRopeDim / 2> freq;
  std::array<math::SinCos, kRopeDim / 2> table{};
};

// y [T, N] = x w^T, x quantised and dequantised first where w is FP8 or FP4.
template <class T>
void linear_into(T* y, const std::vector<bf16>& x, const linear::WeightView& w) {
  const auto tokens = static_cast<int>(static_cast<std::int64_t>(x.size()) / w.cols);
  std::vector<float> rows(x.size()), scratch(size(linear::kDecodeRows * w.cols));
  for (std::size_t i = 0; i < x.size(); ++i) rows[i] = to_float(x[i]);
  for (std::int64_t t = 0; linear::quantises_activations(w.type) && t < tokens; ++t)
    quant::fp8_round_trip(kCoop, rows.data() + t * w.cols, rows.data() + t * w.cols, static_cast<int>(w.cols),
                          quant::kFp8LinearBlock);
  linear::tile(kCoop, y, w.rows, linear::RowsF32{rows.data(), w.cols}, tokens, w, 0, w.rows, scratch.data());
}

}  // namespace dsv4::test::engine
