// attn_attend: lists and ranges over two pools. fp32 bit for bit; bf16 within the bound that follows from the
// tensor cores' sums and from probabilities that they round to the neighbouring bf16.
#include "tests/gpu/caches.hpp"
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <climits>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

using ops::CacheFormat;
using ops::SelectionKind;

constexpr std::int32_t kDim = 512, kRope = 64;
constexpr std::int64_t kSequences = 3;

struct Pool {
  CacheFormat format;
  std::int32_t page_rows;
  SelectionKind kind;
  std::int64_t count;  // the most rows of a token
};

struct Case {
  const char* what;
  std::int64_t tokens;
  std::int32_t heads;
  Pool window, entries;
  std::int32_t ratio;  // of entries by range
};

constexpr Pool kNothing = {CacheFormat::kRows, 1, SelectionKind::kNone, 0};

std::vector<Case> cases(bool small) {
  const Case lists = {"lists",
                      5,
                      3,
                      {CacheFormat::kKv584, 53, SelectionKind::kList, 20},
                      {CacheFormat::kKv584, 64, SelectionKind::kList, 150},
                      4};
  if (small) return {lists};
  return {lists,
          {"ranges",
           5,
           16,
           {CacheFormat::kKv584, 64, SelectionKind::kWindow, 128},
           {CacheFormat::kKv584, 2, SelectionKind::kEntries, 40},
           128},
          {"window only", 65, 2, {CacheFormat::kRows, 1, SelectionKind::kWindow, 16}, kNothing, 4},
          {"entries only", 3, 64, kNothing, {CacheFormat::kRows, 1, SelectionKind::kList, 129}, 4},
          {"rows and pages",
           4,
           8,
           {CacheFormat::kRows, 1, SelectionKind::kList, 64},
           {CacheFormat::kKv584, 53, SelectionKind::kEntries, 70},
           4},
          {"pages and rows",
           4,
           1,
           {CacheFormat::kKv584, 1, SelectionKind::kWindow, 33},
           {CacheFormat::kRows, 1, SelectionKind::kList, 1},
           4},
          {"Flash",
           2,
           64,
           {CacheFormat::kKv584, 256, SelectionKind::kList, 128},
           {CacheFormat::kKv584, 64, SelectionKind::kList, 512},
           4},
          {"Pro",
           1,
           128,
           {CacheFormat::kKv584, 256, SelectionKind::kList, 128},
           {CacheFormat::kKv584, 64, SelectionKind::kList, 1024},
           4}};
}

std::string name(const Case& c, bool f32) {
  return std::string("attn_attend ") + (f32 ? "f32 " : "bf16 ") + c.what;
}

/// Slots of filled rows, and of none: outside on either side, at the ends of the type.
std::vector<std::int32_t> list(std::int64_t n, std::int64_t slots, std::uint64_t seed) {
  std::vector<std::int32_t> v = test::integers(n, seed, 0, slots - 1);
  const std::int32_t none[] = {-1, INT_MIN, INT_MAX, static_cast<std::int32_t>(slots)};
  for (std::size_t i = 0; i < v.size(); ++i)
    if (!is_filled(v[i])) v[i] = none[i % 4];
  return v;
}

/// Rows listed for each token: all, none, fewer, more than there is room for.
std::vector<std::int32_t> listed(const Case& c, std::int64_t most, std::uint64_t seed) {
  std::vector<std::int32_t> v = test::integers(c.tokens, seed, 0, most);
  const std::int32_t ends[] = {static_cast<std::int32_t>(most), 0, static_cast<std::int32_t>(most) + 5};
  for (std::size_t i = 0; i < v.size() && i < 3; ++i) v[i] = ends[i];
  return v;
}

/// What changes between replays of a graph, for one pool.
struct Lengths {
  const std::int32_t *idx = nullptr, *counts = nullptr;
};

