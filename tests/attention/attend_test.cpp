// Mirrors include/dsv4/attention/attend.hpp.
#include <dsv4/attention/attend.hpp>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "tests/support/catch.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

using namespace dsv4;
using attention::EmptyPool;
using attention::KvPagePool;
using attention::RowPool;
using attention::Selection;
using test::Interval;
namespace oracle = test::oracle;

namespace {
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
const Selection<EmptyPool> kNothing{{}, nullptr, 0};

using Indices = std::vector<std::int32_t>;

template <class T>
struct Result {
  std::vector<T> o;
  std::vector<float> lse;
};

// Outputs start as values that nobody computes; the scratch is exactly as long as promised, full of NaN.
template <class T, class W, class E>
Result<T> attend(const std::vector<float>& q, const std::vector<float>& sink, const Selection<W>& window,
                 const Selection<E>& entries, int head_dim, double scale = 0) {
  const int heads = static_cast<int>(sink.size());
  Result<T> r{std::vector<T>(q.size(), test::stored<T>(777)), std::vector<float>(sink.size(), 777.0f)};
  const float s = static_cast<float>(scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(head_dim)));
  std::vector<float> scratch(static_cast<std::size_t>(attention::attend_scratch_floats(
                                 heads, std::int64_t{window.count} + entries.count, head_dim)),
                             kNan);
  attention::attend(SerialCoop{}, r.o.data(), r.lse.data(), q.data(), heads, sink.data(), window, entries,
                    head_dim, s, scratch.data());
  return r;
}

template <class T>
std::string differing(const Result<T>& a, const Result<T>& b) {
  const std::string o = test::differing(a.o, b.o), lse = test::differing(a.lse, b.lse);
  return o.empty() ? lse.empty() ? "" : "lse " + lse : "o " + o;
}

// A pool with what its rows hold, decoded by the oracle.
template <class Pool>
struct Stored {
  std::vector<double> row(std::int64_t slot) const {
    const auto first = decoded.begin() + slot * channels;
    return {first, first + channels};
  }
  Selection<Pool> select(const Indices& idx) const {
    return {pool, idx.data(), static_cast<int>(idx.size())};
  }

  Pool pool;
  std::vector<double> decoded;
  std::int64_t channels;
  std::shared_ptr<void> memory;
};

// Plain rows; the memory ends with the last row, what lies between rows is NaN.
template <class T>
Stored<RowPool<T>> rows(std::int64_t slots, int channels, std::uint64_t seed, double sigma = 1.0,
                        int gap = 8) {
  const std::int64_t stride = channels + gap;
  auto memory = std::make_shared<std::vector<T>>(
      static_cast<std::size_t>(slots > 0 ? (slots - 1) * stride + channels : 0), test::stored<T>(kNan));
  const auto data = test::stored<T>(test::normal(slots * channels, seed, sigma));
  for (std::int64_t i = 0; i < slots; ++i)
    std::copy_n(data.begin() + i * channels, channels, memory->begin() + i * stride);
  return {RowPool<T>{memory->data(), stride, slots, channels}, test::values(data), channels, memory};
}

// Pages of 584-byte entries from random codes; whatever lies beyond `slots` in the last page is NaN.
Stored<KvPagePool> pages(std::int64_t slots, int page_entries, std::uint64_t seed) {
  const std::int64_t stride = (584 * page_entries + 575) / 576 * 576;
  const std::int64_t count = (slots + page_entries - 1) / page_entries;
  auto memory = std::make_shared<std::vector<std::uint8_t>>(static_cast<std::size_t>(count * stride), 0xff);
  test::Random random(seed);
  std::vector<double> decoded;
  for (std::int64_t i = 0; i < slots; ++i) {
    std::uint8_t* page = memory->data() + i / page_entries * stride;
    std::uint8_t* data = page + 576 * (i % page_entries);
    std::uint8_t* scales = page + 576 * page_entries + 8 * (i % page_entries);
    for (int d = 0; d < 448; ++d) do
        data[d] = static_cast<std::uint8_t>(random.bits());
      while ((data[d] & 0x7f) == 0x7f);
    for (int b = 0; b < 7; ++b) scales[b] = static_cast<std::uint8_t>(random.integer(117, 121));
    for (int d = 0; d < 64; ++d) {
      const unsigned code = oracle::bf16_nearest(random.normal());
      data[448 + 2 * d] = static_cast<std::uint8_t>(code),
                     data[449 + 2 * d] = static_cast<std::uint8_t>(code >> 8);
    }
    const auto row = oracle::get_kv_entry(page, page_entries, i % page_entries);
    decoded.insert(decoded.end(), row.begin(), row.end());
  }
  return {KvPagePool{memory->data(), stride, page_entries, slots}, decoded, 512, memory};
}

