// Mirrors include/dsv4/attention/select.hpp.
#include <dsv4/attention/select.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

using namespace dsv4;

namespace {
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr std::int32_t kUntouched = 0x5a5a5a5a;

// A stable sort by score, NaN left out, cut at k, padded with -1.
std::vector<std::int32_t> best(const float* scores, int n, int k) {
  std::vector<std::int32_t> order;
  for (int i = 0; i < n; ++i)
    if (!std::isnan(scores[i])) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
  order.resize(static_cast<std::size_t>(k), -1);
  return order;
}

// Runs select_top_k with exactly sized buffers on the heap: scores of the visible entries only.
std::vector<std::int32_t> select(const std::vector<float>& scores, std::int64_t t, int ratio, int k) {
  std::vector<std::int32_t> idx(static_cast<std::size_t>(k), kUntouched),
      scratch(static_cast<std::size_t>(k));
  attention::select_top_k(SerialCoop{}, idx.data(), scores.data(), t, ratio, k, scratch.data());
  return idx;
}
}  // namespace

TEST_CASE("attention::select_window lists the slots of the last positions, oldest first",
          "[attention][select]") {
  const int window = GENERATE(1, 5, 128);
  const std::int64_t t = GENERATE(0, 1, 4, 5, 126, 127, 128, 129, 300, (1 << 20) - 1);
  // A ring larger than the window, and a slot function without pattern.
  const auto ring = [](std::int64_t position) { return static_cast<std::int32_t>(position % 131); };
  std::vector<std::int32_t> idx(static_cast<std::size_t>(window) + 1, kUntouched);
  attention::select_window(SerialCoop{}, idx.data(), t, window, ring);
  std::vector<std::int32_t> want;
  for (std::int64_t p = t >= window ? t - (window - 1) : 0; p <= t; ++p)
    want.push_back(static_cast<std::int32_t>(p % 131));
  want.resize(static_cast<std::size_t>(window), -1);
  want.push_back(kUntouched);
  CAPTURE(window, t);
  REQUIRE(idx == want);
}

TEST_CASE("attention::select_window asks for positions of the window alone", "[attention][select]") {
  const std::int64_t t = GENERATE(0, 3, 200);
  std::vector<std::int64_t> asked;
  std::vector<std::int32_t> idx(128);
  attention::select_window(SerialCoop{}, idx.data(), t, 128, [&](std::int64_t position) {
    asked.push_back(position);
    return 0;
  });
  REQUIRE(!asked.empty());
  REQUIRE(*std::min_element(asked.begin(), asked.end()) == (t > 127 ? t - 127 : 0));
  REQUIRE(*std::max_element(asked.begin(), asked.end()) == t);
  REQUIRE(asked.size() == static_cast<std::size_t>(std::min<std::int64_t>(t + 1, 128)));
}

TEST_CASE("attention::select_all lists every complete entry", "[attention][select]") {
  const int ratio = GENERATE(4, 128);
  const std::int64_t t = GENERATE(0, 2, 3, 4, 126, 127, 128, 255, 256, 700);
  const int spare = GENERATE(0, 1, 9);
  const int complete = static_cast<int>((t + 1) / ratio);
  std::vector<std::int32_t> idx(static_cast<std::size_t>(complete + spare) + 1, kUntouched);
  attention::select_all(SerialCoop{}, idx.data(), t, ratio, complete + spare);
  for (int i = 0; i < complete + spare; ++i) {
    CAPTURE(ratio, t, spare, i);
    REQUIRE(idx[std::size_t(i)] == (i < complete ? i : -1));
  }
  REQUIRE(idx.back() == kUntouched);
}

