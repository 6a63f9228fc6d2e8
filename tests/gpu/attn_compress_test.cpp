// attn_compress: state and caches bit for bit, over several calls on the same state: ragged chunks, a
// rollback, sequences without new tokens and without a state. The calls are replays of one graph: what
// changes between them are lengths, positions and slots in device memory.
#include "tests/gpu/caches.hpp"
#include "tests/gpu/inputs.hpp"
#include "tests/gpu/suites.hpp"

#include <climits>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

using ops::CacheFormat;

constexpr std::int64_t kMain = 512, kIndex = 128;
constexpr std::int32_t kRollback = 16;

struct Case {
  const char* what;
  std::int32_t ratio;
  CacheFormat main, index;  // the indexer's only at ratio 4
  std::int32_t page_rows;
  /// New tokens of each sequence in each round, and what it goes back by before them.
  std::vector<std::vector<std::int32_t>> chunks, back;
};

std::vector<Case> cases(bool small) {
  const Case csa = {"CSA, chunks",
                    4,
                    CacheFormat::kKv584,
                    CacheFormat::kIndexFp4,
                    53,
                    {{9, 0, 1, 4}, {3, 2, 1, 0}, {1, 8, 2, 5}},
                    {{0, 0, 0, 0}, {0, 0, 0, 0}, {5, 1, 0, 3}}};
  if (small) return {csa};
  Case rows = csa, fp8 = csa;
  rows.what = "CSA, rows", rows.main = rows.index = CacheFormat::kRows;
  fp8.what = "CSA, FP8 keys", fp8.index = CacheFormat::kIndexFp8, fp8.page_rows = 64;
  return {csa,
          rows,
          fp8,
          {"HCA, chunks",
           128,
           CacheFormat::kKv584,
           CacheFormat::kRows,
           2,
           {{130, 0, 127, 1}, {1, 126, 1, 0}, {128, 3, 140, 2}},
           {{0, 0, 0, 0}, {0, 0, 0, 0}, {4, 0, 16, 1}}},
          {"HCA, decode",
           128,
           CacheFormat::kRows,
           CacheFormat::kRows,
           1,
           {{127, 255, 3, 126}, {1, 1, 1, 1}, {1, 1, 1, 1}},
           {{0, 0, 0, 0}, {0, 0, 0, 0}, {0, 1, 0, 0}}}};
}

/// Lengths, positions and slots of one round.
struct Round {
  std::vector<std::int32_t> first_token, start, main_slots, index_slots;
};

constexpr std::int64_t kSequences = 4;

/// Rounds of a case. Rows of no sequence lie before and after the batch's. The entry of block b of sequence s
/// goes to slot 40 s + b, in the index pool to (40 s + b) ^ 1; those of every fifth block nowhere.
std::vector<Round> rounds_of(const Case& c, std::int64_t tokens) {
  std::vector<Round> rounds;
  std::vector<std::int32_t> length(kSequences, 0);
  for (std::size_t r = 0; r < c.chunks.size(); ++r) {
    Round round;
    round.main_slots.assign(static_cast<std::size_t>(tokens), INT_MAX);
    round.index_slots = round.main_slots;
    std::int32_t row = 2;
    for (std::size_t s = 0; s < kSequences; ++s) {
      length[s] -= c.back[r][s];
      round.first_token.push_back(row);
      round.start.push_back(length[s]);
      for (std::int32_t i = 0; i < c.chunks[r][s]; ++i, ++row) {
        const std::int32_t block = length[s]++ / c.ratio, slot = static_cast<std::int32_t>(40 * s) + block;
        round.main_slots[static_cast<std::size_t>(row)] = block % 5 == 4 ? -1 : slot;
        round.index_slots[static_cast<std::size_t>(row)] = block % 5 == 4 ? INT_MIN : slot ^ 1;
      }
    }
    round.first_token.push_back(row);
    rounds.push_back(round);
  }
  return rounds;
}

template <class T>
ops::CompressorParams compressor(const OpTable& f, Operands& m, std::int32_t dim, std::int32_t ratio,
                                 std::int64_t tokens, CacheFormat format, std::int32_t page_rows,
                                 const std::int32_t* slots, const char* entries, const char* state,
                                 std::uint64_t seed) {
  const std::int64_t width = ratio == 4 ? 2 * dim : dim;
  ops::CompressorParams p = {.kv = m.in(test::normal(tokens * (width + 8), seed)),
                             .gate = m.in(test::normal(tokens * width, seed + 1, 2.0)),
                             .ape = m.in(test::normal(ratio * width, seed + 2)),
                             .norm = m.in(test::normal(dim, seed + 3)),
                             .entries = pool_shape(format, 40 * kSequences, page_rows, dim, kDType<T>),
                             .entry_slots = slots,
                             .kv_stride = width + 8,
                             .dim = dim};
  p.entries.data = m.out<std::uint8_t>(entries, pool_bytes(p.entries));
  const auto bytes = static_cast<std::int64_t>(f.attn_compress_state_bytes(ratio, dim, kRollback));
  p.state_stride = bytes + 64;
  p.state = m.out<std::uint8_t>(state, p.state_stride * (kSequences + 1));
  return p;
}

