// The kernels behind mhc_pre, mhc_post_pre and mhc_head: streams to a sublayer's input.
//
// bf16, two launches for a segment of the batch. (T tokens, D channels, steps and groups of mhc/mix.cuh.)
//   mix     [T, 4, D] -> partial sums of the mixes and of the squares. With kPost it computes the streams
//   first,
//           from the last sublayer's output, and writes them: the old streams are read once, the new ones
//           written once and used from registers.
//   finish  partial sums -> coefficients -> x, normed, codes. It reads the streams a second time, which a
//           token's coefficients need in full first.
// So that this second reading finds L2, a large batch is cut into segments of some 32 MiB of streams, and
// finish takes the tokens of a segment from its end, the latest first. A launch may start while the one
// before it runs out (programmatic dependent launch), and waits for it before it touches memory.
//
// K is split over blocks because few tokens could not fill a device otherwise. The split is one of two:
//   T <= kFewTokens   a warp = 16 tokens x 1 step, weights from memory to fragments; partial sums of steps
//   more              a block = 64 tokens x 1 group (8 steps); its four warps split the weights once and
//   share
//                     the pieces through shared memory, double-buffered; partial sums of groups
// Either way finish adds in the order of mix.cuh, so both give the same bits.
//
// Bytes of device memory a token: mhc_pre reads 8 D; mhc_post_pre reads 8 D + 2 D and writes 8 D; each writes
// 2 D for each of x and normed and D for codes. From L2: 8 D for the collapse, 256 of partial sums a group,
// and fn's 384 D for every 16 (many tokens: 64) tokens. Products: 3 x 2 x 24 x 4 D flops on tensor cores, for
// 24 fp32-grade dot products.
//
// f32: one block a token, the primitives.
#pragma once

#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/core/workspace.hpp>
#include <dsv4/mhc/finish.cuh>
#include <dsv4/mhc/mix.cuh>
#include <dsv4/mhc/project.hpp>
#include <dsv4/mhc/split.hpp>
#include <dsv4/ops/mhc.hpp>

#include "kernels/common/dispatch.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

inline constexpr std::int64_t kMhcTokens = std::int64_t{1} << 26;
inline constexpr std::int64_t kFewTokens = 256;
inline constexpr int kFewWarps = 2;               // of a block, each with a step of its own
inline constexpr int kManyWarps = mhc::kStreams;  // of a block; warp s prepares the weights of stream s
inline constexpr int kManyTokens = kManyWarps * mhc::kTileTokens;
inline constexpr int kF32Threads = 128;

DSV4_HD constexpr std::int64_t mhc_steps(std::int64_t hidden) { return hidden / mhc::kStepChannels; }
DSV4_HD constexpr std::int64_t mhc_groups(std::int64_t hidden) {
  return (mhc_steps(hidden) + mhc::kGroupSteps - 1) / mhc::kGroupSteps;
}

/// Group sums of a segment: 2 MiB of them stand for 32 MiB of streams.
inline constexpr std::int64_t kSegmentRows = 16 * 1024;
static_assert(kSegmentRows / mhc::kMaxGroups >= kManyTokens, "a segment holds a block's tokens at any width");

/// Tokens of a segment: whole blocks, and kSegmentRows group sums at most.
constexpr std::int64_t segment_tokens(std::int64_t hidden) {
  return kSegmentRows / mhc_groups(hidden) / kManyTokens * kManyTokens;
}

/// Partial sums of a segment. The few tokens of the finer split may need more room than many of the other:
/// the larger of both, so that the size never falls.
inline float* take_partials(Workspace& workspace, ops::DType dtype, std::int64_t tokens,
                            std::int64_t hidden) {
  if (dtype != ops::DType::kBf16) return nullptr;
  const std::int64_t rows = std::max(std::min(tokens * mhc_groups(hidden), kSegmentRows),
                                     std::min(tokens, kFewTokens) * mhc_steps(hidden));
  return workspace.take<float>(rows * mhc::kPartialColumns);
}

