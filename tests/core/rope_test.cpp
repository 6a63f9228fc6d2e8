// Mirrors include/dsv4/core/rope.hpp. The oracle is the formula in double, and the table that the published
// code computes (tests/data/rope.safetensors).
#include <dsv4/core/rope.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"
#include "tests/support/typed.hpp"
#include "tests/support/ulp.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

using namespace dsv4;
using rope::Direction;

namespace {

constexpr int kPairs = 32;
constexpr rope::Params kWindow{10000, 1, 0, 0, 0};
constexpr rope::Params kCompressed{160000, 16, 65536, 32, 1};

// Pairs whose frequency YaRN ramps down, from the formula in double.
struct Ramp {
  double low, high;
};
Ramp oracle_ramp(const rope::Params& p) {
  const auto pair = [&](double turns) {
    const double wavelength = static_cast<double>(p.original_length) / turns;  // positions a turn
    return 64 * std::log(wavelength / (2 * std::acos(-1.0))) / (2 * std::log(p.theta));
  };
  Ramp ramp{std::floor(pair(p.beta_fast)), std::ceil(pair(p.beta_slow))};
  if (ramp.low < 0) ramp.low = 0;
  if (ramp.high > 63) ramp.high = 63;
  if (ramp.low == ramp.high) ramp.high += 0.001;
  return ramp;
}

double oracle_frequency(const rope::Params& p, int i) {
  const double plain = std::exp(-2.0 * i / 64 * std::log(p.theta));
  if (p.factor == 1) return plain;
  const Ramp ramp = oracle_ramp(p);
  const double slow = std::fmin(std::fmax((i - ramp.low) / (ramp.high - ramp.low), 0.0), 1.0);
  return plain / p.factor * slow + plain * (1 - slow);
}

// The tensors of a safetensors file: 8 bytes of header length, JSON, data.
struct Table {
  nlohmann::json header;
  std::string data;

  Table() {
    std::ifstream file(DSV4_TEST_DATA_DIR "/rope.safetensors", std::ios::binary);
    const std::string all{std::istreambuf_iterator<char>(file), {}};
    REQUIRE(all.size() > 8);
    std::uint64_t length;
    std::memcpy(&length, all.data(), 8);
    REQUIRE(length <= all.size() - 8);
    header = nlohmann::json::parse(all.substr(8, length));
    data = all.substr(8 + length);
  }
  template <class T>
  std::vector<T> tensor(const std::string& name) const {
    const auto offsets = header.at(name).at("data_offsets").get<std::vector<std::size_t>>();
    REQUIRE(offsets.at(1) <= data.size());
    std::vector<T> v((offsets.at(1) - offsets.at(0)) / sizeof(T));
    std::memcpy(v.data(), data.data() + offsets.at(0), v.size() * sizeof(T));
    return v;
  }
};

}  // namespace

TEST_CASE("rope frequencies follow the formula", "[core][rope]") {
  for (const rope::Params& p :
       {kWindow, kCompressed, rope::Params{10000, 4, 4096, 32, 1}, rope::Params{500000, 40, 8192, 16, 2},
        rope::Params{10000, 16, 65536, 32, 1},                   // the ramp ends at pair 33
        rope::Params{10000, 16, std::int64_t{1} << 31, 1e6, 1},  // its end clamps to 63
        rope::Params{160000, 1, 65536, 32, 1}}) {
    const auto freq = rope::frequencies<64>(p);
    REQUIRE(freq.size() == kPairs);
    for (int i = 0; i < kPairs; ++i) {
      const double want = oracle_frequency(p, i), plain = std::pow(p.theta, -i / 32.0);
      // pow rounded to fp32, the reciprocal; ramped: the ramp, its complement, the quotient, two products and
      // the sum, each relative to the unscaled frequency.
      const double bound = (p.factor == 1 ? 2 : 8) * 1.001 * test::kUnit * plain;
      CAPTURE(p.theta, p.factor, i);
      REQUIRE(test::within(freq[static_cast<std::size_t>(i)], want, bound));
    }
    REQUIRE(freq[0] == 1.0f);
  }
}

TEST_CASE("YaRN leaves the fast pairs and divides the slow ones", "[core][rope]") {
  const auto plain = rope::frequencies<64>({160000, 1, 65536, 32, 1});
  const auto yarn = rope::frequencies<64>(kCompressed);
  for (std::size_t i = 0; i < kPairs; ++i) {
    CAPTURE(i);
    if (i <= 15)  // floor of pair 15.45 turns 32 times in 65536 positions
      REQUIRE(yarn[i] == plain[i]);
    else if (i >= 25)  // ceiling of 24.7: turns once
      REQUIRE(yarn[i] == plain[i] / 16);
    else
      REQUIRE((yarn[i] < plain[i] && yarn[i] > plain[i] / 16));
  }
}