template <class T>
Replay prepare(const Case& c, const OpTable& f, Operands& m) {
  std::int32_t tokens = 0;
  for (const auto& chunk : c.chunks) {
    std::int32_t n = 4;
    for (const std::int32_t i : chunk) n += i;
    if (n > tokens) tokens = n;
  }
  const std::vector<Round> rounds = rounds_of(c, tokens);
  const auto *first_token = m.in(rounds[0].first_token), *start = m.in(rounds[0].start),
             *main_slots = m.in(rounds[0].main_slots), *index_slots = m.in(rounds[0].index_slots);
  ops::AttnCompressParams p = {.main = compressor<T>(f, m, kMain, c.ratio, tokens, c.main, c.page_rows,
                                                     main_slots, "entries", "state", 31),
                               .first_token = first_token,
                               .start = start,
                               .state_of = m.in(std::vector<std::int32_t>{4, 2, -1, 0}),
                               .rope = {.freq = m.in(frequencies())},
                               .tokens = tokens,
                               .sequences = kSequences,
                               .states = kSequences + 1,
                               .ratio = c.ratio,
                               .max_rollback = kRollback,
                               .rope_dim = 64,
                               .eps = 1e-6f,
                               .dtype = kDType<T>};
  if (c.ratio == 4)
    p.index = compressor<T>(f, m, kIndex, c.ratio, tokens, c.index, c.page_rows, index_slots, "keys",
                            "index state", 41);
  return {[&f, p](Stream stream) { return f.attn_compress(p, stream); },
          [=, &m](int round) {
            const Round& r = rounds[static_cast<std::size_t>(round)];
            m.set(first_token, r.first_token), m.set(start, r.start);
            m.set(main_slots, r.main_slots), m.set(index_slots, r.index_slots);
          }};
}

void refusals(Tally& tally) {
  const auto refuse = [&](Code code, const char* text, auto change) {
    tally.refuse("attn_compress", code, text, [change](const OpTable& f, Operands& m) {
      const std::vector<std::int32_t> none(4, -1);
      ops::AttnCompressParams p = {.main = compressor<bf16>(f, m, kMain, 4, 4, CacheFormat::kKv584, 64,
                                                            m.in(none), "entries", "state", 51),
                                   .first_token = m.in(std::vector<std::int32_t>{0, 4}),
                                   .start = m.in(std::vector<std::int32_t>{0}),
                                   .rope = {.freq = m.in(frequencies())},
                                   .tokens = 4,
                                   .sequences = 1,
                                   .states = 1,
                                   .ratio = 4,
                                   .max_rollback = kRollback,
                                   .rope_dim = 64,
                                   .eps = 1e-6f};
      change(p);
      return f.attn_compress(p, nullptr);
    });
  };
  refuse(Code::kUnsupported, "ratio", [](ops::AttnCompressParams& p) { p.ratio = 8; });
  refuse(Code::kInvalidArgument, "max_rollback", [](ops::AttnCompressParams& p) { p.max_rollback = 1025; });
  refuse(Code::kInvalidArgument, "state", [](ops::AttnCompressParams& p) { p.main.state = nullptr; });
  refuse(Code::kInvalidArgument, "state_stride",
         [](ops::AttnCompressParams& p) { p.main.state_stride = 16; });
  refuse(Code::kInvalidArgument, "first_token", [](ops::AttnCompressParams& p) { p.first_token = nullptr; });
}

}  // namespace

void compare_attn_compress(Tally& tally, bool small) {
  for (const Case& c : cases(small)) {
    const auto rounds = static_cast<int>(c.chunks.size());
    tally.replay(std::string("attn_compress bf16 ") + c.what, rounds,
                 [&](const OpTable& f, Operands& m) { return prepare<bf16>(c, f, m); });
    tally.replay(std::string("attn_compress f32 ") + c.what, rounds,
                 [&](const OpTable& f, Operands& m) { return prepare<float>(c, f, m); });
  }
  refusals(tally);
}

}  // namespace dsv4::gpu