/// A batch to collapse, or a segment of it; strides are resolved. Outputs may be null.
struct Collapse {
  void *x, *normed;
  e4m3* codes;
  linear::Scales scales;
  float *post, *comb, *pre, *mixes;
  const void* streams;
  const float* fn;
  mhc::Site site;
  std::int64_t first, tokens;  // the segment's first token, and how many it has
  std::int64_t hidden;
  std::int64_t x_stride, normed_stride, codes_stride, post_stride, comb_stride, pre_stride, mixes_stride;
  std::int64_t streams_stride;
  float* partial;  // [units, tokens, kPartialColumns]
};

/// The post step in front of it.
struct PostArguments {
  void* out;
  mhc::SublayerRows y;
  const void* streams;
  const float *post, *comb;
  std::int64_t out_stride, streams_stride, post_stride, comb_stride;
};

template <class T>
DSV4_DEVICE mhc::TokenOutputs<T> outputs_of(const Collapse& c, std::int64_t t) {
  const auto row = [t]<class P>(P* p, std::int64_t stride) { return p ? p + t * stride : nullptr; };
  return {.x = row(static_cast<T*>(c.x), c.x_stride),
          .normed = row(static_cast<T*>(c.normed), c.normed_stride),
          .codes = row(c.codes, c.codes_stride),
          .scales = c.scales,
          .scales_row = t,
          .post = row(c.post, c.post_stride),
          .comb = row(c.comb, c.comb_stride),
          .pre = row(c.pre, c.pre_stride),
          .mixes = row(c.mixes, c.mixes_stride)};
}

/// 16 tokens of the segment, from its token `tile_first`: their streams, step by step.
template <bool kPost>
struct StreamReader {
  using Tile = std::conditional_t<kPost, mhc::PostTile, mhc::StreamTile>;  // what is in flight

  const Collapse& c;
  mhc::PostRows post;
  std::int64_t first, tokens;

  DSV4_DEVICE StreamReader(const Collapse& batch, const PostArguments& p, std::int64_t tile_first)
      : c(batch),
        post{.out = static_cast<bf16*>(p.out),
             .out_stride = p.out_stride,
             .y = p.y,
             .streams = {static_cast<const bf16*>(p.streams), p.streams_stride},
             .post = p.post,
             .comb = p.comb,
             .post_stride = p.post_stride,
             .comb_stride = p.comb_stride},
        first(batch.first + tile_first),
        tokens(batch.tokens - tile_first) {}

  DSV4_DEVICE void load(Tile& tile, std::int64_t channel) const {
    if constexpr (kPost)
      mhc::load_post(tile, post, first, tokens, c.hidden, channel);
    else
      mhc::load_streams(tile, {static_cast<const bf16*>(c.streams), c.streams_stride}, first, tokens,
                        c.hidden, channel);
  }
  /// The streams to mix; with kPost made, and written, here.
  DSV4_DEVICE const mhc::StreamTile& finish(Tile& tile, std::int64_t channel) const {
    if constexpr (kPost) {
      mhc::apply_post(tile, post, first, tokens, c.hidden, channel);
      return tile.streams;
    } else {
      return tile;
    }
  }
};

