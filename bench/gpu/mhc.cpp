// mHC: what surrounds every sublayer, and the collapse in front of the head.
#include <dsv4/ops/mhc.hpp>

#include "bench/gpu/bench.hpp"

#include <cstdint>
#include <string>

namespace dsv4::gpu {
namespace {

constexpr std::int64_t kStreams = 4, kMixes = 24;

std::string name(const char* op, std::int64_t tokens, std::int64_t hidden) {
  return std::string(op) + "/T:" + std::to_string(tokens) + "/D:" + std::to_string(hidden);
}

ops::MhcPostParams post_params(Arena& a, std::int64_t tokens, std::int64_t hidden, void* out) {
  return {.out = out,
          .y = a.bf16s(tokens * hidden),
          .streams = a.bf16s(tokens * kStreams * hidden),
          .post = a.floats(tokens * kStreams),
          .comb = a.floats(tokens * kStreams * kStreams),
          .tokens = tokens,
          .hidden = hidden,
          .stream_count = kStreams};
}

ops::MhcPreParams pre_params(Arena& a, std::int64_t tokens, std::int64_t hidden, const void* streams) {
  return {.normed = a.bytes(tokens * hidden * 2),
          .post = a.bytes<float>(tokens * kStreams * 4),
          .comb = a.bytes<float>(tokens * kStreams * kStreams * 4),
          .streams = streams,
          .fn = a.floats(kMixes * kStreams * hidden),
          .scale = a.floats(3, 0.01f),
          .base = a.floats(kMixes, 0.1f),
          .norm_weight = a.floats(hidden, 1.0f),
          .tokens = tokens,
          .hidden = hidden,
          .stream_count = kStreams,
          .sinkhorn_iterations = 20,
          .mix_eps = 1e-6f,
          .hc_eps = 1e-6f,
          .norm_eps = 1e-6f};
}

/// The last token of mhc_post, into `out`.
ops::MhcPostParams last(ops::MhcPostParams p, void* out) {
  const std::int64_t t = p.tokens - 1;
  p.out = out, p.tokens = 1;
  p.y = at<bf16>(p.y, t * p.hidden);
  p.streams = at<bf16>(p.streams, t * kStreams * p.hidden);
  p.post = at<float>(p.post, t * kStreams);
  p.comb = at<float>(p.comb, t * kStreams * kStreams);
  return p;
}

/// The last token of mhc_pre, into `normed`, from these streams.
ops::MhcPreParams last(ops::MhcPreParams p, Arena& scratch, const void* streams, void* normed) {
  p.normed = normed, p.streams = streams, p.tokens = 1;
  p.post = scratch.bytes<float>(kStreams * 4);
  p.comb = scratch.bytes<float>(kStreams * kStreams * 4);
  return p;
}

void post_pre(Bench& bench, std::int64_t tokens, std::int64_t hidden, const Bar& bar) {
  const std::string n = name("mhc_post_pre", tokens, hidden);
  if (!bench.wanted(n, true)) return;
  Arena a;
  void* mixed = a.bytes(tokens * kStreams * hidden * 2);
  ops::MhcPostPreParams p = {.post = post_params(a, tokens, hidden, mixed),
                             .pre = pre_params(a, tokens, hidden, mixed)};
  a.workspace(p.pre, ops::mhc_post_pre_workspace_bytes(p));
  // Streams in and out, y in, normed out; fn once.
  const std::int64_t bytes = tokens * hidden * 2 * (2 * kStreams + 2) + kMixes * kStreams * hidden * 4;
  const Work work = {static_cast<double>(bytes),
                     2.0 * static_cast<double>(tokens * kMixes * kStreams * hidden)};
  bench.measure(
      n, tokens > 64 ? Timing::kCold : Timing::kGraph, work,
      [=](Stream s, int) { return ops::mhc_post_pre(p, s); },
      [=] {
        return same_alone(
            at<bf16>(p.pre.normed, (tokens - 1) * hidden), hidden * 2, [&](Arena& scratch, void* alone) {
              void* streams = scratch.bytes(kStreams * hidden * 2);
              return ops::mhc_post_pre(
                  {.post = last(p.post, streams), .pre = last(p.pre, scratch, streams, alone)}, nullptr);
            });
      },
      bar);
}

void parts(Bench& bench, std::int64_t tokens, std::int64_t hidden) {
  const std::string post_name = name("mhc_post", tokens, hidden), pre_name = name("mhc_pre", tokens, hidden),
                    head_name = name("mhc_head", tokens, hidden);
  if (!bench.wanted(post_name, true) && !bench.wanted(pre_name, true) && !bench.wanted(head_name, true))
    return;
  Arena a;
  void* mixed = a.bf16s(tokens * kStreams * hidden);
  const ops::MhcPostParams post = post_params(a, tokens, hidden, mixed);
  ops::MhcPreParams pre = pre_params(a, tokens, hidden, post.streams);
  a.workspace(pre, ops::mhc_pre_workspace_bytes(pre));
  const std::int64_t row = hidden * 2, all = tokens * row;
  const void* last_streams = at<bf16>(post.streams, (tokens - 1) * kStreams * hidden);
  const auto work = [&](std::int64_t bytes, std::int64_t mixes) {
    return Work{static_cast<double>(bytes + mixes * kStreams * hidden * 4),
                2.0 * static_cast<double>(tokens * mixes * kStreams * hidden)};
  };
  if (bench.wanted(post_name, true))
    bench.measure(
        post_name, Timing::kCold, work(all * (2 * kStreams + 1), 0),
        [=](Stream s, int) { return ops::mhc_post(post, s); },
        [=] {
          return same_alone(at<bf16>(mixed, (tokens - 1) * kStreams * hidden), kStreams * row,
                            [&](Arena&, void* alone) { return ops::mhc_post(last(post, alone), nullptr); });
        });
  if (bench.wanted(pre_name, true))
    bench.measure(
        pre_name, Timing::kCold, work(all * (kStreams + 1), kMixes),
        [=](Stream s, int) { return ops::mhc_pre(pre, s); },
        [=] {
          return same_alone(at<bf16>(pre.normed, (tokens - 1) * hidden), row,
                            [&](Arena& scratch, void* alone) {
                              return ops::mhc_pre(last(pre, scratch, last_streams, alone), nullptr);
                            });
        });
  if (!bench.wanted(head_name, true)) return;
  ops::MhcHeadParams head = {.normed = a.bytes(all),
                             .streams = post.streams,
                             .fn = pre.fn,
                             .scale = pre.scale,
                             .base = pre.base,
                             .norm_weight = pre.norm_weight,
                             .tokens = tokens,
                             .hidden = hidden,
                             .stream_count = kStreams,
                             .mix_eps = 1e-6f,
                             .hc_eps = 1e-6f,
                             .norm_eps = 1e-6f};
  a.workspace(head, ops::mhc_head_workspace_bytes(head));
  bench.measure(
      head_name, Timing::kCold, work(all * (kStreams + 1), kStreams),
      [=](Stream s, int) { return ops::mhc_head(head, s); },
      [=] {
        return same_alone(at<bf16>(head.normed, (tokens - 1) * hidden), row, [&](Arena&, void* alone) {
          ops::MhcHeadParams q = head;
          q.normed = alone, q.streams = last_streams, q.tokens = 1;
          return ops::mhc_head(q, nullptr);
        });
      });
}

}  // namespace

void bench_mhc(Bench& bench) {
  for (const std::int64_t hidden : {4096, 7168}) {
    post_pre(bench, 8192, hidden, {.copy_share = 0.85});
    for (const std::int64_t tokens : {1, 8}) post_pre(bench, tokens, hidden, {.us = 6.0});
    parts(bench, 8192, hidden);
  }
}

}  // namespace dsv4::gpu