// The rows that a list selects from a pool: what lies outside [0, slots) is nothing.
template <class Pool>
void append_rows(std::vector<std::vector<double>>& selected, const Stored<Pool>& stored, const Indices& idx) {
  for (const std::int32_t i : idx)
    if (i >= 0 && i < stored.pool.slots) selected.push_back(stored.row(i));
}

struct Expected {
  std::vector<Interval> o, lse;
};

enum class Weights { kRounded, kExact };

// One softmax over all selected rows, every row key and value, in double. Bounds, with u = 2^-24:
//   score       canonical dot (sum_bound) and the factor
//   weight      e^(s - m): both scores' errors, one rounding of the difference, 3 u for e^x; then rounded to
//   T denominator n/32 + 6 additions, and e^(sink - m) value sum   n fused steps
// Weights::kExact leaves out the rounding of the weights and allows for it: u_T of the sum of magnitudes.
template <class T>
Expected expected(const std::vector<float>& q, const std::vector<float>& sink,
                  const std::vector<std::vector<double>>& selected, int head_dim,
                  Weights weights = Weights::kRounded, double scale = 0) {
  const std::size_t n = selected.size(), channels = static_cast<std::size_t>(head_dim);
  const double u = test::kUnit, count = static_cast<double>(n);
  const double factor = static_cast<float>(scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(head_dim)));
  Expected want;
  for (std::size_t h = 0; h < sink.size(); ++h) {
    if (n == 0) {
      want.o.insert(want.o.end(), channels, {0, 0});
      want.lse.push_back({-kInf, -kInf});
      continue;
    }
    std::vector<double> s(n);
    double error = 0, max = -kInf;  // the largest error of a score, so also of the maximum
    for (std::size_t j = 0; j < n; ++j) {
      double dot = 0, magnitude = 0;
      for (std::size_t d = 0; d < channels; ++d) {
        const double term = q[h * channels + d] * selected[j][d];
        dot += term, magnitude += std::abs(term);
      }
      s[j] = dot * factor;
      error = std::max(error, (oracle::sum_bound(head_dim) * magnitude + u * std::abs(dot)) * factor);
      max = std::max(max, s[j]);
    }
    Interval sum{0, 0};
    std::vector<double> value(channels), bound(channels);
    for (std::size_t j = 0; j < n; ++j) {
      const double e = 2 * error + u * std::abs(s[j] - max) + 3 * u;
      Interval w{std::exp(s[j] - max - e), std::exp(s[j] - max + e)};
      if (s[j] == max) w = {std::min(1.0, w.lo), 1.0};  // a computed weight is at most e^0
      sum = sum + w;
      if (weights == Weights::kRounded) w = test::rounded<T>(w);
      const double loose = weights == Weights::kExact && std::is_same_v<T, bf16> ? test::kUnitBf16 : 0;
      for (std::size_t d = 0; d < channels; ++d) {
        value[d] += (w.lo + w.hi) / 2 * selected[j][d];
        bound[d] += ((w.hi - w.lo) / 2 + (loose + (count + 1) * u) * w.hi) * std::abs(selected[j][d]);
      }
    }
    const double sum_error = (count / 32 + 6) * u;
    sum = {sum.lo * (1 - sum_error), sum.hi * (1 + sum_error)};
    const double x = double{sink[h]} - max;
    const double sink_error = std::isinf(sink[h]) ? 0 : error + u * std::abs(x) + 3 * u;
    const Interval sunk{std::exp(x - sink_error), std::exp(x + sink_error)};
    const Interval denominator{(sum.lo + sunk.lo) * (1 - u), (sum.hi + sunk.hi) * (1 + u)};
    for (std::size_t d = 0; d < channels; ++d) {
      const double lo = value[d] - bound[d], hi = value[d] + bound[d];
      Interval o{lo / (lo < 0 ? denominator.lo : denominator.hi),
                 hi / (hi < 0 ? denominator.hi : denominator.lo)};
      if (std::isinf(denominator.lo)) o = {0, 0};
      const double rounding = u * o.magnitude() + 0x1p-126;  // the quotient; what is subnormal may be lost
      want.o.push_back(test::rounded<T>({o.lo - rounding, o.hi + rounding}));
    }
    const Interval log{std::log(sum.lo), std::log(sum.hi)};
    const double rounding = error + u * (std::abs(max) + 3 * log.magnitude() + 1);
    want.lse.push_back({max + log.lo - rounding, max + log.hi + rounding});
  }
  return want;
}

