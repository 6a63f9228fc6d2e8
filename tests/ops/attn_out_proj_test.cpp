// Op attn_out_proj on the SIMT machine against the primitives in turn: bit for bit where the order of
// summation is theirs (f32) or spelled out (tensor cores), else within a derived bound.
#include <dsv4/attention/out_proj.hpp>
#include <dsv4/ops/attn_out_proj.hpp>

#include "tests/ops/linear_case.hpp"
#include "tests/support/shapes.hpp"
#include "tests/support/sparse.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::at;
using test::Factor;
using test::RowLayout;
using test::Rows;
using test::TestMatrix;

namespace {

constexpr int kHeadDim = 512;

// One call: its inputs, and what the primitives make of them up to Wo_a.
template <class T>
struct Case {
  std::int64_t tokens, hidden;
  int heads, groups, rank;
  bool rotate;
  std::vector<std::int64_t> positions;
  std::vector<float> freq;
  std::unique_ptr<Rows<T>> o;
  std::vector<float> rotated;  // [tokens, heads * 512]
  TestMatrix wo_a, wo_b;

  std::int64_t channels() const { return std::int64_t{heads} * kHeadDim; }
  std::int64_t group_channels() const { return channels() / groups; }
  std::int64_t rank_all() const { return std::int64_t{groups} * rank; }

  ops::AttnOutProjParams params() const {
    return {.o = o->data(),
            .wo_a = wo_a.weight(),
            .wo_b = wo_b.weight(),
            .positions = rotate ? positions.data() : nullptr,
            .rope = {.freq = rotate ? freq.data() : nullptr},
            .tokens = tokens,
            .hidden = hidden,
            .heads = heads,
            .head_dim = kHeadDim,
            .rope_dim = 64,
            .groups = groups,
            .rank = rank,
            .rotate_back = rotate,
            .position_type = ops::PositionType::kInt64,
            .dtype = test::kDType<T>,
            .o_stride = o->stride()};
  }
};

template <class T>
Case<T> make(std::int64_t tokens, std::int64_t hidden, int heads, int groups, int rank, bool rotate,
             WeightFormat a, WeightFormat b) {
  Case<T> c{tokens, hidden, heads, groups, rank, rotate, {}, {}, {}, {}, {}, {}};
  const auto values = test::normal_bf16(tokens * c.channels(), 31);
  c.o = std::make_unique<Rows<T>>(tokens, c.channels(), test::row_of<T>(values),
                                  RowLayout{c.channels() + 8, 16});
  for (int i = 0; i < 32; ++i) c.freq.push_back(1.0f / static_cast<float>(1 + i * i));
  for (std::int64_t t = 0; t < tokens; ++t) {
    c.positions.push_back(7 * t + 1000);
    math::SinCos table[32];
    rope::angles(SerialCoop{}, table, c.freq.data(), c.positions.back(), 32);
    for (int h = 0; h < heads; ++h) {
      std::vector<T> head(c.o->row(t) + h * kHeadDim, c.o->row(t) + (h + 1) * kHeadDim);
      if (rotate) attention::rotate_back(SerialCoop{}, head.data(), table, kHeadDim, 64);
      for (const T v : head) c.rotated.push_back(test::value(v));
    }
  }
  c.wo_a = test::random_matrix(a, c.rank_all(), c.group_channels(), 32, 1);
  c.wo_b = test::random_matrix(b, hidden, c.rank_all(), 33, 1);
  return c;
}

template <class T>
std::vector<T> run(const Case<T>& c) {
  ops::AttnOutProjParams p = c.params();
  Rows<T> y(c.tokens, c.hidden, RowLayout{c.hidden + 3, 16});
  test::TestWorkspace w(ops::attn_out_proj_workspace_bytes(p));
  p.y = y.data(), p.y_stride = y.stride();
  p.workspace = w.data(), p.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::attn_out_proj(p, nullptr));
  REQUIRE(w.intact() == "");
  REQUIRE(y.intact() == "");
  return y.values();
}