// Grid: x = pairs of steps, y = tiles of 16 tokens.
template <int kRows, bool kPost>
DSV4_KERNEL(kFewWarps* arch::kWarpThreads)
mix_few_kernel(const DSV4_GRID_CONSTANT Collapse c, const DSV4_GRID_CONSTANT PostArguments post) {
  const int step = static_cast<int>(arch::block_idx().x) * kFewWarps + arch::warp_id();
  const std::int64_t first = std::int64_t{arch::block_idx().y} * mhc::kTileTokens;
  const std::int64_t channel = std::int64_t{step} * mhc::kStepChannels;
  const bool inside = step < mhc_steps(c.hidden);
  arch::allow_next_grid();
  // The weights' cache lines on their way while the previous grid runs out: a hint may precede the wait, a
  // load may not.
  for (int line = arch::lane_id(); inside && line < kRows * mhc::kStreams; line += arch::kWarpThreads)
    arch::prefetch_l2(c.fn + line * c.hidden + channel);
  arch::wait_for_previous_grid();
  if (!inside) return;
  mhc::RawWeights<kRows> raw[mhc::kStreams];  // all loads in flight at once: latency is what few tokens cost
  DSV4_UNROLL
  for (int s = 0; s < mhc::kStreams; ++s) mhc::load_weights(raw[s], c.fn, c.hidden, s, channel);
  const StreamReader<kPost> reader(c, post, first);
  typename StreamReader<kPost>::Tile tile;
  reader.load(tile, channel);
  const mhc::MixSums<kRows> sums = mhc::mix_step<kRows>(reader.finish(tile, channel), [&](int stream) {
    mhc::MixWeights<kRows> w;
    mhc::split_weights(w, raw[stream]);
    return w;
  });
  mhc::store_sums(c.partial + (step * c.tokens + first) * mhc::kPartialColumns, sums, c.tokens - first);
}

/// The weights of one step as the warps of a block share them: a lane's fragment is 16 bytes, so neighbouring
/// lanes read neighbouring banks.
template <int kRows>
struct WeightStage {
  arch::Vec<std::uint32_t, 4> fragment[mhc::kStreams][mhc::kTiles<kRows>][mhc::kPieces][arch::kWarpThreads];

  DSV4_DEVICE void put(int stream, const mhc::RawWeights<kRows>& raw) {
    mhc::MixWeights<kRows> w;
    mhc::split_weights(w, raw);
    DSV4_UNROLL
    for (int n = 0; n < mhc::kTiles<kRows>; ++n) DSV4_UNROLL
    for (int i = 0; i < mhc::kPieces; ++i) fragment[stream][n][i][arch::lane_id()] = w.fragment[n][i];
  }
  DSV4_DEVICE mhc::MixWeights<kRows> get(int stream) const {
    mhc::MixWeights<kRows> w;
    DSV4_UNROLL
    for (int n = 0; n < mhc::kTiles<kRows>; ++n) DSV4_UNROLL
    for (int i = 0; i < mhc::kPieces; ++i) w.fragment[n][i] = fragment[stream][n][i][arch::lane_id()];
    return w;
  }
};

// Grid: x = tiles of 64 tokens x groups, the groups of a tile side by side.
template <int kRows, bool kPost>
DSV4_KERNEL(kManyWarps* arch::kWarpThreads)
mix_many_kernel(const DSV4_GRID_CONSTANT Collapse c, const DSV4_GRID_CONSTANT PostArguments post) {
  DSV4_DYN_SMEM(WeightStage<kRows>, stage);  // [2]
  const int warp = arch::warp_id();
  const int groups = static_cast<int>(mhc_groups(c.hidden));
  const int group = static_cast<int>(arch::block_idx().x) % groups;
  const std::int64_t block_first = std::int64_t{static_cast<int>(arch::block_idx().x) / groups} * kManyTokens;
  const std::int64_t first = block_first + warp * mhc::kTileTokens;
  const int begin = group * mhc::kGroupSteps;
  const int steps = static_cast<int>(mhc_steps(c.hidden));
  const int count = steps - begin < mhc::kGroupSteps ? steps - begin : mhc::kGroupSteps;
  const auto channel_of = [begin](int i) { return std::int64_t{begin + i} * mhc::kStepChannels; };
  arch::allow_next_grid();
  arch::wait_for_previous_grid();

  const StreamReader<kPost> reader(c, post, first);
  typename StreamReader<kPost>::Tile next;  // in flight while the step before it is computed
  reader.load(next, channel_of(0));
  mhc::RawWeights<kRows> raw;  // the same of the weights, stream `warp`
  mhc::load_weights(raw, c.fn, c.hidden, warp, channel_of(0));
  stage[0].put(warp, raw);
  arch::sync_threads();
  mhc::MixSums<kRows> total;
  for (int i = 0; i < count; ++i) {
    const bool more = i + 1 < count;
    typename StreamReader<kPost>::Tile tile = next;
    if (more) {
      mhc::load_weights(raw, c.fn, c.hidden, warp, channel_of(i + 1));
      reader.load(next, channel_of(i + 1));
    }
    const mhc::MixSums<kRows> sums = mhc::mix_step<kRows>(
        reader.finish(tile, channel_of(i)), [&](int stream) { return stage[i % 2].get(stream); });
    if (i == 0)
      total = sums;
    else
      total += sums;
    if (more) stage[(i + 1) % 2].put(warp, raw);  // last read in the round before
    arch::sync_threads();
  }
  if (first < c.tokens)
    mhc::store_sums(c.partial + (group * c.tokens + first) * mhc::kPartialColumns, total, c.tokens - first);
}

