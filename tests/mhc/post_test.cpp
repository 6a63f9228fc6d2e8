// Mirrors include/dsv4/mhc/post.hpp.
#include <dsv4/mhc/post.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/rounded.hpp"
#include "tests/support/thread_coop.hpp"

#include <vector>

namespace dsv4 {
namespace {

using test::stored;
using test::value;

template <int kMult, class T>
void check(int hidden) {
  const auto y = stored<T>(test::normal(hidden, 1));
  const auto streams = stored<T>(test::normal(std::int64_t{kMult} * hidden, 2));
  const auto post = test::uniform(kMult, 3, 0, 2), comb = test::uniform(kMult * kMult, 4);  // not symmetric
  std::vector<T> out(static_cast<std::size_t>(kMult) * hidden + 1, stored<T>(-77.0));
  mhc::post<kMult>(SerialCoop{}, out.data(), y.data(), streams.data(), post.data(), comb.data(), hidden);
  test::Comparison<T> comparison;
  for (int k = 0; k < kMult; ++k)  // destination
    for (int d = 0; d < hidden; ++d) {
      double want = double{post[k]} * value(y[d]), scale = std::abs(want);
      for (int j = 0; j < kMult; ++j) {  // source
        const double term = double{comb[j * kMult + k]} * value(streams[j * hidden + d]);
        want += term, scale += std::abs(term);
      }
      comparison.add(out[k * hidden + d], want, (kMult + 1) * test::kUnit * scale);  // kMult + 1 roundings
    }
  CAPTURE(kMult, hidden, sizeof(T), comparison.near());
  REQUIRE(comparison.failure() == "");
  REQUIRE(value(out.back()) == -77);

  auto in_place = streams;  // the documented aliasing
  mhc::post<kMult>(SerialCoop{}, in_place.data(), y.data(), in_place.data(), post.data(), comb.data(),
                   hidden);
  out.pop_back();
  REQUIRE(test::identical(in_place, out));
}

TEMPLATE_TEST_CASE("mhc::post computes its equation, in place too", "[mhc][post]", float, bf16) {
  const int hidden = GENERATE(1, 3, 257, 4096, 7168);
  check<1, TestType>(hidden);
  check<3, TestType>(hidden);
  check<4, TestType>(hidden);
}

TEST_CASE("mhc::post: row j of comb is the source stream, column k the destination", "[mhc][post]") {
  // One unit of stream j enters: stream k receives comb[j][k].
  const std::vector<float> comb = test::uniform(16, 5), y = {0}, post = {9, 9, 9, 9};
  for (int j = 0; j < 4; ++j) {
    std::vector<float> streams(4, 0.0f), out(4);
    streams[j] = 1;
    mhc::post<4>(SerialCoop{}, out.data(), y.data(), streams.data(), post.data(), comb.data(), 1);
    for (int k = 0; k < 4; ++k) REQUIRE(out[k] == comb[j * 4 + k]);
  }
  // One unit of the sublayer's output: stream k receives post[k].
  std::vector<float> out(4);
  const std::vector<float> one = {1}, none(4, 0.0f), each = {0.5f, 1.25f, 2, 0.125f};
  mhc::post<4>(SerialCoop{}, out.data(), one.data(), none.data(), each.data(), comb.data(), 1);
  REQUIRE(out == each);
}

TEST_CASE("mhc::post keeps the sum in fp32 and rounds it once", "[mhc][post]") {
  // 1 + 2^-8 + 2^-8 is 1 + 2^-7; rounded to bf16 after every term it would stay 1 (ties to even).
  const auto y = stored<bf16>(std::vector<float>{1});
  const auto streams = stored<bf16>(std::vector<float>{0x1p-8f, 0x1p-8f, 0, 0});
  const std::vector<float> post(4, 1.0f), comb(16, 1.0f);
  std::vector<bf16> out(4);
  mhc::post<4>(SerialCoop{}, out.data(), y.data(), streams.data(), post.data(), comb.data(), 1);
  for (const bf16 x : out) REQUIRE(value(x) == 1 + 0x1p-7);
}

TEST_CASE("mhc::post: a NaN shows in its channel and in no other", "[mhc][post]") {
  const int hidden = 37;
  const auto post = test::uniform(4, 6, 0, 2), comb = test::uniform(16, 7);
  auto y = stored<bf16>(test::normal(hidden, 8)), streams = stored<bf16>(test::normal(4 * hidden, 9));
  std::vector<bf16> clean(4 * hidden), got(4 * hidden);
  mhc::post<4>(SerialCoop{}, clean.data(), y.data(), streams.data(), post.data(), comb.data(), hidden);
  const int stream = GENERATE(-1, 0, 1, 2, 3);  // -1: in y
  (stream < 0 ? y[11] : streams[stream * hidden + 11]) = {0x7fc0};
  mhc::post<4>(SerialCoop{}, got.data(), y.data(), streams.data(), post.data(), comb.data(), hidden);
  for (int i = 0; i < 4 * hidden; ++i) {
    CAPTURE(stream, i);
    REQUIRE(test::identical(got[i], i % hidden == 11 ? bf16{0x7fc0} : clean[i]));
  }
}

TEST_CASE("mhc::post is the same for any number of threads", "[mhc][post]") {
  const int hidden = GENERATE(1, 4, 257);
  const auto y = test::normal(hidden, 10), streams = test::normal(std::int64_t{4} * hidden, 11);
  const auto post = test::uniform(4, 12, 0, 2), comb = test::uniform(16, 13);
  std::vector<float> alone(streams.size()), group = streams;
  mhc::post<4>(SerialCoop{}, alone.data(), y.data(), streams.data(), post.data(), comb.data(), hidden);
  test::run_group<5>([&](auto coop) {
    mhc::post<4>(coop, group.data(), y.data(), group.data(), post.data(), comb.data(), hidden);
  });
  REQUIRE(test::identical(alone, group));
}

}  // namespace
}  // namespace dsv4
