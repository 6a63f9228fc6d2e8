// Ops of mHC under every way the machine can execute them: rounding of tensor cores, schedules, bytes moved.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/options.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/mhc_batch.hpp"
#include "tests/support/shapes.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

using namespace dsv4;
using namespace dsv4::test;

namespace {

simt::Options with_rounding(simt::Rounding rounding) {
  simt::Options o = simt::options();
  o.rounding = rounding;
  return o;
}

/// Empty where rows [first, first + part.rows()) of `whole` are those of `part`, bit for bit.
template <class T>
std::string part_difference(const Rows<T>& whole, std::int64_t first, const Rows<T>& part) {
  std::vector<T> want;
  for (std::int64_t r = 0; r < part.rows(); ++r)
    want.insert(want.end(), whole.row(first + r), whole.row(first + r) + whole.cols());
  return difference(part, want);
}

template <class T>
std::string outputs_difference(const MhcOutputs<T>& whole, std::int64_t first, const MhcOutputs<T>& part) {
  return part_difference(whole.mixes, first, part.mixes) + part_difference(whole.post, first, part.post) +
         part_difference(whole.comb, first, part.comb) + part_difference(whole.pre, first, part.pre) +
         part_difference(whole.x, first, part.x) + part_difference(whole.normed, first, part.normed) +
         part_difference(whole.codes, first, part.codes) + part_difference(whole.scales, first, part.scales);
}

/// Post, then pre, of `count` tokens from `first`.
void run_part(const MhcInputs<bf16>& in, MhcPostBuffers<bf16>& b, Rows<bf16>& mixed, MhcOutputs<bf16>& out,
              std::int64_t first, std::int64_t count) {
  ops::MhcPostPreParams p = {.post = post_params(in, mixed, b.y, b.streams, b.post, b.comb),
                             .pre = pre_params(in, mixed, out)};
  p.post.y = b.y.row(first);
  p.post.streams = b.streams.row(first);
  p.post.post = b.post.row(first);
  p.post.comb = b.comb.row(first);
  p.post.tokens = p.pre.tokens = count;
  REQUIRE_OK(run_post_pre(p));
}

}  // namespace

TEST_CASE("mhc_post_pre: a token's bits do not depend on its batch", "[ops][mhc]") {
  const simt::ScopedOptions scope(with_rounding(GENERATE(simt::Rounding::kHopper, simt::Rounding::kAmpere)));
  // 257 tokens share weights in blocks of 64, 256 and fewer do not.
  // Two groups of channels and a step; a model's width.
  const std::int64_t tokens = 257, hidden = reduced() ? 64 : GENERATE(544, 4096);
  const MhcInputs<bf16> in(tokens, hidden);
  MhcPostBuffers<bf16> b(in, Lay::kContiguous);
  Rows<bf16> mixed(tokens, 4 * hidden);
  MhcOutputs<bf16> whole(tokens, hidden, Lay::kContiguous);
  run_part(in, b, mixed, whole, 0, tokens);
  const auto part = [&](std::int64_t first, std::int64_t count) {
    CAPTURE(first, count);
    Rows<bf16> part_mixed(count, 4 * hidden);
    MhcOutputs<bf16> out(count, hidden, Lay::kContiguous);
    run_part(in, b, part_mixed, out, first, count);
    REQUIRE(part_difference(mixed, first, part_mixed) == "");
    REQUIRE(outputs_difference(whole, first, out) == "");
  };
  for (const std::int64_t t : {0, 7, 8, 15, 16, 63, 64, 150, 256}) part(t, 1);  // alone
  part(60, 8);
  if (reduced()) return;
  part(190, 67);
  part(1, 256);
}

TEST_CASE("mhc_post_pre: a batch of several segments is its parts", "[ops][mhc]") {
  if (reduced()) return;                                                   // 16 thousand tokens
  const std::int64_t segment = 16384, tokens = segment + 17, hidden = 32;  // one group: the longest segment
  const MhcInputs<bf16> in(tokens, hidden);
  MhcPostBuffers<bf16> b(in, Lay::kContiguous);
  Rows<bf16> mixed(tokens, 4 * hidden);
  MhcOutputs<bf16> whole(tokens, hidden, Lay::kContiguous);
  run_part(in, b, mixed, whole, 0, tokens);
  REQUIRE_ROWS(mixed, reference_post(in));
  for (const auto& [first, count] :
       {std::pair<std::int64_t, std::int64_t>{0, 3}, {segment - 70, 87}, {tokens - 1, 1}}) {
    CAPTURE(first, count);
    Rows<bf16> part_mixed(count, 4 * hidden);
    MhcOutputs<bf16> out(count, hidden, Lay::kContiguous);
    run_part(in, b, part_mixed, out, first, count);
    REQUIRE(outputs_difference(whole, first, out) == "");
  }
  REQUIRE(whole.x.intact() == "");
  REQUIRE(whole.comb.intact() == "");
}