// Grid: x = tokens.
template <int kRows>
DSV4_KERNEL(mhc::kFinishThreads)
finish_kernel(const DSV4_GRID_CONSTANT Collapse c, int units, int group_units) {
  DSV4_SHARED(mhc::FinishShared, shared);
  DSV4_DYN_SMEM(bf16, row);                                            // [hidden]
  const std::int64_t in_segment = c.tokens - 1 - arch::block_idx().x;  // what was written last comes first
  const std::int64_t t = c.first + in_segment;
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const float sum = mhc::sum_partials<kRows>(shared, c.partial + in_segment * mhc::kPartialColumns,
                                             c.tokens * mhc::kPartialColumns, units, group_units);
  mhc::finish_token<kRows>(shared, row, c.site, outputs_of<bf16>(c, t),
                           static_cast<const bf16*>(c.streams) + t * c.streams_stride,
                           static_cast<int>(c.hidden), sum);
}

template <int kRows, bool kPost>
Status launch_segment(const char* name, const Collapse& c, const PostArguments& post, Stream stream) {
  const bool few = c.tokens <= kFewTokens;
  const std::int64_t steps = mhc_steps(c.hidden), groups = mhc_groups(c.hidden);
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return static_cast<unsigned>((a + b - 1) / b); };
  const Status mixed =
      few ? arch::launch(name, mix_few_kernel<kRows, kPost>,
                         {.grid = {ceil_div(steps, kFewWarps), ceil_div(c.tokens, mhc::kTileTokens), 1},
                          .block = {kFewWarps * arch::kWarpThreads, 1, 1},
                          .overlap_previous = true},
                         stream, c, post)
          : arch::launch(name, mix_many_kernel<kRows, kPost>,
                         {.grid = {ceil_div(c.tokens, kManyTokens) * static_cast<unsigned>(groups), 1, 1},
                          .block = {kManyWarps * arch::kWarpThreads, 1, 1},
                          .shared_bytes = 2 * sizeof(WeightStage<kRows>),
                          .overlap_previous = true},
                         stream, c, post);
  if (!mixed.ok()) return mixed;
  return arch::launch(name, finish_kernel<kRows>,
                      {.grid = {static_cast<unsigned>(c.tokens), 1, 1},
                       .block = {mhc::kFinishThreads, 1, 1},
                       .shared_bytes = static_cast<std::size_t>(c.hidden) * sizeof(bf16),
                       .overlap_previous = true},
                      stream, c, static_cast<int>(few ? steps : groups), few ? mhc::kGroupSteps : 1);
}

/// The segments of a batch, one after the other: they share the partial sums' memory.
template <int kRows, bool kPost>
Status launch_collapse_bf16(const char* name, const Collapse& batch, const PostArguments& post,
                            Stream stream) {
  const std::int64_t most = segment_tokens(batch.hidden);
  for (std::int64_t first = 0; first < batch.tokens; first += most) {
    Collapse segment = batch;
    segment.first = first;
    segment.tokens = std::min(most, batch.tokens - first);
    const Status s = launch_segment<kRows, kPost>(name, segment, post, stream);
    if (!s.ok()) return s;
  }
  return {};
}