template <class T>
void require_matches(const Result<T>& got, const Expected& want) {
  REQUIRE(test::outside(got.lse, want.lse) == "");
  REQUIRE(test::outside(got.o, want.o) == "");
}

// Queries as the model has them, in values of T. Scores of rows with sigma 1 then spread by about `spread`.
template <class T>
std::vector<float> queries(int heads, int head_dim, std::uint64_t seed, double spread = 1.5) {
  std::vector<float> q;
  for (const double v :
       test::values(test::stored<T>(test::normal(std::int64_t{heads} * head_dim, seed, spread))))
    q.push_back(static_cast<float>(v));
  return q;
}

Indices shuffled(int count, std::int64_t slots, std::uint64_t seed) {
  return test::integers(count, seed, 0, slots - 1);
}
}  // namespace

// ---- the equation -----------------------------------------------------------------------------------------

TEMPLATE_TEST_CASE("attention::attend is one softmax over both pools, with a sink", "[attention][attend]",
                   float, bf16) {
  using T = TestType;
  struct Case {
    int heads, window, entries, head_dim;
  };
  const Case c =
      GENERATE(Case{1, 1, 0, 512}, Case{2, 0, 1, 512}, Case{3, 1, 1, 512}, Case{4, 2, 3, 32},
               Case{5, 31, 0, 512}, Case{1, 32, 0, 96}, Case{2, 0, 33, 512}, Case{3, 15, 16, 512},
               Case{5, 16, 16, 512}, Case{4, 1, 32, 512}, Case{5, 32, 1, 32}, Case{5, 31, 34, 512},
               Case{64, 128, 0, 512}, Case{2, 128, 512, 512}, Case{1, 0, 640, 512}, Case{128, 33, 7, 512});
  const auto window = rows<T>(150, c.head_dim, 201), entries = rows<T>(700, c.head_dim, 202);
  const Indices w = shuffled(c.window, 150, 203), e = shuffled(c.entries, 700, 204);  // with duplicates
  const auto q = queries<T>(c.heads, c.head_dim, 205);
  const auto sink = test::normal(c.heads, 206, 2.0);
  std::vector<std::vector<double>> selected;
  append_rows(selected, window, w);
  append_rows(selected, entries, e);
  const auto got = attend<T>(q, sink, window.select(w), entries.select(e), c.head_dim);
  CAPTURE(c.heads, c.window, c.entries, c.head_dim);
  require_matches(got, expected<T>(q, sink, selected, c.head_dim));
  require_matches(got, expected<T>(q, sink, selected, c.head_dim, Weights::kExact));
}

TEMPLATE_TEST_CASE("attention::attend reads pages and rows side by side", "[attention][attend]", float,
                   bf16) {
  using T = TestType;
  const int page_entries = GENERATE(1, 2, 53, 64);
  const int heads = 5;
  const auto paged = pages(140, page_entries, 211), other = pages(70, 2, 212);
  const auto plain = rows<bf16>(40, 512, 213);
  const auto exact = rows<float>(40, 512, 214);
  const auto q = queries<T>(heads, 512, 215);
  const auto sink = test::normal(heads, 216);
  const Indices w = shuffled(67, 140, 217), e = shuffled(41, 40, 218), p = shuffled(41, 70, 219);
  const auto check = [&](const auto& window, const Indices& wi, const auto& entries, const Indices& ei) {
    std::vector<std::vector<double>> selected;
    append_rows(selected, window, wi);
    append_rows(selected, entries, ei);
    require_matches(attend<T>(q, sink, window.select(wi), entries.select(ei), 512),
                    expected<T>(q, sink, selected, 512));
  };
  CAPTURE(page_entries);
  check(paged, w, other, p);
  check(paged, w, plain, e);
  check(exact, e, paged, w);
  check(plain, e, exact, e);
}

