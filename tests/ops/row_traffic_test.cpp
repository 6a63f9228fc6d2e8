// How often the row ops touch memory on their vector paths: inputs read once, outputs written once, shared
// memory without bank conflicts. Speed that a test can hold without a GPU.
#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/hadamard.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/ops/row_ops.hpp"

using namespace dsv4;
using simt::Watch;
using test::Rows;

namespace {

template <class T>
std::uint64_t bytes_of(const Rows<T>& r) {
  return static_cast<std::uint64_t>(r.rows() * r.cols()) * sizeof(T);
}

template <class T>
void check_read_once(const Rows<T>& rows, const Watch& watch) {
  REQUIRE(watch.read_bytes() == bytes_of(rows));
  REQUIRE(watch.max_reads_of_a_byte() == 1);
}

template <class T>
void check_written_once(const Rows<T>& rows, const Watch& watch) {
  REQUIRE(watch.written_bytes() == bytes_of(rows));
  REQUIRE(watch.min_writes_of_a_byte() == 1);
  REQUIRE(watch.max_writes_of_a_byte() == 1);
}

std::vector<bf16> values(std::int64_t n) { return test::row_of<bf16>(test::normal(n, 1)); }

}  // namespace

TEST_CASE("rms_norm reads and writes every byte once", "[ops][rms_norm][traffic]") {
  const std::int64_t rows = GENERATE(3, 130), n = 1536;  // a block a row, and a warp
  Rows<bf16> x(rows, n, values(rows * n)), out(rows, n);
  Rows<e4m3> codes(rows, n);
  Rows<e8m0> scales(rows, n / 128);
  const Watch reads(x.data(), bytes_of(x), true), writes(out.data(), bytes_of(out), true),
      code_writes(codes.data(), bytes_of(codes), true);
  simt::reset_counters();
  REQUIRE_OK(ops::rms_norm({.out = out.data(),
                            .quantised = {.codes = codes.data(), .scales = scales.data()},
                            .x = x.data(),
                            .rows = rows,
                            .n = n,
                            .eps = 1e-6f},
                           nullptr));
  check_read_once(x, reads);
  check_written_once(out, writes);
  check_written_once(codes, code_writes);
  REQUIRE(simt::counters().shared_bank_conflicts == 0);  // counted in instrumented builds
}

TEST_CASE("act_quant, hadamard and rope read and write every byte once", "[ops][traffic]") {
  const std::int64_t rows = 5, n = 128;
  Rows<bf16> x(rows, n, values(rows * n)), out(rows, n);
  Rows<std::uint8_t> codes(rows, n / 2);
  Rows<e8m0> scales(rows, n / 32);
  {
    const Watch reads(x.data(), bytes_of(x), true), writes(codes.data(), bytes_of(codes), true);
    REQUIRE_OK(ops::act_quant({.codes = codes.data(),
                               .scales = scales.data(),
                               .x = x.data(),
                               .rows = rows,
                               .n = n,
                               .block = 32,
                               .format = ops::QuantFormat::kE2m1},
                              nullptr));
    check_read_once(x, reads);
    check_written_once(codes, writes);
  }
  {
    const Watch reads(x.data(), bytes_of(x), true), writes(out.data(), bytes_of(out), true);
    REQUIRE_OK(ops::hadamard({.out = out.data(), .x = x.data(), .rows = rows, .n = 128}, nullptr));
    check_read_once(x, reads);
    check_written_once(out, writes);
  }
  const std::vector<std::int32_t> positions(static_cast<std::size_t>(rows), 3);
  const std::vector<float> freq(32, 0.5f);
  Rows<bf16> heads(2 * rows, 64, values(2 * rows * 64));
  const Watch both(heads.data(), bytes_of(heads), true);
  REQUIRE_OK(ops::rope({.out = heads.data(),
                        .x = heads.data(),
                        .positions = positions.data(),
                        .table = {.freq = freq.data()},
                        .tokens = rows,
                        .heads = 2,
                        .head_dim = 64,
                        .rope_dim = 64},
                       nullptr));
  check_read_once(heads, both);
  check_written_once(heads, both);
}

TEST_CASE("embed reads a token's row once for its four streams", "[ops][embed][traffic]") {
  const std::int64_t tokens = 3, hidden = 512, vocab = 3;
  Rows<bf16> table(vocab, hidden, values(vocab * hidden)), out(tokens, 4 * hidden);
  const std::vector<std::int32_t> ids = {2, 0, 1};
  const Watch reads(table.data(), bytes_of(table), true), writes(out.data(), bytes_of(out), true);
  REQUIRE_OK(ops::embed({.out = out.data(),
                         .table = table.data(),
                         .ids = ids.data(),
                         .tokens = tokens,
                         .hidden = hidden,
                         .vocab = vocab,
                         .streams = 4},
                        nullptr));
  check_read_once(table, reads);
  check_written_once(out, writes);
}

TEST_CASE("lm_head streams the weights once for up to 64 tokens", "[ops][lm_head][traffic]") {
  const std::int64_t tokens = GENERATE(1, 8, 9, 31, 64, 65), vocab = 150, hidden = 400;
  Rows<bf16> x(tokens, hidden, values(tokens * hidden)), head(vocab, hidden, values(vocab * hidden));
  Rows<float> logits(tokens, vocab);
  const Watch reads(head.data(), bytes_of(head), true);
  simt::reset_counters();
  REQUIRE_OK(ops::lm_head({.logits = logits.data(),
                           .x = x.data(),
                           .head = head.data(),
                           .tokens = tokens,
                           .vocab = vocab,
                           .hidden = hidden},
                          nullptr));
  REQUIRE(reads.read_bytes() == bytes_of(head) * static_cast<std::uint64_t>((tokens + 63) / 64));
  REQUIRE(simt::counters().shared_bank_conflicts == 0);  // counted in instrumented builds
}
