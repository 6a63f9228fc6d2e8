// Ops on rows, and the head.
#include "bench/gpu/bench.hpp"
#include "tests/support/random.hpp"

#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/hadamard.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>

#include <cmath>
#include <cstdint>
#include <string>

namespace dsv4::gpu {
namespace {

constexpr std::int64_t kStreams = 4, kVocab = 129280;

std::string name(const char* op, std::int64_t tokens, std::int64_t hidden) {
  return std::string(op) + "/T:" + std::to_string(tokens) + "/D:" + std::to_string(hidden);
}

void rows(Bench& bench, std::int64_t tokens, std::int64_t hidden) {
  Arena a;
  const Timing timing = tokens > 64 ? Timing::kCold : Timing::kGraph;
  const std::int64_t row = hidden * 2, blocks = hidden / 128, last = (tokens - 1) * hidden;
  const auto work = [&](std::int64_t row_bytes) { return Work{static_cast<double>(tokens * row_bytes), 0}; };
  void* x = a.bf16s(tokens * hidden);
  char* out = a.bytes<char>(tokens * hidden * kStreams * 2);
  char* codes = a.bytes<char>(tokens * hidden);
  void* scales = a.bytes(tokens * blocks);
  const auto measure = [&](const char* op, std::int64_t row_bytes, auto&& launch, auto&& verify) {
    const std::string n = name(op, tokens, hidden);
    if (bench.wanted(n, true)) bench.measure(n, timing, work(row_bytes), launch, verify);
  };

  if (bench.wanted(name("embed", tokens, hidden), true)) {
    const ops::EmbedParams p = {.out = out,
                                .table = a.bf16s(kVocab * hidden),
                                .ids = a.copy(test::integers(tokens, 1, 0, kVocab - 1)),
                                .tokens = tokens,
                                .hidden = hidden,
                                .vocab = kVocab,
                                .streams = kStreams};
    measure(
        "embed", row * (1 + kStreams), [=](Stream s, int) { return ops::embed(p, s); },
        [=] {
          return same_alone(out + (tokens - 1) * (kStreams * row), kStreams * row, [&](Arena&, void* alone) {
            ops::EmbedParams q = p;
            q.out = alone, q.ids = at<std::int32_t>(p.ids, tokens - 1), q.tokens = 1;
            return ops::embed(q, nullptr);
          });
        });
  }

  const ops::RmsNormParams norm = {
      .out = out, .x = x, .weight = a.floats(hidden, 1.0f), .rows = tokens, .n = hidden, .eps = 1e-6f};
  measure(
      "rms_norm", row * 2, [=](Stream s, int) { return ops::rms_norm(norm, s); },
      [=] {
        return same_alone(out + (tokens - 1) * row, row, [&](Arena&, void* alone) {
          ops::RmsNormParams q = norm;
          q.out = alone, q.x = at<bf16>(x, last), q.rows = 1;
          return ops::rms_norm(q, nullptr);
        });
      });

  ops::RmsNormParams norm_fp8 = norm;
  norm_fp8.out = nullptr, norm_fp8.quantised.codes = codes, norm_fp8.quantised.scales = scales;
  measure(
      "rms_norm_fp8", row + hidden + blocks, [=](Stream s, int) { return ops::rms_norm(norm_fp8, s); },
      [=] {
        return same_alone(codes + (tokens - 1) * hidden, hidden, [&](Arena& b, void* alone) {
          ops::RmsNormParams q = norm_fp8;
          q.x = at<bf16>(x, last), q.rows = 1;
          q.quantised.codes = alone, q.quantised.scales = b.bytes(blocks);
          return ops::rms_norm(q, nullptr);
        });
      });

  const ops::ActQuantParams quant = {
      .codes = codes, .scales = scales, .x = x, .rows = tokens, .n = hidden, .block = 128};
  measure(
      "act_quant", row + hidden + blocks, [=](Stream s, int) { return ops::act_quant(quant, s); },
      [=] {
        return same_alone(codes + (tokens - 1) * hidden, hidden, [&](Arena& b, void* alone) {
          ops::ActQuantParams q = quant;
          q.x = at<bf16>(x, last), q.rows = 1, q.codes = alone, q.scales = b.bytes(blocks);
          return ops::act_quant(q, nullptr);
        });
      });

  const std::int64_t heads = hidden / 512;
  const std::int32_t* positions = a.copy(test::integers(tokens, 1, 0, (1 << 20) - 1));
  const ops::RopeParams rope = {.out = x,
                                .x = x,
                                .positions = positions,
                                .table = a.rope(),
                                .tokens = tokens,
                                .heads = heads,
                                .head_dim = 512,
                                .rope_dim = 64};
  measure(
      "rope", heads * 64 * 2 * 2, [=](Stream s, int) { return ops::rope(rope, s); },
      [=] {  // there and back: bf16 rounds twice
        const auto before = download<bf16>(at<bf16>(x, last), hidden);
        ops::RopeParams q = rope;
        for (const auto direction : {ops::RopeDirection::kInverse, ops::RopeDirection::kForward}) {
          q.direction = direction;
          require(ops::rope(q, nullptr));
        }
        const auto after = download<bf16>(at<bf16>(x, last), hidden);
        for (std::size_t i = 0; i < before.size(); ++i)
          if (!(std::abs(to_float(before[i]) - to_float(after[i])) <= 0x1p-6f)) return "turned wrongly";
        return "";
      });

  const std::int64_t hadamard_rows = tokens * hidden / 128;
  const ops::HadamardParams hadamard = {.out = out, .x = x, .rows = hadamard_rows, .n = 128};
  measure(
      "hadamard", row * 2, [=](Stream s, int) { return ops::hadamard(hadamard, s); },
      [=] {
        return same_alone(out + (hadamard_rows - 1) * 256, 256, [&](Arena&, void* alone) {
          ops::HadamardParams q = hadamard;
          q.out = alone, q.x = at<bf16>(x, (hadamard_rows - 1) * 128), q.rows = 1;
          return ops::hadamard(q, nullptr);
        });
      });
}

void lm_head(Bench& bench, std::int64_t tokens, std::int64_t hidden) {
  const std::string n = name("lm_head", tokens, hidden);
  if (!bench.wanted(n, true)) return;
  Arena a;
  char* logits = a.bytes<char>(tokens * kVocab * 4);
  const ops::LmHeadParams p = {.logits = reinterpret_cast<float*>(logits),
                               .x = a.bf16s(tokens * hidden),
                               .head = a.bf16s(kVocab * hidden),
                               .tokens = tokens,
                               .vocab = kVocab,
                               .hidden = hidden};
  const Work work = {static_cast<double>(kVocab * hidden * 2 + tokens * (kVocab * 4 + hidden * 2)),
                     2.0 * static_cast<double>(tokens * kVocab * hidden)};
  bench.measure(
      n, Timing::kGraph, work, [=](Stream s, int) { return ops::lm_head(p, s); },
      [=] {
        return same_alone(logits + (tokens - 1) * (kVocab * 4), kVocab * 4, [&](Arena&, void* alone) {
          ops::LmHeadParams q = p;
          q.logits = static_cast<float*>(alone), q.tokens = 1;
          q.x = at<bf16>(p.x, (tokens - 1) * hidden);
          return ops::lm_head(q, nullptr);
        });
      });
}

}  // namespace

void bench_rows(Bench& bench) {
  for (const std::int64_t hidden : {4096, 7168})
    for (const std::int64_t tokens : {8192, 8}) rows(bench, tokens, hidden);
  lm_head(bench, 1, 7168);
  lm_head(bench, 64, 4096);
}

}  // namespace dsv4::gpu