/// A range of rows goes through a table whose pages are all different; the rows that is_filled leaves out
/// would be NaNs in it, so that its pool is filled throughout.
template <class T>
ops::AttendSelection selection(const Case& c, const Pool& pool, Operands& m, std::uint64_t seed,
                               std::int64_t ring, const std::int32_t* sequence_of, const void* positions,
                               Lengths& lengths) {
  ops::AttendSelection s = {.kind = pool.kind, .max_count = pool.count};
  if (pool.kind == SelectionKind::kNone) return s;
  const std::int32_t table_rows = pool.page_rows > 1 ? pool.page_rows : 16;
  const std::int64_t rows = ring > 0 ? ring : pool.count, pages = (rows + table_rows - 1) / table_rows;
  const std::int64_t slots =
      pool.kind == SelectionKind::kList ? 2 * pool.count + 7 : kSequences * pages * table_rows;
  s.pool = pool_shape(pool.format, slots, pool.page_rows, kDim, kDType<T>);
  s.pool.data = m.in(pool_image<T>(s.pool, kDim, seed, pool.kind != SelectionKind::kList));
  if (pool.kind == SelectionKind::kList) {
    s.idx = lengths.idx = m.in(list(c.tokens * pool.count, slots, seed + 1));
    s.counts = lengths.counts = m.in(listed(c, pool.count, seed + 2));
    return s;
  }
  s.table = {.pages = m.in(page_numbers(kSequences, pages, seed + 3)),
             .sequence_of = sequence_of,
             .stride = pages,
             .sequences = kSequences,
             .page_rows = table_rows,
             .ring = static_cast<std::int32_t>(ring)};
  if (pool.kind == SelectionKind::kWindow)
    s.window = static_cast<std::int32_t>(pool.count);
  else
    s.visible = {.positions = positions, .ratio = c.ratio};
  return s;
}

std::vector<std::int32_t> positions_of(const Case& c, int round) {
  // Round 0 begins with the shortest contexts.
  std::vector<std::int32_t> v =
      test::integers(c.tokens, 71 + static_cast<std::uint64_t>(round), 0, c.entries.count * c.ratio + 40);
  const std::int32_t ends[] = {0, c.ratio - 1, 127};
  for (std::size_t i = 0; round == 0 && i < v.size() && i < 3; ++i) v[i] = ends[i];
  return v;
}

/// With values of size 1 the scores are sums of 512 products of size 1, times 512^-0.5. A score that is off
/// by e moves its probability by the factor exp(e); a probability may round to the neighbouring bf16, which
/// moves o by 2^-8 of the largest value (6) at most; then o itself is rounded.
struct Bound {
  double score = sum_bound(kDim, 1) / std::sqrt(512.0);
  Agreement o() const { return {6 * (0x1p-8 + 2 * score), 0x1p-7, 0.05}; }
  Agreement lse() const { return {score + 1e-5, 0x1p-20, 1}; }
};

struct Extra {
  bool rotate_back = false, sink = true;
};

