#include "reference/op_backend/op_backend.hpp"

#include <dsv4/core/quant.hpp>
#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/hadamard.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {

template <class T>
constexpr ops::DType kType = std::is_same_v<T, float> ? ops::DType::kF32 : ops::DType::kBf16;

constexpr Stream kStream = nullptr;

void require(const Status& s, const char* op) {
  if (!s.ok())
    throw std::runtime_error(fmt::format("op {}: {} (value {}, limit {})", op, s.what, s.value, s.limit));
}

// The element type of a matrix that ops read as it is.
ops::DType type_of(const WeightView& w, const char* what) {
  if (w.type == linear::WeightType::kF32) return ops::DType::kF32;
  if (w.type == linear::WeightType::kBf16) return ops::DType::kBf16;
  throw std::runtime_error(fmt::format("{}: ops read it as F32 or BF16", what));
}

}  // namespace

template <class T>
OpBackend<T>::OpBackend(const Model& model, int threads, bool fused)
    : Base(model.config, threads), fused_(fused) {
  const auto add = [this](const BlockWeights& w) {
    sites_.push_back({&w.hc_attn, &w.attn_norm, true});
    sites_.push_back({&w.hc_ffn, &w.ffn_norm, true});
  };
  for (const BlockWeights& w : model.layers) add(w);
  sites_.back().leads_on = false;  // the head follows, or the MTP block's own input
  for (const MtpWeights& w : model.mtp) {
    add(w.block);
    sites_.back().leads_on = false;
  }
}

template <class T>
void OpBackend<T>::begin(const Batch& batch) {
  Base::begin(batch);
  positions_ = batch.position;
  waiting_pre_.stage = waiting_norm_.stage = nullptr;
}

// A checkpoint packs its tensors without gaps; ops want matrices on 16-byte boundaries.
template <class T>
const void* OpBackend<T>::aligned(const WeightView& w, ops::DType type) {
  constexpr std::size_t kAlign = 16;
  if (reinterpret_cast<std::uintptr_t>(w.data) % kAlign == 0) return w.data;
  auto& copy = aligned_[w.data];
  if (copy.empty()) {
    const auto* bytes = static_cast<const std::byte*>(w.data);
    copy.assign(bytes, bytes + w.rows * w.cols * (type == ops::DType::kF32 ? 4 : 2));
  }
  static_assert(__STDCPP_DEFAULT_NEW_ALIGNMENT__ >= kAlign, "vectors start on 16-byte boundaries");
  return copy.data();
}

// ---------------------------------------------------------------------------------------------- row ops

template <class T>
void OpBackend<T>::norm_rows(T* out, const T* x, const float* weight_or_null, std::int64_t rows,
                             std::int64_t n) {
  require(ops::rms_norm({.out = out,
                         .x = x,
                         .weight = weight_or_null,
                         .rows = rows,
                         .n = n,
                         .eps = this->config().norm_eps,
                         .dtype = kType<T>},
                        kStream),
          "rms_norm");
}

template <class T>
void OpBackend<T>::rotate(Rows& x, std::int64_t heads, std::int64_t head_dim, int b,
                          ops::RopeDirection direction) {
  require(ops::rope({.out = x.data(),
                     .x = x.data(),
                     .positions = positions_.data(),
                     .table = {.freq = this->frequencies(b).data()},
                     .tokens = x.rows(),
                     .heads = heads,
                     .head_dim = head_dim,
                     .rope_dim = kRopeDim,
                     .direction = direction,
                     .position_type = ops::PositionType::kInt64,
                     .dtype = kType<T>},
                    kStream),
          "rope");
}

template <class T>
template <class TOut>
void OpBackend<T>::round_trip(TOut* out, const T* x, std::int64_t rows, std::int64_t n, std::int64_t stride,
                              ops::QuantFormat format, int block) {
  const bool fp4 = format == ops::QuantFormat::kE2m1;
  const std::int64_t blocks = (n + block - 1) / block, bytes = fp4 ? n / 2 : n;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * bytes));
  std::vector<e8m0> scales(static_cast<std::size_t>(rows * blocks));
  require(ops::act_quant({.codes = codes.data(),
                          .scales = scales.data(),
                          .x = x,
                          .rows = rows,
                          .n = n,
                          .block = block,
                          .format = format,
                          .dtype = kType<T>,
                          .x_stride = stride},
                         kStream),
          "act_quant");
  std::vector<float> decoded(static_cast<std::size_t>(block));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < blocks; ++i) {
      const int count = static_cast<int>(std::min<std::int64_t>(block, n - i * block));
      const float scale = to_float(scales[static_cast<std::size_t>(r * blocks + i)]);
      const std::uint8_t* code = codes.data() + r * bytes + i * block / (fp4 ? 2 : 1);
      if (fp4)
        quant::fp4_decode(decoded.data(), reinterpret_cast<const e2m1x2*>(code), count, scale);
      else
        quant::fp8_decode(decoded.data(), reinterpret_cast<const e4m3*>(code), count, scale);
      for (int k = 0; k < count; ++k)
        out[r * stride + i * block + k] = from_float<TOut>(decoded[static_cast<std::size_t>(k)]);
    }
}

