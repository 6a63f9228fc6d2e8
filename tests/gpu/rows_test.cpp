// Ops on rows, and the head: bit for bit where the order of summation is fixed.
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

constexpr std::int64_t kStreams = 4;

template <class T>
void compare_embed(Tally& tally, std::int64_t tokens, std::int64_t hidden) {
  const std::int64_t vocab = 50;
  const auto table = normal<T>(vocab * hidden, 1);
  const auto ids = test::integers(tokens, 2, -1, vocab);  // both ends are outside: rows of NaNs
  tally.compare(title<T>("embed", tokens, hidden), [&](const OpTable& f, Operands& m) {
    return f.embed({.out = m.out<T>("out", tokens * kStreams * hidden),
                    .table = m.in(table),
                    .ids = m.in(ids),
                    .tokens = tokens,
                    .hidden = hidden,
                    .vocab = vocab,
                    .streams = kStreams,
                    .dtype = kDType<T>,
                    .table_dtype = kDType<T>},
                   nullptr);
  });
}

template <class T>
void compare_rms_norm(Tally& tally, std::int64_t rows, std::int64_t n) {
  const auto x = normal<T>(rows * n, 3);
  const auto weight = test::normal(n, 4);
  const std::int64_t blocks = (n + 127) / 128;
  tally.compare(title<T>("rms_norm", rows, n), [&](const OpTable& f, Operands& m) {
    return f.rms_norm({.out = m.out<T>("out", rows * n),
                       .quantised = {.codes = m.out<std::uint8_t>("codes", rows * n),
                                     .scales = m.out<std::uint8_t>("scales", rows * blocks)},
                       .x = m.in(x),
                       .weight = m.in(weight),
                       .rows = rows,
                       .n = n,
                       .eps = 1e-6f,
                       .dtype = kDType<T>},
                      nullptr);
  });
}

template <class T>
void compare_act_quant(Tally& tally, std::int64_t rows, std::int64_t n, ops::QuantFormat format,
                       std::int32_t block) {
  const auto x = normal<T>(rows * n, 5, 3.0);
  const std::int64_t blocks = (n + block - 1) / block;
  const std::int64_t codes = format == ops::QuantFormat::kE2m1 ? n / 2 : n;
  tally.compare(title<T>("act_quant", rows, n) + " block=" + std::to_string(block),
                [&](const OpTable& f, Operands& m) {
                  return f.act_quant({.codes = m.out<std::uint8_t>("codes", rows * codes),
                                      .scales = m.out<float>("scales", rows * blocks),
                                      .x = m.in(x),
                                      .rows = rows,
                                      .n = n,
                                      .block = block,
                                      .format = format,
                                      .scale_type = ops::ScaleType::kF32,
                                      .dtype = kDType<T>},
                                     nullptr);
                });
}

template <class T>
void compare_rope(Tally& tally, std::int64_t tokens, std::int64_t heads, ops::RopeDirection direction) {
  const std::int64_t head_dim = 512, rope_dim = 64;
  const auto x = normal<T>(tokens * heads * head_dim, 6);
  const auto positions = test::integers(tokens, 7, 0, (1 << 22) - 1);
  tally.compare(title<T>("rope", tokens, heads * head_dim), [&](const OpTable& f, Operands& m) {
    return f.rope({.out = m.out<T>("out", tokens * heads * head_dim),
                   .x = m.in(x),
                   .positions = m.in(positions),
                   .table = {.freq = m.in(frequencies())},
                   .tokens = tokens,
                   .heads = heads,
                   .head_dim = head_dim,
                   .rope_dim = static_cast<std::int32_t>(rope_dim),
                   .direction = direction,
                   .dtype = kDType<T>},
                  nullptr);
  });
}

template <class T>
void compare_hadamard(Tally& tally, std::int64_t rows) {
  const std::int64_t n = 128;
  const auto x = normal<T>(rows * n, 8);
  tally.compare(title<T>("hadamard", rows, n), [&](const OpTable& f, Operands& m) {
    return f.hadamard({.out = m.out<T>("out", rows * n),
                       .x = m.in(x),
                       .rows = rows,
                       .n = static_cast<std::int32_t>(n),
                       .dtype = kDType<T>},
                      nullptr);
  });
}

template <class T>
void compare_lm_head(Tally& tally, std::int64_t tokens, std::int64_t hidden) {
  const std::int64_t vocab = 200;
  const auto x = normal<T>(tokens * hidden, 9), head = normal<T>(vocab * hidden, 10);
  const Agreement agreement =
      kF32<T> ? kSameBits : Agreement{.absolute = sum_bound(hidden, 1), .relative = 0, .share = 1};
  tally.compare(title<T>("lm_head", tokens, hidden), [&](const OpTable& f, Operands& m) {
    return f.lm_head({.logits = m.out<float>("logits", tokens * vocab, agreement),
                      .x = m.in(x),
                      .head = m.in(head),
                      .tokens = tokens,
                      .vocab = vocab,
                      .hidden = hidden,
                      .dtype = kDType<T>,
                      .head_dtype = kDType<T>},
                     nullptr);
  });
}

template <class T>
void compare_all(Tally& tally, std::int64_t tokens, std::int64_t hidden) {
  compare_embed<T>(tally, tokens, hidden);
  compare_rms_norm<T>(tally, tokens, hidden);
  compare_act_quant<T>(tally, tokens, hidden, ops::QuantFormat::kE4m3, 128);
  compare_act_quant<T>(tally, tokens, hidden, ops::QuantFormat::kE4m3, 64);
  compare_act_quant<T>(tally, tokens, hidden, ops::QuantFormat::kE2m1, 32);
  compare_rope<T>(tally, tokens, hidden >= 4096 ? 8 : 1, ops::RopeDirection::kForward);
  compare_rope<T>(tally, tokens, 1, ops::RopeDirection::kInverse);
  compare_hadamard<T>(tally, tokens);
  compare_lm_head<T>(tally, tokens, hidden);
}

}  // namespace

void compare_rows(Tally& tally, bool small) {
  for (const Shape& s : row_shapes(small)) {
    compare_all<float>(tally, s.tokens, s.hidden);
    compare_all<bf16>(tally, s.tokens, s.hidden);
  }
}

}  // namespace dsv4::gpu
