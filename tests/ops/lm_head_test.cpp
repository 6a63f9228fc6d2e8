// Op lm_head on the SIMT machine: canonical dots bit for bit the primitive, tensor cores bit for bit the
// documented order and within a derived bound of the exact sum.
#include <dsv4/lm_head/lm_head.hpp>
#include <dsv4/ops/lm_head.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/shapes.hpp"
#include "tests/support/ulp.hpp"

#include <cmath>

using namespace dsv4;
using test::RowLayout;
using test::Rows;

namespace {

std::vector<float> as_float(const std::vector<bf16>& v) {
  std::vector<float> f;
  for (const bf16 x : v) f.push_back(test::value(x));
  return f;
}
std::vector<float> as_float(const std::vector<float>& v) { return v; }

// The primitive on the values in fp32.
std::vector<float> canonical(const std::vector<float>& x, const std::vector<float>& head, std::int64_t tokens,
                             std::int64_t vocab, std::int64_t hidden) {
  std::vector<float> logits(static_cast<std::size_t>(tokens * vocab));
  std::vector<float> scratch(static_cast<std::size_t>(linear::kDecodeRows * hidden));
  lm_head::logits(SerialCoop{}, logits.data(), vocab, linear::RowsF32{x.data(), hidden},
                  static_cast<int>(tokens), {linear::WeightType::kF32, head.data(), nullptr, vocab, hidden},
                  0, vocab, scratch.data());
  return logits;
}

// The order of lm_head/logits.cuh with tensor cores that add as an fma chain in ascending k: in each 128
// channels, groups of 32 of two products; product j takes channels 8t + 4j + {0, 1}, then 8t + 4j + {2, 3}.
std::vector<float> by_chunks(const std::vector<float>& x, const std::vector<float>& head, std::int64_t tokens,
                             std::int64_t vocab, std::int64_t hidden) {
  std::vector<float> logits;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t v = 0; v < vocab; ++v) {
      const float *a = x.data() + t * hidden, *b = head.data() + v * hidden;
      float total = 0;
      for (std::int64_t chunk = 0; chunk < hidden; chunk += 128) {
        float part = 0;
        for (std::int64_t group = chunk; group < chunk + 128; group += 32)
          for (int j = 0; j < 2; ++j)
            for (int half = 0; half < 2; ++half)
              for (int lane = 0; lane < 4; ++lane)
                for (int i = 0; i < 2; ++i) {
                  const std::int64_t k = group + 8 * lane + 4 * j + 2 * half + i;
                  part = std::fmaf(k < hidden ? a[k] : 0.0f, k < hidden ? b[k] : 0.0f, part);
                }
        total += part;
      }
      logits.push_back(total);
    }
  return logits;
}

enum class Order { kCanonical, kTensorCore };

template <class T, class THead>
void check(std::int64_t tokens, std::int64_t vocab, std::int64_t hidden, RowLayout x_layout,
           RowLayout head_layout, Order order) {
  CAPTURE(tokens, vocab, hidden, sizeof(T), sizeof(THead), x_layout.stride, x_layout.align);
  const auto x_values = test::row_of<T>(test::normal(tokens * hidden, 1));
  const auto head_values = test::row_of<THead>(test::normal(vocab * hidden, 2));
  Rows<T> x(tokens, hidden, x_values, x_layout);
  Rows<THead> head(vocab, hidden, head_values, head_layout);
  Rows<float> logits(tokens, vocab, RowLayout{vocab + 3, 4});
  REQUIRE_OK(ops::lm_head({.logits = logits.data(),
                           .x = x.data(),
                           .head = head.data(),
                           .tokens = tokens,
                           .vocab = vocab,
                           .hidden = hidden,
                           .dtype = test::kDType<T>,
                           .head_dtype = test::kDType<THead>,
                           .logits_stride = logits.stride(),
                           .x_stride = x_layout.stride,
                           .head_stride = head_layout.stride},
                          nullptr));
  const auto xf = as_float(x_values), hf = as_float(head_values);
  REQUIRE_ROWS(logits, order == Order::kCanonical ? canonical(xf, hf, tokens, vocab, hidden)
                                                  : by_chunks(xf, hf, tokens, vocab, hidden));
}

}  // namespace

