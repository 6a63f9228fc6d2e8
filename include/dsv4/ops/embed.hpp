// Op embed: token ids to residual streams.
#pragma once

#include <dsv4/ops/common.hpp>

namespace dsv4::ops {

/// out[t,s,d] = round_T(table[ids[t] - first_row,d]) for t < tokens, s < streams, d < hidden  (primitive
/// embed::replicate)
/// A shard of the vocabulary gives first_row and rows: ids of other shards give rows of zeros, so that the
/// sum of all shards' outputs is the embedding, exactly.
struct EmbedParams {
  void* out = nullptr;          // [tokens, streams, hidden] dtype; a token's streams are contiguous
  const void* table = nullptr;  // [rows, hidden] table_dtype: rows first_row .. of the whole
  const void* ids = nullptr;    // [tokens] int32 or int64; one outside [0, vocab) gives a row of NaNs
  std::int64_t tokens = 0;      // 0 .. 2^31-1
  std::int64_t hidden = 0;      // >= 1
  std::int64_t vocab = 0;       // >= 1, of the whole
  std::int64_t first_row = 0;   // id that the table's first row stands for
  std::int64_t rows = 0;        // of the table, first_row + rows <= vocab; 0 = vocab - first_row
  std::int32_t streams = 0;     // 4
  DType dtype = DType::kBf16;
  DType table_dtype = DType::kBf16;
  bool wide_ids = false;          // ids are int64, else int32
  std::int64_t out_stride = 0;    // between tokens; 0 = streams * hidden
  std::int64_t table_stride = 0;  // between rows; 0 = hidden
};

inline namespace DSV4_FLAVOUR {
/// Exact where both types are the same; deterministic; no workspace; does not synchronise.
[[nodiscard]] DSV4_API Status embed(const EmbedParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
