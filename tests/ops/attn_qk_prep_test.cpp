// Op attn_qk_prep on the SIMT machine: bit for bit the three ops it fuses, in one launch that moves little
// more than its inputs and outputs; a token's bits do not depend on the batch or the schedule.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/options.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/ops/attn_prep.hpp"

#include <algorithm>
#include <memory>

using namespace dsv4;
using simt::Watch;
using test::kHeadDim;
using test::kIndexDim;
using test::kPrepEps;
using test::kRopeDim;
using test::Rows;

namespace {

struct Sizes {
  std::int64_t q_tokens, kv_tokens, index_tokens, heads, index_heads;
};

// Everything one call reads, and what all of it writes. Two batches of the same sizes have the same inputs.
template <class T>
struct Batch {
  Sizes n;
  std::vector<float> freq = test::prep_frequencies();
  std::vector<std::int32_t> positions =
      test::prep_positions(std::max({n.q_tokens, n.kv_tokens, n.index_tokens}));
  std::vector<std::int32_t> slots = test::prep_slots(n.kv_tokens, n.kv_tokens + 3);
  Rows<T> q = filled(n.q_tokens * n.heads, kHeadDim, 21);
  Rows<T> kv = filled(n.kv_tokens, kHeadDim, 22);
  Rows<T> index = filled(n.index_tokens * n.index_heads, kIndexDim, 23);
  Rows<T> weights = filled(n.index_tokens * n.index_heads, 1, 24);
  Rows<float> norm = Rows<float>(1, kHeadDim, test::uniform(kHeadDim, 25, 0.5, 1.5));

  Rows<T> q_out = Rows<T>(n.q_tokens * n.heads, kHeadDim);
  Rows<T> kv_out = Rows<T>(n.kv_tokens, kHeadDim);
  test::KvPages window = test::KvPages(n.kv_tokens + 3, 2, 0);
  Rows<std::uint8_t> codes = Rows<std::uint8_t>(n.index_tokens * n.index_heads, kIndexDim / 2);
  Rows<std::uint8_t> scales = Rows<std::uint8_t>(n.index_tokens * n.index_heads, 4);
  Rows<float> weights_out = Rows<float>(n.index_tokens * n.index_heads, 1);

  explicit Batch(Sizes sizes) : n(sizes) {}

  static Rows<T> filled(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
    return Rows<T>(rows, cols, test::prep_values<T>(rows * cols, seed, 2.0));
  }

  ops::AttnQkPrepParams params() {
    const ops::RopeTable rope = {.freq = freq.data()};
    return {.q = {.out = q_out.data(),
                  .q = q.data(),
                  .positions = positions.data(),
                  .rope = rope,
                  .tokens = n.q_tokens,
                  .heads = n.heads,
                  .head_dim = kHeadDim,
                  .rope_dim = kRopeDim,
                  .eps = kPrepEps,
                  .dtype = test::kDType<T>},
            .kv = {.window = window.pool,
                   .slots = slots.data(),
                   .out = kv_out.data(),
                   .kv = kv.data(),
                   .norm = norm.data(),
                   .positions = positions.data(),
                   .rope = rope,
                   .tokens = n.kv_tokens,
                   .head_dim = kHeadDim,
                   .rope_dim = kRopeDim,
                   .eps = kPrepEps,
                   .dtype = test::kDType<T>},
            .index = {.codes = codes.data(),
                      .scales = scales.data(),
                      .weights_out = weights_out.data(),
                      .q = index.data(),
                      .weights = weights.data(),
                      .positions = positions.data(),
                      .rope = rope,
                      .tokens = n.index_tokens,
                      .heads = static_cast<std::int32_t>(n.index_heads),
                      .dim = kIndexDim,
                      .rope_dim = kRopeDim,
                      .dtype = test::kDType<T>}};
  }
};

// The outputs of two batches bit for bit, and nothing written around them.
template <class T>
void require_same(const Batch<T>& got, const Batch<T>& want) {
  REQUIRE_ROWS(got.q_out, want.q_out.values());
  REQUIRE_ROWS(got.kv_out, want.kv_out.values());
  REQUIRE_ROWS(got.window.bytes, want.window.bytes.values());
  REQUIRE_ROWS(got.codes, want.codes.values());
  REQUIRE_ROWS(got.scales, want.scales.values());
  REQUIRE_ROWS(got.weights_out, want.weights_out.values());
}

}  // namespace

TEMPLATE_TEST_CASE("attn_qk_prep equals the three ops, any part absent", "[ops][attn_qk_prep]", bf16, float) {
  const Sizes sizes = GENERATE(Sizes{3, 3, 3, 8, 8}, Sizes{2, 5, 1, 3, 17}, Sizes{1, 0, 4, 1, 1});
  for (unsigned present = 0; present < 8; ++present) {
    CAPTURE(present, sizes.q_tokens, sizes.kv_tokens, sizes.index_tokens);
    Batch<TestType> fused(sizes), alone(sizes);
    auto p = fused.params();
    const auto parts = alone.params();
    std::uint64_t launches = 0;
    if (present & 1u) {
      REQUIRE_OK(ops::attn_q_proj(parts.q, nullptr));
      launches = 1;
    } else {
      p.q = {};
    }
    if (present & 2u) {
      REQUIRE_OK(ops::attn_kv_proj(parts.kv, nullptr));
      if (sizes.kv_tokens > 0) launches = 1;
    } else {
      p.kv = {};
    }
    if (present & 4u) {
      REQUIRE_OK(ops::attn_index_prep(parts.index, nullptr));
      launches = 1;
    } else {
      p.index = {};
    }
    const auto before = simt::counters().launches;
    REQUIRE_OK(ops::attn_qk_prep(p, nullptr));
    REQUIRE(simt::counters().launches == before + launches);
    require_same(fused, alone);
  }
}