// Channels of one group of all tokens.
template <class T>
Factor group_factor(const Case<T>& c, int group) {
  Factor f;
  for (std::int64_t t = 0; t < c.tokens; ++t)
    for (std::int64_t k = 0; k < c.group_channels(); ++k)
      f.values.push_back(c.rotated[at(t * c.channels() + group * c.group_channels() + k)]);
  return f;
}

// z in the documented order of tensor cores.
std::vector<float> ordered_z(const Case<bf16>& c) {
  std::vector<float> z(at(c.tokens * c.rank_all()));
  for (int g = 0; g < c.groups; ++g) {
    const auto all =
        test::ordered(group_factor(c, g), c.wo_a, c.tokens);  // the other groups' rows are ignored
    for (std::int64_t t = 0; t < c.tokens; ++t)
      for (std::int64_t r = g * c.rank; r < (g + 1) * c.rank; ++r)
        z[at(t * c.rank_all() + r)] = round_to<bf16>(all[at(t * c.rank_all() + r)]);
  }
  return z;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
#define REQUIRE_SAME(got, want) REQUIRE(same_bits(got, want))

}  // namespace

TEST_CASE("attn_out_proj is the inverse rotation and two products in their order", "[ops][attn_out_proj]") {
  const bool rotate = GENERATE(false, true);
  const auto a = GENERATE(WeightFormat::kBf16, WeightFormat::kFp8);
  const auto b = GENERATE(WeightFormat::kBf16, WeightFormat::kFp8);
  const std::int64_t tokens = GENERATE(0, 1, 3, 9, 33);
  if (test::reduced() && (tokens == 33 || (tokens == 9 && !rotate))) return;
  const int rank = GENERATE(64, 48);  // several groups in one tile of scales, and across two
  const auto c = make<bf16>(tokens, 40, 4, 4, rank, rotate, a, b);
  CAPTURE(rotate, static_cast<int>(a), static_cast<int>(b), tokens, rank);
  const std::vector<float> z = ordered_z(c);
  const Factor f = b == WeightFormat::kFp8 ? test::quantised(z, c.rank_all()) : Factor{z, {}};
  REQUIRE_SAME(run(c), test::rounded_to<bf16>(test::ordered(f, c.wo_b, tokens)));
}

TEST_CASE("attn_out_proj in f32 is the primitives, bit for bit", "[ops][attn_out_proj]") {
  const bool rotate = GENERATE(false, true);
  const auto format = GENERATE(WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kFp8);
  const std::int64_t tokens = GENERATE(0, 1, 5), hidden = 37;
  const auto c = make<float>(tokens, hidden, 4, 2, 16, rotate, format, format);
  CAPTURE(rotate, static_cast<int>(format), tokens);
  // The weights in fp32: what the primitives decode.
  const auto plain = [](const TestMatrix& m) {
    std::vector<float> v;
    for (std::int64_t r = 0; r < m.n; ++r)
      for (std::int64_t k = 0; k < m.k; ++k) v.push_back(static_cast<float>(m.value(r, k)));
    return v;
  };
  const std::vector<float> a = plain(c.wo_a), b = plain(c.wo_b);
  std::vector<float> z(at(tokens * c.rank_all())), y(at(tokens * hidden));
  std::vector<float> scratch(at(linear::kDecodeRows * std::max(c.group_channels(), c.rank_all())));
  for (int g = 0; g < c.groups; ++g)
    attention::grouped_linear(SerialCoop{}, z.data(), c.rank_all(), {c.rotated.data(), c.channels()},
                              static_cast<int>(tokens),
                              {linear::WeightType::kF32, a.data(), nullptr, c.rank_all(), c.group_channels()},
                              c.rank, g * c.rank, (g + 1) * c.rank, scratch.data());
  linear::tile(SerialCoop{}, y.data(), hidden, linear::RowsF32{z.data(), c.rank_all()},
               static_cast<int>(tokens),
               linear::WeightView{linear::WeightType::kF32, b.data(), nullptr, hidden, c.rank_all()}, 0,
               hidden, scratch.data());
  REQUIRE_SAME(run(c), y);
}

