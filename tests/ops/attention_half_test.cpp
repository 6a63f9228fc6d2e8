// The attention half of a CSA layer in decode, composed of fused ops as an engine would: how many launches it
// takes, what each stage computes beside the primitives, and replays with lengths changed in device memory.
#include <dsv4/attention/attend.hpp>
#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/indexer.hpp>
#include <dsv4/attention/kv_proj.hpp>
#include <dsv4/attention/out_proj.hpp>
#include <dsv4/attention/q_proj.hpp>
#include <dsv4/attention/select.hpp>
#include <dsv4/core/norm.hpp>
#include <dsv4/linear/weight.hpp>
#include <dsv4/mhc/post.hpp>
#include <dsv4/mhc/pre.hpp>
#include <dsv4/mhc/project.hpp>
#include <dsv4/mhc/split.hpp>

#include "tests/ops/attention_half.hpp"
#include "tests/ops/attention_half_launches.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/op_buffers.hpp"
#include "tests/support/shapes.hpp"

#include <dsv4/simt/counters.hpp>

#include <cmath>
#include <cstring>
#include <vector>

using namespace dsv4;
using namespace dsv4::test;

namespace {

constexpr SerialCoop kCoop;

template <class T>
double relative(const T* got, const T* want, std::int64_t n) {
  double error = 0, norm = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double g = to_float(got[i]), w = to_float(want[i]);
    error += (g - w) * (g - w);
    norm += w * w;
  }
  return std::sqrt(error / norm);
}
template <class T>
bool same(const T* got, const T* want, std::int64_t n) {
  return std::memcmp(got, want, static_cast<std::size_t>(n) * sizeof(T)) == 0;
}

// x [n] through a linear as the primitives have it.
template <class TOut>
std::vector<TOut> product(const Matrix& m, const bf16* x) {
  std::vector<float> f(static_cast<std::size_t>(m.cols)),
      scratch(static_cast<std::size_t>(linear::kDecodeRows * m.cols));
  if (m.fp8())
    quant::fp8_round_trip(kCoop, f.data(), x, static_cast<int>(m.cols), quant::kFp8LinearBlock);
  else
    for (std::int64_t k = 0; k < m.cols; ++k) f[static_cast<std::size_t>(k)] = to_float(x[k]);
  std::vector<TOut> y(static_cast<std::size_t>(m.rows));
  linear::tile(kCoop, y.data(), m.rows, {f.data(), m.cols}, 1, m.view(), 0, m.rows, scratch.data());
  return y;
}

template <class TOut>
void check_product(const Matrix& m, const bf16* x, const std::vector<TOut>& got, int t, double limit) {
  CHECK(relative(got.data() + t * m.rows, product<TOut>(m, x).data(), m.rows) <= limit);
}

// A row that a pool gives back, decoded, and the same row written to a pool of one page.
template <class Pool, class T>
void check_stored(const Pool& pool, std::int64_t slot, const T* row, int channels) {
  std::vector<std::uint8_t> bytes(Pool::kEntryBytes + 16);
  const Pool one{bytes.data(), 0, 1, 1};
  one.write(kCoop, 0, row);
  std::vector<float> got(static_cast<std::size_t>(channels)), want(got);
  pool.read(slot, got.data());
  one.read(0, want.data());
  CHECK(same(got.data(), want.data(), channels));
}

void check_mhc(const Half& h, const std::vector<bf16>& streams_before, int t) {
  std::vector<bf16> streams(4 * Half::kHidden), x(Half::kHidden), normed(Half::kHidden);
  mhc::post<4>(kCoop, streams.data(), h.y.data() + t * Half::kHidden,
               streams_before.data() + t * 4 * Half::kHidden, h.post_in.data() + t * 4,
               h.comb_in.data() + t * 16, Half::kHidden);
  CHECK(same(h.streams.data() + t * 4 * Half::kHidden, streams.data(), 4 * Half::kHidden));
  std::vector<float> f;
  for (const bf16 v : streams) f.push_back(to_float(v));
  float mixes[24], pre[4], post[4], comb[16];
  mhc::project(kCoop, mixes, {f.data(), 4 * Half::kHidden}, 1, h.fn.data(), 24, 4 * Half::kHidden,
               Half::kEps);
  mhc::split<4>(pre, post, comb, mixes, h.hc_scale.data(), h.hc_base.data(), 20, Half::kEps);
  mhc::pre<4>(kCoop, x.data(), streams.data(), pre, Half::kHidden);
  rms_norm(kCoop, normed.data(), x.data(), h.norm.data(), Half::kHidden, Half::kEps);
  CHECK(relative(h.x.data() + t * Half::kHidden, normed.data(), Half::kHidden) <= 2e-3);
}