template <class T>
typename OpBackend<T>::Operand OpBackend<T>::operand(const T* x, std::int64_t rows, std::int64_t cols,
                                                     bool quantise) {
  if (!kDeploy || !quantise) return Base::operand(x, rows, cols, quantise);
  Operand out{Tensor<float>(rows, cols), {}, rows};
  out.rows = {out.storage.data(), cols};
  round_trip(out.storage.data(), x, rows, cols, cols, ops::QuantFormat::kE4m3, quant::kFp8LinearBlock);
  return out;
}

template <class T>
typename OpBackend<T>::Streams OpBackend<T>::embed(const WeightView& table,
                                                   const std::vector<std::int32_t>& ids) {
  Streams s(static_cast<std::int64_t>(ids.size()), kStreams, table.cols);
  const ops::DType type = type_of(table, "embed.weight");
  require(ops::embed({.out = s.data(),
                      .table = aligned(table, type),
                      .ids = ids.data(),
                      .tokens = s.rows(),
                      .hidden = table.cols,
                      .vocab = table.rows,
                      .streams = kStreams,
                      .dtype = kType<T>,
                      .table_dtype = type},
                     kStream),
          "embed");
  return s;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::rms_norm(const std::vector<float>& weight, const Rows& x) {
  if (waiting_norm_.holds_for(&weight, x.data(), x.size())) {
    waiting_norm_.stage = nullptr;
    return std::move(waiting_norm_.rows);
  }
  Rows y(x.rows(), x.dim(1), x.dim(2));
  const auto n = static_cast<std::int64_t>(weight.size());
  norm_rows(y.data(), x.data(), weight.data(), x.size() / n, n);  // streams are normed one by one
  return y;
}

template <class T>
Tensor<float> OpBackend<T>::lm_head(const WeightView& head, const Rows& x, const Batch& batch) {
  const std::vector<std::int32_t> rows = this->last_rows(batch);
  Tensor<float> logits(static_cast<std::int64_t>(rows.size()), head.rows);
  const ops::DType type = type_of(head, "head.weight");
  require(ops::lm_head({.logits = logits.data(),
                        .x = x.data(),
                        .head = aligned(head, type),
                        .rows = rows.data(),
                        .tokens = logits.rows(),
                        .x_rows = x.rows(),
                        .vocab = head.rows,
                        .hidden = head.cols,
                        .dtype = kType<T>,
                        .head_dtype = type},
                       kStream),
          "lm_head");
  return logits;
}

// -------------------------------------------------------------------------------------------- attention

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_q_lora(const AttentionWeights& w, const Rows& x) {
  return rms_norm(w.q_norm, this->linear(w.wq_a, x));
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_q_proj(const AttentionWeights& w, const Rows& qr, int b) {
  const int heads = this->config().heads;
  Rows q = this->project_heads(w.wq_b, qr, heads, kHeadDim);
  norm_rows(q.data(), q.data(), nullptr, q.rows() * heads, kHeadDim);
  rotate(q, heads, kHeadDim, b, ops::RopeDirection::kForward);
  return q;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_kv_proj(const AttentionWeights& w, const Rows& x, int b) {
  Rows kv = this->linear(w.wkv, x);
  norm_rows(kv.data(), kv.data(), w.kv_norm.data(), kv.rows(), kHeadDim);
  rotate(kv, 1, kHeadDim, b, ops::RopeDirection::kForward);
  if constexpr (kDeploy)
    round_trip(kv.data(), kv.data(), kv.rows(), kNopeDim, kHeadDim, ops::QuantFormat::kE4m3,
               quant::kFp8KvBlock);
  return kv;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_index_query(const AttentionWeights& w, const Rows& qr, int b) {
  const int heads = this->config().index_heads;
  Rows q = this->project_heads(w.indexer.wq_b, qr, heads, kIndexDim);
  rotate(q, heads, kIndexDim, b, ops::RopeDirection::kForward);
  const std::int64_t rows = q.rows() * heads;
  require(ops::hadamard({.out = q.data(), .x = q.data(), .rows = rows, .n = kIndexDim, .dtype = kType<T>},
                        kStream),
          "hadamard");
  if constexpr (kDeploy)
    round_trip(q.data(), q.data(), rows, kIndexDim, kIndexDim, ops::QuantFormat::kE2m1, quant::kFp4Block);
  return q;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::attn_out_proj(const AttentionWeights& w, Rows& o, int b) {
  rotate(o, this->config().heads, kHeadDim, b, ops::RopeDirection::kInverse);
  return this->project_output(w, o);
}

// -------------------------------------------------------------------------------------------------- mHC

template <class T>
std::size_t OpBackend<T>::site_of(const HcWeights& w) const {
  const auto site = std::find_if(sites_.begin(), sites_.end(), [&w](const Site& s) { return s.hc == &w; });
  if (site == sites_.end()) throw std::logic_error("mhc_pre: weights of another model");
  return static_cast<std::size_t>(site - sites_.begin());
}

template <class T>
typename OpBackend<T>::HyperConnection OpBackend<T>::hyper_connection(std::int64_t rows) const {
  return {Tensor<float>(rows, kMixes), Tensor<float>(rows, kStreams), Tensor<float>(rows, kStreams),
          Tensor<float>(rows, kStreams, kStreams), Rows(rows, this->config().hidden)};
}

template <class T>
ops::MhcPreParams OpBackend<T>::pre_params(const Site& site, HyperConnection& hc, Rows* normed_or_null,
                                           const T* streams) {
  const ModelConfig& c = this->config();
  ops::MhcPreParams p{.x = hc.x.data(),
                      .normed = normed_or_null ? normed_or_null->data() : nullptr,
                      .post = hc.post.data(),
                      .comb = hc.comb.data(),
                      .pre = hc.pre.data(),
                      .mixes = hc.mixes.data(),
                      .streams = streams,
                      .fn = static_cast<const float*>(aligned(site.hc->fn, ops::DType::kF32)),
                      .scale = site.hc->scale.data(),
                      .base = site.hc->base.data(),
                      .norm_weight = normed_or_null ? site.norm->data() : nullptr,
                      .tokens = hc.x.rows(),
                      .hidden = c.hidden,
                      .stream_count = kStreams,
                      .sinkhorn_iterations = c.sinkhorn_iterations,
                      .mix_eps = c.norm_eps,
                      .hc_eps = c.hc_eps,
                      .norm_eps = c.norm_eps,
                      .dtype = kType<T>};
  p.workspace_bytes = ops::mhc_pre_workspace_bytes(p);
  p.workspace = workspace(p.workspace_bytes);
  return p;
}

template <class T>
typename OpBackend<T>::HyperConnection OpBackend<T>::mhc_pre(const HcWeights& w, const Streams& s) {
  last_site_ = site_of(w);
  if (waiting_pre_.holds_for(&w, s.data(), s.size())) {
    waiting_pre_.stage = nullptr;
    return std::move(waiting_pre_.hc);
  }
  const Site& site = sites_[last_site_];
  HyperConnection hc = hyper_connection(s.rows());
  Rows normed = fused_ ? Rows(s.rows(), this->config().hidden) : Rows();
  require(ops::mhc_pre(pre_params(site, hc, fused_ ? &normed : nullptr, s.data()), kStream), "mhc_pre");
  if (fused_) keep_normed(*site.norm, hc.x, std::move(normed));
  return hc;
}

template <class T>
void OpBackend<T>::mhc_post(Streams& s, const Rows& y, const Tensor<float>& post, const Tensor<float>& comb) {
  const ops::MhcPostParams p{.out = s.data(),
                             .y = y.data(),
                             .streams = s.data(),
                             .post = post.data(),
                             .comb = comb.data(),
                             .tokens = s.rows(),
                             .hidden = this->config().hidden,
                             .stream_count = kStreams,
                             .dtype = kType<T>};
  if (!fused_ || !sites_[last_site_].leads_on) {
    require(ops::mhc_post(p, kStream), "mhc_post");
    return;
  }
  const Site& next = sites_[last_site_ + 1];
  waiting_pre_.hc = hyper_connection(s.rows());
  Rows normed(s.rows(), this->config().hidden);
  require(ops::mhc_post_pre({p, pre_params(next, waiting_pre_.hc, &normed, s.data())}, kStream),
          "mhc_post_pre");
  waiting_pre_.wait_for(next.hc, s.data(), s.size());
  keep_normed(*next.norm, waiting_pre_.hc.x, std::move(normed));
}

template <class T>
void OpBackend<T>::keep_normed(const std::vector<float>& weight, const Rows& x, Rows normed) {
  waiting_norm_.wait_for(&weight, x.data(), x.size());
  waiting_norm_.rows = std::move(normed);
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::mhc_head(const HcHeadWeights& w, const Streams& s) {
  const ModelConfig& c = this->config();
  Rows x(s.rows(), c.hidden);
  ops::MhcHeadParams p{.x = x.data(),
                       .streams = s.data(),
                       .fn = static_cast<const float*>(aligned(w.fn, ops::DType::kF32)),
                       .scale = w.scale.data(),
                       .base = w.base.data(),
                       .tokens = s.rows(),
                       .hidden = c.hidden,
                       .stream_count = kStreams,
                       .mix_eps = c.norm_eps,
                       .hc_eps = c.hc_eps,
                       .norm_eps = c.norm_eps,
                       .dtype = kType<T>};
  p.workspace_bytes = ops::mhc_head_workspace_bytes(p);
  p.workspace = workspace(p.workspace_bytes);
  require(ops::mhc_head(p, kStream), "mhc_head");
  return x;
}

// 256-byte aligned; full of NaNs, for its contents must not matter.
template <class T>
void* OpBackend<T>::workspace(std::size_t bytes) {
  constexpr std::size_t kAlign = 256;
  if (bytes == 0) return nullptr;
  workspace_.assign(bytes + kAlign, std::byte{0xff});
  void* p = workspace_.data();
  std::size_t space = workspace_.size();
  return std::align(kAlign, bytes, p, space);
}

template class OpBackend<float>;
template class OpBackend<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
