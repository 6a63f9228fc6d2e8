// Mirrors include/dsv4/moe/expert.hpp.
#include <dsv4/moe/expert.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/rounded.hpp"
#include "tests/support/thread_coop.hpp"

#include <limits>
#include <vector>

namespace dsv4 {
namespace {

using test::stored;
using test::value;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// min(gate, limit) * sigmoid(of it) * clamp(up, +-limit) * weight; limit 0 means none.
double swiglu(double gate, double up, double limit, double weight) {
  if (limit != 0) {
    if (gate > limit) gate = limit;  // above only
    if (up > limit) up = limit;
    if (up < -limit) up = -limit;
  }
  return gate / (1 + std::exp(-gate)) * up * weight;
}

// 2.6 units of the exponential (1.3 ulp) times (1 - sigmoid) <= 1, one each of the sum, the reciprocal and
// three products. Below about -88 the fp32 sigmoid is 0, its error 2^-126 at most, and products of small
// numbers may be subnormal.
double bound(double gate, double up, double limit, double weight) {
  const double scale = std::abs(up * weight);
  return 7.6 * test::kUnit * std::abs(swiglu(gate, up, limit, weight)) +
         std::abs(gate) * 0x1p-126 * (gate < -80 ? scale : 0) + 3 * 0x1p-149 * (1 + scale);
}

template <class T>
void check(const std::vector<T>& gate, const std::vector<T>& up, float limit, float weight) {
  const int n = static_cast<int>(gate.size());
  std::vector<T> h(gate.size() + 1, stored<T>(-77.0));
  moe::swiglu(SerialCoop{}, h.data(), gate.data(), up.data(), n, limit, weight);
  test::Comparison<T> comparison;
  for (int i = 0; i < n; ++i) {
    const double g = value(gate[i]), u = value(up[i]);
    comparison.add(h[i], swiglu(g, u, limit, weight), bound(g, u, limit, weight));
  }
  CAPTURE(n, limit, weight, sizeof(T), comparison.near());
  REQUIRE(comparison.failure() == "");
  REQUIRE(value(h.back()) == -77);

  h.pop_back();  // the documented aliasing
  auto in_gate = gate, in_up = up;
  moe::swiglu(SerialCoop{}, in_gate.data(), in_gate.data(), up.data(), n, limit, weight);
  moe::swiglu(SerialCoop{}, in_up.data(), gate.data(), in_up.data(), n, limit, weight);
  REQUIRE(test::identical(in_gate, h));
  REQUIRE(test::identical(in_up, h));
}

TEMPLATE_TEST_CASE("moe::swiglu computes its equation", "[moe][expert]", float, bf16) {
  const int n = GENERATE(1, 3, 257, 2048, 3072);
  const auto gate = stored<TestType>(test::normal(n, 1, 6.0)), up = stored<TestType>(test::normal(n, 2, 6.0));
  for (const float limit : {10.0f, 1.5f, 0.0f})
    for (const float weight : {1.0f, 0.37f, 2.5f}) check(gate, up, limit, weight);
}

TEMPLATE_TEST_CASE("moe::swiglu clamps before the product: the gate above, up on both sides", "[moe][expert]",
                   float, bf16) {
  // gate, up and the clamped pair that they stand for, at limit 10.
  const std::vector<std::vector<float>> cases = {
      {10, 10, 10, 10},     {10.125f, 1, 10, 1},    {50, 1, 10, 1},       {-10, 1, -10, 1},
      {-20, 1, -20, 1},     {-10.5f, 1, -10.5f, 1}, {1, 10.125f, 1, 10},  {1, -10.125f, 1, -10},
      {1, -50, 1, -10},     {12, -20, 10, -10},     {50, 0.5f, 10, 0.5f}, {-50, -50, -50, -10},
      {-0.0f, 3, -0.0f, 3}, {0, -3, 0, -3}};
  for (const auto& c : cases) {
    const auto gate = stored<TestType>(double{c[0]}), up = stored<TestType>(double{c[1]});
    TestType h;
    moe::swiglu(SerialCoop{}, &h, &gate, &up, 1, 10.0f, 1.0f);
    CAPTURE(c[0], c[1]);
    test::Comparison<TestType> comparison;
    comparison.add(h, swiglu(c[2], c[3], 0, 1), bound(c[2], c[3], 0, 1));
    REQUIRE(comparison.failure() == "");
  }
}

TEST_CASE("moe::swiglu with limit 0 clamps nothing", "[moe][expert]") {
  check<float>({50, -50, 1000, 3, 1e4f, 1e18f}, {50, -50, -1000, 1e4f, 1e4f, -1e18f}, 0.0f, 1.5f);
  const float gate = 2, up = kInf;
  float h;
  moe::swiglu(SerialCoop{}, &h, &gate, &up, 1, 0.0f, 1.0f);
  REQUIRE(h == kInf);
  moe::swiglu(SerialCoop{}, &h, &up, &gate, 1, 0.0f, 1.0f);
  REQUIRE(h == kInf);
}

TEST_CASE("moe::swiglu with weight 0 gives 0", "[moe][expert]") {
  const auto gate = test::normal(64, 7, 6.0), up = test::normal(64, 8, 6.0);
  std::vector<float> h(64);
  moe::swiglu(SerialCoop{}, h.data(), gate.data(), up.data(), 64, 10.0f, 0.0f);
  for (const float x : h) REQUIRE(x == 0.0f);
}

TEST_CASE("moe::swiglu of large gates neither overflows nor turns NaN", "[moe][expert]") {
  std::vector<float> gate, up;
  for (const float g : {20.0f, 80.0f, 87.0f, 88.5f, 89.0f, 100.0f, 1e4f, 3e38f})
    for (const float u : {1.0f, -7.0f}) gate.insert(gate.end(), {g, -g}), up.insert(up.end(), {u, u});
  for (const float limit : {0.0f, 10.0f}) check(gate, up, limit, 1.0f);
}

TEST_CASE("moe::swiglu multiplies by the routing weight before it rounds", "[moe][expert]") {
  // Rounded to bf16 before the weight and again after it, every third result or so would be another.
  const auto gate = stored<bf16>(test::normal(3072, 3, 3.0)), up = stored<bf16>(test::normal(3072, 4, 3.0));
  const float weight = 0.7131f;
  std::vector<bf16> weighted(3072), plain(3072);
  moe::swiglu(SerialCoop{}, weighted.data(), gate.data(), up.data(), 3072, 10.0f, weight);
  moe::swiglu(SerialCoop{}, plain.data(), gate.data(), up.data(), 3072, 10.0f, 1.0f);
  int differ = 0;
  for (int i = 0; i < 3072; ++i)
    differ += !test::identical(weighted[i], stored<bf16>(value(plain[i]) * weight));
  REQUIRE(differ > 300);
  check(gate, up, 10.0f, weight);
}

TEST_CASE("moe::swiglu: NaN stays visible, where it is and nowhere else", "[moe][expert]") {
  for (const float limit : {0.0f, 10.0f}) {
    std::vector<float> gate = {1, kNan, 2, kInf, 1}, up = {1, 1, kNan, 2, -kInf}, h(5);
    moe::swiglu(SerialCoop{}, h.data(), gate.data(), up.data(), 5, limit, 1.0f);
    CAPTURE(limit);
    REQUIRE(test::within(h[0], swiglu(1, 1, 0, 1), bound(1, 1, 0, 1)));
    REQUIRE(std::isnan(h[1]));
    REQUIRE(std::isnan(h[2]));
    REQUIRE(test::within(h[3], swiglu(kInf, 2, limit, 1), bound(10, 2, limit, 1)));
    REQUIRE(test::within(h[4], swiglu(1, -kInf, limit, 1), bound(1, 10, limit, 1)));
    float weighted;
    moe::swiglu(SerialCoop{}, &weighted, gate.data(), up.data(), 1, limit, kNan);
    REQUIRE(std::isnan(weighted));
  }
}

TEST_CASE("moe::swiglu is the same for any number of threads", "[moe][expert]") {
  const int n = GENERATE(1, 4, 257);
  const auto gate = test::normal(n, 5, 6.0), up = test::normal(n, 6, 6.0);
  std::vector<float> alone(n), group = gate;
  moe::swiglu(SerialCoop{}, alone.data(), gate.data(), up.data(), n, 10.0f, 0.3f);
  test::run_group<5>(
      [&](auto coop) { moe::swiglu(coop, group.data(), group.data(), up.data(), n, 10.0f, 0.3f); });
  REQUIRE(test::identical(alone, group));
}

}  // namespace
}  // namespace dsv4