TEMPLATE_TEST_CASE("attention::attend: the same rows in any storage and any pool give the same bits",
                   "[attention][attend]", float, bf16) {
  using T = TestType;
  // Rows that FP8 pages hold exactly, as pages, bf16 and f32; all in one pool, or the first ones in
  // the window and the rest among the entries: window rows come first, each list in its order.
  const auto paged = pages(64, 53, 221);
  std::vector<float> f;
  std::vector<bf16> b;
  for (const double v : paged.decoded) f.push_back(static_cast<float>(v)), b.push_back(test::stored<bf16>(v));
  const RowPool<float> f32{f.data(), 512, 64, 512};
  const RowPool<bf16> half{b.data(), 512, 64, 512};
  const auto q = queries<T>(3, 512, 222);
  const auto sink = test::normal(3, 223);
  const Indices all = shuffled(50, 64, 224);
  const Indices first(all.begin(), all.begin() + 20), second(all.begin() + 20, all.end());
  const auto want = attend<T>(q, sink, paged.select(all), kNothing, 512);
  const auto select = [](const auto& pool, const Indices& idx) {
    return Selection<std::decay_t<decltype(pool)>>{pool, idx.data(), static_cast<int>(idx.size())};
  };
  REQUIRE(differing(attend<T>(q, sink, select(f32, all), kNothing, 512), want) == "");
  REQUIRE(differing(attend<T>(q, sink, select(half, all), kNothing, 512), want) == "");
  REQUIRE(differing(attend<T>(q, sink, kNothing, select(half, all), 512), want) == "");
  REQUIRE(differing(attend<T>(q, sink, select(f32, first), paged.select(second), 512), want) == "");
  REQUIRE(differing(attend<T>(q, sink, paged.select(first), select(half, second), 512), want) == "");
}

TEMPLATE_TEST_CASE("attention::attend: the oracle tells the roundings apart", "[attention][attend]", float,
                   bf16) {
  // Few rows with unequal weights: there the rounding of a weight, and whether the denominator has it, shows.
  using T = TestType;
  const int count = GENERATE(2, 3, 5, 9);
  const auto window = rows<T>(16, 512, 231);
  const Indices w = shuffled(count, 16, 232);
  const auto q = queries<T>(16, 512, 233, 0.7);
  const std::vector<float> sink(16, -kInf);
  std::vector<std::vector<double>> selected;
  append_rows(selected, window, w);
  const auto want = expected<T>(q, sink, selected, 512);
  require_matches(attend<T>(q, sink, window.select(w), kNothing, 512), want);
  if constexpr (std::is_same_v<T, bf16>) {
    int single = 0;
    for (const Interval o : want.o) single += o.lo == o.hi;
    REQUIRE(single > static_cast<int>(want.o.size()) * 97 / 100);
  }
}

TEST_CASE("attention::attend: the scale is applied, and is the caller's", "[attention][attend]") {
  const auto window = rows<float>(40, 64, 234);
  const Indices w = shuffled(20, 40, 235);
  const auto q = queries<float>(3, 64, 236);
  const std::vector<float> sink = {0.5f, -1.0f, 2.0f};
  std::vector<std::vector<double>> selected;
  append_rows(selected, window, w);
  for (const double scale : {1.0, 0.125, 0.01})
    require_matches(attend<float>(q, sink, window.select(w), kNothing, 64, scale),
                    expected<float>(q, sink, selected, 64, Weights::kRounded, scale));
}

