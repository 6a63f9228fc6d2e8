// Mirrors include/dsv4/attention/indexer.hpp.
#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/kv_cache.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

using namespace dsv4;
using attention::IndexFp4Pool;
using attention::IndexFp8Pool;
using attention::RowPool;
using test::Interval;
namespace oracle = test::oracle;

namespace {
constexpr int kDim = 128;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kUntouched = -12345.0f;

template <class Keys>
void score(std::vector<float>& scores, const std::vector<float>& q, const std::vector<float>& weights,
           const Keys& keys, std::int64_t begin, std::int64_t end, int dim = kDim) {
  const int heads = static_cast<int>(weights.size());
  std::vector<float> scratch(
      static_cast<std::size_t>(attention::kScoreTile * (heads + dim)));  // not one more
  attention::index_scores(SerialCoop{}, scores.data(), q.data(), weights.data(), keys, begin, end, heads, dim,
                          scratch.data());
}

template <class Keys>
std::vector<float> score_all(const std::vector<float>& q, const std::vector<float>& weights, const Keys& keys,
                             std::int64_t entries, int dim = kDim) {
  std::vector<float> scores(static_cast<std::size_t>(entries), kUntouched);
  score(scores, q, weights, keys, 0, entries, dim);
  return scores;
}

// sum_h w[h] max(q[h] . k, 0). Bound: dim/32 + 6 roundings of a dot (which ReLU does not enlarge), one for
// each head in the sum.
Interval score_of(const std::vector<float>& q, const std::vector<float>& weights, const double* key,
                  int dim) {
  double sum = 0, bound = 0;
  for (std::size_t h = 0; h < weights.size(); ++h) {
    double dot = 0, magnitude = 0;
    for (int d = 0; d < dim; ++d) {
      const double term = double{q[h * static_cast<std::size_t>(dim) + static_cast<std::size_t>(d)]} * key[d];
      dot += term, magnitude += std::abs(term);
    }
    const double w = weights[h], clipped = dot > 0 ? dot : 0;
    sum += w * clipped;
    bound += std::abs(w) * (oracle::sum_bound(dim) * magnitude +
                            static_cast<double>(weights.size()) * test::kUnit * clipped);
  }
  return test::around(sum, bound);
}

std::vector<Interval> scores_of(const std::vector<float>& q, const std::vector<float>& weights,
                                const std::vector<double>& keys, int dim = kDim) {
  std::vector<Interval> out;
  for (std::size_t i = 0; i < keys.size(); i += static_cast<std::size_t>(dim))
    out.push_back(score_of(q, weights, &keys[i], dim));
  return out;
}
}  // namespace

TEMPLATE_TEST_CASE("attention::finish_index_query turns the last channels, then transforms",
                   "[attention][indexer]", float, bf16) {
  using T = TestType;
  const std::int64_t position = GENERATE(0, 1, 300, (1 << 20) - 1);
  const auto start = test::stored<T>(test::normal(kDim, 131));
  const auto table = oracle::turns(position, 32, 160000);
  std::vector<Interval> want;
  for (const double v : test::values(start)) want.push_back({v, v});
  oracle::rotate(want, 64, table, +1);
  want = test::rounded<T>(oracle::hadamard(test::rounded<T>(want)));
  std::vector<T> alone = start, together = start;
  std::vector<float> scratch(kDim);
  attention::finish_index_query<kDim>(SerialCoop{}, alone.data(), table.data(), 64, scratch.data());
  CAPTURE(position);
  REQUIRE(test::outside(alone, want) == "");
  test::run_group<3>([&](const auto& coop) {
    attention::finish_index_query<kDim>(coop, together.data(), table.data(), 64, scratch.data());
  });
  REQUIRE(test::differing(together, alone) == "");
}

