// Vectors of attn_attend.
#include "reference/vectors/rows.hpp"
#include "reference/vectors/suite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dsv4::reference::vectors {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Rows that one token attends to in one pool, decoded: 512 values each.
using Rows = std::vector<const double*>;

struct Pool {
  std::vector<double> values;  // 519 a row, as decoded() gives them
  std::int64_t rows;

  explicit Pool(const Array& pool)
      : values(decoded(Form::kKvEntry, pool)), rows(static_cast<std::int64_t>(values.size()) / 519) {}
  const double* row(std::int64_t i) const { return values.data() + i * 519; }
};

void gather(Rows& rows, const Pool& pool, const Array& idx, std::int64_t t, Mistake mistake) {
  static const std::vector<double> zeros(512, 0.0);
  for (std::int64_t j = 0; j < idx.dim(1); ++j) {
    std::int64_t i = idx.integer(t * idx.dim(1) + j);
    const bool inside = i >= 0 && i < pool.rows;
    if (!inside && mistake == Mistake::kPaddingAttended) rows.push_back(zeros.data());
    if (!inside && mistake != Mistake::kIndexClamped) continue;
    if (pool.rows > 0) rows.push_back(pool.row(std::clamp<std::int64_t>(i, 0, pool.rows - 1)));
  }
}

// o of one head over `rows` in one softmax whose denominator has the sink `sinks` times.
Nums attend(const double* q, const Rows& rows, double sink, int sinks, Mistake mistake) {
  if (rows.empty()) return Nums(512);
  double scale = 1 / std::sqrt(512.0);
  if (mistake == Mistake::kMscale) scale *= 0.1 * log_of(16.0) + 1;
  Nums scores;
  Num top(-kInfinity);
  for (const double* e : rows) {
    Sum dot;
    for (int i = 0; i < 512; ++i) dot.add(Num(q[i] * e[i]));
    scores.push_back(dot.value() * Num(scale));
    top = max(top, scores.back());
  }
  if (mistake == Mistake::kMaxNotSubtracted) top = Num(0);
  // Whoever rounds the weights against a running maximum rounds other numbers, but by no more than this.
  constexpr double kHalfUlp = 0x1p-8;
  Sum denominator;
  std::vector<Sum> values(512);
  for (std::size_t j = 0; j < rows.size(); ++j) {
    const Num w = exp(scores[j] - top);
    denominator.add(w);
    const Num rounded = {bf16_round(w.v), w.lo * (1 - kHalfUlp), w.hi * (1 + kHalfUlp)};
    for (std::size_t i = 0; i < 512; ++i) values[i].add(product(rounded, Num(rows[j][i])));
  }
  if (sinks > 0 && sink != -kInfinity)
    for (int i = 0; i < sinks; ++i) denominator.add(exp(Num(sink) - top));
  const Num total = denominator.value();
  Nums o;
  for (const Sum& v : values) o.push_back(std::isinf(total.v) ? Num(0) : v.value() / total);
  return o;
}

std::vector<Output> oracle(const Problem& p, Mistake mistake) {
  const Array &q = p.array("q"), &sink = p.array("sink");
  const Array &window_idx = p.array("window_idx"), &entry_idx = p.array("entry_idx");
  const Pool window(p.array("window")), entries(p.array("entries"));
  const std::int64_t tokens = q.dim(0), heads = q.dim(1);
  Nums out;
  for (std::int64_t t = 0; t < tokens; ++t) {
    Rows first, second;
    gather(first, window, window_idx, t, mistake);
    gather(second, entries, entry_idx, t, mistake);
    Rows all = first;
    all.insert(all.end(), second.begin(), second.end());
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<double> head;
      for (int i = 0; i < 512; ++i) head.push_back(q.at((t * heads + h) * 512 + i));
      const int sinks = mistake == Mistake::kSinkMissing ? 0 : mistake == Mistake::kSinkPerSplit ? 2 : 1;
      Nums o;
      if (mistake == Mistake::kTwoSoftmaxes) {
        o = attend(head.data(), first, sink.at(h), sinks, mistake);
        const Nums more = attend(head.data(), second, sink.at(h), sinks, mistake);
        for (std::size_t i = 0; i < 512; ++i) o[i] = o[i] + more[i];
      } else {
        o = attend(head.data(), all, sink.at(h), sinks, mistake);
      }
      round_to_bf16(o);
      out.insert(out.end(), o.begin(), o.end());
    }
  }
  return {plain("o", DType::kBf16, q.shape, std::move(out))};
}