TEMPLATE_TEST_CASE("attention::attend: very large scores", "[attention][attend]", float, bf16) {
  using T = TestType;
  // Row 1 scores +-1e4 above or below the others: the winner's value comes out unchanged.
  const double sign = GENERATE(1.0, -1.0);
  auto window = rows<T>(4, 512, 237, 0.1);
  std::vector<float> q(512, 0.0f);
  q[0] = static_cast<float>(sign * 4096);
  T* data = window.pool.data;
  for (std::int64_t i = 0; i < 4; ++i) data[i * window.pool.stride] = test::stored<T>(i == 1 ? 64 : -64);
  const Indices w = {0, 1, 2, 3, 0};
  const auto got = attend<T>(q, {0.0f}, window.select(w), kNothing, 512);
  for (std::size_t d = 1; d < 512; ++d) {
    double want = test::value(data[static_cast<std::int64_t>(d) + window.pool.stride]);
    if (sign < 0) {  // rows 0 (twice), 2 and 3 are equal at +1e4
      want = 0;
      for (const std::int64_t i : {0, 0, 2, 3})
        want += test::value(data[i * window.pool.stride + static_cast<std::int64_t>(d)]) / 4;
    }
    CAPTURE(sign, d);
    REQUIRE(test::within(test::value(got.o[d]), want,
                         (std::is_same_v<T, float> ? 4 * test::kUnit : test::kUnitBf16) * 0.6));
  }
  const double top = 4096 * 64 / std::sqrt(512.0), lse = sign > 0 ? top : top + std::log(4.0);
  REQUIRE(test::within(got.lse[0], lse, 4 * test::kUnit * top));
  // All scores at -1e4 and a sink at 0: the sink takes everything. At +1e4: nothing.
  for (std::int64_t i = 0; i < 4; ++i) data[i * window.pool.stride] = test::stored<T>(-64);
  const auto sunk = attend<T>(q, {0.0f}, window.select(w), kNothing, 512);
  const auto unsunk = attend<T>(q, {-kInf}, window.select(w), kNothing, 512);
  if (sign > 0)
    for (const T v : sunk.o) REQUIRE(test::value(v) == 0);
  else
    REQUIRE(differing(sunk, unsunk) == "");
}

TEST_CASE("attention::attend: entries may tower above the window, and the other way round",
          "[attention][attend]") {
  // The maximum is taken over both pools: from one alone, e^300 would overflow.
  std::vector<float> q(32, 0.0f), low(32, 0.25f), high(32, 0.5f);
  q[0] = 1, low[0] = -100, high[0] = 200;
  const RowPool<float> below{low.data(), 32, 1, 32}, above{high.data(), 32, 1, 32};
  const std::int32_t zero = 0;
  for (const bool swapped : {false, true}) {
    const Selection<RowPool<float>> window{swapped ? above : below, &zero, 1},
        entries{swapped ? below : above, &zero, 1};
    const auto got = attend<float>(q, {-kInf}, window, entries, 32, 1.0);
    REQUIRE(got.lse[0] == 200.0f);
    for (std::size_t d = 0; d < 32; ++d) REQUIRE(got.o[d] == high[d]);
  }
}

// ---- sink and lse -----------------------------------------------------------------------------------------

TEMPLATE_TEST_CASE("attention::attend: any sink is legal, and enters the denominator once",
                   "[attention][attend]", float, bf16) {
  using T = TestType;
  const auto window = rows<T>(150, 512, 241), entries = rows<T>(150, 512, 242);
  const Indices w = shuffled(40, 150, 243), e = shuffled(33, 150, 244);
  const std::vector<float> sink = {-kInf, kInf,  -1e30f, 1e30f, 0.0f,  4.0f,
                                   -4.0f, 60.0f, -60.0f, 3e38f, -3e38f};
  const int heads = static_cast<int>(sink.size());
  // The same query in every head: only the sink tells them apart.
  std::vector<float> q;
  const auto one = queries<T>(1, 512, 245);
  for (int h = 0; h < heads; ++h) q.insert(q.end(), one.begin(), one.end());
  std::vector<std::vector<double>> selected;
  append_rows(selected, window, w);
  append_rows(selected, entries, e);
  const auto got = attend<T>(q, sink, window.select(w), entries.select(e), 512);
  require_matches(got, expected<T>(q, sink, selected, 512));
  const auto head = [&](int h) {
    return std::vector<T>(got.o.begin() + h * 512, got.o.begin() + (h + 1) * 512);
  };
  for (const int h : {1, 3, 9})
    for (const T v : head(h)) REQUIRE(test::value(v) == 0);                      // everything sinks
  for (const int h : {2, 10}) REQUIRE(test::differing(head(h), head(0)) == "");  // nothing does
  for (const float lse : got.lse)
    REQUIRE(test::bits_of(lse) == test::bits_of(got.lse[0]));  // without the sink
}