TEST_CASE("YaRN with a ramp of no width steps from 1 to 1/factor", "[core][rope]") {
  const rope::Params p{160000, 16, 6, 32, 1};  // both ends clamp to pair 0
  const auto plain = rope::frequencies<64>({160000, 1, 6, 32, 1});
  const auto yarn = rope::frequencies<64>(p);
  REQUIRE(yarn[0] == plain[0]);
  for (std::size_t i = 1; i < kPairs; ++i) {
    CAPTURE(i);
    REQUIRE(yarn[i] == plain[i] / 16);
  }
}

TEST_CASE("rope angles match the published table", "[core][rope]") {
  const Table table;
  const auto positions = table.tensor<std::int64_t>("positions");
  REQUIRE(positions.size() == 12);
  REQUIRE(positions.back() == (1 << 20) - 1);
  for (const std::string kind : {"window", "compressed"}) {
    const auto cos = table.tensor<float>(kind + ".cos"), sin = table.tensor<float>(kind + ".sin");
    REQUIRE((cos.size() == 12 * kPairs && sin.size() == 12 * kPairs));
    const auto freq = rope::frequencies<64>(kind == "window" ? kWindow : kCompressed);
    for (std::size_t t = 0; t < positions.size(); ++t) {
      math::SinCos got[kPairs];
      rope::angles(SerialCoop{}, got, freq.data(), positions[t], kPairs);
      for (std::size_t i = 0; i < kPairs; ++i) {
        CAPTURE(kind, positions[t], i);
        REQUIRE(test::within(got[i].cos, cos[t * kPairs + i], 1e-6));
        REQUIRE(test::within(got[i].sin, sin[t * kPairs + i], 1e-6));
      }
    }
  }
}

TEST_CASE("rope angles are cos and sin of the fp32 product", "[core][rope]") {
  for (const rope::Params& p : {kWindow, kCompressed}) {
    const auto freq = rope::frequencies<64>(p);
    test::Random random(1);
    std::vector<std::int64_t> positions{
        0, 1, 2, 3, 4, 127, 128, 129, 65535, 65536, (1 << 20) - 1, 1 << 20, (1 << 22) - 1};
    for (int i = 0; i < 300; ++i) positions.push_back(random.integer(0, (1 << 20) - 1));
    for (const std::int64_t t : positions) {
      math::SinCos got[kPairs + 1] = {};
      got[kPairs] = {7, 7};
      rope::angles(SerialCoop{}, got, freq.data(), t, kPairs);
      for (std::size_t i = 0; i < kPairs; ++i) {
        const float angle = static_cast<float>(t) * freq[i];
        CAPTURE(p.theta, t, i);
        REQUIRE(test::within(got[i].cos, std::cos(double(angle)), 1e-7));  // math.hpp: absolute error
        REQUIRE(test::within(got[i].sin, std::sin(double(angle)), 1e-7));
      }
      REQUIRE(got[kPairs].sin == 7);
    }
  }
}

TEMPLATE_TEST_CASE("rotate turns interleaved pairs, forward and back", "[core][rope]", float, bf16) {
  const int pairs = GENERATE(1, 3, 31, 32);
  const std::int64_t position = GENERATE(1, 127, 65536, (1 << 20) - 1);
  const auto freq = rope::frequencies<64>(kCompressed);
  const auto x = test::normal_bf16(2 * pairs, 2);
  math::SinCos table[kPairs];
  rope::angles(SerialCoop{}, table, freq.data(), position, pairs);
  const auto in = test::row_of<TestType>(x);
  for (const Direction direction : {Direction::kForward, Direction::kInverse}) {
    auto out = in;
    out.push_back(in[0]);  // nothing beyond the pairs is written
    rope::rotate(SerialCoop{}, out.data(), table, pairs, direction);
    for (int i = 0; i < pairs; ++i) {
      const auto u = static_cast<std::size_t>(i);
      const double angle =
          double(static_cast<float>(position) * freq[u]) * (direction == Direction::kForward ? 1 : -1);
      const double a = x[2 * u], b = x[2 * u + 1];
      const double want[2] = {a * std::cos(angle) - b * std::sin(angle),
                              a * std::sin(angle) + b * std::cos(angle)};
      for (std::size_t j = 0; j < 2; ++j) {
        // cos and sin to 1e-7; the product b*s rounds, the fma rounds (once more, to T, for bf16).
        const double fp32 = (std::abs(a) + std::abs(b)) * (1e-7 + 2 * test::kUnit);
        const double bound =
            fp32 + (std::is_same_v<TestType, float> ? 0 : test::kUnitBf16 * (std::abs(want[j]) + fp32));
        CAPTURE(pairs, position, i, j);
        REQUIRE(test::within(test::value(out[2 * u + j]), want[j], bound));
      }
    }
    REQUIRE(test::identical(test::value(out.back()), test::value(in[0])));
  }
}