TEST_CASE("attn_out_proj lies within its bound of the exact chain", "[ops][attn_out_proj]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const std::int64_t tokens = 2, hidden = 24;
  const auto c = make<bf16>(tokens, hidden, 8, 2, 128, true, WeightFormat::kFp8, WeightFormat::kBf16);
  const auto y = run(c);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<double> z, z_error;
    for (std::int64_t r = 0; r < c.rank_all(); ++r) {
      const test::Exact e = test::exact_product(group_factor(c, static_cast<int>(r / c.rank)), c.wo_a, t, r);
      const double sum = test::product_bound(c.group_channels()) * e.magnitude;
      z.push_back(e.value);
      z_error.push_back(sum + (std::abs(e.value) + sum) * test::kUnitBf16);  // summed, then rounded
    }
    for (std::int64_t d = 0; d < hidden; ++d) {
      double want = 0, magnitude = 0, carried = 0;
      for (std::int64_t r = 0; r < c.rank_all(); ++r) {
        const double w = c.wo_b.value(d, r);
        want += z[at(r)] * w;
        carried += z_error[at(r)] * std::abs(w);
        magnitude += (std::abs(z[at(r)]) + z_error[at(r)]) * std::abs(w);
      }
      const double sum = carried + test::product_bound(c.rank_all()) * magnitude;
      CAPTURE(static_cast<int>(rounding), t, d);
      REQUIRE(test::within(test::value(y[at(t * hidden + d)]), want,
                           sum + (std::abs(want) + sum) * test::kUnitBf16));
    }
  }
}

TEST_CASE("a token's way out of attention does not depend on the batch", "[ops][attn_out_proj]") {
  const auto rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  auto c = make<bf16>(40, 20, 4, 2, 64, true, WeightFormat::kFp8, WeightFormat::kFp8);
  const auto all = run(c);
  for (const std::int64_t count : {1, 2, 9, 33}) {
    const std::int64_t first = 40 - count;
    ops::AttnOutProjParams p = c.params();
    Rows<bf16> y(count, c.hidden);
    p.y = y.data(), p.o = c.o->row(first), p.positions = c.positions.data() + first, p.tokens = count;
    test::TestWorkspace w(ops::attn_out_proj_workspace_bytes(p));
    p.workspace = w.data(), p.workspace_bytes = w.bytes();
    REQUIRE_OK(ops::attn_out_proj(p, nullptr));
    CAPTURE(static_cast<int>(rounding), count);
    REQUIRE_ROWS(y, test::slice(all, c.hidden, first, count));
  }
}

TEST_CASE("attn_out_proj at the widths of the models", "[ops][attn_out_proj]") {
  if (test::reduced()) return;
  // 64 heads in 8 groups or 128 in 16, of 4096 channels each; a slice of the rank. As many tokens as are
  // quantised in shared memory, as a stream takes them in, and as a tile does.
  const int groups = GENERATE(8, 16);
  const std::int64_t tokens = GENERATE(1, 9, 33);
  if (tokens > 9 && groups > 8) return;
  const auto c = make<bf16>(tokens, 48, 8 * groups, groups, 32, true, WeightFormat::kFp8, WeightFormat::kFp8);
  CAPTURE(groups, tokens);
  REQUIRE_SAME(run(c), test::rounded_to<bf16>(
                           test::ordered(test::quantised(ordered_z(c), c.rank_all()), c.wo_b, c.tokens)));
}

TEST_CASE("attn_out_proj has the same bits in 20 runs and by any schedule", "[ops][attn_out_proj]") {
  const std::int64_t tokens = GENERATE(3, 12, 40);
  const auto c = make<bf16>(tokens, 40, 4, 2, 64, true, WeightFormat::kFp8, WeightFormat::kFp8);
  const auto want = run(c);
  for (std::uint64_t seed = 0; seed < (test::reduced() ? 3u : 20u); ++seed) {
    simt::Options o = simt::options();
    o.seed = seed;
    o.async = seed % 4 == 0 ? simt::Async::kEager : simt::Async::kRandom;
    o.schedule = seed % 3 == 0   ? simt::Schedule::kFifo
                 : seed % 3 == 1 ? simt::Schedule::kLifo
                                 : simt::Schedule::kRandom;
    const simt::ScopedOptions scope(o);
    CAPTURE(tokens, seed);
    REQUIRE_SAME(run(c), want);
  }
}