TEST_CASE("mixes are fp32-grade however a tensor core rounds", "[ops][mhc]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const simt::ScopedOptions scope(with_rounding(rounding));
  const bool one_sign = GENERATE(false, true);  // all products positive: truncation then has a bias
  const std::int64_t tokens = 2, hidden = 7168;
  CAPTURE(one_sign);
  MhcInputs<bf16> in(tokens, hidden);
  if (one_sign) {
    for (bf16& v : in.streams) v.bits &= 0x7fff;
    for (float& v : in.fn) v = std::abs(v);
  }
  const Rows<bf16> streams(tokens, 4 * hidden, in.streams);
  MhcOutputs<bf16> out(tokens, hidden, Lay::kContiguous);
  REQUIRE_OK(run_pre(pre_params(in, streams, out)));
  const double error = mix_error(in, in.streams, out.mixes.values(), 24);
  CAPTURE(error);
  REQUIRE(error <= 1e-6);
}

TEST_CASE("mhc_post_pre: any schedule gives the same bits", "[ops][mhc]") {
  const std::int64_t tokens = GENERATE(17, 257), hidden = 288;
  if (reduced() && tokens > 17) return;
  const MhcInputs<bf16> in(tokens, hidden);
  MhcPostBuffers<bf16> b(in, Lay::kContiguous);
  Rows<bf16> mixed(tokens, 4 * hidden);
  MhcOutputs<bf16> want(tokens, hidden, Lay::kContiguous);
  run_part(in, b, mixed, want, 0, tokens);
  for (const simt::Async async : {simt::Async::kEager, simt::Async::kLazy, simt::Async::kRandom})
    for (const simt::Schedule schedule :
         {simt::Schedule::kFifo, simt::Schedule::kLifo, simt::Schedule::kRandom}) {
      simt::Options o = simt::options();
      o.async = async, o.schedule = schedule, o.seed = 77, o.spurious_try_wait = 0.3;
      const simt::ScopedOptions scope(o);
      Rows<bf16> again(tokens, 4 * hidden);
      MhcOutputs<bf16> out(tokens, hidden, Lay::kContiguous);
      run_part(in, b, again, out, 0, tokens);
      REQUIRE(part_difference(mixed, 0, again) == "");
      REQUIRE(outputs_difference(want, 0, out) == "");
    }
}

TEST_CASE("mhc_post_pre reads the old streams once and writes the new ones once", "[ops][mhc]") {
  const std::int64_t tokens = GENERATE(5, 257), hidden = 288;
  const auto bytes = static_cast<std::size_t>(tokens * hidden * 2);
  const MhcInputs<bf16> in(tokens, hidden);
  MhcPostBuffers<bf16> b(in, Lay::kContiguous);
  Rows<bf16> mixed(tokens, 4 * hidden);
  MhcOutputs<bf16> out(tokens, hidden, Lay::kContiguous);
  const simt::Watch streams(b.streams.data(), 4 * bytes, true), y(b.y.data(), bytes, true);
  const simt::Watch written(mixed.data(), 4 * bytes, true), x(out.x.data(), bytes, true);
  run_part(in, b, mixed, out, 0, tokens);
  REQUIRE(streams.read_bytes() == 4 * bytes);
  REQUIRE(streams.max_reads_of_a_byte() == 1);
  REQUIRE(streams.written_bytes() == 0);
  REQUIRE(y.read_bytes() == bytes);
  REQUIRE(written.written_bytes() == 4 * bytes);
  REQUIRE(written.max_writes_of_a_byte() == 1);
  REQUIRE(written.read_bytes() == 4 * bytes);  // for the collapse
  REQUIRE(x.written_bytes() == bytes);
  REQUIRE(x.read_bytes() == 0);
}

TEST_CASE("the kernels of mHC have no bank conflicts", "[ops][mhc]") {
  const std::int64_t tokens = GENERATE(5, 257), hidden = 288;
  const MhcInputs<bf16> in(tokens, hidden);
  MhcPostBuffers<bf16> b(in, Lay::kContiguous);
  Rows<bf16> mixed(tokens, 4 * hidden);
  MhcOutputs<bf16> out(tokens, hidden, Lay::kContiguous);
  simt::reset_counters();
  run_part(in, b, mixed, out, 0, tokens);
  const simt::Counters counted = simt::counters();
  REQUIRE(counted.launches == 2);
  const std::uint64_t steps = 9, tiles = tokens == 5 ? 1 : 5 * 4;  // 5 blocks of 4 warps
  REQUIRE(counted.mma == tiles * steps * 8 * 3 * 3);
  REQUIRE(counted.shared_bank_conflicts == 0);  // seen by instrumented builds
  if (simt::Watch::kSeesPlain) REQUIRE(counted.shared_wavefronts > 0);
}