TEST_CASE("rotate keeps lengths: no attention-scale factor", "[core][rope]") {
  for (const rope::Params& p : {kWindow, kCompressed}) {
    const auto freq = rope::frequencies<64>(p);
    math::SinCos table[kPairs];
    rope::angles(SerialCoop{}, table, freq.data(), 70001, kPairs);
    const auto in = test::normal(64, 3);
    auto x = in;
    rope::rotate(SerialCoop{}, x.data(), table, kPairs, Direction::kForward);
    for (std::size_t i = 0; i < 64; i += 2) {
      const double before = std::hypot(in[i], in[i + 1]), after = std::hypot(x[i], x[i + 1]);
      CAPTURE(p.theta, i);
      REQUIRE(test::within(after, before, before * 4e-7));  // sqrt(2) * (1e-7 + 2 units), per length
    }
  }
}

TEST_CASE("the inverse rotation undoes the forward one", "[core][rope]") {
  const auto freq = rope::frequencies<64>(kCompressed);
  math::SinCos table[kPairs];
  rope::angles(SerialCoop{}, table, freq.data(), 999983, kPairs);
  const auto in = test::normal(64, 4);
  auto x = in;
  rope::rotate(SerialCoop{}, x.data(), table, kPairs, Direction::kForward);
  double moved = 0;
  for (std::size_t i = 0; i < 64; ++i) moved += std::abs(x[i] - in[i]);
  REQUIRE(moved > 10);  // it did turn
  rope::rotate(SerialCoop{}, x.data(), table, kPairs, Direction::kInverse);
  for (std::size_t i = 0; i < 64; i += 2) {
    const double bound =
        2 * (std::abs(in[i]) + std::abs(in[i + 1])) * std::sqrt(2) * (1e-7 + 2 * test::kUnit);
    CAPTURE(i);
    REQUIRE(test::within(x[i], in[i], bound));
    REQUIRE(test::within(x[i + 1], in[i + 1], bound));
  }
}

TEST_CASE("position 0 rotates nothing, not a bit", "[core][rope]") {
  const auto freq = rope::frequencies<64>(kCompressed);
  math::SinCos table[kPairs];
  rope::angles(SerialCoop{}, table, freq.data(), 0, kPairs);
  for (const math::SinCos& sc : table) REQUIRE((sc.cos == 1.0f && sc.sin == 0.0f));
  const auto x = test::row_of<bf16>(test::normal_bf16(64, 5));
  for (const Direction direction : {Direction::kForward, Direction::kInverse}) {
    auto out = x;
    rope::rotate(SerialCoop{}, out.data(), table, kPairs, direction);
    for (std::size_t i = 0; i < 64; ++i) REQUIRE(out[i].bits == x[i].bits);
  }
}

TEST_CASE("rotate keeps a NaN inside its pair", "[core][rope]") {
  const auto freq = rope::frequencies<64>(kWindow);
  math::SinCos table[kPairs];
  rope::angles(SerialCoop{}, table, freq.data(), 77, kPairs);
  auto x = test::normal(64, 6);
  x[21] = std::nanf("");
  rope::rotate(SerialCoop{}, x.data(), table, kPairs, Direction::kForward);
  for (std::size_t i = 0; i < 64; ++i) {
    CAPTURE(i);
    REQUIRE(std::isnan(x[i]) == (i / 2 == 10));
  }
}

TEST_CASE("a group of threads rotates as one thread does", "[core][rope][group]") {
  const auto freq = rope::frequencies<64>(kCompressed);
  const auto in = test::row_of<bf16>(test::normal_bf16(64, 7));
  auto one = in, many = in;
  math::SinCos table[kPairs], shared[kPairs];
  rope::angles(SerialCoop{}, table, freq.data(), 4321, kPairs);
  rope::rotate(SerialCoop{}, one.data(), table, kPairs, Direction::kInverse);
  test::run_group<3>([&](auto coop) {
    rope::angles(coop, shared, freq.data(), 4321, kPairs);
    coop.sync();
    rope::rotate(coop, many.data(), shared, kPairs, Direction::kInverse);
  });
  for (std::size_t i = 0; i < 64; ++i) {
    CAPTURE(i);
    REQUIRE(one[i].bits == many[i].bits);
  }
}