TEST_CASE("attention::select_top_k equals a stable sort", "[attention][select]") {
  const int visible = GENERATE(0, 1, 2, 31, 32, 33, 511, 512, 513, 1999);
  const int k = GENERATE(1, 2, 32, 512);
  const int kind = GENERATE(0, 1, 2, 3);
  std::vector<float> scores = test::normal(visible, static_cast<std::uint64_t>(visible + kind));
  test::Random random(7);
  for (float& s : scores) {
    if (kind == 1) s = std::floor(s * 2) / 2;                     // many ties, -0 among them
    if (kind == 2 && random.integer(0, 2) == 0) s = kNan;         // holes
    if (kind == 3) s = random.integer(0, 1) != 0 ? kInf : -kInf;  // ties at the ends of the range
  }
  // Visible is (t + 1) / 4; t is the last position that sees exactly this many.
  const std::int64_t t = 4 * visible + 2;
  CAPTURE(visible, k, kind);
  REQUIRE(select(scores, t, 4, k) == best(scores.data(), visible, k));
}

TEST_CASE("attention::select_top_k: lower index first among equals, -0 equal to +0", "[attention][select]") {
  REQUIRE(select({0.0f, -0.0f, 0.0f, -0.0f, 1.0f}, 19, 4, 3) == std::vector<std::int32_t>{4, 0, 1});
  REQUIRE(select({2.0f, 3.0f, 2.0f, 3.0f, 2.0f}, 19, 4, 4) == std::vector<std::int32_t>{1, 3, 0, 2});
  REQUIRE(select({-kInf, kNan, -kInf, 5.0f}, 15, 4, 4) == std::vector<std::int32_t>{3, 0, 2, -1});
  REQUIRE(select({kNan, kNan}, 7, 4, 2) == std::vector<std::int32_t>{-1, -1});
  REQUIRE(select({}, 2, 4, 2) == std::vector<std::int32_t>{-1, -1});
}

TEST_CASE("attention::select_top_k does not read beyond the visible entries", "[attention][select]") {
  const std::int64_t t = GENERATE(0, 2, 3, 6, 7, 126, 127, 128);
  const int ratio = GENERATE(4, 128);
  const float beyond = GENERATE(as<float>{}, kInf, kNan, 3e38f);
  const int visible = static_cast<int>((t + 1) / ratio);
  std::vector<float> scores = test::normal(visible, 8);
  // Exactly as long as what is visible, for the address sanitizer; a float array, since an empty vector may
  // point anywhere.
  const std::unique_ptr<float[]> exact(new float[static_cast<std::size_t>(visible)]);
  std::copy(scores.begin(), scores.end(), exact.get());
  std::vector<std::int32_t> idx(8, kUntouched), scratch(8);
  attention::select_top_k(SerialCoop{}, idx.data(), exact.get(), t, ratio, 8, scratch.data());
  const auto want = best(scores.data(), visible, 8);
  CAPTURE(t, ratio, beyond);
  REQUIRE(idx == want);
  scores.resize(scores.size() + 70, beyond);
  REQUIRE(select(scores, t, ratio, 8) == want);
}

TEST_CASE("attention::select_*: a group gives what one thread gives", "[attention][select]") {
  std::vector<float> scores = test::normal(400, 9);
  for (float& s : scores) s = std::floor(s * 4) / 4;
  const std::int64_t t = 4 * 377 + 1;  // 377 visible
  const auto slot = [](std::int64_t position) { return static_cast<std::int32_t>(position % 200); };
  std::vector<std::int32_t> top(64, kUntouched), scratch(64), window(128, kUntouched), all(500, kUntouched);
  test::run_group<3>([&](const auto& coop) {
    attention::select_top_k(coop, top.data(), scores.data(), t, 4, 64, scratch.data());
    attention::select_window(coop, window.data(), 90, 128, slot);
    attention::select_all(coop, all.data(), t, 4, 500);
  });
  REQUIRE(top == best(scores.data(), 377, 64));
  for (int i = 0; i < 128; ++i) REQUIRE(window[std::size_t(i)] == (i <= 90 ? i : -1));
  for (int i = 0; i < 500; ++i) REQUIRE(all[std::size_t(i)] == (i < 377 ? i : -1));
}