TEST_CASE("attention::finish_index_query and finish_index_key keep q . k", "[attention][indexer]") {
  // The transform is orthonormal: on both sides it changes no score, on one side every score.
  auto q = test::normal(kDim, 132), k = test::normal(kDim, 133);
  const auto table = oracle::turns(0);
  std::vector<float> scratch(kDim);
  double before = 0, after = 0, one_sided = 0, magnitude = 0;
  for (std::size_t d = 0; d < kDim; ++d) before += double{q[d]} * k[d];
  const auto k0 = k;
  attention::finish_index_query<kDim>(SerialCoop{}, q.data(), table.data(), 64, scratch.data());
  attention::finish_index_query<kDim>(SerialCoop{}, k.data(), table.data(), 64, scratch.data());
  for (std::size_t d = 0; d < kDim; ++d) {
    after += double{q[d]} * k[d], one_sided += double{q[d]} * k0[d];
    magnitude += std::abs(double{q[d]} * k[d]);
  }
  REQUIRE(std::abs(after - before) <= 1e-5 * magnitude);  // about 20 roundings of 6e-8 either side, summed
  REQUIRE(std::abs(one_sided - before) > 1e-2 * magnitude);
}

TEST_CASE("attention::index_weight_factor is dim^-1/2 heads^-1/2", "[attention][indexer]") {
  const int heads = GENERATE(1, 2, 5, 63, 64), dim = GENERATE(32, 128);
  const double want = std::pow(dim, -0.5) * std::pow(heads, -0.5);
  // Two roots, two reciprocals, one product.
  REQUIRE(std::abs(attention::index_weight_factor(dim, heads) - want) <= 5 * test::kUnit * want);
}

TEST_CASE("attention::index_scores over f32 rows computes its equation", "[attention][indexer]") {
  const int heads = GENERATE(1, 2, 3, 5, 63, 64);
  const int entries = GENERATE(1, 31, 32, 33, 65);
  const int dim = GENERATE(32, 128);
  const std::int64_t stride = dim + 8;
  const auto q = test::normal(std::int64_t{heads} * dim, 141), weights = test::normal(heads, 142);
  const auto memory = test::normal(entries * stride, 143);
  std::vector<double> keys;
  for (int i = 0; i < entries; ++i)
    for (int d = 0; d < dim; ++d) keys.push_back(memory[std::size_t(i * stride + d)]);
  std::vector<float> copy = memory;
  const RowPool<float> pool{copy.data(), stride, entries, dim};
  CAPTURE(heads, entries, dim);
  REQUIRE(test::outside(score_all(q, weights, pool, entries, dim), scores_of(q, weights, keys, dim)) == "");
}

TEST_CASE("attention::index_scores over FP4 pages and bf16 rows computes its equation",
          "[attention][indexer]") {
  const int heads = GENERATE(3, 64);
  const int page_entries = GENERATE(1, 53, 64);
  const std::int64_t entries = 1000, stride = 68 * page_entries + 12;
  const auto q = test::normal(std::int64_t{heads} * kDim, 144), weights = test::normal(heads, 145);
  std::vector<std::uint8_t> bytes = test::bytes((entries / page_entries + 1) * stride, 146);
  std::vector<double> keys;
  std::vector<bf16> rows;
  for (std::int64_t i = 0; i < entries; ++i) {
    std::uint8_t* page = bytes.data() + i / page_entries * stride;
    for (int b = 0; b < 4; ++b) {
      std::uint8_t& scale = page[64 * page_entries + 4 * (i % page_entries) + b];
      scale = static_cast<std::uint8_t>(123 + scale % 8);
    }
    for (const double v : oracle::get_index_key(page, page_entries, i % page_entries)) {
      keys.push_back(v);
      rows.push_back(test::stored<bf16>(v));  // exact
    }
  }
  const auto want = scores_of(q, weights, keys);
  const auto paged =
      score_all(q, weights, IndexFp4Pool{bytes.data(), stride, page_entries, entries}, entries);
  CAPTURE(heads, page_entries);
  REQUIRE(test::outside(paged, want) == "");
  // The same keys stored otherwise: the same bits.
  REQUIRE(test::differing(score_all(q, weights, RowPool<bf16>{rows.data(), kDim, entries, kDim}, entries),
                          paged) == "");
}

