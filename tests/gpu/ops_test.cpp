// Every op on the GPU against the same op on the SIMT machine: bit for bit where the order of summation is
// fixed; elsewhere (products on tensor cores, which add in an order of their own) within the bound stated
// here.
#include "tests/gpu/compare.hpp"
#include "tests/support/random.hpp"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace {

using namespace dsv4;
using namespace dsv4::gpu;

constexpr std::int64_t kStreams = 4;

template <class T>
constexpr ops::DType kDType = std::is_same_v<T, float> ? ops::DType::kF32 : ops::DType::kBf16;

template <class T>
std::vector<T> normal(std::int64_t n, std::uint64_t seed, double sigma = 1.0) {
  std::vector<T> v(static_cast<std::size_t>(n));
  test::Random random(seed);
  for (T& x : v) x = from_float<T>(static_cast<float>(random.normal() * sigma));
  return v;
}

template <class T>
std::string title(const char* op, std::int64_t tokens, std::int64_t hidden) {
  return std::string(op) + (std::is_same_v<T, float> ? " f32" : " bf16") + " T=" + std::to_string(tokens) +
         " D=" + std::to_string(hidden);
}

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
  std::vector<float> freq;
  for (std::int64_t i = 0; i < rope_dim / 2; ++i)
    freq.push_back(static_cast<float>(std::pow(10000.0, -2.0 * static_cast<double>(i) / 64.0)));
  tally.compare(title<T>("rope", tokens, heads * head_dim), [&](const OpTable& f, Operands& m) {
    return f.rope({.out = m.out<T>("out", tokens * heads * head_dim),
                   .x = m.in(x),
                   .positions = m.in(positions),
                   .freq = m.in(freq),
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
  // bf16: fp32 sums of `hidden` products of size 1, 128 of them in an order (and with truncation) of the
  // tensor core's own: 128 additions of values up to about 6 * sqrt(128), each off by 2^-23 of that, for
  // every 128.
  const double bound =
      static_cast<double>(hidden) * 6 * std::sqrt(std::fmax(128.0, static_cast<double>(hidden))) * 0x1p-23;
  const Agreement agreement =
      std::is_same_v<T, float> ? kSameBits : Agreement{.absolute = bound, .relative = 0, .share = 1};
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

/// Operands of the ops of mHC, and how well their results agree.
template <class T>
struct Mhc {
  static constexpr bool kExact = std::is_same_v<T, float>;
  std::int64_t tokens, hidden;
  std::vector<T> streams, y;
  std::vector<float> post, comb, fn, scale = {1.1f, 0.9f, 1.05f}, base, norm_weight;
  // A mix is within 1e-6 of |fn row| * |streams row| / rms = sqrt(4 D) in either flavour. Sigmoid, softmax
  // and the Sinkhorn steps do not magnify that; x sums four streams of size up to 6 with it, and may then
  // round to the neighbouring bf16 in few elements; the norm rounds once more.
  double mix_bound() const { return kExact ? 0 : 2e-6 * std::sqrt(4.0 * static_cast<double>(hidden)); }
  Agreement mixes() const { return {mix_bound(), 0, kExact ? 0.0 : 1.0}; }
  Agreement coefficients() const { return {4 * mix_bound(), 0, kExact ? 0.0 : 1.0}; }
  Agreement rows() const { return {24 * mix_bound(), kExact ? 0 : 0x1p-7, kExact ? 0 : 0.05}; }
  Agreement normed() const { return {48 * mix_bound(), kExact ? 0 : 0x1p-6, kExact ? 0 : 0.05}; }

  Mhc(std::int64_t t, std::int64_t d)
      : tokens(t),
        hidden(d),
        streams(normal<T>(t * kStreams * d, 11)),
        y(normal<T>(t * d, 12)),
        post(test::uniform(t * kStreams, 13, 0.0, 2.0)),
        comb(test::uniform(t * kStreams * kStreams, 14)),
        fn(test::normal(24 * kStreams * d, 15, 1.0 / std::sqrt(static_cast<double>(kStreams * d)))),
        base(test::normal(24, 16, 0.3)),
        norm_weight(test::normal(d, 17)) {}

  ops::MhcPostParams post_params(Operands& m, T* out) const {
    return {.out = out,
            .y = m.in(y),
            .streams = m.in(streams),
            .post = m.in(post),
            .comb = m.in(comb),
            .tokens = tokens,
            .hidden = hidden,
            .stream_count = kStreams,
            .dtype = kDType<T>};
  }
  ops::MhcPreParams pre_params(Operands& m, const T* from) const {
    ops::MhcPreParams p = {.x = m.out<T>("x", tokens * hidden, rows()),
                           .normed = m.out<T>("normed", tokens * hidden, normed()),
                           .post = m.out<float>("post", tokens * kStreams, coefficients()),
                           .comb = m.out<float>("comb", tokens * kStreams * kStreams, coefficients()),
                           .pre = m.out<float>("pre", tokens * kStreams, coefficients()),
                           .mixes = m.out<float>("mixes", tokens * 24, mixes()),
                           .streams = from,
                           .fn = m.in(fn),
                           .scale = m.in(scale),
                           .base = m.in(base),
                           .norm_weight = m.in(norm_weight),
                           .tokens = tokens,
                           .hidden = hidden,
                           .stream_count = kStreams,
                           .sinkhorn_iterations = 20,
                           .mix_eps = 1e-6f,
                           .hc_eps = 1e-6f,
                           .norm_eps = 1e-6f,
                           .dtype = kDType<T>};
    if (kExact) {
      p.quantised.codes = m.out<std::uint8_t>("codes", tokens * hidden);
      p.quantised.scales = m.out<std::uint8_t>("scales", tokens * ((hidden + 127) / 128));
    }
    return p;
  }
};

/// Gives p the workspace it asks for.
template <class P>
void add_workspace(P& p, std::size_t bytes, Operands& m) {
  p.workspace = m.scratch<unsigned char>(static_cast<std::int64_t>(bytes));
  p.workspace_bytes = bytes;
}

template <class T>
void compare_mhc(Tally& tally, std::int64_t tokens, std::int64_t hidden) {
  const Mhc<T> in(tokens, hidden);
  const std::int64_t n = tokens * kStreams * hidden;
  tally.compare(title<T>("mhc_post", tokens, hidden), [&](const OpTable& f, Operands& m) {
    return f.mhc_post(in.post_params(m, m.out<T>("out", n)), nullptr);
  });
  tally.compare(title<T>("mhc_pre", tokens, hidden), [&](const OpTable& f, Operands& m) {
    ops::MhcPreParams p = in.pre_params(m, m.in(in.streams));
    add_workspace(p, f.mhc_pre_workspace_bytes(p), m);
    return f.mhc_pre(p, nullptr);
  });
  tally.compare(title<T>("mhc_post_pre", tokens, hidden), [&](const OpTable& f, Operands& m) {
    T* mixed = m.out<T>("out", n);
    ops::MhcPostPreParams p = {.post = in.post_params(m, mixed), .pre = in.pre_params(m, mixed)};
    add_workspace(p.pre, f.mhc_post_pre_workspace_bytes(p), m);
    return f.mhc_post_pre(p, nullptr);
  });
  tally.compare(title<T>("mhc_head", tokens, hidden), [&](const OpTable& f, Operands& m) {
    ops::MhcHeadParams p = {.x = m.out<T>("x", tokens * hidden, in.rows()),
                            .normed = m.out<T>("normed", tokens * hidden, in.normed()),
                            .pre = m.out<float>("pre", tokens * kStreams, in.coefficients()),
                            .mixes = m.out<float>("mixes", tokens * kStreams, in.mixes()),
                            .streams = m.in(in.streams),
                            .fn = m.in(in.fn),
                            .scale = m.in(in.scale),
                            .base = m.in(in.base),
                            .norm_weight = m.in(in.norm_weight),
                            .tokens = tokens,
                            .hidden = hidden,
                            .stream_count = kStreams,
                            .mix_eps = 1e-6f,
                            .hc_eps = 1e-6f,
                            .norm_eps = 1e-6f,
                            .dtype = kDType<T>};
    add_workspace(p, f.mhc_head_workspace_bytes(p), m);
    return f.mhc_head(p, nullptr);
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
  compare_mhc<T>(tally, tokens, hidden);
}

struct Shape {
  std::int64_t tokens, hidden;
};

}  // namespace

int main(int argc, char** argv) {
  // --small: what fits under compute-sanitizer.
  const bool small = argc == 2 && std::string_view(argv[1]) == "--small";
  if (argc > 1 && !small) {
    std::fprintf(stderr, "usage: %s [--small]\n", argv[0]);
    return 2;
  }
  const std::string missing = why_no_device();
  if (!missing.empty()) {
    std::printf("skipped: %s\n", missing.c_str());
    return kSkipped;
  }
  try {
    Tally tally;
    std::vector<Shape> shapes = {{1, 128}, {65, 256}};
    if (!small) shapes = {{1, 128}, {2, 256}, {63, 128}, {64, 128}, {65, 4096}, {257, 256}, {3, 7168}};
    for (const Shape& s : shapes) {
      compare_all<float>(tally, s.tokens, s.hidden);
      compare_all<bf16>(tally, s.tokens, s.hidden);
    }
    std::printf("ops on the GPU against the SIMT machine: %d passed, %d failed\n", tally.passed(),
                tally.failed());
    return tally.failed() == 0 ? 0 : 1;
  } catch (const std::exception& e) {
    std::printf("FAILED  %s\n", e.what());
    return 1;
  }
}