TEST_CASE("attention::attend: lse by hand", "[attention][attend]") {
  // Scores ln 1, ln 2, ln 5 over two pools: lse = ln 8, natural, whatever the sink; o = sum p e / (8 + 8).
  std::vector<float> q(32, 0.0f), memory(3 * 32, 0.0f);
  q[0] = 1;
  const double terms[] = {1, 2, 5};
  for (std::size_t i = 0; i < 3; ++i)
    memory[i * 32] = static_cast<float>(std::log(terms[i])), memory[i * 32 + 1 + i] = 1;
  const RowPool<float> pool{memory.data(), 32, 3, 32};
  const Indices w = {0, 1}, e = {2};
  const auto got =
      attend<float>(q, {static_cast<float>(std::log(8.0))}, Selection<RowPool<float>>{pool, w.data(), 2},
                    Selection<RowPool<float>>{pool, e.data(), 1}, 32, 1.0);
  REQUIRE(test::within(got.lse[0], std::log(8.0), 8 * test::kUnit));
  for (std::size_t i = 0; i < 3; ++i) REQUIRE(test::within(got.o[1 + i], terms[i] / 16, 8 * test::kUnit));
}

TEST_CASE("attention::attend: lse may be left out", "[attention][attend]") {
  const auto window = rows<bf16>(20, 512, 246);
  const Indices w = shuffled(20, 20, 247);
  const auto q = queries<bf16>(2, 512, 248);
  const std::vector<float> sink = {0.0f, 1.0f};
  const auto with = attend<bf16>(q, sink, window.select(w), kNothing, 512);
  std::vector<bf16> o(1024);
  std::vector<float> scratch(static_cast<std::size_t>(attention::attend_scratch_floats(2, 20, 512)));
  attention::attend(SerialCoop{}, o.data(), nullptr, q.data(), 2, sink.data(), window.select(w), kNothing,
                    512, static_cast<float>(1 / std::sqrt(512.0)), scratch.data());
  REQUIRE(test::differing(o, with.o) == "");
}

// ---- empty rows, padding, indices that mean nothing -------------------------------------------------------

TEMPLATE_TEST_CASE("attention::attend: nothing selected gives 0 and lse -inf", "[attention][attend]", float,
                   bf16) {
  using T = TestType;
  const auto window = rows<T>(5, 512, 251), none = rows<T>(0, 512, 252);
  const auto q = queries<T>(6, 512, 253);
  const std::vector<float> sink = {0.0f, -kInf, kInf, 1e30f, -1e30f, 5.0f};
  const Indices nothing = {}, padding = {-1, -1, -1}, beyond = {5, INT_MAX, INT_MIN}, any = {0, 1, 2};
  const auto check = [&](const Result<T>& got) {
    for (const T v : got.o) REQUIRE(test::value(v) == 0);
    for (const float lse : got.lse) REQUIRE(lse == -kInf);
  };
  check(attend<T>(q, sink, kNothing, kNothing, 512));
  check(attend<T>(q, sink, window.select(nothing), window.select(nothing), 512));
  check(attend<T>(q, sink, window.select(padding), window.select(beyond), 512));
  check(attend<T>(q, sink, window.select(beyond), kNothing, 512));
  check(attend<T>(q, sink, none.select(any), none.select(padding), 512));  // a pool without slots
  const Selection<EmptyPool> listed{{}, any.data(), 3};
  check(attend<T>(q, sink, kNothing, listed, 512));
}

TEMPLATE_TEST_CASE("attention::attend: padding anywhere changes no bit", "[attention][attend]", float, bf16) {
  using T = TestType;
  const int count = GENERATE(1, 31, 32, 65);
  const auto window = rows<T>(100, 512, 254);
  const auto entries = pages(100, 53, 255);
  const Indices w = shuffled(count, 100, 256), e = shuffled(40, 100, 257);
  const auto q = queries<T>(3, 512, 258);
  const std::vector<float> sink = {0.0f, 3.0f, -kInf};
  const auto want = attend<T>(q, sink, window.select(w), entries.select(e), 512);
  const Indices nothing = {-1, 100, INT_MIN, INT_MAX, -2, 101, -100};
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    test::Random random(seed);
    const auto pad = [&](Indices idx) {
      const std::int64_t extra = random.integer(1, 70);
      for (std::int64_t i = 0; i < extra; ++i)
        idx.insert(idx.begin() + random.integer(0, static_cast<std::int64_t>(idx.size())),
                   seed == 0 ? -1 : nothing[static_cast<std::size_t>(random.integer(0, 6))]);
      return idx;
    };
    const Indices wp = pad(w), ep = pad(e);
    CAPTURE(count, seed);
    REQUIRE(differing(attend<T>(q, sink, window.select(wp), entries.select(ep), 512), want) == "");
  }
}

