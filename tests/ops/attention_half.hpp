// The attention half of one CSA layer in decode as an engine would hold it: weights, caches behind page
// tables, and the parameters of its fused ops, built once.
#pragma once

#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/linear/weight.hpp>
#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/ops/attn_compress.hpp>
#include <dsv4/ops/attn_index.hpp>
#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/mhc.hpp>

#include "tests/support/op_buffers.hpp"
#include "tests/support/random.hpp"

#include <cmath>
#include <cstdint>
#include <deque>
#include <vector>

namespace dsv4::test {

/// A random weight matrix [rows, cols]: FP8 with a scale per 128 x 128, or bf16.
struct Matrix {
  std::int64_t rows, cols;
  std::vector<e4m3> codes;
  std::vector<e8m0> scales;
  std::vector<bf16> values;

  Matrix(std::int64_t r, std::int64_t c, bool quantised, std::uint64_t seed) : rows(r), cols(c) {
    // Codes of variance 1, their scale the power of two nearest to cols^-0.5.
    const int exponent = static_cast<int>(std::lround(-0.5 * std::log2(static_cast<double>(c))));
    for (const float v : normal(r * c, seed))
      if (quantised)
        codes.push_back(to_e4m3(v));
      else
        values.push_back(from_float<bf16>(std::ldexp(v, exponent)));
    if (quantised)
      scales.assign(static_cast<std::size_t>((r + 127) / 128 * ((c + 127) / 128)),
                    e8m0{static_cast<std::uint8_t>(127 + exponent)});
  }
  bool fp8() const { return !codes.empty(); }
  linear::WeightView view() const {
    if (fp8()) return {linear::WeightType::kFp8, codes.data(), scales.data(), rows, cols};
    return {linear::WeightType::kBf16, values.data(), nullptr, rows, cols};
  }
  ops::LinearWeight weight() const {
    if (fp8()) return {.data = codes.data(), .scales = scales.data(), .format = ops::WeightFormat::kFp8};
    return {.data = values.data(), .format = ops::WeightFormat::kBf16};
  }
};

/// Two sequences of one token each; token t is the next of sequence t.
struct Half {
  static constexpr int kTokens = 2, kHidden = 512, kLora = 256, kHeads = 16, kIndexHeads = 16, kGroups = 4,
                       kRank = 64, kTopK = 16, kMaxEntries = 128, kMaxRollback = 16;
  static constexpr std::int32_t kWindowPage = 53, kEntryPage = 64;  // rows
  static constexpr float kEps = 1e-6f;

  struct Launches {
    ops::MhcPostPreParams mhc;
    ops::LinearMultiParams input, queries;
    ops::AttnQkPrepParams prepare;
    ops::AttnCompressParams compress;
    ops::AttnIndexSelectParams select;
    ops::AttnAttendParams attend;
    ops::AttnOutProjParams out;
  };

  /// Rows of projections that a sequence's compressor has taken in: a, then b.
  struct History {
    std::int64_t width;
    std::vector<float> rows;
    const float* row(std::int64_t p) const { return rows.data() + p * 2 * width; }
  };
  struct Compressor {
    int dim;
    std::int64_t width = 2 * dim;
    Matrix wkv, wgate;
    std::vector<float> ape, norm, kv, gate;  // kv, gate: [tokens, width]
    std::vector<std::uint8_t> states;        // [2], sequence 0 has the second
    std::vector<std::uint8_t> pages;
    std::vector<History> history;  // [2]

    Compressor(int d, std::int64_t page_bytes, std::uint64_t seed)
        : dim(d),
          wkv(2 * d, kHidden, false, seed),
          wgate(2 * d, kHidden, false, seed + 1),
          ape(normal(4 * width, seed + 2)),
          norm(uniform(d, seed + 3, 0.5, 1.5)),
          kv(static_cast<std::size_t>(kTokens * width)),
          gate(kv.size()),
          states(2 * ops::attn_compress_state_bytes(4, d, kMaxRollback), 0xff),
          pages(static_cast<std::size_t>(5 * page_bytes), 0xff),
          history(2, History{width, {}}) {}
  };

  static std::vector<bf16> rounded(const std::vector<float>& v) {
    std::vector<bf16> out;
    for (const float x : v) out.push_back(from_float<bf16>(x));
    return out;
  }
  template <class T>
  static std::vector<T> room(std::int64_t n) {
    return std::vector<T>(static_cast<std::size_t>(n));
  }