TEST_CASE("lm_head of bf16 sums by tensor cores in one order", "[ops][lm_head]") {
  const std::int64_t tokens = GENERATE(0, 1, 2, 8, 9, 17, 33, 63, 64, 65, 257);
  check<bf16, bf16>(tokens, 37, 128, {}, {}, Order::kTensorCore);
  check<bf16, bf16>(tokens, 131, 256, {264, 16}, {272, 16}, Order::kTensorCore);
}

TEST_CASE("lm_head of bf16 at the sizes of the models and around its tiles", "[ops][lm_head]") {
  for (const std::int64_t hidden : {8, 120, 136, 328})
    check<bf16, bf16>(3, 20, hidden, {}, {}, Order::kTensorCore);
  for (const std::int64_t vocab : {1, 8, 9, 127, 128, 129})
    check<bf16, bf16>(3, vocab, 64, {}, {}, Order::kTensorCore);
  check<bf16, bf16>(5, 130, 4096, {}, {}, Order::kTensorCore);
  for (const auto& [tokens, hidden] : test::model_shapes())
    check<bf16, bf16>(tokens, 33, hidden, {}, {}, Order::kTensorCore);
}

TEST_CASE("lm_head of everything else is the primitive", "[ops][lm_head]") {
  const std::int64_t tokens = GENERATE(0, 1, 2, 63, 64, 65, 257);
  check<float, float>(tokens, 21, 128, {}, {}, Order::kCanonical);
  check<bf16, float>(tokens, 18, 136, {}, {140, 4}, Order::kCanonical);
  check<float, bf16>(tokens, 5, 33, {36, 4}, {}, Order::kCanonical);
  check<bf16, bf16>(tokens, 19, 128, {131, 2}, {}, Order::kCanonical);
  check<bf16, bf16>(tokens, 17, 127, {}, {}, Order::kCanonical);
}

TEST_CASE("lm_head with an fp32 head at the sizes of the models", "[ops][lm_head]") {
  for (const auto& [tokens, hidden] : test::model_shapes())
    check<bf16, float>(tokens, 19, hidden, {}, {}, Order::kCanonical);
}

TEST_CASE("lm_head keeps its bound however tensor cores round", "[ops][lm_head]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t tokens = 3, vocab = 40, hidden = 4096;
  const auto x = test::normal_bf16(tokens * hidden, 3), head = test::normal_bf16(vocab * hidden, 4);
  Rows<bf16> xs(tokens, hidden, test::row_of<bf16>(x)), heads(vocab, hidden, test::row_of<bf16>(head));
  Rows<float> logits(tokens, vocab);
  REQUIRE_OK(ops::lm_head({.logits = logits.data(),
                           .x = xs.data(),
                           .head = heads.data(),
                           .tokens = tokens,
                           .vocab = vocab,
                           .hidden = hidden},
                          nullptr));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t v = 0; v < vocab; ++v) {
      double want = 0, scale = 0;
      for (std::int64_t k = 0; k < hidden; ++k) {
        const double term = double{x[static_cast<std::size_t>(t * hidden + k)]} *
                            head[static_cast<std::size_t>(v * hidden + k)];
        want += term, scale += std::abs(term);
      }
      CAPTURE(static_cast<int>(rounding), t, v);
      // Terms of one product and its addend, 17, are cut at 2^-23 of the largest at worst, and its result is
      // cut once; a chunk is 8 products (16 where the device takes 8 channels at a time), and the chunks are
      // added with one rounding each. No partial sum exceeds `scale`.
      const double chunk = 16 * 18 * 2 * test::kUnit;
      REQUIRE(std::abs(logits.row(t)[v] - want) <= (chunk + hidden / 128 * test::kUnit) * scale);
    }
}

TEST_CASE("a token's logits do not depend on the batch around it", "[ops][lm_head]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kHopper);
  const bool tensor_cores = GENERATE(true, false);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t tokens = 70, vocab = 20, hidden = 264;
  Rows<bf16> x(tokens, hidden, test::row_of<bf16>(test::normal_bf16(tokens * hidden, 5)));
  const auto head_values = test::normal_bf16(vocab * hidden, 6);
  Rows<bf16> head(vocab, hidden, test::row_of<bf16>(head_values));
  Rows<float> head_f32(vocab, hidden, head_values), all(tokens, vocab);
  ops::LmHeadParams p{.logits = all.data(),
                      .x = x.data(),
                      .head = tensor_cores ? static_cast<const void*>(head.data()) : head_f32.data(),
                      .tokens = tokens,
                      .vocab = vocab,
                      .hidden = hidden,
                      .head_dtype = tensor_cores ? ops::DType::kBf16 : ops::DType::kF32};
  REQUIRE_OK(ops::lm_head(p, nullptr));
  for (const std::int64_t count : {1, 2, 9, 17, 33}) {  // every tile size
    const std::int64_t first = tokens - count;
    Rows<float> some(count, vocab);
    p.logits = some.data(), p.x = x.row(first), p.tokens = count;
    REQUIRE_OK(ops::lm_head(p, nullptr));
    REQUIRE_ROWS(some, test::slice(all.values(), vocab, first, count));
  }
}

