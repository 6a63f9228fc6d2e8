// What stands between the projections and attention: queries, keys, indexer queries, compressed entries.
#include "bench/gpu/bench.hpp"
#include "tests/support/random.hpp"

#include <dsv4/ops/attn_compress.hpp>
#include <dsv4/ops/attn_proj.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace dsv4::gpu {
namespace {

constexpr std::int64_t kDim = 512, kIndexDim = 128, kIndexHeads = 64;
constexpr std::int32_t kRope = 64, kRollback = 16, kPage = 64;

Timing timing_of(std::int64_t tokens) { return tokens > 64 ? Timing::kCold : Timing::kGraph; }

/// 0, 1, ..., n-1 or multiples.
std::vector<std::int32_t> counting(std::int64_t n, std::int32_t step = 1) {
  std::vector<std::int32_t> v;
  for (std::int64_t i = 0; i < n; ++i) v.push_back(static_cast<std::int32_t>(i) * step);
  return v;
}

void qk_prep(Bench& bench, std::int64_t tokens, std::int64_t heads, bool csa) {
  const std::string n = std::string("attn_qk_prep/") + (csa ? "CSA" : "HCA") + "/h:" + std::to_string(heads) +
                        "/T:" + std::to_string(tokens);
  if (!bench.wanted(n, tokens == 1 || tokens == 64 || tokens == 8192)) return;
  Arena a;
  const ops::RopeTable rope = a.rope();
  const std::int32_t* positions = a.copy(test::integers(tokens, 1, 0, (1 << 20) - 1));
  ops::AttnQkPrepParams p;
  p.q = {.out = a.bytes(tokens * heads * kDim * 2),
         .q = a.bf16s(tokens * heads * kDim),
         .positions = positions,
         .rope = rope,
         .tokens = tokens,
         .heads = heads,
         .head_dim = static_cast<std::int32_t>(kDim),
         .rope_dim = kRope,
         .eps = 1e-6f};
  p.kv = {.window = a.pool(ops::CacheFormat::kKv584, tokens, kPage, kDim),
          .slots = a.copy(counting(tokens)),
          .kv = a.bf16s(tokens * kDim),
          .norm = a.floats(kDim, 1.0f),
          .positions = positions,
          .rope = rope,
          .tokens = tokens,
          .head_dim = static_cast<std::int32_t>(kDim),
          .rope_dim = kRope,
          .eps = 1e-6f};
  std::int64_t token_bytes = heads * kDim * 4 + kDim * 2 + 584;
  if (csa) {
    const std::int64_t rows = tokens * kIndexHeads;
    p.index = {.codes = a.bytes(rows * kIndexDim / 2),
               .scales = a.bytes(rows * 4),
               .weights_out = a.bytes<float>(rows * 4),
               .q = a.bf16s(rows * kIndexDim),
               .weights = a.bf16s(rows),
               .positions = positions,
               .rope = rope,
               .tokens = tokens,
               .heads = static_cast<std::int32_t>(kIndexHeads),
               .dim = static_cast<std::int32_t>(kIndexDim),
               .rope_dim = kRope};
    token_bytes += kIndexHeads * (kIndexDim * 2 + kIndexDim / 2 + 4 + 2 + 4);
  }
  bench.measure(
      n, timing_of(tokens), {static_cast<double>(tokens * token_bytes), 0},
      [=](Stream s, int) { return ops::attn_qk_prep(p, s); },
      [=] {
        const std::int64_t t = tokens - 1, row = heads * kDim;
        return same_alone(at<bf16>(p.q.out, t * row), 2 * row, [&](Arena&, void* alone) {
          ops::AttnQProjParams q = p.q;
          q.out = alone, q.q = at<bf16>(p.q.q, t * row), q.positions = positions + t, q.tokens = 1;
          return ops::attn_q_proj(q, nullptr);
        });
      });
}

/// One compressor for `sequences` sequences that write `entries` entries each.
struct Compressor {
  ops::CompressorParams p;
  std::int64_t entry_bytes = 0, state_bytes = 0;
};

Compressor compressor(Arena& a, std::int32_t ratio, std::int64_t dim, std::int64_t tokens,
                      std::int64_t sequences, std::int64_t entries, const std::int32_t* slots) {
  const std::int64_t width = ratio == 4 ? 2 * dim : dim;
  const bool main = dim == kDim;
  const auto state = static_cast<std::int64_t>(
      ops::attn_compress_state_bytes(ratio, static_cast<std::int32_t>(dim), kRollback));
  Compressor c = {{.kv = a.floats(tokens * width),
                   .gate = a.floats(tokens * width),
                   .ape = a.floats(ratio * width),
                   .norm = a.floats(dim, 1.0f),
                   .state = a.bytes(sequences * state),
                   .entries = a.pool(main ? ops::CacheFormat::kKv584 : ops::CacheFormat::kIndexFp4,
                                     sequences * entries, kPage, dim),
                   .entry_slots = slots,
                   .dim = static_cast<std::int32_t>(dim)},
                  main ? 584 : 68,
                  state};
  return c;
}

/// chunk tokens for each of `sequences`: the first ones of it (prefill), or the one that completes an entry
/// after tokens 0 .. ratio - 2 went through the op.
void compress(Bench& bench, std::int32_t ratio, std::int64_t sequences, std::int64_t chunk, bool common) {
  const bool decode = chunk == 1;
  const std::string n =
      std::string("attn_compress/") + (ratio == 4 ? "CSA" : "HCA") +
      (decode ? "/decode/B:" + std::to_string(sequences) : "/prefill/T:" + std::to_string(chunk));
  if (!bench.wanted(n, common)) return;
  Arena a;
  const std::int64_t tokens = sequences * chunk, entries = decode ? 1 : chunk / ratio;
  const std::int64_t before = decode ? ratio - 1 : 0, rows = sequences * (before > chunk ? before : chunk);
  std::vector<std::int32_t> slots(static_cast<std::size_t>(rows), -1);
  for (std::int64_t t = 0; t < tokens; ++t)
    slots[static_cast<std::size_t>(t)] =
        static_cast<std::int32_t>(t / chunk * entries + (decode ? 0 : t % chunk / ratio));
  const std::int32_t* entry_slots = a.copy(slots);
  const Compressor main = compressor(a, ratio, kDim, rows, sequences, entries, entry_slots);
  ops::AttnCompressParams p = {
      .main = main.p,
      .first_token = a.copy(counting(sequences + 1, static_cast<std::int32_t>(chunk))),
      .start = a.copy(
          std::vector<std::int32_t>(static_cast<std::size_t>(sequences), static_cast<std::int32_t>(before))),
      .rope = a.rope(),
      .tokens = tokens,
      .sequences = sequences,
      .states = sequences,
      .ratio = ratio,
      .max_rollback = kRollback,
      .rope_dim = kRope,
      .eps = 1e-6f};
  // Projections in and entries out. Of the state, a decoded token reads the older rows that its entry is made
  // of (CSA: 7, of one half each; HCA: those not folded yet, and the sums, which go back with 16 rows more)
  // and writes its own; prefill writes the newest rows that a rollback may need.
  const auto work_of = [&](std::int64_t dim, std::int64_t entry_bytes) {
    const std::int64_t width = ratio == 4 ? 2 * dim : dim, row = 2 * width * 4, half = 2 * dim * 4;
    const std::int64_t sums = ratio == 4 ? 0 : 3 * dim * 4, kept = ratio == 4 ? 7 : 15;
    const std::int64_t state =
        decode ? (ratio == 4 ? 7 : 31) * half + 2 * sums + row : (kRollback + kept) * row + sums;
    return static_cast<double>(tokens * row + sequences * (entries * entry_bytes + state));
  };
  double bytes = work_of(kDim, main.entry_bytes);
  if (ratio == 4) {
    const Compressor index = compressor(a, ratio, kIndexDim, rows, sequences, entries, entry_slots);
    p.index = index.p;
    bytes += work_of(kIndexDim, index.entry_bytes);
  }
  if (decode) {  // the tokens before
    ops::AttnCompressParams q = p;
    q.tokens = sequences * before;
    q.first_token = a.copy(counting(sequences + 1, static_cast<std::int32_t>(before)));
    q.start = a.bytes(sequences * 4);
    require(ops::attn_compress(q, nullptr));
  }
  bench.measure(
      n, timing_of(tokens), {bytes, 0}, [=](Stream s, int) { return ops::attn_compress(p, s); },
      [&] {  // the first sequence once more, alone: the same entry
        return same_alone(
            p.main.entries.data, 576,
            [&](Arena& scratch, void* alone) {
              ops::AttnCompressParams q = p;
              q.index = {}, q.sequences = q.states = 1;
              q.main.state = scratch.bytes(main.state_bytes);
              q.main.entries.data = alone, q.main.entries.slots = q.main.entries.page_rows = 1;
              q.main.entries.stride = 592;
              const auto append = [&](std::int64_t from, std::int64_t count) {
                q.tokens = count;
                q.start = scratch.copy(std::vector<std::int32_t>{static_cast<std::int32_t>(from)});
                q.first_token = scratch.copy(counting(2, static_cast<std::int32_t>(count)));
                return ops::attn_compress(q, nullptr);
              };
              if (before > 0) require(append(0, before));
              return append(before, decode ? 1 : 2 * ratio);
            },
            16);
      });
}

}  // namespace

void bench_prepare(Bench& bench) {
  for (const std::int64_t tokens : {1, 8, 64, 256, 8192}) {
    qk_prep(bench, tokens, 64, true);
    qk_prep(bench, tokens, 128, true);
    qk_prep(bench, tokens, 128, false);
  }
  for (const std::int32_t ratio : {4, 128}) {
    for (const std::int64_t sequences : {1, 2, 8, 32, 64, 128, 256})
      compress(bench, ratio, sequences, 1, sequences == 1 || sequences == 64 || sequences == 256);
    compress(bench, ratio, 1, 8192, true);
  }
}

}  // namespace dsv4::gpu
