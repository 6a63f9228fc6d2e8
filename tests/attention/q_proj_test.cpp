// Mirrors include/dsv4/attention/q_proj.hpp.
#include <dsv4/attention/q_proj.hpp>

#include <limits>
#include <type_traits>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

using namespace dsv4;
using test::Interval;
namespace oracle = test::oracle;

namespace {
constexpr float kEps = 1e-6f;

// Norm of the whole head without weight, rounded; then the last channels turned as interleaved pairs,
// rounded.
template <class T>
std::vector<Interval> finished(const std::vector<T>& q, const std::vector<math::SinCos>& table, double eps) {
  std::vector<Interval> x = test::rounded<T>(oracle::rms_norm(test::values(q), {}, eps));
  oracle::rotate(x, q.size() - 2 * table.size(), table, +1);
  return test::rounded<T>(x);
}
}  // namespace

TEMPLATE_TEST_CASE("attention::finish_query computes its equation", "[attention][q_proj]", float, bf16) {
  using T = TestType;
  const int head_dim = GENERATE(64, 96, 512);
  const std::int64_t position = GENERATE(0, 1, 127, 4099, (1 << 20) - 1);
  // The rope channels are a third as large, so that a norm over a part of the head has another scale.
  std::vector<float> x = test::normal(head_dim, 11, 3.0);
  for (int d = head_dim - 64; d < head_dim; ++d) x[std::size_t(d)] /= 3;
  std::vector<T> q = test::stored<T>(x);
  const auto table = oracle::turns(position);
  const auto want = finished(q, table, kEps);
  attention::finish_query(SerialCoop{}, q.data(), table.data(), head_dim, 64, kEps);
  CAPTURE(head_dim, position);
  REQUIRE(test::outside(q, want) == "");
}

TEST_CASE("attention::finish_query: the oracle is tight", "[attention][q_proj]") {
  // What this file relies on to see a missing rounding: nearly every interval is one bf16 value, and the
  // chain rounded once lies outside most of them.
  const auto q = test::stored<bf16>(test::normal(512, 12));
  const auto table = oracle::turns(77);
  const auto want = finished(q, table, kEps);
  auto once = oracle::rms_norm(test::values(q), {}, kEps);
  oracle::rotate(once, 448, table, +1);
  once = test::rounded<bf16>(once);
  int single = 0, told_apart = 0;
  for (std::size_t d = 0; d < 512; ++d) {
    single += want[d].lo == want[d].hi;
    told_apart += once[d].hi < want[d].lo || once[d].lo > want[d].hi;
  }
  REQUIRE(single > 500);
  REQUIRE(told_apart > 10);
}

TEMPLATE_TEST_CASE("attention::finish_query: position 0 turns nothing, channels before the rope never turn",
                   "[attention][q_proj]", float, bf16) {
  using T = TestType;
  const auto start = test::stored<T>(test::normal(512, 13));
  std::vector<T> at0 = start, at9 = start;
  attention::finish_query(SerialCoop{}, at0.data(), oracle::turns(0).data(), 512, 64, kEps);
  attention::finish_query(SerialCoop{}, at9.data(), oracle::turns(9).data(), 512, 64, kEps);
  REQUIRE(test::outside(at0, test::rounded<T>(oracle::rms_norm(test::values(start), {}, kEps))) == "");
  const std::vector<T> head0(at0.begin(), at0.begin() + 448), head9(at9.begin(), at9.begin() + 448);
  REQUIRE(test::differing(head0, head9) == "");
  int moved = 0;
  for (std::size_t d = 448; d < 512; ++d) moved += test::value(at0[d]) != test::value(at9[d]);
  REQUIRE(moved >= 32);  // slow pairs may round to where they were in bf16
}

TEST_CASE("attention::finish_query: zeros, eps, and one bad channel", "[attention][q_proj]") {
  const auto table = oracle::turns(5);
  std::vector<float> zeros(512, 0.0f);
  attention::finish_query(SerialCoop{}, zeros.data(), table.data(), 512, 64, kEps);
  for (const float v : zeros) REQUIRE(v == 0.0f);

  // Mean square 1e-6 beside eps 1e-6: without eps the result is larger by sqrt 2; likewise inside the root.
  std::vector<float> small = test::normal(512, 14, 1e-3);
  const auto want = finished(small, table, kEps);
  attention::finish_query(SerialCoop{}, small.data(), table.data(), 512, 64, kEps);
  REQUIRE(test::outside(small, want) == "");

  const float bad = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  std::vector<float> q = test::normal(512, 15);
  q[3] = bad;
  attention::finish_query(SerialCoop{}, q.data(), table.data(), 512, 64, kEps);
  REQUIRE(std::isnan(q[3]));  // inf * (1 / inf)
}

TEMPLATE_TEST_CASE("attention::finish_query: a group gives the bits of one thread", "[attention][q_proj]",
                   float, bf16) {
  using T = TestType;
  const auto start = test::stored<T>(test::normal(512, 16));
  const auto table = oracle::turns(1234);
  std::vector<T> alone = start, together = start;
  attention::finish_query(SerialCoop{}, alone.data(), table.data(), 512, 64, kEps);
  test::run_group<3>(
      [&](const auto& coop) { attention::finish_query(coop, together.data(), table.data(), 512, 64, kEps); });
  REQUIRE(test::differing(together, alone) == "");
}
