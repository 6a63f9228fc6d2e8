// Vectors of attn_compress: compressed entries of CSA and HCA layers, and the indexer's keys.
#include "reference/error.hpp"
#include "reference/vectors/rows.hpp"
#include "reference/vectors/suite.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace dsv4::reference::vectors {

namespace {

// The projections and parameters of one compressor: inputs with its prefix.
struct Compressor {
  const Array &a, &b, &ape, &norm;
  std::int64_t dim, first, second;  // channels of an entry; where the halves begin
};

// Tokens of a sequence in order: which row holds each, and in which chunk it came.
struct Tokens {
  std::vector<std::int64_t> row, chunk;
};

// Chunks are [rows, tokens]: the rows beyond the tokens are padding.
Tokens tokens_of(const Problem& p, Mistake mistake) {
  const Array& chunks = p.array("chunks");
  Tokens tokens;
  std::int64_t row = 0;
  for (std::int64_t c = 0; c < chunks.dim(0); ++c) {
    const std::int64_t rows = chunks.integer(2 * c), real = chunks.integer(2 * c + 1);
    if (real < 0 || real > rows || row + rows > p.array("a").dim(0))
      throw InputError("vectors: attn_compress: the chunks do not fit the rows");
    for (std::int64_t i = 0; i < (mistake == Mistake::kPaddingLeaks ? rows : real); ++i)
      tokens.row.push_back(row + i), tokens.chunk.push_back(c);
    row += rows;
  }
  return tokens;
}

// One pooled channel: softmax over the listed terms.
struct Term {
  Num score, value;
};

Num pooled(const std::vector<Term>& terms) {
  Num top = terms[0].score;
  for (const Term& t : terms) top = max(top, t.score);
  Sum weights, values;
  for (const Term& t : terms) {
    const Num w = exp(t.score - top);
    weights.add(w), values.add(product(w, t.value));
  }
  return values.value() / weights.value();
}

// Row of entry `block` (counted from the first token given): pooled, normed, rotated; not quantised.
Nums entry_row(const Problem& p, const Compressor& c, const Tokens& tokens, std::int64_t block,
               Mistake mistake) {
  const std::int64_t ratio = p.positive("ratio"), start = p.integer("start"), width = c.a.dim(1);
  const bool overlaps = ratio == 4;
  const auto last = static_cast<std::size_t>((block + 1) * ratio - 1);
  Nums row;
  std::vector<Term> terms;
  for (std::int64_t channel = 0; channel < c.dim; ++channel) {
    terms.clear();
    for (std::int64_t i = overlaps ? -ratio : 0; i < ratio; ++i) {
      const bool own = i >= 0;
      const bool second = overlaps && own != (mistake == Mistake::kHalvesSwapped);
      const std::int64_t column = channel + (second ? c.second : c.first);
      const std::int64_t token = block * ratio + i, slot = (i + ratio) % ratio;
      if (token < 0) {
        if (mistake == Mistake::kBlock0Zeros) terms.push_back({Num(0), Num(0)});
        continue;
      }
      const auto at = static_cast<std::size_t>(token);
      if (!own && mistake == Mistake::kPreviousBlockLost && tokens.chunk[at] != tokens.chunk[last]) continue;
      const Num b(c.b.at(tokens.row[at] * width + column)), ape(c.ape.at(slot * width + column));
      Num score = mistake == Mistake::kApeMissing ? b : b + ape;
      if (mistake == Mistake::kApeTwice) score = score + ape;
      terms.push_back({score, Num(c.a.at(tokens.row[at] * width + column))});
    }
    row.push_back(bf16(pooled(terms)));
  }
  rms_norm(row, c.norm.row(0, c.dim), p.scalar("eps"), mistake);
  round_to_bf16(row);
  const std::int64_t index = start / ratio + block;
  rotate(row, rotation(p, mistake == Mistake::kEntryAtIndex ? index : index * ratio, mistake), false,
         mistake);
  return row;
}

std::vector<Output> oracle(const Problem& p, Mistake mistake) {
  const Tokens tokens = tokens_of(p, mistake);
  const std::int64_t ratio = p.positive("ratio"), first = p.integer("first_block"),
                     count = p.integer("entries");
  if (first < 0 || count < 0 || (first + count) * ratio > static_cast<std::int64_t>(tokens.row.size()))
    throw InputError("vectors: attn_compress: a case asks for more entries than its tokens complete");
  const Compressor main{p.array("a"), p.array("b"), p.array("ape"), p.array("norm"), 512, 0, 512};
  Output entries{"entries", DType::kU8, {count, 584}, Form::kKvEntry, {}, {}, {}};
  for (std::int64_t e = 0; e < count; ++e)
    append_kv_entry(entries, entry_row(p, main, tokens, first + e, mistake), mistake);
  if (ratio != 4) return {entries};

  const bool shares = mistake == Mistake::kIndexSharesMain;
  const Compressor index{p.array(shares ? "a" : "index_a"),
                         p.array(shares ? "b" : "index_b"),
                         p.array(shares ? "ape" : "index_ape"),
                         p.array("index_norm"),
                         128,
                         0,
                         shares ? 512 : 128};
  Output keys{"keys", DType::kU8, {count, 68}, Form::kIndexKey, {}, {}, {}};
  for (std::int64_t e = 0; e < count; ++e) {
    Nums row = entry_row(p, index, tokens, first + e, mistake);
    hadamard(row, mistake);
    append_index_key(keys, row, mistake);
  }
  return {entries, keys};
}

struct Drawn {
  const char *name, *catches;
  int ratio;
  std::int64_t start;                       // position of the first token
  std::vector<std::vector<double>> chunks;  // [rows, tokens]
  std::int64_t first_block, entries;        // which blocks are asked for, counted from `start`
};

Case make(const Sizes& s, std::uint64_t seed, const Drawn& d) {
  Random random(seed, std::string("attn_compress/") + d.name);
  Case c{d.name, d.catches, {}, {}, 0};
  auto& in = c.problem.in;
  std::vector<double> chunks;
  std::vector<bool> padding;  // of each row
  for (const auto& chunk : d.chunks) {
    chunks.insert(chunks.end(), chunk.begin(), chunk.end());
    for (double i = 0; i < chunk[0]; ++i) padding.push_back(i >= chunk[1]);
  }
  const auto rows = static_cast<std::int64_t>(padding.size());
  in["chunks"] = Array::of(DType::kI32, {static_cast<std::int64_t>(d.chunks.size()), 2}, chunks);
  const auto put = [&](const std::string& prefix, std::int64_t dim) {
    const std::int64_t width = d.ratio == 4 ? 2 * dim : dim;
    // Projections and ape are f32 in the model. These fit bf16, which keeps the files small. Padding is loud.
    const auto drawn = [&](double sigma, double loud) {
      return Array::make(DType::kBf16, {rows, width}, [&](std::int64_t i) {
        return padding[static_cast<std::size_t>(i / width)] ? loud : sigma * random.normal();
      });
    };
    in[prefix + "a"] = drawn(1, 100);
    in[prefix + "b"] = drawn(1.5, 8);
    in[prefix + "ape"] = normal(random, DType::kBf16, {d.ratio, width});
    in[prefix + "norm"] = normal(random, DType::kF32, {dim}, 0.3, 1);
  };
  put("", 512);
  if (d.ratio == 4) put("index_", 128);
  c.problem.scalars = {{"eps", eps_of(s.norm_eps)},
                       {"start", static_cast<double>(d.start)},
                       {"first_block", static_cast<double>(d.first_block)},
                       {"entries", static_cast<double>(d.entries)}};
  put_rope(c.problem, s, d.ratio);
  return c;
}

std::vector<Case> cases(const Sizes& s, std::uint64_t seed) {
  const std::int64_t last = s.max_positions / 4 * 4;
  return {
      make(s, seed,
           {"csa",
            "block 0 pooled with predecessors of score 0; ape left out or added twice; halves swapped; an "
            "entry rotated at its index; keys from the main compressor",
            4,
            0,
            {{11, 11}},
            0,
            2}),
      make(s, seed,
           {"csa_chunks",
            "the previous block lost between chunks, or a block that two chunks share",
            4,
            0,
            {{3, 3}, {1, 1}, {4, 4}, {2, 2}, {1, 1}, {1, 1}},
            0,
            3}),
      make(s, seed,
           {"csa_padded",
            "padded rows of a chunk pooled as tokens, also in the stored state",
            4,
            0,
            {{4, 3}, {8, 6}},
            0,
            2}),
      make(s, seed,
           {"csa_far",
            "positions times ratio beyond what a half or an int16 holds; the last entries of the context",
            4,
            last - 8,
            {{8, 8}},
            1,
            1}),
      make(s, seed,
           {"hca",
            "a decode step that starts a new state; ape by position, not by place in the block; rotation at "
            "1, "
            "not at 128",
            128,
            128,
            {{100, 100}, {27, 27}, {1, 1}, {2, 2}},
            0,
            1}),
      make(s, seed, {"short", "a context shorter than the ratio: no entry at all", 4, 0, {{3, 3}}, 0, 0}),
      make(s, seed, {"empty", "T = 0", 4, 0, {}, 0, 0}),
  };
}

}  // namespace

Op attn_compress_op() {
  return {"attn_compress",
          "entries [n, 584] bytes, at ratio 4 keys [n, 68] bytes: blocks first_block .. first_block + "
          "entries - 1 of "
          "a = Wkv x, b = Wgate x [rows, width], ape [ratio, width], norm [dim] f32, and index_* likewise. "
          "The rows "
          "come in chunks [rows, tokens], the first token at position 'start' (a multiple of the ratio; what "
          "stood "
          "before it does not matter)",
          cases,
          oracle,
          {Mistake::kApeTwice, Mistake::kApeMissing, Mistake::kEntryAtIndex, Mistake::kBlock0Zeros,
           Mistake::kPreviousBlockLost, Mistake::kHalvesSwapped, Mistake::kPaddingLeaks,
           Mistake::kIndexSharesMain, Mistake::kHadamardMissing, Mistake::kHalfSplit, Mistake::kRopeOtherKind,
           Mistake::kNoYarn, Mistake::kMscale, Mistake::kNibblesSwapped, Mistake::kScaleUnrounded,
           Mistake::kNormRoundsBeforeWeight}};
}

}  // namespace dsv4::reference::vectors