// Grid: x = tokens.
template <int kRows, bool kPost>
DSV4_KERNEL(kF32Threads)
collapse_f32_kernel(const DSV4_GRID_CONSTANT Collapse c, const DSV4_GRID_CONSTANT PostArguments post) {
  struct Coefficients {
    float mixes[kRows], pre[mhc::kStreams], post[mhc::kStreams], comb[mhc::kStreams * mhc::kStreams];
  };
  DSV4_SHARED(Coefficients, shared);
  DSV4_DYN_SMEM(float, row);  // [hidden]
  const arch::CtaCoop<kF32Threads> coop;
  const std::int64_t t = arch::block_idx().x;
  const int hidden = static_cast<int>(c.hidden), n = mhc::kStreams * hidden;
  const float* streams = static_cast<const float*>(c.streams) + t * c.streams_stride;  // [4, hidden]
  const mhc::TokenOutputs<float> out = outputs_of<float>(c, t);
  if constexpr (kPost) {
    mhc::post<mhc::kStreams>(coop, static_cast<float*>(post.out) + t * post.out_stride,
                             static_cast<const float*>(post.y.data) + t * post.y.stride,
                             static_cast<const float*>(post.streams) + t * post.streams_stride,
                             post.post + t * post.post_stride, post.comb + t * post.comb_stride, hidden);
    coop.sync();
  }
  mhc::project(coop, shared.mixes, {streams, n}, 1, c.fn, kRows, n, c.site.mix_eps);
  coop.sync();
  if (coop.rank() == 0) {
    if constexpr (kRows == mhc::kStreams) {
      mhc::head<mhc::kStreams>(shared.pre, shared.mixes, c.site.scale, c.site.base, c.site.hc_eps);
    } else {
      mhc::split<mhc::kStreams>(shared.pre, shared.post, shared.comb, shared.mixes, c.site.scale, c.site.base,
                                c.site.sinkhorn_iterations, c.site.hc_eps);
      for (int i = 0; i < mhc::kStreams; ++i) out.post[i] = shared.post[i];
      for (int i = 0; i < mhc::kStreams * mhc::kStreams; ++i) out.comb[i] = shared.comb[i];
    }
    for (int i = 0; out.mixes && i < kRows; ++i) out.mixes[i] = shared.mixes[i];
    for (int i = 0; out.pre && i < mhc::kStreams; ++i) out.pre[i] = shared.pre[i];
  }
  coop.sync();
  mhc::pre<mhc::kStreams>(coop, row, streams, shared.pre, hidden);
  coop.sync();
  for (int d = coop.rank(); out.x && d < hidden; d += coop.size()) out.x[d] = row[d];
  if (!c.site.norm_weight) return;
  rms_norm(coop, row, row, c.site.norm_weight, hidden, c.site.norm_eps);
  coop.sync();
  for (int d = coop.rank(); out.normed && d < hidden; d += coop.size()) out.normed[d] = row[d];
  if (!out.codes) return;
  for (int d = 0; d < hidden; d += quant::kFp8LinearBlock) {
    const int count = hidden - d < quant::kFp8LinearBlock ? hidden - d : quant::kFp8LinearBlock;
    const e8m0 s = quant::fp8_block(coop, out.codes + d, row + d, count);
    if (coop.rank() == 0) out.scales.put(out.scales_row, d / quant::kFp8LinearBlock, s);
  }
}

template <class T, int kRows, bool kPost>
Status launch_collapse(const char* name, const Collapse& c, const PostArguments& post, Stream stream) {
  if constexpr (sizeof(T) == sizeof(float))
    return arch::launch(name, collapse_f32_kernel<kRows, kPost>,
                        {.grid = {static_cast<unsigned>(c.tokens), 1, 1},
                         .block = {kF32Threads, 1, 1},
                         .shared_bytes = static_cast<std::size_t>(c.hidden) * sizeof(float)},
                        stream, c, post);
  else
    return launch_collapse_bf16<kRows, kPost>(name, c, post, stream);
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