TEST_CASE("attn_qk_prep at the widths of the models moves its inputs and outputs once",
          "[ops][attn_qk_prep][traffic]") {
  const std::int64_t tokens = 2, heads = 64;
  Batch<bf16> b({tokens, tokens, tokens, heads, heads});
  b.slots = {4, 0};
  auto p = b.params();
  p.kv.out = nullptr;
  std::vector<std::unique_ptr<Watch>> watches;
  std::uint64_t needed = 0;
  const auto watch = [&](const void* data, std::int64_t bytes, std::int64_t moved) {
    watches.push_back(std::make_unique<Watch>(data, static_cast<std::size_t>(bytes)));
    needed += static_cast<std::uint64_t>(moved);
  };
  const auto whole = [&](const auto& rows) {
    const auto bytes = rows.rows() * rows.cols() * static_cast<std::int64_t>(sizeof(*rows.data()));
    watch(rows.data(), bytes, bytes);
  };
  whole(b.q), whole(b.q_out), whole(b.kv), whole(b.norm);
  whole(b.index), whole(b.codes), whole(b.scales), whole(b.weights), whole(b.weights_out);
  watch(b.window.bytes.data(), b.window.bytes.rows() * b.window.bytes.stride(), tokens * 584);
  watch(b.positions.data(), tokens * 4, tokens * 4);
  watch(b.slots.data(), tokens * 4, tokens * 4);
  watch(b.freq.data(), kRopeDim / 2 * 4, kRopeDim / 2 * 4);
  simt::reset_counters();
  REQUIRE_OK(ops::attn_qk_prep(p, nullptr));
  std::uint64_t moved = 0;
  for (const auto& w : watches) moved += w->read_bytes() + w->written_bytes();
  CAPTURE(moved, needed, Watch::kSeesPlain);
  REQUIRE(static_cast<double>(moved) <= 1.1 * static_cast<double>(needed));
  REQUIRE(watches[0]->read_bytes() == static_cast<std::uint64_t>(tokens * heads * kHeadDim * 2));
  REQUIRE(watches[1]->written_bytes() == static_cast<std::uint64_t>(tokens * heads * kHeadDim * 2));
  REQUIRE(watches[9]->written_bytes() == static_cast<std::uint64_t>(tokens * 584));
  const simt::Counters c = simt::counters();
  REQUIRE(c.launches == 1);
  REQUIRE(c.shared_wavefronts == 0);  // rows stay in registers
  REQUIRE(c.barriers == 0);
}

TEST_CASE("a token's attn_qk_prep does not depend on the batch around it", "[ops][attn_qk_prep]") {
  simt::Options o = simt::options();
  o.rounding = GENERATE(simt::Rounding::kAmpere, simt::Rounding::kHopper);
  const simt::ScopedOptions scope(o);
  const std::int64_t tokens = 9, heads = 5;
  Batch<bf16> all({tokens, tokens, tokens, heads, heads});
  for (std::int64_t t = 0; t < tokens; ++t) all.slots[static_cast<std::size_t>(t)] = static_cast<int>(t);
  REQUIRE_OK(ops::attn_qk_prep(all.params(), nullptr));
  for (const std::int64_t t : {0, 1, 4, 8}) {
    CAPTURE(t);
    Batch<bf16> one({1, 1, 1, heads, heads});
    one.positions = {all.positions[static_cast<std::size_t>(t)]};
    one.slots = {3};  // another page, another row
    one.q.set({all.q.row(t * heads), all.q.row(t * heads) + heads * kHeadDim});
    one.kv.set({all.kv.row(t), all.kv.row(t) + kHeadDim});
    one.index.set({all.index.row(t * heads), all.index.row(t * heads) + heads * kIndexDim});
    one.weights.set({all.weights.row(t * heads), all.weights.row(t * heads) + heads});
    REQUIRE_OK(ops::attn_qk_prep(one.params(), nullptr));
    const auto same = [&](const auto& alone, const auto& batch, std::int64_t first) {
      REQUIRE(alone.intact() == "");
      REQUIRE(std::memcmp(alone.data(), batch.row(first),
                          static_cast<std::size_t>(alone.rows() * alone.cols()) * sizeof(*alone.data())) ==
              0);
    };
    same(one.q_out, all.q_out, t * heads);
    same(one.kv_out, all.kv_out, t);
    same(one.codes, all.codes, t * heads);
    same(one.scales, all.scales, t * heads);
    same(one.weights_out, all.weights_out, t * heads);
    const auto from = all.window.primitive(), to = one.window.primitive();
    REQUIRE(std::memcmp(to.data_of(3), from.data_of(t), 576) == 0);
    REQUIRE(std::memcmp(to.scales_of(3), from.scales_of(t), 8) == 0);
  }
}

TEST_CASE("attn_qk_prep gives the same bits twenty times, under every policy", "[ops][attn_qk_prep]") {
  const Sizes sizes = {3, 4, 2, 3, 5};
  Batch<bf16> want(sizes);
  REQUIRE_OK(ops::attn_qk_prep(want.params(), nullptr));
  for (unsigned run = 0; run < 20; ++run) {
    simt::Options o = simt::options();
    o.schedule = static_cast<simt::Schedule>(run % 3);
    o.async = static_cast<simt::Async>(run / 3 % 3);
    o.seed = run + 1;
    o.resident_blocks = 1 + static_cast<int>(run % 4);
    const simt::ScopedOptions scope(o);
    CAPTURE(run);
    Batch<bf16> got(sizes);
    REQUIRE_OK(ops::attn_qk_prep(got.params(), nullptr));
    require_same(got, want);
  }
}
