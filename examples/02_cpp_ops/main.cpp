// Four ops on a stream: the way from a layer's input to its queries and to a row of its window cache.
//     rms_norm        x -> normed, and its FP8 codes in the same pass
//     linear_fp8      codes -> qr, codes -> kv
//     linear_fp8      qr -> q, normed and quantised on the way in
//     attn_qk_prep    q: norm of each head, RoPE; kv: norm, RoPE, FP8, written to its slot of the cache
// Then it checks what an engine may rely on: heads of unit RMS, cached rows that read back, and a token whose
// bits do not depend on the batch around it.
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/rms_norm.hpp>

#include "examples/common/device.hpp"
#include "examples/common/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

using namespace dsv4;
using examples::Buffer, examples::must;

constexpr int kTokens = 12, kHidden = 512, kLora = 256, kHeads = 8, kHeadDim = 512, kRopeDim = 64;
constexpr int kPageRows = 16, kPages = 4;
constexpr float kEps = 1e-6f;

struct Weights {
  Buffer<float> norm = examples::random<float>(kHidden, 1, 0.5f, 1.0f);
  Buffer<float> q_norm = examples::random<float>(kLora, 2, 0.5f, 1.0f);
  Buffer<float> kv_norm = examples::random<float>(kHeadDim, 3, 0.5f, 1.0f);
  examples::Fp8Matrix wq_a{kLora, kHidden, 4}, wkv{kHeadDim, kHidden, 5}, wq_b{kHeads * kHeadDim, kLora, 6};
  Buffer<float> freq = Buffer<float>(kRopeDim / 2);  // of the pairs; YaRN's are in dsv4/core/rope.hpp
  Weights() {
    for (int i = 0; i < kRopeDim / 2; ++i)
      freq[static_cast<std::size_t>(i)] = std::pow(10000.0f, -2.0f * i / kRopeDim);
  }
};

ops::LinearFp8Params product(const examples::Fp8Matrix& m, const ops::LinearInput& input, int tokens,
                             bf16* y) {
  return {.y = y, .input = input, .weight = m.weight(), .tokens = tokens, .n = m.n, .k = m.k};
}

/// Queues everything for `tokens` rows; nothing here waits for the device. Buffers are the caller's: an
/// engine allocates them once, for its largest batch.
///   q  [tokens, heads, 512]
///   cache  pages of 584-byte rows; row t goes to slots[t]
void queries_and_cache(const Weights& w, const bf16* x, const std::int32_t* positions,
                       const std::int32_t* slots, int tokens, Buffer<bf16>& q, Buffer<std::uint8_t>& cache,
                       Stream stream) {
  Buffer<e4m3> codes(static_cast<std::size_t>(tokens * kHidden));
  Buffer<e8m0> scales(static_cast<std::size_t>(tokens * kHidden / 128));
  Buffer<bf16> qr(static_cast<std::size_t>(tokens * kLora));
  Buffer<bf16> kv(static_cast<std::size_t>(tokens * kHeadDim));

  must(ops::rms_norm({.quantised = {.codes = codes.data(), .scales = scales.data()},  // bf16 is not needed
                      .x = x,
                      .weight = w.norm.data(),
                      .rows = tokens,
                      .n = kHidden,
                      .eps = kEps},
                     stream));
  const ops::LinearInput normed{.codes = codes.data(), .scales = scales.data()};
  const ops::LinearInput lora{.x = qr.data(), .norm_weight = w.q_norm.data(), .norm_eps = kEps};
  ops::LinearFp8Params products[] = {product(w.wq_a, normed, tokens, qr.data()),
                                     product(w.wkv, normed, tokens, kv.data()),
                                     product(w.wq_b, lora, tokens, q.data())};
  std::size_t bytes = 0;
  for (const auto& p : products) bytes = std::max(bytes, ops::linear_fp8_workspace_bytes(p));
  Buffer<std::byte> workspace(bytes);  // one serves all: the ops of a stream follow each other
  for (auto& p : products) {
    p.workspace = workspace.data(), p.workspace_bytes = workspace.size();
    must(ops::linear_fp8(p, stream));
  }

  ops::AttnQkPrepParams prep;  // no index part: that is for CSA layers
  prep.q = {.out = q.data(),   // in place
            .q = q.data(),
            .positions = positions,
            .rope = {.freq = w.freq.data()},
            .tokens = tokens,
            .heads = kHeads,
            .head_dim = kHeadDim,
            .rope_dim = kRopeDim,
            .eps = kEps};
  prep.kv = {.window = {.data = cache.data(),
                        .format = ops::CacheFormat::kKv584,
                        .slots = kPages * kPageRows,
                        .page_rows = kPageRows},
             .slots = slots,
             .kv = kv.data(),
             .norm = w.kv_norm.data(),
             .positions = positions,
             .rope = {.freq = w.freq.data()},
             .tokens = tokens,
             .head_dim = kHeadDim,
             .rope_dim = kRopeDim,
             .eps = kEps};
  must(ops::attn_qk_prep(prep, stream));
  examples::synchronise(stream);  // only because this function's buffers end here
}

double rms(const float* v, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(v[i]) * v[i];
  return std::sqrt(sum / n);
}

}  // namespace

int main() {
  const Weights w;
  const Stream stream = examples::make_stream();
  const Buffer<bf16> x = examples::random<bf16>(kTokens * kHidden, 7);
  Buffer<std::int32_t> positions, slots;
  for (int t = 0; t < kTokens; ++t) {
    positions.push_back(1000 + t);
    slots.push_back(5 * t % (kPages * kPageRows));  // wherever the engine's allocator says
  }

  Buffer<bf16> q(kTokens * kHeads * kHeadDim), q_alone(kHeads * kHeadDim);
  Buffer<std::uint8_t> cache(kPages * kPageRows * 584), cache_alone(cache.size());
  queries_and_cache(w, x.data(), positions.data(), slots.data(), kTokens, q, cache, stream);
  const int t = 7;
  queries_and_cache(w, x.data() + t * kHidden, &positions[t], &slots[t], 1, q_alone, cache_alone, stream);

  float head[kHeadDim], row[kHeadDim];
  const bf16* q_t = q.data() + t * kHeads * kHeadDim;
  for (int i = 0; i < kHeadDim; ++i) head[i] = to_float(q_t[i]);
  attention::KvPagePool{cache.data(), kPageRows * 584, kPageRows, kPages * kPageRows}.read(slots[t], row);
  const bool alone = std::memcmp(q_t, q_alone.data(), q_alone.size() * sizeof(bf16)) == 0;
  std::printf("token %d: RMS of query head 0 %.4f, of its cached row %.4f\n", t, rms(head, kHeadDim),
              rms(row, kHeadDim));
  std::printf("the same token in a batch of 1 and of %d: %s\n", kTokens, alone ? "same bits" : "OTHER BITS");

  // What is wrong comes back as a Status: nothing is launched, nothing printed, nothing thrown.
  const Status s = ops::rms_norm({.x = x.data(), .rows = 1, .n = 0, .eps = kEps}, stream);
  std::printf("refused: %s (value %lld)\n", s.what, static_cast<long long>(s.value));
  return alone && std::abs(rms(head, kHeadDim) - 1) < 0.01 && rms(row, kHeadDim) > 0.5 && !s.ok() ? 0 : 1;
}