TEST_CASE("attention::index_scores over FP8 pages computes its equation", "[attention][indexer]") {
  const int heads = GENERATE(3, 64);
  const int page_entries = GENERATE(1, 53, 64);
  const bool dense = GENERATE(false, true);  // scales as a tensor of their own
  const std::int64_t entries = 300, pages = entries / page_entries + 1;
  const std::int64_t stride = (dense ? 128 : 132) * page_entries + 12, scales_stride = 4 * page_entries + 8;
  const auto q = test::normal(std::int64_t{heads} * kDim, 161), weights = test::normal(heads, 162);
  const auto scales = test::uniform(entries, 163, 0.001, 0.1);  // any positive value
  std::vector<std::uint8_t> bytes = test::bytes(pages * stride, 164);
  std::vector<std::uint8_t> apart(static_cast<std::size_t>(pages * scales_stride), 0xff);
  std::vector<double> keys;
  for (std::int64_t i = 0; i < entries; ++i) {
    const std::int64_t page = i / page_entries, row = i % page_entries;
    std::uint8_t* codes = bytes.data() + page * stride + 128 * row;
    std::uint8_t* scale = dense ? apart.data() + page * scales_stride + 4 * row
                                : bytes.data() + page * stride + 128 * page_entries + 4 * row;
    std::memcpy(scale, &scales[std::size_t(i)], 4);
    for (int d = 0; d < kDim; ++d) {
      if ((codes[d] & 0x7f) == 0x7f) codes[d] ^= 1;  // a number
      // What the pool decodes: the product rounded once to fp32.
      const double exact = oracle::e4m3_value(codes[d]) * double{scales[std::size_t(i)]};
      keys.push_back(static_cast<float>(exact));
    }
  }
  IndexFp8Pool pool;
  pool.pages = bytes.data(), pool.page_stride = stride, pool.page_entries = page_entries,
  pool.slots = entries;
  if (dense) pool.scales_or_null = apart.data(), pool.scales_stride = scales_stride;
  CAPTURE(heads, page_entries, dense);
  REQUIRE(test::outside(score_all(q, weights, pool, entries), scores_of(q, weights, keys)) == "");
}

TEST_CASE("attention::index_scores: a score does not depend on what is scored beside it",
          "[attention][indexer]") {
  const int heads = GENERATE(1, 5, 64);
  const std::int64_t entries = 131;
  const auto q = test::normal(std::int64_t{heads} * kDim, 147), weights = test::normal(heads, 148);
  std::vector<float> memory = test::normal(entries * kDim, 149);
  const RowPool<float> pool{memory.data(), kDim, entries, kDim};
  const auto whole = score_all(q, weights, pool, entries);
  for (const std::int64_t piece : {1, 2, 3, 31, 32, 33, 64, 100}) {
    std::vector<float> scores(static_cast<std::size_t>(entries), kUntouched);
    for (std::int64_t begin = 0; begin < entries; begin += piece) {
      const std::int64_t end = std::min(entries, begin + piece);
      std::vector<float> only(static_cast<std::size_t>(entries), kUntouched);
      score(only, q, weights, pool, begin, end);
      for (std::int64_t i = 0; i < entries; ++i) {
        if (i >= begin && i < end)
          scores[std::size_t(i)] = only[std::size_t(i)];
        else if (only[std::size_t(i)] != kUntouched)
          FAIL("score " << i << " was written by a call for [" << begin << ", " << end << ")");
      }
    }
    CAPTURE(heads, piece);
    REQUIRE(test::differing(scores, whole) == "");
  }
  std::vector<float> none(1, kUntouched);
  score(none, q, weights, pool, 7, 7);
  REQUIRE(none[0] == kUntouched);
}

TEST_CASE("attention::index_scores: the ReLU comes before the sum over heads", "[attention][indexer]") {
  // Dots +3 and -5, weights 1 and 1: 3, where ReLU of the sum gives 0 and no ReLU gives -2; with weights 1
  // and -1 still 3, where ReLU of the sum gives 8.
  std::vector<float> q(2 * 32, 0.0f), key(32, 0.0f);
  q[0] = 3, q[32] = -5, key[0] = 1;
  const RowPool<float> pool{key.data(), 32, 1, 32};
  REQUIRE(score_all(q, {1, 1}, pool, 1, 32)[0] == 3.0f);
  REQUIRE(score_all(q, {1, -1}, pool, 1, 32)[0] == 3.0f);
  // A negative weight makes a negative score: nothing is clipped after the weights.
  REQUIRE(score_all(q, {-2, 1}, pool, 1, 32)[0] == -6.0f);
}