TEST_CASE("attention::attend: indices outside [0, slots) are ignored, NaN lies behind them",
          "[attention][attend]") {
  // 40 usable rows between NaN rows: row -1 and row 40 exist in memory and must not leak; nor must a NaN row
  // inside the pool that is not selected.
  constexpr int kDim = 64;
  std::vector<float> memory = test::normal(42 * kDim, 261);
  std::fill_n(memory.begin(), kDim, kNan);
  std::fill_n(memory.end() - kDim, kDim, kNan);
  std::fill_n(memory.begin() + 8 * kDim, kDim, kNan);  // slot 7
  const RowPool<float> pool{memory.data() + kDim, kDim, 40, kDim};
  const auto q = queries<float>(3, kDim, 262);
  const std::vector<float> sink = {0.0f, -kInf, 2.0f};
  const Indices clean = {0, 39, 8, 6, 39}, dirty = {INT_MIN, 0, 40, 39, -1, 8, INT_MAX, 6, 41, -40, 39};
  const auto select = [&](const Indices& idx) {
    return Selection<RowPool<float>>{pool, idx.data(), static_cast<int>(idx.size())};
  };
  const auto want = attend<float>(q, sink, select(clean), select(clean), kDim);
  for (const float v : want.o) REQUIRE(std::isfinite(v));
  REQUIRE(differing(attend<float>(q, sink, select(dirty), select(dirty), kDim), want) == "");
  std::vector<std::vector<double>> selected;
  for (int twice = 0; twice < 2; ++twice)
    for (const std::int32_t i : clean)
      selected.emplace_back(memory.begin() + (i + 1) * kDim, memory.begin() + (i + 2) * kDim);
  require_matches(want, expected<float>(q, sink, selected, kDim));
}

TEST_CASE("attention::attend: the last page is not full, NaN lies behind its last slot",
          "[attention][attend]") {
  const auto stored = pages(70, 64, 263);  // six of page 1; what follows is NaN codes, scale 255
  const auto q = queries<bf16>(2, 512, 264);
  const std::vector<float> sink = {0.0f, 1.0f};
  const Indices clean = {0, 63, 64, 69}, dirty = {70, 0, 63, 127, 64, 128, 69, 71, -1};
  const auto want = attend<bf16>(q, sink, stored.select(clean), kNothing, 512);
  for (const bf16 v : want.o) REQUIRE(std::isfinite(test::value(v)));
  REQUIRE(differing(attend<bf16>(q, sink, stored.select(dirty), kNothing, 512), want) == "");
  REQUIRE(differing(attend<bf16>(q, sink, kNothing, stored.select(dirty), 512), want) == "");
}

