// attn_index_scores, attn_select, attn_index_select. Queries, keys and weights of few bits give exact scores:
// the same bits on any tensor core, hence the same selection. Where they are not exact, scores agree within a
// bound and selections may swap entries whose scores nearly tie (spec section 5.2).
#include "tests/gpu/caches.hpp"
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

using ops::CacheFormat;

constexpr std::int32_t kDim = 128;

struct Case {
  const char* what;
  CacheFormat format;
  std::int64_t tokens;
  std::int32_t heads;
  std::int64_t max_entries;
  std::int32_t k;
  std::int32_t page_rows;
  float weight_unit;  // 0: all scores are equal
  bool exact;
};

std::vector<Case> cases(bool small) {
  const Case fp4 = {"FP4", CacheFormat::kIndexFp4, 5, 8, 300, 64, 53, 0.125f, true};
  if (small) return {fp4};
  Case ties = fp4, fp8 = fp4, rows = fp4, wide = fp4, longer = fp4, prefill = fp4, normal_fp4 = fp4,
       normal_rows = fp4;
  ties.what = "all scores equal", ties.weight_unit = 0, ties.k = 100;
  fp8.what = "FP8", fp8.format = CacheFormat::kIndexFp8, fp8.page_rows = 64;
  rows.what = "rows", rows.format = CacheFormat::kRows, rows.heads = 3;
  wide.what = "64 heads, k of 1024", wide.heads = 64, wide.tokens = 2, wide.max_entries = 2000, wide.k = 1024;
  longer.what = "20000 entries", longer.heads = 1, longer.tokens = 2, longer.max_entries = 20000;
  longer.k = 4096, longer.page_rows = 64;
  prefill.what = "65 tokens", prefill.tokens = 65, prefill.heads = 4, prefill.max_entries = 130,
  prefill.k = 1;
  normal_fp4.what = "normal FP4", normal_fp4.exact = false, normal_fp4.heads = 64;
  normal_rows.what = "normal rows", normal_rows.exact = false, normal_rows.format = CacheFormat::kRows;
  return {fp4, ties, fp8, rows, wide, longer, prefill, normal_fp4, normal_rows};
}

template <class T>
std::string name(const char* op, const Case& c) {
  return std::string(op) + (kF32<T> ? " f32 " : " bf16 ") + c.what;
}

/// Every number of visible entries: none, all, more than there are, negative, and what lies between.
std::vector<std::int32_t> counts(const Case& c, std::uint64_t seed) {
  std::vector<std::int32_t> v = test::integers(c.tokens, seed, 0, c.max_entries);
  const auto all = static_cast<std::int32_t>(c.max_entries);
  const std::int32_t ends[] = {all, 0, all + 9, -4};
  for (std::size_t i = 0; i < v.size() && i < 4; ++i) v[i] = ends[i];
  return v;
}

std::int64_t pages_of(const Case& c) { return (c.max_entries + c.page_rows - 1) / c.page_rows; }

/// Pages of two sequences; the second lacks one, so that its entries there have no slot: they score NaN.
ops::PageTable table_of(const Case& c, Operands& m) {
  std::vector<std::int32_t> pages = page_numbers(2, pages_of(c), 61), sequence_of;
  pages[static_cast<std::size_t>(pages_of(c) + pages_of(c) / 2)] = -1;
  for (std::int64_t t = 0; t < c.tokens; ++t) sequence_of.push_back(static_cast<std::int32_t>(t % 2));
  return {.pages = m.in(pages),
          .sequence_of = m.in(sequence_of),
          .stride = pages_of(c),
          .sequences = 2,
          .page_rows = c.page_rows};
}

/// Keys of few bits: any e2m1 code, and the e4m3 codes and values of inputs.hpp and caches.hpp.
template <class T>
std::vector<std::uint8_t> exact_keys(const ops::CachePool& p) {
  std::vector<std::uint8_t> image(static_cast<std::size_t>(pool_bytes(p)), 0xff);
  if (p.format == CacheFormat::kRows) {
    const auto v = whole<T>(p.slots * p.stride, 62, 3);
    std::memcpy(image.data(), v.data(), image.size());
    return image;
  }
  const bool fp4 = p.format == CacheFormat::kIndexFp4;
  const std::int64_t data = p.page_rows * std::int64_t{fp4 ? 64 : 128};
  const auto codes = fp4 ? test::bytes(static_cast<std::int64_t>(image.size()), 63)
                         : e4m3_codes(static_cast<std::int64_t>(image.size()), 63);
  const auto scales = scale_bytes(static_cast<std::int64_t>(image.size()), 64);
  for (std::int64_t page = 0; page * p.page_rows < p.slots; ++page)
    for (std::int64_t i = 0; i < data + 4 * p.page_rows; ++i) {
      const auto at = static_cast<std::size_t>(page * p.stride + i);
      if (i < data) {
        image[at] = codes[at];
      } else if (fp4) {
        image[at] = scales[at];
      } else if ((i - data) % 4 == 0) {
        const float scale = to_float(e8m0{scales[at]});
        std::memcpy(image.data() + at, &scale, sizeof scale);
      }
    }
  return image;
}

