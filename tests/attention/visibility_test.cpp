// Mirrors include/dsv4/attention/visibility.hpp.
#include <dsv4/attention/visibility.hpp>

#include <cstdint>

#include "tests/support/catch.hpp"

using namespace dsv4;

TEST_CASE("attention::window_begin starts a window of exactly `window` positions",
          "[attention][visibility]") {
  // A position is in the window iff it is at or before t and less than `window` back.
  const int window = GENERATE(1, 2, 127, 128);
  for (std::int64_t t = 0; t < 400; ++t) {
    std::int64_t first = t;
    while (first > 0 && t - (first - 1) < window) --first;
    CAPTURE(window, t);
    REQUIRE(attention::window_begin(t, window) == first);
  }
}

TEST_CASE("attention::window_begin at the model's edges", "[attention][visibility]") {
  REQUIRE(attention::window_begin(0, 128) == 0);
  REQUIRE(attention::window_begin(126, 128) == 0);
  REQUIRE(attention::window_begin(127, 128) == 0);  // 128 positions: the full window
  REQUIRE(attention::window_begin(128, 128) == 1);  // position 0 leaves
  REQUIRE(attention::window_begin((std::int64_t{1} << 20) - 1, 128) == (1 << 20) - 128);
  REQUIRE(attention::window_begin((std::int64_t{1} << 40), 128) == (std::int64_t{1} << 40) - 127);
}

TEST_CASE("attention::visible_entries counts entries whose last token is not in the future",
          "[attention][visibility]") {
  const int ratio = GENERATE(1, 2, 4, 128);
  for (std::int64_t t = 0; t < 600; ++t) {
    std::int64_t visible = 0;
    for (std::int64_t entry = 0; entry < 700; ++entry) {
      std::int64_t last = entry * ratio;
      for (int j = 1; j < ratio; ++j) ++last;
      if (last <= t) ++visible;
    }
    CAPTURE(ratio, t);
    REQUIRE(attention::visible_entries(t, ratio) == visible);
  }
}

TEST_CASE("attention::visible_entries at the model's edges", "[attention][visibility]") {
  struct Row {
    std::int64_t t, csa, hca;
  };
  for (const Row r : {Row{0, 0, 0}, Row{2, 0, 0}, Row{3, 1, 0}, Row{4, 1, 0}, Row{7, 2, 0}, Row{126, 31, 0},
                      Row{127, 32, 1}, Row{128, 32, 1}, Row{254, 63, 1}, Row{255, 64, 2},
                      Row{(1 << 20) - 2, 262143, 8191}, Row{(1 << 20) - 1, 262144, 8192}}) {
    CAPTURE(r.t);
    REQUIRE(attention::visible_entries(r.t, 4) == r.csa);
    REQUIRE(attention::visible_entries(r.t, 128) == r.hca);
    REQUIRE(attention::visible_entries(r.t, 0) == 0);  // a window-only layer has no entries
  }
  // Beyond int32.
  REQUIRE(attention::visible_entries((std::int64_t{1} << 40) - 1, 4) == std::int64_t{1} << 38);
}

TEST_CASE("attention::entry_position is the block's first token", "[attention][visibility]") {
  REQUIRE(attention::entry_position(0, 4) == 0);
  REQUIRE(attention::entry_position(1, 4) == 4);
  REQUIRE(attention::entry_position(262143, 4) == (1 << 20) - 4);
  REQUIRE(attention::entry_position(8191, 128) == (1 << 20) - 128);
  REQUIRE(attention::entry_position(std::int64_t{1} << 30, 4) == std::int64_t{1} << 32);
  // Entry i, visible since its last token, is never rotated at a position in the future.
  for (std::int64_t t = 0; t < 300; ++t)
    for (const int ratio : {4, 128}) {
      const std::int64_t newest = attention::visible_entries(t, ratio) - 1;
      CAPTURE(t, ratio);
      if (newest >= 0) REQUIRE(attention::entry_position(newest, ratio) + ratio - 1 <= t);
    }
}