#if __has_include(<sys/mman.h>)
TEST_CASE("attention::attend: memory behind an index that means nothing is never touched",
          "[attention][attend]") {
  // Rows that fill one readable stretch of memory to its last byte, between two that fault.
  constexpr int kDim = 512, kRowBytes = kDim * 4;
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  const std::int64_t slots = page / kRowBytes > 0 ? 8 * (page / kRowBytes) : 8, bytes = slots * kRowBytes;
  void* const mapped = mmap(nullptr, static_cast<std::size_t>(bytes + 2 * page), PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(mapped != MAP_FAILED);
  char* const readable = static_cast<char*>(mapped) + page;
  REQUIRE(mprotect(readable, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE) == 0);
  float* const data = reinterpret_cast<float*>(readable);
  const auto values = test::normal(slots * kDim, 265);
  std::copy(values.begin(), values.end(), data);
  const RowPool<float> pool{data, kDim, slots, kDim};
  const auto last = static_cast<std::int32_t>(slots - 1), end = static_cast<std::int32_t>(slots);
  const auto q = queries<float>(2, kDim, 266);
  const Indices clean = {0, last, 3}, dirty = {-1, 0, end, last, INT_MAX, 3, INT_MIN, end + 1, -7, 1 << 30};
  const auto select = [&](const Indices& idx) {
    return Selection<RowPool<float>>{pool, idx.data(), static_cast<int>(idx.size())};
  };
  const auto want = attend<float>(q, {0.0f, 1.0f}, select(clean), select(clean), kDim);
  REQUIRE(differing(attend<float>(q, {0.0f, 1.0f}, select(dirty), select(dirty), kDim), want) == "");
  munmap(mapped, static_cast<std::size_t>(bytes + 2 * page));
}
#endif

TEST_CASE("attention::attend: an index listed twice counts twice", "[attention][attend]") {
  const auto window = rows<float>(8, 64, 267);
  const auto q = queries<float>(2, 64, 268);
  const std::vector<float> sink = {0.5f, -kInf};
  const Indices twice = {3, 5, 3}, three = {3}, rest = {5, 3};
  std::vector<std::vector<double>> selected;
  append_rows(selected, window, twice);
  const auto want = expected<float>(q, sink, selected, 64);
  require_matches(attend<float>(q, sink, window.select(twice), kNothing, 64), want);
  require_matches(attend<float>(q, sink, window.select(three), window.select(rest), 64),
                  want);  // across pools too
}

// ---- heads, bad numbers, groups ---------------------------------------------------------------------------

TEMPLATE_TEST_CASE("attention::attend: a head does not depend on the heads beside it", "[attention][attend]",
                   float, bf16) {
  using T = TestType;
  const int heads = 5;
  const auto window = rows<T>(60, 512, 271), entries = rows<T>(60, 512, 272);
  const Indices w = shuffled(37, 60, 273), e = shuffled(30, 60, 274);
  const auto q = queries<T>(heads, 512, 275);
  const auto sink = test::normal(heads, 276);
  const auto together = attend<T>(q, sink, window.select(w), entries.select(e), 512);
  for (int h = 0; h < heads; ++h)
    for (int n = 1; h + n <= heads; ++n) {
      const Result<T> want{{together.o.begin() + h * 512, together.o.begin() + (h + n) * 512},
                           {together.lse.begin() + h, together.lse.begin() + h + n}};
      const auto got =
          attend<T>({q.begin() + h * 512, q.begin() + (h + n) * 512},
                    {sink.begin() + h, sink.begin() + h + n}, window.select(w), entries.select(e), 512);
      CAPTURE(h, n);
      REQUIRE(differing(got, want) == "");
    }
}

TEMPLATE_TEST_CASE("attention::attend: a NaN that is selected shows, in its head or in all",
                   "[attention][attend]", float, bf16) {
  using T = TestType;
  const int count = GENERATE(1, 5, 40);
  auto window = rows<T>(50, 64, 281);
  Indices w(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) w[std::size_t(i)] = i + 3;
  const std::vector<float> sink = {0.0f, 1.0f, -kInf};
  auto q = queries<T>(3, 64, 282);
  const auto clean = attend<T>(q, sink, window.select(w), kNothing, 64);
  q[64 + 5] = kNan;  // the query of head 1
  const auto one = attend<T>(q, sink, window.select(w), kNothing, 64);
  CAPTURE(count);
  for (std::size_t i = 0; i < one.o.size(); ++i) {
    if (i / 64 == 1)
      REQUIRE(std::isnan(test::value(one.o[i])));
    else
      REQUIRE(test::value(one.o[i]) == test::value(clean.o[i]));
  }
  REQUIRE(std::isnan(one.lse[1]));
  REQUIRE(test::identical(one.lse[0], clean.lse[0]));
  q[64 + 5] = 1;
  window.pool.data[3 * window.pool.stride + 9] = test::stored<T>(kNan);  // a selected row
  const auto all = attend<T>(q, sink, window.select(w), kNothing, 64);
  for (const T v : all.o) REQUIRE(std::isnan(test::value(v)));
}

TEMPLATE_TEST_CASE("attention::attend: a group gives the bits of one thread", "[attention][attend]", float,
                   bf16) {
  using T = TestType;
  const int heads = 3;
  const auto window = pages(60, 53, 291);
  const auto entries = rows<T>(60, 512, 292);
  Indices w = shuffled(37, 60, 293), e = shuffled(12, 60, 294);
  w[5] = -1, w[20] = 60, e[0] = INT_MIN;
  const auto q = queries<T>(heads, 512, 295);
  const std::vector<float> sink = {0.0f, -kInf, 2.0f};
  const auto want = attend<T>(q, sink, window.select(w), entries.select(e), 512);
  Result<T> got{std::vector<T>(q.size()), std::vector<float>(sink.size())};
  std::vector<float> scratch(static_cast<std::size_t>(attention::attend_scratch_floats(heads, 49, 512)));
  test::run_group<3>([&](const auto& coop) {
    attention::attend(coop, got.o.data(), got.lse.data(), q.data(), heads, sink.data(), window.select(w),
                      entries.select(e), 512, static_cast<float>(1 / std::sqrt(512.0)), scratch.data());
  });
  REQUIRE(differing(got, want) == "");
}