template <class T>
ops::IndexQueries queries(const Case& c, Operands& m, const std::int32_t* visible) {
  const std::int64_t rows = c.tokens * c.heads;
  ops::IndexQueries q = {
      .keys = pool_shape(c.format, 2 * pages_of(c) * c.page_rows, c.page_rows, kDim, kDType<T>),
      .table = table_of(c, m),
      .visible = {.counts = visible},
      .tokens = c.tokens,
      .max_entries = c.max_entries,
      .heads = c.heads,
      .dim = kDim,
      .format = c.format,
      .dtype = kDType<T>};
  if (c.format == CacheFormat::kIndexFp4)
    q.q = m.in(test::bytes(rows * 64, 65)), q.scales = m.in(scale_bytes(rows * 4, 66));
  else if (c.format == CacheFormat::kIndexFp8)
    q.q = m.in(e4m3_codes(rows * kDim, 65));
  else
    q.q = m.in(c.exact ? whole<T>(rows * kDim, 65, 3) : normal<T>(rows * kDim, 65));
  q.weights = m.in(c.exact ? whole<float>(rows, 67, 8, c.weight_unit) : test::normal(rows, 67, 0.1));
  q.keys.data = m.in(c.exact ? exact_keys<T>(q.keys) : pool_image<T>(q.keys, kDim, 68));
  return q;
}

/// Scores that are not exact: a dot of 128 products of size 10 (FP4 codes times their scales) or 1, for each
/// head, times its weight; then the heads.
Agreement score_agreement(const Case& c) {
  if (c.exact) return kSameBits;
  const double product = c.format == CacheFormat::kIndexFp4 ? 10 : 1;
  const double weights = 0.6 * c.heads;  // six sigma each
  return {weights * (sum_bound(kDim, product) + c.heads * 0x1p-23 * 6 * std::sqrt(128.0) * product), 0, 1};
}

/// Two selections that may differ where scores nearly tie: at every rank the same entry, or one whose score
/// is within `bound`, plus 1e-6 of the row's largest, of the reference's; and -1 at the same ranks.
///   scores  [tokens, max_entries] of the reference
Compare near_ties(const Case& c, const std::vector<float>* scores, double bound) {
  return [c, scores, bound](const void* reference, const void* other, std::size_t) -> std::string {
    const auto *a = static_cast<const std::int32_t*>(reference), *b = static_cast<const std::int32_t*>(other);
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      const float* row = scores->data() + t * c.max_entries;
      double largest = 0;
      for (std::int64_t r = 0; r < c.k; ++r)
        if (a[t * c.k + r] >= 0) largest = std::fmax(largest, std::fabs(row[a[t * c.k + r]]));
      std::vector<std::int32_t> seen;
      for (std::int64_t r = 0; r < c.k; ++r) {
        const std::int32_t x = a[t * c.k + r], y = b[t * c.k + r];
        const bool legal = y >= 0 && y < c.max_entries;
        if (legal) seen.push_back(y);
        if (x == y) continue;
        if (x < 0 || !legal || !(std::fabs(row[x] - row[y]) <= 2 * bound + 1e-6 * largest)) {
          char text[120];
          std::snprintf(text, sizeof text, "token %d, rank %d: entry %d and entry %d, no near tie",
                        static_cast<int>(t), static_cast<int>(r), x, y);
          return text;
        }
      }
      std::sort(seen.begin(), seen.end());
      if (std::adjacent_find(seen.begin(), seen.end()) != seen.end()) return "an entry is selected twice";
    }
    return "";
  };
}

template <class T>
void compare_scores(Tally& tally, const Case& c) {
  const Agreement agreement = kF32<T> ? kSameBits : score_agreement(c);
  tally.compare(name<T>("attn_index_scores", c), [&](const OpTable& f, Operands& m) {
    ops::AttnIndexScoresParams p = {
        .scores = m.out_as<float>("scores", c.tokens * c.max_entries, agree_or_nan(agreement)),
        .queries = queries<T>(c, m, m.in(counts(c, 69)))};
    return f.attn_index_scores(p, nullptr);
  });
}

/// Scores with ties, zeros of both signs, infinities and NaNs; what lies beyond the visible ones is a NaN.
std::vector<float> hostile_scores(const Case& c) {
  std::vector<float> v = whole<float>(c.tokens * c.max_entries, 70, 20, 0.5f);
  const float strange[] = {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                           std::numeric_limits<float>::quiet_NaN(), -0.0f,
                           -std::numeric_limits<float>::quiet_NaN()};
  for (std::size_t i = 0; i < v.size(); i += 11) v[i] = strange[i / 11 % 5];
  const auto visible = counts(c, 69);
  for (std::int64_t t = 0; t < c.tokens; ++t)
    for (std::int64_t i = std::max(0, visible[static_cast<std::size_t>(t)]); i < c.max_entries; ++i)
      v[static_cast<std::size_t>(t * c.max_entries + i)] = strange[2];
  return v;
}