TEST_CASE("attn_out_proj finds o and y far beyond 2^31 elements", "[ops][attn_out_proj]") {
  const auto c = make<bf16>(2, 40, 4, 2, 64, true, WeightFormat::kFp8, WeightFormat::kFp8);
  const auto want = run(c);
  const std::int64_t stride = (std::int64_t{1} << 31) + 8;
  const test::Sparse o(static_cast<std::size_t>(2 * stride) * sizeof(bf16)),
      y(static_cast<std::size_t>(2 * stride) * sizeof(bf16));
  auto *far_o = static_cast<bf16*>(o.data()), *far_y = static_cast<bf16*>(y.data());
  for (std::int64_t t = 0; t < 2; ++t) std::copy_n(c.o->row(t), c.channels(), far_o + t * stride);
  ops::AttnOutProjParams p = c.params();
  test::TestWorkspace w(ops::attn_out_proj_workspace_bytes(p));
  p.o = far_o, p.o_stride = stride, p.y = far_y, p.y_stride = stride;
  p.workspace = w.data(), p.workspace_bytes = w.bytes();
  REQUIRE_OK(ops::attn_out_proj(p, nullptr));
  for (std::int64_t t = 0; t < 2; ++t)
    REQUIRE_SAME(std::vector<bf16>(far_y + t * stride, far_y + t * stride + c.hidden),
                 std::vector<bf16>(want.begin() + t * c.hidden, want.begin() + (t + 1) * c.hidden));
}

TEST_CASE("attn_out_proj refuses what it cannot do", "[ops][attn_out_proj]") {
  const auto c = make<bf16>(2, 40, 4, 2, 64, true, WeightFormat::kFp8, WeightFormat::kFp8);
  ops::AttnOutProjParams good = c.params();
  Rows<bf16> y(c.tokens, c.hidden);
  good.y = y.data();
  test::TestWorkspace w(ops::attn_out_proj_workspace_bytes(good));
  good.workspace = w.data(), good.workspace_bytes = w.bytes();
  const auto refused = [&](auto change, Code code, std::int64_t value, std::int64_t limit, const char* text) {
    ops::AttnOutProjParams p = good;
    change(p);
    REQUIRE_REFUSED(ops::attn_out_proj(p, nullptr), code, value, limit, text);
  };
  using P = ops::AttnOutProjParams;
  const Code bad = Code::kInvalidArgument, missing = Code::kUnsupported;
  refused([](P& p) { p.tokens = -1; }, bad, -1, INT32_MAX, "attn_out_proj: tokens");
  refused([](P& p) { p.hidden = 0; }, bad, 0, 1 << 20, "hidden");
  refused([](P& p) { p.groups = 17; }, bad, 17, 16, "groups");
  refused([](P& p) { p.heads = 129; }, bad, 129, 128, "heads");
  refused([](P& p) { p.heads = 5; }, bad, 5, 2, "heads must be a multiple of groups");
  refused([](P& p) { p.head_dim = 256; }, missing, 256, 512, "head_dim");
  refused([](P& p) { p.rank = 24; }, missing, 24, 16, "rank must be a multiple of 16");
  refused([](P& p) { p.rope_dim = 32; }, missing, 32, 64, "rope_dim");
  refused([](P& p) { p.wo_a.format = WeightFormat::kF32; }, missing, 2, 0, "wo_a.format");
  refused([](P& p) { p.o_stride = 100; }, bad, 100, 2048, "o_stride");
  refused([](P& p) { p.y = nullptr; }, bad, 0, 0, "y must not be null");
  refused([](P& p) { p.positions = nullptr; }, bad, 0, 0, "positions");
  refused([](P& p) { p.wo_b.scales = nullptr; }, bad, 0, 0, "wo_b.scales");
  refused([&](P& p) { p.workspace_bytes -= 1; }, Code::kWorkspaceTooSmall,
          static_cast<std::int64_t>(w.bytes()) - 1, w.bytes(), "workspace_bytes");
  good.tokens = 0, good.y = nullptr, good.o = nullptr, good.workspace_bytes = 0;
  REQUIRE_OK(ops::attn_out_proj(good, nullptr));
}
