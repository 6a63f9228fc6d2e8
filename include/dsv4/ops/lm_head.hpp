// Op lm_head: logits of some rows of the final hidden state.
#pragma once

#include <dsv4/ops/common.hpp>

namespace dsv4::ops {

/// logits[t,v] = sum_d x[row(t),d] * head[v,d], row(t) = rows[t], or t where rows is null. Never rounded
/// below fp32                                                                   (primitive lm_head::logits)
struct LmHeadParams {
  float* logits = nullptr;             // [tokens, vocab] f32
  const void* x = nullptr;             // [x_rows, hidden] dtype, after the final norm
  const void* head = nullptr;          // [vocab, hidden] head_dtype
  const std::int32_t* rows = nullptr;  // [tokens] rows of x, e.g. each sequence's last; null = all of them in
                                       // order. A row outside [0, x_rows) gives NaNs
  std::int64_t tokens = 0;             // 0 .. 2^31-1
  std::int64_t x_rows = 0;             // 1 .. 2^31-1 where rows is given; else unused
  std::int64_t vocab = 0;              // 1 .. 1000000
  std::int64_t hidden = 0;             // 1 .. 2^30
  DType dtype = DType::kBf16;
  DType head_dtype = DType::kBf16;
  std::int64_t logits_stride = 0;  // between tokens; 0 = vocab
  std::int64_t x_stride = 0;       // between rows; 0 = hidden
  std::int64_t head_stride = 0;    // between rows; 0 = hidden
};

inline namespace DSV4_FLAVOUR {
/// A logit's bits depend on its two rows alone, whatever the batch. bf16 x bf16 with 16-byte aligned rows and
/// hidden a multiple of 8: tensor cores, promoted to fp32 registers every 128 channels. Everything else: the
/// canonical order of summation, bit for bit the primitive. Deterministic; no workspace; does not
/// synchronise.
[[nodiscard]] DSV4_API Status lm_head(const LmHeadParams& p, Stream stream) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
