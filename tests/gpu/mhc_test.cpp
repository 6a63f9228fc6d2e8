// mHC: the mixes are products on tensor cores, which add in an order of their own; the bounds stand here.
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

constexpr std::int64_t kStreams = 4;

/// Operands of the ops of mHC, and how well their results agree.
template <class T>
struct Mhc {
  static constexpr bool kExact = kF32<T>;
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

template <class T>
void compare_one(Tally& tally, std::int64_t tokens, std::int64_t hidden) {
  const Mhc<T> in(tokens, hidden);
  const std::int64_t n = tokens * kStreams * hidden;
  tally.compare(title<T>("mhc_post", tokens, hidden), [&](const OpTable& f, Operands& m) {
    return f.mhc_post(in.post_params(m, m.out<T>("out", n)), nullptr);
  });
  tally.compare(title<T>("mhc_pre", tokens, hidden), [&](const OpTable& f, Operands& m) {
    ops::MhcPreParams p = in.pre_params(m, m.in(in.streams));
    m.workspace(p, f.mhc_pre_workspace_bytes(p));
    return f.mhc_pre(p, nullptr);
  });
  tally.compare(title<T>("mhc_post_pre", tokens, hidden), [&](const OpTable& f, Operands& m) {
    T* mixed = m.out<T>("out", n);
    ops::MhcPostPreParams p = {.post = in.post_params(m, mixed), .pre = in.pre_params(m, mixed)};
    m.workspace(p.pre, f.mhc_post_pre_workspace_bytes(p));
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
    m.workspace(p, f.mhc_head_workspace_bytes(p));
    return f.mhc_head(p, nullptr);
  });
}

}  // namespace

void compare_mhc(Tally& tally, bool small) {
  for (const Shape& s : row_shapes(small)) {
    compare_one<float>(tally, s.tokens, s.hidden);
    compare_one<bf16>(tally, s.tokens, s.hidden);
  }
}

}  // namespace dsv4::gpu
