// How many bytes attn_compress moves at the published models' widths, against what the algorithm needs:
//   each new row of kv and gate read once; of older rows, from the state, those that entries and folds need;
//   ape once for each token of each entry; norm once an entry; the newest rows written to the ring, the
//   entries to the cache; at ratio 128 the checkpoint.
// Lengths and slots are left out: all threads of a warp read the same number, which is one transaction, but
// counted for each of them.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/ops/attn_compress_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using namespace dsv4::test;
using simt::Watch;

namespace {

using Case = CompressCase<bf16>;

struct Bytes {
  std::uint64_t read = 0, written = 0;
};

/// What a call moved, of the tensors of both compressors.
Bytes measured(Case& c) {
  const ops::AttnCompressParams p = c.params();
  std::vector<std::unique_ptr<Watch>> watches;
  const auto watch = [&](const void* data, std::int64_t bytes) {
    watches.push_back(std::make_unique<Watch>(data, static_cast<std::size_t>(bytes)));
  };
  for (const CompressorCase<bf16>* x : {c.main.get(), c.index.get()}) {
    if (!x) continue;
    const ops::CompressorParams& q = x == c.main.get() ? p.main : p.index;
    const std::int64_t width = x->shape.width();
    watch(q.kv, ((c.tokens - 1) * q.kv_stride + width) * 4);
    watch(q.gate, ((c.tokens - 1) * q.gate_stride + width) * 4);
    watch(q.ape, x->shape.ratio * width * 4);
    watch(q.norm, x->shape.dim * 4);
    const std::int64_t header = c.setup.ratio == 4 ? 0 : 16,
                       bytes = x->state_bytes(x->shape, c.setup.max_rollback);
    for (std::int64_t k = 0; k < c.setup.sequences; ++k)
      watch(static_cast<const std::uint8_t*>(q.state) + k * q.state_stride + header, bytes - header);
    watch(q.entries.data, static_cast<std::int64_t>(x->mirror.bytes.size()));
  }
  simt::reset_counters();
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  REQUIRE(simt::counters().launches == 1);
  REQUIRE(simt::counters().shared_bank_conflicts == 0);  // counted in instrumented builds
  Bytes sum;
  for (const auto& w : watches) sum.read += w->read_bytes(), sum.written += w->written_bytes();
  return sum;
}

/// What the algorithm needs for one compressor's part of one sequence.
Bytes needed(const CompressorCase<bf16>& c, int rollback, std::int64_t start, std::int64_t count) {
  const int ratio = c.shape.ratio, dim = c.shape.dim;
  const std::int64_t end = start + count, row = c.shape.row_floats() * 4;
  const std::int64_t ring = rollback + (ratio == 4 ? 7 : 15);
  Bytes b;
  b.read += static_cast<std::uint64_t>(count * row);
  b.written += static_cast<std::uint64_t>(std::min(count, ring) * row);
  const std::int64_t entry_bytes = c.mirror.pool.format == ops::CacheFormat::kKv584 ? 584 : 68;
  const auto folded = [&](std::int64_t n) { return n < rollback ? 0 : (n - rollback) / 16 * 16; };
  // a and b of one half, and ape where the row is folded.
  const std::uint64_t half = static_cast<std::uint64_t>(dim) * 4;
  for (std::int64_t i = start / ratio; (i + 1) * ratio <= end; ++i) {
    const std::int64_t reach = ratio == 4 && i > 0 ? i * 4 - 4 : i * ratio;
    const std::int64_t from = ratio == 128 ? std::max(reach, folded(start)) : reach;
    for (std::int64_t p = from; p < (i + 1) * ratio; ++p) b.read += half + (p < start ? 2 * half : 0);
    if (from > reach) b.read += 3 * half;  // the checkpoint
    b.read += half;                        // norm
    b.written += static_cast<std::uint64_t>(entry_bytes);
  }
  if (ratio == 128) {
    if (folded(end) > folded(start)) {
      const std::int64_t block = folded(end) / 128 * 128, from = std::max(folded(start), block);
      b.written += 3 * half;
      if (block + 128 > end) {  // else its entry is counted above
        if (from > block) b.read += 3 * half;
        for (std::int64_t p = from; p < folded(end); ++p) b.read += half + (p < start ? 2 * half : 0);
      }
    }
  }
  return b;
}

/// Sequences of `start` tokens get `count` more each. `again`: bytes that a cache serves a second time.
void check(int ratio, std::int64_t sequences, std::int64_t start, std::int64_t count,
           std::uint64_t again = 0) {
  Case c({.ratio = ratio, .sequences = sequences, .entries = 256});
  std::vector<Case::Append> before, now;
  for (std::int64_t s = 0; s < sequences; ++s)
    before.push_back({s, 0, start}), now.push_back({s, start, count});
  if (start > 0) c.append(before);
  c.lay_out(now);
  const Bytes got = measured(c);
  c.expect();
  REQUIRE(c.check() == "");
  Bytes want;
  for (const CompressorCase<bf16>* x : {c.main.get(), c.index.get()}) {
    if (!x) continue;
    const Bytes b = needed(*x, c.setup.max_rollback, start, count);
    want.read += b.read * static_cast<std::uint64_t>(sequences);
    want.written += b.written * static_cast<std::uint64_t>(sequences);
  }
  const double ratio_of_bytes =
      static_cast<double>(got.read + got.written) / static_cast<double>(want.read + again + want.written);
  CAPTURE(ratio, sequences, start, count, got.read, want.read, got.written, want.written, ratio_of_bytes);
  REQUIRE(ratio_of_bytes <= (again > 0 ? 1.01 : 1.1));
  REQUIRE(got.written == want.written);  // nothing twice
  REQUIRE(got.read >= want.read);        // and nothing forgotten above
}

}  // namespace

TEST_CASE("attn_compress moves what the algorithm needs: decode", "[ops][attn_compress][traffic]") {
  for (std::int64_t start = 40; start < 44; ++start) check(4, 4, start, 1);  // one of which completes
  // With three drafts every new row is kept, and its second half (of kv and gate, main and index) pooled as
  // well, in the same launch: that reading is the cache's. With it, 1.17 times in all.
  check(4, 4, 40, 4, 4 * 4 * 2 * (512 + 128) * 4);
  check(128, 4, 200, 1);  // a row, no more
  check(128, 4, 255, 1);  // completes an entry
  check(128, 4, 207, 1);  // folds a granule
  check(128, 4, 207, 4);
}

TEST_CASE("attn_compress moves what the algorithm needs: prefill", "[ops][attn_compress][traffic]") {
  const std::int64_t tokens = reduced() ? 256 : 512;
  check(4, 1, 0, tokens);
  check(4, 1, 6, tokens);
  check(128, 1, 0, tokens);
  check(128, 1, 60, tokens);
}
