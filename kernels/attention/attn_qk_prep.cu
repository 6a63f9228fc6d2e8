// Ops attn_q_proj, attn_kv_proj, attn_index_prep and attn_qk_prep: one kernel, whose blocks fall into three
// ranges, one for each kind of row. An op of one kind launches its range alone, so the fused op has its bits.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/attention/prep.cuh>
#include <dsv4/ops/attn_proj.hpp>

#include "kernels/attention/prep_parameters.hpp"
#include "kernels/common/dispatch.hpp"
#include "kernels/common/nan_guard.hpp"

#include <cstdint>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using Tiles = attention::PrepTiles;
constexpr int kThreads = Tiles::kWarps * static_cast<int>(arch::kWarpThreads);

template <class T>
struct Parts {
  attention::PrepQueries<T> q;
  attention::PrepKeyValues<T> kv;
  attention::PrepIndexQueries<T> index;
  std::int64_t kv_tokens;
  unsigned q_blocks_of_token, index_blocks_of_token;
  unsigned q_blocks, kv_blocks;  // then those of index
};

template <class T>
DSV4_KERNEL(kThreads)
prep_kernel(const DSV4_GRID_CONSTANT Parts<T> p) {
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const int warp = arch::warp_id();
  unsigned block = arch::block_idx().x;
  if (block < p.q_blocks) {
    const unsigned part = block % p.q_blocks_of_token;
    const int head = (static_cast<int>(part) * Tiles::kWarps + warp) * Tiles::kQueryHeads;
    if (head < p.q.heads) attention::prepare_queries<Tiles>(p.q, block / p.q_blocks_of_token, head);
    return;
  }
  block -= p.q_blocks;
  if (block < p.kv_blocks) {
    const std::int64_t token = std::int64_t{block} * Tiles::kWarps + warp;
    if (token < p.kv_tokens) attention::prepare_key_value(p.kv, token);
    return;
  }
  block -= p.kv_blocks;
  const unsigned part = block % p.index_blocks_of_token;
  const int head = (static_cast<int>(part) * Tiles::kWarps + warp) * attention::kIndexHeads<Tiles, T>;
  if (head < p.index.heads)
    attention::prepare_index_queries<Tiles>(p.index, block / p.index_blocks_of_token, head);
}

constexpr std::int64_t blocks_for(std::int64_t rows, std::int64_t rows_of_block) {
  return (rows + rows_of_block - 1) / rows_of_block;
}

/// Those of q, kv and index that are not null, their parameters checked. `c` names the op.
template <class C>
Status launch_prep(C& c, DType dtype, const AttnQProjParams* q, const AttnKvProjParams* kv,
                   const AttnIndexPrepParams* index, Stream stream) noexcept {
  return kernels::with_type(dtype, "attn_qk_prep: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    Parts<T> p = {};
    std::int64_t q_blocks = 0, kv_blocks = 0, index_blocks = 0;
    if (q) {
      p.q = kernels::prep_arguments<T>(*q);
      const std::int64_t of_token = blocks_for(q->heads, Tiles::kWarps * Tiles::kQueryHeads);
      p.q_blocks_of_token = static_cast<unsigned>(of_token);
      q_blocks = q->tokens * of_token;
    }
    if (kv) {
      p.kv = kernels::prep_arguments<T>(*kv);
      p.kv_tokens = kv->tokens;
      kv_blocks = blocks_for(kv->tokens, Tiles::kWarps);
    }
    if (index) {
      p.index = kernels::prep_arguments<T>(*index);
      const std::int64_t of_token =
          blocks_for(index->heads, Tiles::kWarps * attention::kIndexHeads<Tiles, T>);
      p.index_blocks_of_token = static_cast<unsigned>(of_token);
      index_blocks = index->tokens * of_token;
    }
    const std::int64_t blocks = q_blocks + kv_blocks + index_blocks;
    c.template require<"tokens", "give more than 2^31-1 blocks">(blocks <= INT32_MAX, blocks, INT32_MAX);
    if (!c.ok()) return c.status();
    p.q_blocks = static_cast<unsigned>(q_blocks), p.kv_blocks = static_cast<unsigned>(kv_blocks);
    return arch::launch(
        C::kName.text, prep_kernel<T>,
        {.grid = {static_cast<unsigned>(blocks), 1, 1}, .block = {kThreads, 1, 1}, .overlap_previous = true},
        stream, p);
  });
}

}  // namespace

DSV4_OP(attn_q_proj, AttnQProjParams) {
  kernels::Checks<"attn_q_proj"> c;
  kernels::check_sizes<"">(c, p);
  if (!c.ok() || p.tokens == 0) return c.status();
  kernels::check_pointers<"">(c, p);
  return c.ok() ? launch_prep(c, p.dtype, &p, nullptr, nullptr, stream) : c.status();
}

DSV4_OP(attn_kv_proj, AttnKvProjParams) {
  kernels::Checks<"attn_kv_proj"> c;
  kernels::check_sizes<"">(c, p);
  if (!c.ok() || p.tokens == 0) return c.status();
  kernels::check_pointers<"">(c, p);
  return c.ok() ? launch_prep(c, p.dtype, nullptr, &p, nullptr, stream) : c.status();
}

DSV4_OP(attn_index_prep, AttnIndexPrepParams) {
  kernels::Checks<"attn_index_prep"> c;
  kernels::check_sizes<"">(c, p);
  if (!c.ok() || p.tokens == 0) return c.status();
  kernels::check_pointers<"">(c, p);
  return c.ok() ? launch_prep(c, p.dtype, nullptr, nullptr, &p, stream) : c.status();
}

DSV4_OP(attn_qk_prep, AttnQkPrepParams) {
  kernels::Checks<"attn_qk_prep"> c;
  const AttnQProjParams* q = p.q.q ? &p.q : nullptr;
  const AttnKvProjParams* kv = p.kv.kv ? &p.kv : nullptr;
  const AttnIndexPrepParams* index = p.index.q ? &p.index : nullptr;
  if (q) kernels::check_sizes<"q.">(c, *q);
  if (kv) kernels::check_sizes<"kv.">(c, *kv);
  if (index) kernels::check_sizes<"index.">(c, *index);
  const DType dtype = q ? q->dtype : kv ? kv->dtype : p.index.dtype;
  c.require<"kv.dtype", "must be q.dtype">(!kv || kv->dtype == dtype, static_cast<std::int64_t>(p.kv.dtype),
                                           static_cast<std::int64_t>(dtype));
  c.require<"index.dtype", "must be that of the other parts">(!index || index->dtype == dtype,
                                                              static_cast<std::int64_t>(p.index.dtype),
                                                              static_cast<std::int64_t>(dtype));
  if (!c.ok()) return c.status();
  if (q && q->tokens == 0) q = nullptr;
  if (kv && kv->tokens == 0) kv = nullptr;
  if (index && index->tokens == 0) index = nullptr;
  if (!q && !kv && !index) return {};
  if (q) kernels::check_pointers<"q.">(c, *q);
  if (kv) kernels::check_pointers<"kv.">(c, *kv);
  if (index) kernels::check_pointers<"index.">(c, *index);
  return c.ok() ? launch_prep(c, dtype, q, kv, index, stream) : c.status();
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
