// Op embed: one block gathers one token's row and writes it to every stream.
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/embed/embed.hpp>
#include <dsv4/linear/integers.cuh>
#include <dsv4/ops/embed.hpp>

#include "kernels/common/dispatch.hpp"
#include "kernels/common/nan_guard.hpp"

#include <type_traits>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

constexpr int kThreads = 256;
constexpr int kMult = 4;

struct Shard {
  linear::Integers ids;
  std::int64_t out_stride, table_stride, first, rows;
};

// kVector promises 16-byte aligned rows of whole 16-byte vectors, and T == TTable.
template <class T, class TTable, bool kVector>
DSV4_KERNEL(kThreads)
embed_kernel(const DSV4_GRID_CONSTANT EmbedParams p, const DSV4_GRID_CONSTANT Shard shard) {
  const std::int64_t t = arch::block_idx().x;
  T* out = static_cast<T*>(p.out) + t * shard.out_stride;  // [kMult, hidden]
  const std::int64_t id = shard.ids[t];
  if (id < shard.first || id >= shard.first + shard.rows) {
    const T fill = from_float<T>(id >= 0 && id < p.vocab ? 0.0f : bits_as<float>(0x7fc00000u));
    for (std::int64_t i = arch::thread_idx().x; i < kMult * p.hidden; i += kThreads) out[i] = fill;
    return;
  }
  const TTable* row =
      static_cast<const TTable*>(p.table) + (id - shard.first) * shard.table_stride;  // [hidden]
  if constexpr (kVector) {
    using Vector = arch::Vec<std::uint32_t, 4>;
    const int vectors = static_cast<int>(p.hidden * static_cast<std::int64_t>(sizeof(T)) / 16);
    const auto* from = reinterpret_cast<const Vector*>(row);
    auto* to = reinterpret_cast<Vector*>(out);
    for (int i = static_cast<int>(arch::thread_idx().x); i < vectors; i += kThreads) {
      const Vector v = arch::load<arch::Cache::kReadOnly>(from + i);
      DSV4_UNROLL
      for (int s = 0; s < kMult; ++s) arch::store(to + std::int64_t{s} * vectors + i, v);
    }
  } else {
    embed::replicate<kMult>(arch::CtaCoop<kThreads>{}, out, row, static_cast<int>(p.hidden));
  }
}

}  // namespace

DSV4_OP(embed, EmbedParams) {
  using namespace kernels;
  DSV4_REQUIRE(p.tokens >= 0 && p.tokens <= INT32_MAX,
               invalid_argument("embed: tokens in [0, 2^31)", p.tokens));
  DSV4_REQUIRE(p.hidden >= 1 && p.hidden <= INT32_MAX / kMult,
               invalid_argument("embed: hidden in [1, 2^29)", p.hidden));
  DSV4_REQUIRE(p.vocab >= 1 && p.vocab <= INT32_MAX, invalid_argument("embed: vocab in [1, 2^31)", p.vocab));
  DSV4_REQUIRE(p.first_row >= 0 && p.first_row < p.vocab,
               invalid_argument("embed: first_row in [0, vocab)", p.first_row, p.vocab));
  const std::int64_t rows = p.rows == 0 ? p.vocab - p.first_row : p.rows;
  DSV4_REQUIRE(rows >= 1 && rows <= p.vocab - p.first_row,
               invalid_argument("embed: rows in [1, vocab - first_row]", rows, p.vocab - p.first_row));
  DSV4_REQUIRE(p.streams == kMult, unsupported("embed: only 4 streams are compiled", p.streams, kMult));
  const std::int64_t out_stride = stride_or(p.out_stride, kMult * p.hidden);
  const std::int64_t table_stride = stride_or(p.table_stride, p.hidden);
  DSV4_REQUIRE(out_stride >= kMult * p.hidden,
               invalid_argument("embed: out_stride >= streams * hidden", out_stride, kMult * p.hidden));
  DSV4_REQUIRE(table_stride >= p.hidden,
               invalid_argument("embed: table_stride >= hidden", table_stride, p.hidden));
  return with_type(p.dtype, "embed: dtype", [&](auto out_type) {
    return with_type(p.table_dtype, "embed: table_dtype", [&](auto table_type) -> Status {
      using T = typename decltype(out_type)::type;
      using TTable = typename decltype(table_type)::type;
      if (p.tokens == 0) return {};
      DSV4_REQUIRE(p.out && p.table && p.ids, invalid_argument("embed: out, table and ids must not be null"));
      DSV4_REQUIRE(is_aligned(p.out, sizeof(T)), invalid_argument("embed: out must be aligned to its type"));
      DSV4_REQUIRE(is_aligned(p.table, sizeof(TTable)),
                   invalid_argument("embed: table must be aligned to its type"));
      DSV4_REQUIRE(is_aligned(p.ids, p.wide_ids ? sizeof(std::int64_t) : sizeof(std::int32_t)),
                   invalid_argument("embed: ids must be aligned to its type"));
      const Shard shard = {{p.ids, p.wide_ids}, out_stride, table_stride, p.first_row, rows};
      const arch::LaunchConfig config = {.grid = {static_cast<unsigned>(p.tokens), 1, 1},
                                         .block = {kThreads, 1, 1}};
      if constexpr (std::is_same_v<T, TTable>) {
        constexpr std::int64_t kN = 16 / static_cast<std::int64_t>(sizeof(T));
        if (is_aligned(p.out, 16) && is_aligned(p.table, 16) && p.hidden % kN == 0 && out_stride % kN == 0 &&
            table_stride % kN == 0)
          return arch::launch("embed", embed_kernel<T, TTable, true>, config, stream, p, shard);
      }
      return arch::launch("embed", embed_kernel<T, TTable, false>, config, stream, p, shard);
    });
  });
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
