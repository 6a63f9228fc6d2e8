// Op embed: token ids to residual streams.
#pragma once

#include <dsv4/ops/common.hpp>

namespace dsv4::ops {

/// out[t,s,d] = round_T(table[ids[t],d]) for t < tokens, s < streams, d < hidden      (primitive
/// embed::replicate)
struct EmbedParams {
  void* out = nullptr;                // [tokens, streams, hidden] dtype; a token's streams are contiguous
  const void* table = nullptr;        // [vocab, hidden] table_dtype
  const std::int32_t* ids = nullptr;  // [tokens]; an id outside [0, vocab) gives a row of NaNs
  std::int64_t tokens = 0;            // 0 .. 2^31-1
  std::int64_t hidden = 0;            // >= 1
  std::int64_t vocab = 0;             // >= 1
  std::int32_t streams = 0;           // 4
  DType dtype = DType::kBf16;
  DType table_dtype = DType::kBf16;
  std::int64_t out_stride = 0;    // between tokens; 0 = streams * hidden
  std::int64_t table_stride = 0;  // between rows; 0 = hidden
};

inline namespace DSV4_FLAVOUR {
/// Exact where both types are the same; deterministic; no workspace; does not synchronise.
[[nodiscard]] DSV4_API Status embed(const EmbedParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
