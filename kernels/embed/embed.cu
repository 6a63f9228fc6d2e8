// Op embed: one block gathers one token's row and writes it to every stream.
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/embed/embed.hpp>
#include <dsv4/ops/embed.hpp>

#include "kernels/common/dispatch.hpp"

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 128;
constexpr int kMult = 4;

template <class T, class TTable>
DSV4_KERNEL(kThreads)
embed_kernel(const DSV4_GRID_CONSTANT EmbedParams p, std::int64_t out_stride, std::int64_t table_stride) {
  const std::int64_t t = arch::block_idx().x;
  T* out = static_cast<T*>(p.out) + t * out_stride;  // [kMult, hidden]
  const std::int32_t id = p.ids[t];
  if (id >= 0 && id < p.vocab) {
    const TTable* row = static_cast<const TTable*>(p.table) + id * table_stride;  // [hidden]
    embed::replicate<kMult>(arch::CtaCoop<kThreads>{}, out, row, static_cast<int>(p.hidden));
  } else {
    const T nan = from_float<T>(bits_as<float>(0x7fc00000u));
    for (std::int64_t i = arch::thread_idx().x; i < kMult * p.hidden; i += kThreads) out[i] = nan;
  }
}

}  // namespace

Status embed(const EmbedParams& p, Stream stream) noexcept {
  using namespace kernels;
  DSV4_REQUIRE(p.tokens >= 0 && p.tokens <= INT32_MAX,
               invalid_argument("embed: tokens in [0, 2^31)", p.tokens));
  DSV4_REQUIRE(p.hidden >= 1 && p.hidden <= INT32_MAX / kMult,
               invalid_argument("embed: hidden in [1, 2^29)", p.hidden));
  DSV4_REQUIRE(p.vocab >= 1 && p.vocab <= INT32_MAX, invalid_argument("embed: vocab in [1, 2^31)", p.vocab));
  DSV4_REQUIRE(p.streams == kMult, unsupported("embed: only 4 streams are compiled", p.streams, kMult));
  const std::int64_t out_stride = stride_or(p.out_stride, kMult * p.hidden);
  const std::int64_t table_stride = stride_or(p.table_stride, p.hidden);
  DSV4_REQUIRE(out_stride >= kMult * p.hidden,
               invalid_argument("embed: out_stride >= streams * hidden", out_stride, kMult * p.hidden));
  DSV4_REQUIRE(table_stride >= p.hidden,
               invalid_argument("embed: table_stride >= hidden", table_stride, p.hidden));
  if (p.tokens == 0) return {};
  DSV4_REQUIRE(p.out && p.table && p.ids, invalid_argument("embed: out, table and ids must not be null"));
  return with_type(p.dtype, "embed: dtype", [&](auto out) {
    return with_type(p.table_dtype, "embed: table_dtype", [&](auto table) {
      using T = typename decltype(out)::type;
      using TTable = typename decltype(table)::type;
      return arch::launch("embed", embed_kernel<T, TTable>,
                          {.grid = {static_cast<unsigned>(p.tokens), 1, 1}, .block = {kThreads, 1, 1}},
                          stream, p, out_stride, table_stride);
    });
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
