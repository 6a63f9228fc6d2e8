// The NaN guard over the attention half of a layer, whose caches and states are NaNs where nothing was
// written: silent until something is spoilt, and then it names where that first comes out.
#include <dsv4/ops/nan_guard.hpp>

#include "tests/ops/attention_half.hpp"
#include "tests/ops/attention_half_launches.hpp"

#include <limits>

using namespace dsv4;
using test::Half;

TEST_CASE("the guard over an attention half", "[nan_guard]") {
  ops::NanGuardRecord record;
  if (!ops::set_nan_guard(&record).ok()) return;
  Half half;
  half.prefill();
  const Half::Launches launches = half.capture();
  const auto step = [&] {
    half.replay(launches);
    const std::string seen = ops::describe(record);
    record = {};
    return seen;
  };
  half.next_tokens();
  CHECK(step() == "");

  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto spoilt = [&](float& value) {
    const float before = value;
    value = nan;
    const std::string seen = step();
    value = before;
    return seen;
  };
  CHECK(spoilt(half.sink[2]) == "attn_attend: o[0, 1024] is NaN");
  CHECK(spoilt(half.q_norm[5]) == "linear_multi: parts[0].y[0, 0] is NaN");
  CHECK(spoilt(half.kv_norm[447]).starts_with("attn_qk_prep: window["));
  CHECK(spoilt(half.main.norm[3]).starts_with("attn_compress: main.entries[0, "));  // token 0 completes one
  REQUIRE(ops::set_nan_guard(nullptr).ok());
}