TEST_CASE("lm_head projects the rows asked for", "[ops][lm_head]") {
  const bool tensor_cores = GENERATE(true, false);
  const std::int64_t x_rows = 12, more = 2, vocab = 21, hidden = 136;
  // Two do not exist, one comes twice. Behind row 11 are more in memory, but x_rows says 12.
  const std::vector<std::int32_t> rows = {11, 0, 12, 3, -1, 3, 7, 8, 9, 10};
  const auto tokens = static_cast<std::int64_t>(rows.size());
  Rows<bf16> x(x_rows + more, hidden, test::row_of<bf16>(test::normal((x_rows + more) * hidden, 7)));
  const auto head_values = test::normal_bf16(vocab * hidden, 8);
  Rows<bf16> head(vocab, hidden, test::row_of<bf16>(head_values));
  Rows<float> head_f32(vocab, hidden, head_values), all(x_rows, vocab), some(tokens, vocab);
  ops::LmHeadParams p{.logits = all.data(),
                      .x = x.data(),
                      .head = tensor_cores ? static_cast<const void*>(head.data()) : head_f32.data(),
                      .tokens = x_rows,
                      .vocab = vocab,
                      .hidden = hidden,
                      .head_dtype = tensor_cores ? ops::DType::kBf16 : ops::DType::kF32};
  REQUIRE_OK(ops::lm_head(p, nullptr));
  p.logits = some.data(), p.rows = rows.data(), p.tokens = tokens, p.x_rows = x_rows;
  REQUIRE_OK(ops::lm_head(p, nullptr));
  REQUIRE(some.intact() == "");
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t v = 0; v < vocab; ++v) {
      const std::int32_t r = rows[static_cast<std::size_t>(t)];
      CAPTURE(t, v, r);
      if (r >= 0 && r < x_rows)
        REQUIRE(test::identical(some.row(t)[v], all.row(r)[v]));
      else
        REQUIRE(std::isnan(some.row(t)[v]));
    }
}

TEST_CASE("lm_head under every policy of the machine", "[ops][lm_head]") {
  test::under_all_policies([] {
    check<bf16, bf16>(10, 20, 392, {}, {}, Order::kTensorCore);
    check<bf16, float>(3, 5, 40, {}, {}, Order::kCanonical);
  });
}

TEST_CASE("lm_head by vocabulary ranges has the bits of the whole", "[ops][lm_head][parallel]") {
  const std::int64_t vocab = 301, hidden = 264, tokens = GENERATE(1, 9);
  const Rows<bf16> x(tokens, hidden, test::row_of<bf16>(test::normal(tokens * hidden, 1)));
  const Rows<bf16> head(vocab, hidden, test::row_of<bf16>(test::normal(vocab * hidden, 2)));
  const auto run = [&](Rows<float>& logits, std::int64_t first, std::int64_t rows) {
    REQUIRE_OK(ops::lm_head({.logits = logits.data() + first,
                             .x = x.data(),
                             .head = head.row(first),
                             .tokens = tokens,
                             .vocab = rows,
                             .hidden = hidden,
                             .logits_stride = logits.stride()},
                            nullptr));
  };
  Rows<float> whole(tokens, vocab, RowLayout{vocab + 2, 4});
  run(whole, 0, vocab);
  for (const int ranks : {2, 4}) {
    Rows<float> shards(tokens, vocab, RowLayout{vocab + 2, 4});
    for (int r = 0; r < ranks; ++r)
      run(shards, vocab * r / ranks, vocab * (r + 1) / ranks - vocab * r / ranks);
    REQUIRE_ROWS(shards, whole.values());
  }
}