void check_projections(const Half& h, int t) {
  const bf16* x = h.x.data() + t * Half::kHidden;
  check_product(h.wq_a, x, h.q_a, t, 2e-3);
  check_product(h.wkv, x, h.kv, t, 2e-3);
  check_product(h.main.wkv, x, h.main.kv, t, 1e-6);
  check_product(h.main.wgate, x, h.main.gate, t, 1e-6);
  check_product(h.index.wkv, x, h.index.kv, t, 1e-6);
  check_product(h.index.wgate, x, h.index.gate, t, 1e-6);
  check_product(h.wproj, x, h.head_weights, t, 2e-3);
  std::vector<bf16> qr(Half::kLora);
  rms_norm(kCoop, qr.data(), h.q_a.data() + t * Half::kLora, h.q_norm.data(), Half::kLora, Half::kEps);
  check_product(h.wq_b, qr.data(), h.q_raw, t, 2e-3);
  check_product(h.wq_bi, qr.data(), h.index_raw, t, 2e-3);
}

// Bit for bit, as fp32 and canonical sums throughout.
void check_prepared(const Half& h, int t) {
  math::SinCos angles[32];
  rope::angles(kCoop, angles, h.freq.data(), h.position[static_cast<std::size_t>(t)], 32);
  std::vector<bf16> row(512);
  for (int i = 0; i < Half::kHeads; ++i) {
    const std::int64_t at = (std::int64_t{t} * Half::kHeads + i) * 512;
    std::copy_n(h.q_raw.data() + at, 512, row.data());
    attention::finish_query(kCoop, row.data(), angles, 512, 64, Half::kEps);
    CHECK(same(h.q.data() + at, row.data(), 512));
  }
  std::copy_n(h.kv.data() + std::int64_t{t} * 512, 512, row.data());
  attention::finish_key_value(kCoop, row.data(), h.kv_norm.data(), angles, 512, 64, Half::kEps);
  check_stored(h.window_pool(), h.window_slot(t, h.position[static_cast<std::size_t>(t)]), row.data(), 512);
  float scratch[128];
  for (int i = 0; i < Half::kIndexHeads; ++i) {
    const std::int64_t at = std::int64_t{t} * Half::kIndexHeads + i;
    std::copy_n(h.index_raw.data() + at * 128, 128, row.data());
    attention::finish_index_query<128>(kCoop, row.data(), angles, 64, scratch);
    for (int b = 0; b < 4; ++b) {
      e2m1x2 codes[16];
      const e8m0 scale = quant::fp4_block(kCoop, codes, row.data() + 32 * b, 32);
      CHECK(scale.bits == h.index_scales[static_cast<std::size_t>(4 * at + b)]);
      CHECK(std::memcmp(codes, h.index_codes.data() + 64 * at + 16 * b, 16) == 0);
    }
    const float weight = to_float(h.head_weights[static_cast<std::size_t>(at)]);
    CHECK(h.weights[static_cast<std::size_t>(at)] ==
          weight * attention::index_weight_factor(128, Half::kIndexHeads));
  }
}

// The entry that token t completed, if it did.
void check_entry(const Half& h, int t) {
  const std::int32_t position = h.position[static_cast<std::size_t>(t)];
  if ((position + 1) % 4 != 0) return;
  const std::int64_t entry = position / 4;
  math::SinCos angles[32];
  rope::angles(kCoop, angles, h.freq.data(), 4 * entry, 32);
  float pooled[512], scratch[128];
  std::vector<bf16> row(512);
  const auto rows_of = [&](const Half::Compressor& c) {
    return [&c, t](std::int64_t p) { return c.history[static_cast<std::size_t>(t)].row(p); };
  };
  attention::pool(kCoop, pooled, rows_of(h.main), entry, h.main.ape.data(), {4, 512});
  attention::finish_entry(kCoop, row.data(), pooled, h.main.norm.data(), angles, 512, 64, Half::kEps);
  check_stored(h.entry_pool(), h.entry_slot(t, entry), row.data(), 512);
  attention::pool(kCoop, pooled, rows_of(h.index), entry, h.index.ape.data(), {4, 128});
  attention::finish_index_key<128>(kCoop, row.data(), pooled, h.index.norm.data(), angles, 64, Half::kEps,
                                   scratch);
  check_stored(h.key_pool(), h.entry_slot(t, entry), row.data(), 128);
}

// Rows of a sequence by their number.
template <class Pool, class Slot>
struct Logical {
  Pool pool;
  Slot slot;
  std::int64_t slots;

  Logical(const Pool& p, const Slot& s, std::int64_t n) : pool(p), slot(s), slots(n) {}

  void read(std::int64_t row, float* buffer) const { pool.read(slot(row), buffer); }
  const float* view(std::int64_t, const float* buffer) const { return buffer; }
};