TEST_CASE("mhc_pre writes the outputs that are wanted, and no others", "[ops][mhc]") {
  const std::int64_t tokens = 3, hidden = 256;
  const MhcInputs<bf16> in(tokens, hidden);
  const Rows<bf16> streams(tokens, 4 * hidden, in.streams);
  MhcOutputs<bf16> all(tokens, hidden, Lay::kContiguous);
  REQUIRE_OK(run_pre(pre_params(in, streams, all)));
  const auto untouched = [](const auto& rows) {
    const auto values = rows.values();
    const auto* p = reinterpret_cast<const unsigned char*>(values.data());
    for (std::size_t i = 0; i < values.size() * sizeof values[0]; ++i)
      if (p[i] != 0xff) return false;
    return true;
  };
  SECTION("x alone") {
    MhcOutputs<bf16> out(tokens, hidden, Lay::kContiguous);
    ops::MhcPreParams p = pre_params(in, streams, out);
    p.normed = nullptr, p.quantised = {}, p.norm_weight = nullptr, p.pre = nullptr, p.mixes = nullptr;
    REQUIRE_OK(run_pre(p));
    REQUIRE_ROWS(out.x, all.x.values());
    REQUIRE_ROWS(out.post, all.post.values());
    REQUIRE_ROWS(out.comb, all.comb.values());
    REQUIRE(untouched(out.normed));
    REQUIRE(untouched(out.codes));
    REQUIRE(untouched(out.scales));
    REQUIRE(untouched(out.pre));
    REQUIRE(untouched(out.mixes));
  }
  SECTION("normed alone") {
    MhcOutputs<bf16> out(tokens, hidden, Lay::kContiguous);
    ops::MhcPreParams p = pre_params(in, streams, out);
    p.x = nullptr, p.quantised = {};
    REQUIRE_OK(run_pre(p));
    REQUIRE_ROWS(out.normed, all.normed.values());
    REQUIRE(untouched(out.x));
    REQUIRE(untouched(out.codes));
  }
  SECTION("codes alone, fp32 scales block by block") {
    MhcOutputs<bf16> out(tokens, hidden, Lay::kContiguous);
    Rows<float> scales(2, tokens, RowLayout{.stride = tokens + 1, .align = 4});
    ops::MhcPreParams p = pre_params(in, streams, out);
    p.x = p.normed = nullptr;
    p.quantised.scales = scales.data();
    p.quantised.scales_stride = scales.stride();
    p.quantised.scale_type = ops::ScaleType::kF32;
    p.quantised.scale_layout = ops::ScaleLayout::kColumnMajor;
    REQUIRE_OK(run_pre(p));
    REQUIRE_ROWS(out.codes, all.codes.values());
    std::vector<float> want;
    for (std::int64_t block = 0; block < 2; ++block)
      for (std::int64_t t = 0; t < tokens; ++t) want.push_back(to_float(all.scales.row(t)[block]));
    REQUIRE_ROWS(scales, want);
    REQUIRE(untouched(out.x));
    REQUIRE(untouched(out.normed));
  }
}

TEST_CASE("a NaN in one token of mHC stays in that token", "[ops][mhc]") {
  const std::int64_t tokens = 20, hidden = 256;
  MhcInputs<bf16> in(tokens, hidden);
  const Rows<bf16> clean(tokens, 4 * hidden, in.streams);
  MhcOutputs<bf16> want(tokens, hidden, Lay::kContiguous), out(tokens, hidden, Lay::kContiguous);
  REQUIRE_OK(run_pre(pre_params(in, clean, want)));
  in.streams[static_cast<std::size_t>(9 * 4 * hidden + 5)].bits = 0x7fc0;
  const Rows<bf16> streams(tokens, 4 * hidden, in.streams);
  REQUIRE_OK(run_pre(pre_params(in, streams, out)));
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t d = 0; d < hidden; ++d) {
      const float got = value(out.normed.row(t)[d]);
      if (t == 9)
        REQUIRE(std::isnan(got));
      else
        REQUIRE(got == value(want.normed.row(t)[d]));
    }
  for (int b = 0; b < 2; ++b) REQUIRE(out.scales.row(9)[b].bits == kE8m0Nan);
}