void compare_select(Tally& tally, const Case& c, bool as_slots) {
  const auto scores = hostile_scores(c);
  tally.compare(std::string("attn_select ") + (as_slots ? "slots " : "") + c.what,
                [&](const OpTable& f, Operands& m) {
                  ops::AttnSelectParams p = {
                      .output = {.idx = m.out<std::int32_t>("idx", c.tokens * (c.k + 3)),
                                 .table = table_of(c, m),
                                 .idx_stride = c.k + 3,
                                 .slots = pages_of(c) * c.page_rows,  // half of the table leads outside
                                 .k = c.k,
                                 .as_slots = as_slots},
                      .scores = m.in(scores),
                      .visible = {.counts = m.in(counts(c, 69))},
                      .tokens = c.tokens,
                      .max_entries = c.max_entries};
                  m.workspace(p, f.attn_select_workspace_bytes(p));
                  return f.attn_select(p, nullptr);
                });
}

/// The fused op: three rounds of other lengths through one graph.
template <class T>
void compare_fused(Tally& tally, const Case& c) {
  tally.replay(name<T>("attn_index_select", c), 3, [&](const OpTable& f, Operands& m) -> Replay {
    const std::int32_t* visible = m.in(counts(c, 69));
    ops::AttnIndexSelectParams p = {.output = {.idx = m.out<std::int32_t>("idx", c.tokens * c.k), .k = c.k},
                                    .queries = queries<T>(c, m, visible)};
    m.workspace(p, f.attn_index_select_workspace_bytes(p));
    return {
        [&f, p](Stream stream) { return f.attn_index_select(p, stream); },
        [&c, &m, visible](int round) { m.set(visible, counts(c, 69 + static_cast<std::uint64_t>(round))); }};
  });
}

/// The fused op on scores that are not exact: near ties may swap.
void compare_near_ties(Tally& tally, const Case& c) {
  std::vector<float> scores(static_cast<std::size_t>(c.tokens * c.max_entries));
  tally.compare(name<bf16>("attn_index_select", c), [&](const OpTable& f, Operands& m) {
    ops::AttnIndexSelectParams p = {
        .output = {.idx = m.out_as<std::int32_t>("idx", c.tokens * c.k,
                                                 near_ties(c, &scores, score_agreement(c).absolute)),
                   .k = c.k},
        .queries = queries<bf16>(c, m, m.in(counts(c, 69)))};
    m.workspace(p, f.attn_index_select_workspace_bytes(p));
    if (m.is_reference()) {
      const Status s = f.attn_index_scores({.scores = scores.data(), .queries = p.queries}, nullptr);
      if (!s.ok()) return s;
    }
    return f.attn_index_select(p, nullptr);
  });
}

void refusals(Tally& tally, const Case& c) {
  const auto refuse = [&](Code code, const char* text, auto change) {
    tally.refuse("attn_index_select", code, text, [&c, change](const OpTable& f, Operands& m) {
      ops::AttnIndexSelectParams p = {.output = {.idx = m.scratch<std::int32_t>(c.tokens * c.k), .k = c.k},
                                      .queries = queries<bf16>(c, m, m.in(counts(c, 69)))};
      m.workspace(p, f.attn_index_select_workspace_bytes(p));
      change(p);
      return f.attn_index_select(p, nullptr);
    });
  };
  using P = ops::AttnIndexSelectParams;
  refuse(Code::kInvalidArgument, "k", [](P& p) { p.output.k = 4097; });
  refuse(Code::kInvalidArgument, "idx", [](P& p) { p.output.idx = nullptr; });
  refuse(Code::kInvalidArgument, "heads", [](P& p) { p.queries.heads = 65; });
  refuse(Code::kInvalidArgument, "max_entries", [](P& p) { p.queries.max_entries = (1 << 20) + 1; });
  refuse(Code::kInvalidArgument, "weights", [](P& p) { p.queries.weights = nullptr; });
  refuse(Code::kInvalidArgument, "scales", [](P& p) { p.queries.scales = nullptr; });
}

}  // namespace

void compare_attn_index(Tally& tally, bool small) {
  for (const Case& c : cases(small)) {
    compare_scores<bf16>(tally, c);
    compare_select(tally, c, false);
    compare_select(tally, c, true);
    if (c.exact)
      compare_fused<bf16>(tally, c);
    else
      compare_near_ties(tally, c);
    if (c.format == CacheFormat::kRows) {
      compare_scores<float>(tally, c);
      compare_fused<float>(tally, c);
    }
  }
  refusals(tally, cases(true)[0]);
}

}  // namespace dsv4::gpu
