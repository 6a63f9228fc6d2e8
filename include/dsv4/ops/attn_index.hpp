// Ops attn_index_scores, attn_select and the two in one, attn_index_select: the lightning indexer of CSA
// layers.
#pragma once

#include <dsv4/ops/cache.hpp>
#include <dsv4/ops/common.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::ops {

/// Indexer queries as attn_index_prep leaves them, and the keys they are scored against:
///     score[t,i] = sum_h weights[t,h] * relu(q[t,h] . key[i])        (spec section 5.2; primitive
///     index_scores)
struct IndexQueries {
  const void* q = nullptr;       // [tokens, heads, dim] in `format`, contiguous, 16-byte aligned
  const void* scales = nullptr;  // kIndexFp4: [tokens, heads, 4] UE8M0; else null (kIndexFp8: in the weights)
  const float* weights = nullptr;  // [tokens, heads] f32, factor included
  CachePool keys = {};             // kIndexFp4, kIndexFp8 or kRows; kRows of f32 only with f32 queries
  PageTable table = {};            // entry i of a token's sequence -> slot of `keys`
  VisibleEntries visible = {};
  std::int64_t tokens = 0;                      // 0 .. 2^31-1
  std::int64_t max_entries = 0;                 // the most that any token sees, 0 .. 2^20; more are not seen
  std::int32_t heads = 0;                       // 1 .. 64
  std::int32_t dim = 0;                         // 128
  CacheFormat format = CacheFormat::kIndexFp4;  // of q
  DType dtype = DType::kBf16;                   // of q with kRows
};

struct AttnIndexScoresParams {
  float* scores = nullptr;  // [tokens, max_entries] f32; row t is written up to its visible entries, and no
                            // further. An entry without a slot scores NaN
  IndexQueries queries = {};
  std::int64_t scores_stride = 0;  // between tokens; 0 = max_entries
};

/// Where the chosen entries go: by score descending, lower index first among equals (-0 ties with +0), a NaN
/// never chosen; -1 pads where fewer than k can be chosen           (primitive attention::select_top_k)
struct SelectOutput {
  std::int32_t* idx = nullptr;  // [tokens, k]
  PageTable table = {};         // with slots: entry -> slot of the pool that will be attended to
  std::int64_t idx_stride = 0;  // between tokens; 0 = k
  std::int64_t slots = 0;       // with as_slots: size of that pool; an entry that leads outside it becomes -1
  std::int32_t k = 0;           // 1 .. 4096
  bool as_slots = false;        // physical slots through `table` instead of entries
};

struct AttnSelectParams {
  SelectOutput output = {};
  const float* scores = nullptr;  // [tokens, max_entries] f32; beyond a token's visible entries not read
  VisibleEntries visible = {};
  std::int64_t tokens = 0;         // 0 .. 2^31-1
  std::int64_t max_entries = 0;    // 0 .. 2^20
  std::int64_t scores_stride = 0;  // between tokens; 0 = max_entries
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

struct AttnIndexSelectParams {
  SelectOutput output = {};
  IndexQueries queries = {};
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

inline namespace DSV4_FLAVOUR {
/// A score's bits depend on the token and the entry alone. Quantised formats and bf16: tensor cores, exact
/// products, heads summed in a fixed order; f32: the canonical order, bit for bit the primitive.
/// Deterministic; no workspace; does not synchronise.
[[nodiscard]] DSV4_API Status attn_index_scores(const AttnIndexScoresParams& p, Stream stream) noexcept;

/// Exact: the set and order of a full sort. Each score is read once. Deterministic at any number of ties. A
/// token's result does not depend on the others, nor on max_entries beyond what it sees: a captured graph may
/// be replayed with any lengths up to that. Two launches at most.
[[nodiscard]] DSV4_API Status attn_select(const AttnSelectParams& p, Stream stream) noexcept;

/// attn_index_scores, then attn_select, without the matrix of scores: equal to the two bit for bit. Two
/// launches at most; one where tokens are many or rows short.
[[nodiscard]] DSV4_API Status attn_index_select(const AttnIndexSelectParams& p, Stream stream) noexcept;

/// Bytes of workspace, 256-byte aligned. Pure; monotone in every size, so that what serves the largest
/// problem serves all. At most 512 * 8 bytes for each of k, whatever the tokens and entries: long rows of few
/// tokens are shared out among as many blocks, which hand on k pairs each. Nothing where rows are short (less
/// than 16384 scores, 2048 keys).
[[nodiscard]] DSV4_API std::size_t attn_select_workspace_bytes(const AttnSelectParams& p) noexcept;
[[nodiscard]] DSV4_API std::size_t attn_index_select_workspace_bytes(const AttnIndexSelectParams& p) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
