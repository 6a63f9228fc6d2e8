// Mirrors include/dsv4/attention/kv_proj.hpp.
#include <dsv4/attention/kv_proj.hpp>

#include <limits>
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

template <class T>
std::vector<Interval> finished(const std::vector<T>& kv, const std::vector<float>& weight,
                               const std::vector<math::SinCos>& table) {
  std::vector<Interval> x = test::rounded<T>(oracle::rms_norm(test::values(kv), test::values(weight), kEps));
  oracle::rotate(x, kv.size() - 2 * table.size(), table, +1);
  return test::rounded<T>(x);
}
}  // namespace

TEMPLATE_TEST_CASE("attention::finish_key_value computes its equation", "[attention][kv_proj]", float, bf16) {
  using T = TestType;
  const int head_dim = GENERATE(64, 128, 512);
  const std::int64_t position = GENERATE(0, 1, 128, 65537, (1 << 20) - 4);
  // Weights differ from channel to channel, within a pair too, and some are negative or zero.
  std::vector<float> weight = test::uniform(head_dim, 21, -0.5, 2.0);
  weight[1] = 0;
  std::vector<T> kv = test::stored<T>(test::normal(head_dim, 22, 5.0));
  const auto table = oracle::turns(position, 32, 160000);
  const auto want = finished(kv, weight, table);
  attention::finish_key_value(SerialCoop{}, kv.data(), weight.data(), table.data(), head_dim, 64, kEps);
  CAPTURE(head_dim, position);
  REQUIRE(test::outside(kv, want) == "");
}

TEST_CASE("attention::finish_key_value: zeros stay, eps counts, a bad channel shows",
          "[attention][kv_proj]") {
  const auto table = oracle::turns(5);
  const auto weight = test::uniform(512, 23, 0.5, 1.5);
  std::vector<float> zeros(512, 0.0f);
  attention::finish_key_value(SerialCoop{}, zeros.data(), weight.data(), table.data(), 512, 64, kEps);
  for (const float v : zeros) REQUIRE(v == 0.0f);

  std::vector<float> small = test::normal(512, 24, 1e-3);  // mean square about eps
  const auto want = finished(small, weight, table);
  attention::finish_key_value(SerialCoop{}, small.data(), weight.data(), table.data(), 512, 64, kEps);
  REQUIRE(test::outside(small, want) == "");

  std::vector<float> kv = test::normal(512, 25);
  kv[500] = std::numeric_limits<float>::quiet_NaN();
  attention::finish_key_value(SerialCoop{}, kv.data(), weight.data(), table.data(), 512, 64, kEps);
  for (const float v : kv) REQUIRE(std::isnan(v));  // through the norm
}

TEMPLATE_TEST_CASE("attention::finish_key_value: a group gives the bits of one thread",
                   "[attention][kv_proj]", float, bf16) {
  using T = TestType;
  const auto start = test::stored<T>(test::normal(512, 26));
  const auto weight = test::normal(512, 27);
  const auto table = oracle::turns(1234);
  std::vector<T> alone = start, together = start;
  attention::finish_key_value(SerialCoop{}, alone.data(), weight.data(), table.data(), 512, 64, kEps);
  test::run_group<3>([&](const auto& coop) {
    attention::finish_key_value(coop, together.data(), weight.data(), table.data(), 512, 64, kEps);
  });
  REQUIRE(test::differing(together, alone) == "");
}