template <class T>
Replay prepare(const Case& c, const Extra& extra, const OpTable& f, Operands& m) {
  constexpr bool kExact = kF32<T>;
  const Bound bound;
  const std::int64_t n = c.tokens * c.heads * kDim;
  const std::int32_t* positions = m.in(positions_of(c, 0));
  std::vector<std::int32_t> sequence_of;
  for (std::int64_t t = 0; t < c.tokens; ++t)
    sequence_of.push_back(static_cast<std::int32_t>(t % kSequences));
  const std::int32_t* sequences = m.in(sequence_of);

  std::vector<float> sink = test::normal(c.heads, 72, 3.0);
  const float ends[] = {HUGE_VALF, -HUGE_VALF, 1e30f};
  for (std::size_t h = 0; h < sink.size() && h < 3; ++h) sink[h] = ends[h];

  Lengths window, entries;
  ops::AttnAttendParams p = {
      .o = m.out<T>("o", n, kExact ? kSameBits : bound.o()),
      .lse = m.out<float>("lse", c.tokens * c.heads, kExact ? kSameBits : bound.lse()),
      .q = m.in(normal<T>(n, 73)),
      .sink = extra.sink ? m.in(sink) : nullptr,
      .window = selection<T>(c, c.window, m, 1000, c.window.count, sequences, positions, window),
      .entries = selection<T>(c, c.entries, m, 50000, 0, sequences, positions, entries),
      .positions = positions,
      .tokens = c.tokens,
      .heads = c.heads,
      .head_dim = kDim,
      .rope_dim = kRope,
      .scale = 1.0f / std::sqrt(512.0f),
      .dtype = kDType<T>,
      .rotate_back = extra.rotate_back};
  if (extra.rotate_back) p.rope.freq = m.in(frequencies());
  if (kExact) {  // codes of rounded values would differ wherever the values do
    p.quantised.codes = m.out<std::uint8_t>("codes", n);
    p.quantised.scales = m.out<std::uint8_t>("scales", n / 128);
  }
  m.workspace(p, f.attn_attend_workspace_bytes(p));
  return {[&f, p](Stream stream) { return f.attn_attend(p, stream); },
          [=, &m](int round) {
            const auto seed = static_cast<std::uint64_t>(round);
            m.set(positions, positions_of(c, round));
            const auto change = [&](const Lengths& l, const ops::AttendSelection& s) {
              if (l.idx) m.set(l.idx, list(c.tokens * s.max_count, s.pool.slots, 80 + seed));
              if (l.counts) m.set(l.counts, listed(c, s.max_count, 90 + seed));
            };
            change(window, p.window), change(entries, p.entries);
          }};
}

void refusals(Tally& tally, const Case& c) {
  const auto refuse = [&](Code code, const char* text, auto change) {
    tally.refuse("attn_attend", code, text, [&c, change](const OpTable& f, Operands& m) {
      ops::AttnAttendParams p = {.o = m.scratch<bf16>(c.tokens * c.heads * kDim),
                                 .q = m.in(normal<bf16>(c.tokens * c.heads * kDim, 73)),
                                 .tokens = c.tokens,
                                 .heads = c.heads,
                                 .head_dim = kDim,
                                 .scale = 0.04f};
      Lengths lengths;
      p.window = selection<bf16>(c, c.window, m, 1000, 0, nullptr, nullptr, lengths);
      m.workspace(p, f.attn_attend_workspace_bytes(p));
      change(p);
      return f.attn_attend(p, nullptr);
    });
  };
  using P = ops::AttnAttendParams;
  refuse(Code::kInvalidArgument, "heads", [](P& p) { p.heads = 129; });
  refuse(Code::kUnsupported, "head_dim", [](P& p) { p.head_dim = 576; });
  refuse(Code::kInvalidArgument, "q", [](P& p) { p.q = nullptr; });
  refuse(Code::kInvalidArgument, "idx", [](P& p) { p.window.idx = nullptr; });
  refuse(Code::kInvalidArgument, "page_rows", [](P& p) { p.window.pool.page_rows = 0; });
  refuse(Code::kInvalidArgument, "o", [](P& p) { p.o = nullptr; });
}

}  // namespace

void compare_attn_attend(Tally& tally, bool small) {
  for (const Case& c : cases(small)) {
    const int rounds = c.heads >= 64 ? 1 : 3;
    for (const Extra& extra : {Extra{false, true}, Extra{true, false}}) {
      const std::string more = extra.rotate_back ? ", rotated back, no sink" : "";
      tally.replay(name(c, false) + more, rounds,
                   [&](const OpTable& f, Operands& m) { return prepare<bf16>(c, extra, f, m); });
      if (c.heads < 64)
        tally.replay(name(c, true) + more, rounds,
                     [&](const OpTable& f, Operands& m) { return prepare<float>(c, extra, f, m); });
    }
  }
  refusals(tally, cases(true)[0]);
}

}  // namespace dsv4::gpu