  // Weights.
  std::vector<float> freq = uniform(32, 1, 1e-4, 1.0);
  std::vector<float> fn = normal(24 * 4 * kHidden, 2, 0.02), hc_scale{0.9f, 1.1f, 1.3f},
                     hc_base = normal(24, 3, 0.5);
  std::vector<float> norm = uniform(kHidden, 4, 0.5, 1.5), q_norm = uniform(kLora, 5, 0.5, 1.5),
                     kv_norm = uniform(512, 6, 0.5, 1.5), sink = normal(kHeads, 7);
  Matrix wq_a{kLora, kHidden, true, 10}, wkv{512, kHidden, true, 11}, wproj{kIndexHeads, kHidden, false, 12};
  Matrix wq_b{kHeads * 512, kLora, true, 13}, wq_bi{kIndexHeads * 128, kLora, true, 14};
  Matrix wo_a{kGroups * kRank, kHeads * 512 / kGroups, true, 15}, wo_b{kHidden, kGroups*kRank, true, 16};

  // Caches: pages of a sequence as its table numbers them. The window is a ring of 128 rows.
  static constexpr std::int64_t kWindowBytes = (kWindowPage * 584 + 15) / 16 * 16;
  static constexpr std::int64_t kEntryBytes = kEntryPage * 584, kKeyBytes = kEntryPage * 68;
  std::vector<std::uint8_t> window =
      std::vector<std::uint8_t>(static_cast<std::size_t>(7 * kWindowBytes), 0xff);
  std::vector<std::int32_t> window_table{5, 0, 3, 2, 6, 1}, entry_table{4, 1, 0, 2};
  Compressor main{512, kEntryBytes, 20}, index{128, kKeyBytes, 30};

  // What changes from token to token.
  std::vector<std::int32_t> position{142, 29}, window_slots = room<std::int32_t>(kTokens),
                                               entry_slots = room<std::int32_t>(kTokens),
                                               first_token{0, 1, 2}, state_of{1, 0};

  // Activations.
  std::vector<bf16> streams = rounded(normal(kTokens * 4 * kHidden, 40)),
                    y = rounded(normal(kTokens * kHidden, 41));
  std::vector<float> post_in = uniform(kTokens * 4, 42, 0.1, 2.0), comb_in = uniform(kTokens * 16, 43);
  std::vector<float> post = room<float>(kTokens * 4), comb = room<float>(kTokens * 16);
  std::vector<bf16> x = room<bf16>(kTokens * kHidden), q_a = room<bf16>(kTokens * kLora),
                    kv = room<bf16>(kTokens * 512), head_weights = room<bf16>(kTokens * kIndexHeads);
  std::vector<bf16> q_raw = room<bf16>(kTokens * kHeads * 512), q = q_raw, o = q_raw,
                    index_raw = room<bf16>(kTokens * kIndexHeads * 128), out = x;
  std::vector<std::uint8_t> index_codes = room<std::uint8_t>(kTokens * kIndexHeads * 64),
                            index_scales = room<std::uint8_t>(kTokens * kIndexHeads * 4);
  std::vector<float> weights = room<float>(kTokens * kIndexHeads);
  std::vector<std::int32_t> chosen = room<std::int32_t>(kTokens * kTopK);
  std::deque<Rows<std::uint8_t>> workspaces;

  // Where rows lie, and the pools as the primitives read them.
  std::int64_t window_slot(std::int64_t s, std::int64_t p) const {
    const std::int64_t r = p % 128;
    return std::int64_t{window_table[static_cast<std::size_t>(3 * s + r / kWindowPage)]} * kWindowPage +
           r % kWindowPage;
  }
  std::int64_t entry_slot(std::int64_t s, std::int64_t e) const {
    return std::int64_t{entry_table[static_cast<std::size_t>(2 * s + e / kEntryPage)]} * kEntryPage +
           e % kEntryPage;
  }
  static std::uint8_t* bytes(const std::vector<std::uint8_t>& v) {
    return const_cast<std::uint8_t*>(v.data());
  }
  attention::KvPagePool window_pool() const {
    return {bytes(window), kWindowBytes, kWindowPage, 7 * kWindowPage};
  }
  attention::KvPagePool entry_pool() const {
    return {bytes(main.pages), kEntryBytes, kEntryPage, 5 * kEntryPage};
  }
  attention::IndexFp4Pool key_pool() const {
    return {bytes(index.pages), kKeyBytes, kEntryPage, 5 * kEntryPage};
  }

  /// Fills window, entries, keys and states with the tokens before `position`, of random projections.
  void prefill();
  /// Every parameter, for any number of replays.
  Launches capture();
  /// Moves on: the next token of each sequence enters with the streams of the last.
  void next_tokens();
  void replay(const Launches& launches) const;
  /// Remembers the compressors' new rows, for the primitives.
  void note_rows();

 private:
  void* workspace(std::size_t bytes) {
    return bytes == 0
               ? nullptr
               : workspaces.emplace_back(1, static_cast<std::int64_t>(bytes), RowLayout{0, 256}).data();
  }
  ops::CompressorParams compressor(Compressor& c);
  ops::CachePool window_cache();
  ops::CachePool entry_cache();
  ops::CachePool key_cache();
  ops::PageTable window_pages() const;
  ops::PageTable entry_pages() const;
};

}  // namespace dsv4::test
