// Op mhc_post: pure streaming. bf16: a thread computes 8 channels of the 4 streams, each element read and
// written once by 16-byte accesses (18 D bytes a token). f32: a block a token, the primitive.
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/mhc/post.cuh>
#include <dsv4/ops/mhc.hpp>

#include "kernels/common/nan_guard.hpp"
#include "kernels/mhc/parameters.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 128;

// Grid: x = tokens, y = shares of 1024 channels.
DSV4_KERNEL(kThreads)
mhc_post_bf16_kernel(const DSV4_GRID_CONSTANT kernels::PostArguments p, std::int64_t hidden) {
  using mhc::Channels;
  const std::int64_t t = arch::block_idx().x;
  const std::int64_t d = (std::int64_t{arch::block_idx().y} * kThreads + arch::thread_idx().x) * mhc::kVector;
  if (d >= hidden) return;
  const bf16* in = static_cast<const bf16*>(p.streams) + t * p.streams_stride + d;
  bf16* out = static_cast<bf16*>(p.out) + t * p.out_stride + d;
  const Channels y = p.y.load(t, d);
  Channels streams[mhc::kStreams];
  DSV4_UNROLL
  for (int s = 0; s < mhc::kStreams; ++s)
    streams[s] = arch::load<arch::Cache::kStreaming>(reinterpret_cast<const Channels*>(in + s * hidden));
  mhc::post_channels(streams, y,
                     mhc::load_post_coefficients(p.post + t * p.post_stride, p.comb + t * p.comb_stride));
  DSV4_UNROLL
  for (int s = 0; s < mhc::kStreams; ++s)
    arch::store(reinterpret_cast<Channels*>(out + s * hidden), streams[s]);
}

// Grid: x = tokens. A template, so that a build without fp32 instances does not contain it.
template <class T>
DSV4_KERNEL(kThreads)
mhc_post_kernel(const DSV4_GRID_CONSTANT kernels::PostArguments p, std::int64_t hidden) {
  const std::int64_t t = arch::block_idx().x;
  mhc::post<mhc::kStreams>(arch::CtaCoop<kThreads>{}, static_cast<T*>(p.out) + t * p.out_stride,
                           static_cast<const T*>(p.y.data) + t * p.y.stride,
                           static_cast<const T*>(p.streams) + t * p.streams_stride,
                           p.post + t * p.post_stride, p.comb + t * p.comb_stride, static_cast<int>(hidden));
}

}  // namespace

DSV4_OP(mhc_post, MhcPostParams) {
  kernels::Checks<"mhc_post"> c;
  kernels::check_post_sizes<"">(c, p);
  if (!c.ok() || p.tokens == 0) return c.status();
  kernels::check_post_pointers<"">(c, p);
  if (!c.ok()) return c.status();
  const auto tokens = static_cast<unsigned>(p.tokens);
  return kernels::with_type(p.dtype, "mhc_post: dtype", [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == sizeof(float)) {
      return arch::launch("mhc_post", mhc_post_kernel<T>, {.grid = {tokens, 1, 1}, .block = {kThreads, 1, 1}},
                          stream, kernels::post_arguments(p), p.hidden);
    } else {
      constexpr int kShare = kThreads * mhc::kVector;
      const auto shares = static_cast<unsigned>((p.hidden + kShare - 1) / kShare);
      return arch::launch("mhc_post", mhc_post_bf16_kernel,
                          {.grid = {tokens, shares, 1}, .block = {kThreads, 1, 1}}, stream,
                          kernels::post_arguments(p), p.hidden);
    }
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