TEST_CASE("attention::index_scores: everything clipped gives exactly +0", "[attention][indexer]") {
  const int heads = GENERATE(1, 64);
  std::vector<float> q(static_cast<std::size_t>(heads * kDim)), key(kDim, 1.0f);
  for (float& v : q) v = -0.5f;
  auto weights = test::normal(heads, 150);
  if (GENERATE(false, true))
    for (float& w : weights) w = -std::abs(w);  // negative times 0 is -0, but the sum starts at +0
  const auto scores = score_all(q, weights, RowPool<float>{key.data(), kDim, 1, kDim}, 1);
  REQUIRE(test::bits_of(scores[0]) == 0);
}

TEST_CASE("attention::index_scores: a NaN key has a NaN score, its neighbours do not",
          "[attention][indexer]") {
  const std::int64_t entries = 70, bad = GENERATE(0, 31, 32, 69);
  const int heads = 5;
  const auto q = test::normal(heads * kDim, 151), weights = test::normal(heads, 152);
  std::vector<float> memory = test::normal(entries * kDim, 153);
  const RowPool<float> pool{memory.data(), kDim, entries, kDim};
  auto want = score_all(q, weights, pool, entries);
  memory[std::size_t(bad * kDim + 77)] = kNan;
  want[std::size_t(bad)] = kNan;
  const auto got = score_all(q, weights, pool, entries);
  for (std::size_t i = 0; i < want.size(); ++i) {
    CAPTURE(bad, i);
    REQUIRE(test::identical(got[i], want[i]));
  }
  // A page pool marks a bad block with scale 255.
  std::vector<std::uint8_t> page(2 * 68, 0x11);
  for (int i = 0; i < 8; ++i) page[std::size_t(128 + i)] = 127;
  page[128 + 6] = 255;  // slot 1, block 2
  const auto paged = score_all(q, weights, IndexFp4Pool{page.data(), 2 * 68, 2, 2}, 2);
  REQUIRE(std::isfinite(paged[0]));
  REQUIRE(std::isnan(paged[1]));
  // In FP8 by a code, or by the key's scale.
  std::vector<std::uint8_t> fp8(3 * 132, 0x38);  // codes of 1
  const float one = 1;
  for (int i = 0; i < 3; ++i) std::memcpy(&fp8[std::size_t(3 * 128 + 4 * i)], i == 2 ? &kNan : &one, 4);
  fp8[128 + 99] = 0xff;
  const auto of_fp8 = score_all(q, weights, IndexFp8Pool{fp8.data(), 3 * 132, 3, 3}, 3);
  REQUIRE(std::isfinite(of_fp8[0]));
  REQUIRE(std::isnan(of_fp8[1]));
  REQUIRE(std::isnan(of_fp8[2]));
}

TEST_CASE("attention::index_scores: keys outside [begin, end) are not read", "[attention][indexer]") {
  // A pool that objects.
  struct Watched {
    const float* rows;
    std::int64_t begin, end;
    void read(std::int64_t slot, float*) const {
      if (slot < begin || slot >= end) throw std::out_of_range("key outside the range");
    }
    const float* view(std::int64_t slot, const float*) const {
      read(slot, nullptr);
      return rows + slot * kDim;
    }
  };
  const auto memory = test::normal(100 * kDim, 154), q = test::normal(2 * kDim, 155);
  for (const auto& [begin, end] : {std::pair{5, 6}, std::pair{0, 33}, std::pair{40, 99}}) {
    std::vector<float> scores(100);
    REQUIRE_NOTHROW(score(scores, q, {0.5f, 2.0f}, Watched{memory.data(), begin, end}, begin, end));
  }
}

TEST_CASE("attention::index_scores: a group gives the bits of one thread", "[attention][indexer]") {
  const int heads = 3;
  const std::int64_t entries = 37;
  const auto q = test::normal(heads * kDim, 156), weights = test::normal(heads, 157);
  const auto start = test::stored<bf16>(test::normal(entries * kDim, 158));
  std::vector<bf16> memory = start;
  const RowPool<bf16> pool{memory.data(), kDim, entries, kDim};
  std::vector<float> together(static_cast<std::size_t>(entries)),
      scratch(attention::kScoreTile * (heads + kDim));
  test::run_group<3>([&](const auto& coop) {
    attention::index_scores(coop, together.data(), q.data(), weights.data(), pool, 0, entries, heads, kDim,
                            scratch.data());
  });
  REQUIRE(test::differing(together, score_all(q, weights, pool, entries)) == "");
}
