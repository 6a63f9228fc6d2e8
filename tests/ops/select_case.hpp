// Score rows for the tests of selection, what must be chosen from them, and a run of attn_select on them.
#pragma once

#include <dsv4/core/workspace.hpp>
#include <dsv4/ops/attn_index.hpp>

#include "tests/ops/row_ops.hpp"
#include "tests/support/ulp.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace dsv4::test {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

/// The answer by definition: every index sorted by score descending, equal ones left in their order.
inline std::vector<std::int32_t> best_by_sorting(const float* scores, std::int64_t n, std::int64_t k) {
  std::vector<std::int32_t> order;
  for (std::int64_t i = 0; i < n; ++i)
    if (!std::isnan(scores[i])) order.push_back(static_cast<std::int32_t>(i));
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
  order.resize(static_cast<std::size_t>(k), -1);
  return order;
}

/// Kinds of rows, among them the ones that are worst for a selection.
inline const std::vector<std::string>& score_kinds() {
  static const std::vector<std::string> kinds = {
      "random",  "ascending",  "descending", "equal",           "two",       "few", "zeros", "nan mixed",
      "all nan", "infinities", "subnormals", "ties at the end", "neighbours"};
  return kinds;
}

/// n scores of one kind.
inline std::vector<float> scores_of(const std::string& kind, std::int64_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> s(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    float& x = s[static_cast<std::size_t>(i)];
    const auto place = static_cast<float>(i);
    const auto pick = static_cast<float>(random.integer(0, 7));
    if (kind == "random") x = static_cast<float>(random.normal());
    if (kind == "ascending") x = place;
    if (kind == "descending") x = -place;
    if (kind == "equal") x = 3.5f;
    if (kind == "two") x = pick < 4 ? -1.0f : 1.0f;
    if (kind == "few") x = pick - 3.0f;
    if (kind == "zeros") x = pick < 3 ? -0.0f : pick < 6 ? 0.0f : pick - 6.5f;
    if (kind == "nan mixed") x = pick < 4 ? (pick < 2 ? kNan : -kNan) : static_cast<float>(random.normal());
    if (kind == "all nan") x = kNan;
    if (kind == "infinities") x = pick < 2 ? -kInf : pick < 4 ? kInf : static_cast<float>(random.normal());
    if (kind == "subnormals") x = float_of((random.bits() & 0x80000fffu));
    if (kind == "ties at the end") x = i < n / 2 ? 1.0f : 2.0f - static_cast<float>(i % 3 == 0);
    if (kind == "neighbours") x = float_of(0x3f800000u + random.bits() % 64);  // the last bits decide
  }
  return s;
}

/// Rows of scores and how many of each are visible. What is not is +inf, which nobody may choose.
struct SelectCase {
  std::int64_t max_entries = 0;
  std::vector<std::int32_t> visible = {};
  Rows<float> scores;

  SelectCase(std::int64_t entries, std::vector<std::int32_t> counts, const std::string& kind,
             std::uint64_t seed = 1, RowLayout layout = {})
      : max_entries(entries),
        visible(std::move(counts)),
        scores(static_cast<std::int64_t>(visible.size()), std::max<std::int64_t>(entries, 1), layout) {
    for (std::int64_t t = 0; t < tokens(); ++t) {
      const std::vector<float> row = scores_of(kind, seen(t), seed + static_cast<std::uint64_t>(t));
      std::fill_n(scores.row(t), scores.cols(), kInf);
      std::copy(row.begin(), row.end(), scores.row(t));
    }
  }

  std::int64_t tokens() const { return static_cast<std::int64_t>(visible.size()); }
  std::int64_t seen(std::int64_t t) const {
    return std::clamp<std::int64_t>(visible[static_cast<std::size_t>(t)], 0, max_entries);
  }

  ops::AttnSelectParams params(std::int32_t k) const {
    ops::AttnSelectParams p;
    p.output.k = k;
    p.scores = scores.data();
    p.visible.counts = visible.data();
    p.tokens = tokens();
    p.max_entries = max_entries;
    p.scores_stride = scores.stride();
    return p;
  }

  std::vector<std::int32_t> want(std::int32_t k) const {
    std::vector<std::int32_t> all;
    for (std::int64_t t = 0; t < tokens(); ++t) {
      const auto row = best_by_sorting(scores.row(t), seen(t), k);
      all.insert(all.end(), row.begin(), row.end());
    }
    return all;
  }
};

/// 256-byte aligned and all 0xff: read by mistake, the best of keys.
struct SelectWorkspace {
  Rows<std::uint8_t> bytes;

  explicit SelectWorkspace(std::size_t n)
      : bytes(1, std::max<std::int64_t>(static_cast<std::int64_t>(n), 1), RowLayout{0, kWorkspaceAlignment}) {
  }
};

/// Runs attn_select on p, whose output it takes into `idx` [tokens, p.output.k].
inline void run_select(ops::AttnSelectParams p, Rows<std::int32_t>& idx) {
  p.output.idx = idx.data();
  p.output.idx_stride = idx.stride();
  p.workspace_bytes = ops::attn_select_workspace_bytes(p);
  SelectWorkspace workspace(p.workspace_bytes);
  p.workspace = workspace.bytes.data();
  REQUIRE_OK(ops::attn_select(p, nullptr));
  REQUIRE(workspace.bytes.intact() == "");
}

/// attn_select on a case is what sorting gives.
inline void check_select(const SelectCase& c, std::int32_t k) {
  CAPTURE(c.max_entries, k, c.visible);
  Rows<std::int32_t> idx(c.tokens(), k, RowLayout{k + 3, 4});
  run_select(c.params(k), idx);
  REQUIRE_ROWS(idx, c.want(k));
}

}  // namespace dsv4::test