void check_attention(const Half& h, int t) {
  const std::int64_t position = h.position[static_cast<std::size_t>(t)], visible = (position + 1) / 4;
  const auto entry_slot = [&](std::int64_t e) { return h.entry_slot(t, e); };
  const auto window_slot = [&](std::int64_t p) { return h.window_slot(t, p); };

  std::vector<float> queries(Half::kIndexHeads * 128), scores(static_cast<std::size_t>(visible)),
      scratch(attention::kScoreTile * (Half::kIndexHeads + 128));
  for (std::size_t b = 0; b < queries.size() / 32; ++b) {
    const std::size_t at = static_cast<std::size_t>(t) * queries.size() / 32 + b;
    quant::fp4_decode(queries.data() + 32 * b,
                      reinterpret_cast<const e2m1x2*>(h.index_codes.data() + 16 * at), 32,
                      to_float(e8m0{h.index_scales[at]}));
  }
  const Logical keys{h.key_pool(), entry_slot, visible};
  const int heads = static_cast<int>(h.weights.size()) / Half::kTokens;
  attention::index_scores(kCoop, scores.data(), queries.data(), h.weights.data() + t * Half::kIndexHeads,
                          keys, 0, visible, heads, 128, scratch.data());
  std::vector<std::int32_t> chosen(Half::kTopK), ids(Half::kTopK), spare(Half::kTopK);
  attention::select_top_k(kCoop, ids.data(), scores.data(), position, 4, Half::kTopK, spare.data());
  for (std::size_t i = 0; i < ids.size(); ++i)
    chosen[i] = ids[i] < 0 ? -1 : static_cast<std::int32_t>(h.entry_slot(t, ids[i]));
  CHECK(same(h.chosen.data() + std::int64_t{t} * Half::kTopK, chosen.data(), Half::kTopK));

  std::vector<std::int32_t> window(128);
  attention::select_window(kCoop, window.data(), position, 128,
                           [](std::int64_t p) { return static_cast<std::int32_t>(p); });
  const Logical rows{h.window_pool(), window_slot, position + 1};
  const Logical entries{h.entry_pool(), entry_slot, visible};
  std::vector<float> q;
  for (int i = 0; i < Half::kHeads * 512; ++i)
    q.push_back(to_float(h.q[static_cast<std::size_t>(t * Half::kHeads * 512 + i)]));
  std::vector<bf16> o(q.size());
  std::vector<float> space(
      static_cast<std::size_t>(attention::attend_scratch_floats(Half::kHeads, 128 + Half::kTopK, 512)));
  attention::attend(kCoop, o.data(), nullptr, q.data(), static_cast<int>(h.sink.size()), h.sink.data(),
                    attention::Selection<decltype(rows)>{rows, window.data(), 128},
                    attention::Selection<decltype(entries)>{entries, ids.data(), Half::kTopK}, 512,
                    1.0f / std::sqrt(512.0f), space.data());
  math::SinCos angles[32];
  rope::angles(kCoop, angles, h.freq.data(), position, 32);
  for (int i = 0; i < Half::kHeads; ++i) attention::rotate_back(kCoop, o.data() + i * 512, angles, 512, 64);
  const bf16* got = h.o.data() + std::int64_t{t} * Half::kHeads * 512;
  CHECK(relative(got, o.data(), Half::kHeads * 512) <= 2e-3);

  // The way out, from the op's own heads.
  std::vector<float> turned, decoded(static_cast<std::size_t>(linear::kDecodeRows * h.wo_a.cols));
  for (int i = 0; i < Half::kHeads * 512; ++i) turned.push_back(to_float(got[i]));
  std::vector<bf16> low(Half::kGroups * Half::kRank);
  for (int g = 0; g < Half::kGroups; ++g)
    attention::grouped_linear(kCoop, low.data(), Half::kGroups * Half::kRank,
                              {turned.data(), Half::kHeads * 512}, 1, h.wo_a.view(), Half::kRank,
                              g * Half::kRank, (g + 1) * Half::kRank, decoded.data());
  CHECK(relative(h.out.data() + t * Half::kHidden, product<bf16>(h.wo_b, low.data()).data(), Half::kHidden) <=
        1e-2);
}

}  // namespace

TEST_CASE(
    "the attention half of a CSA layer in decode: at most 12 launches, the primitives' results, replays",
    "[attention_half]") {
  Half half;
  half.prefill();
  // Built once, as a captured graph has them; what changes lies in device memory.
  const Half::Launches launches = half.capture();
  const int steps = reduced() ? 2 : 5;
  for (int step = 0; step < steps; ++step) {
    CAPTURE(step);
    half.next_tokens();
    const std::vector<bf16> streams = half.streams;
    simt::reset_counters();
    half.replay(launches);
    CHECK(simt::counters().launches <= 12);
    half.note_rows();
    for (int t = 0; t < Half::kTokens; ++t) {
      CAPTURE(t, half.position[static_cast<std::size_t>(t)]);
      check_mhc(half, streams, t);
      check_projections(half, t);
      check_prepared(half, t);
      check_entry(half, t);
      check_attention(half, t);
    }
  }
}