// A pool of entries; those in `bad` hold NaN in every code and scale.
Array pool(Random& random, std::int64_t rows, const std::vector<std::int64_t>& bad) {
  Output packed;
  for (std::int64_t r = 0; r < rows; ++r) {
    Nums row;
    const bool nan = std::find(bad.begin(), bad.end(), r) != bad.end();
    for (int i = 0; i < 512; ++i)
      row.emplace_back(nan ? std::numeric_limits<double>::quiet_NaN() : bf16_round(random.normal()));
    append_kv_entry(packed, row, Mistake::kNone);
  }
  return {DType::kU8, {rows, 584}, packed.bytes};
}

struct Drawn {
  const char *name, *catches;
  std::vector<std::vector<double>> window, entries;  // idx of each token
  std::vector<double> sinks;                         // by head, repeated
  double sigma = 1;                                  // of q
  std::int64_t pool_rows = 9;                        // of either pool; the last two hold NaN
};

Case make(const Sizes& s, std::uint64_t seed, const Drawn& d) {
  Random random(seed, std::string("attn_attend/") + d.name);
  const auto tokens = static_cast<std::int64_t>(d.window.size());
  Case c{d.name, d.catches, {}, {}, 0};
  auto& in = c.problem.in;
  in["q"] = normal(random, DType::kBf16, {tokens, s.heads, 512}, d.sigma);
  in["window"] = pool(random, d.pool_rows, {d.pool_rows - 1, d.pool_rows - 2});
  in["entries"] = pool(random, d.pool_rows, {d.pool_rows - 1, d.pool_rows - 2});
  in["sink"] = Array::make(DType::kF32, {s.heads}, [&](std::int64_t h) {
    return d.sinks[static_cast<std::size_t>(h) % d.sinks.size()];
  });
  const auto put = [&](const char* name, const std::vector<std::vector<double>>& idx) {
    std::vector<double> flat;
    for (const auto& row : idx) flat.insert(flat.end(), row.begin(), row.end());
    const std::int64_t count = idx.empty() ? 4 : static_cast<std::int64_t>(idx[0].size());
    in[name] = Array::of(DType::kI32, {tokens, count}, flat);
  };
  put("window_idx", d.window);
  put("entry_idx", d.entries);
  return c;
}

std::vector<Case> cases(const Sizes& s, std::uint64_t seed) {
  const double low = std::numeric_limits<std::int32_t>::min(),
               high = std::numeric_limits<std::int32_t>::max();
  return {
      make(s, seed,
           {"both_pools",
            "a softmax for each pool; the sink added once a pool, or not at all; mscale folded in",
            {{0, 1, 2, 3, 4, 5}, {6, 5, 2, 1, 0, 3}},
            {{0, 2, 4, 6, 1}, {5, 3, 1, 0, 2}},
            {0.5, 2}}),
      make(s, seed,
           {"no_entry",
            "an index outside the pool attended to: clamped, or as a row of zeros; NaN behind it read",
            {{0, -1, 2, 9, low, high}, {-1, -1, 3, -1, 100, 4}},
            {{-1, 1, high, 9, 5}, {-1, -1, -1, -1, -1}},
            {0, -1}}),
      make(s, seed,
           {"empty_rows",
            "0/0 where nothing is selected: the output is 0",
            {{-1, -1}, {9, -7}, {1, -1}},
            {{-1, -1, 12}, {-1, -1, -1}, {-1, -1, -1}},
            {1, -kInfinity}}),
      make(s, seed,
           {"sinks",
            "a sink that overflows: of +-infinity, of 1e30, of -1e30; -infinity is no sink",
            {{0, 1}, {4, 5}},
            {{2, 3}, {-1, 6}},
            {1e30, -1e30, -kInfinity, kInfinity}}),
      make(s, seed,
           {"sink_infinite",
            "an infinite sink: NaN instead of 0, or a head without a sink",
            {{0, 1}},
            {{2, 3}},
            {-kInfinity, kInfinity}}),
      make(s, seed,
           {"large_scores",
            "exp of scores of some hundreds, without their maximum",
            {{0, 1, 2}},
            {{3, 4, -1}},
            {30, 0},
            80}),
      make(s, seed,
           {"one_pool", "an empty list of entries (ratio 0 layers)", {{2, 0, 1}}, {{}}, {0.25, -0.5}}),
      make(s, seed, {"empty", "T = 0", {}, {}, {0}}),
  };
}

}  // namespace

Op attn_attend_op() {
  return {
      "attn_attend",
      "o [T, H, 512] bf16, before the inverse rotation: q [T, H, 512] bf16 over the rows of window and "
      "entries "
      "[N, 584] bytes (pages of one) that window_idx and entry_idx [T, n] i32 name, in one softmax of scale "
      "512^-0.5 with sink [H] f32",
      cases,
      oracle,
      {Mistake::kTwoSoftmaxes, Mistake::kSinkMissing, Mistake::kSinkPerSplit, Mistake::kIndexClamped,
       Mistake::kPaddingAttended, Mistake::kMaxNotSubtracted, Mistake::kMscale}};
}

}  // namespace dsv4::reference::vectors
