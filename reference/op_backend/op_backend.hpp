// The stages of the forward pass on the library's ops. What has no op yet runs on the CPU backend it derives
// from.
#pragma once

#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/ops/rope.hpp>

#include "reference/cpu_backend.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

namespace dsv4::reference::inline DSV4_FLAVOUR {

/// Backend of `forward` for activations of type T, as CpuBackend: float for the exact mode, bf16 for the
/// deploy mode. Tensors live in host memory, so the flavour is that of the SIMT machine. An op that fails
/// throws std::runtime_error with the op's words, the machine's report among them.
template <class T>
class OpBackend : public CpuBackend<T> {
 public:
  using Base = CpuBackend<T>;
  using Base::kDeploy;
  using typename Base::HyperConnection;
  using typename Base::Rows;
  using typename Base::Streams;

  /// fused = mhc_pre with the layer's norm, and mhc_post with the next mhc_pre, as one op each: their results
  /// wait for the stage that asks for them, and are used if its input is still theirs, bit for bit.
  OpBackend(const Model& model, int threads, bool fused);

  void begin(const Batch& batch);
  Streams embed(const WeightView& table, const std::vector<std::int32_t>& ids);
  Rows rms_norm(const std::vector<float>& weight, const Rows& x);

  HyperConnection mhc_pre(const HcWeights& w, const Streams& s);
  void mhc_post(Streams& s, const Rows& y, const Tensor<float>& post, const Tensor<float>& comb);
  Rows mhc_head(const HcHeadWeights& w, const Streams& s);

  Rows attn_q_lora(const AttentionWeights& w, const Rows& x);
  Rows attn_q_proj(const AttentionWeights& w, const Rows& qr, int b);
  Rows attn_kv_proj(const AttentionWeights& w, const Rows& x, int b);
  Rows attn_index_query(const AttentionWeights& w, const Rows& qr, int b);
  Rows attn_out_proj(const AttentionWeights& w, Rows& o, int b);

  Tensor<float> lm_head(const WeightView& head, const Rows& x, const Batch& batch);

 private:
  using typename Base::Operand;
  Operand operand(const T* x, std::int64_t rows, std::int64_t cols, bool quantise) override;

  // One mHC site, in the order of the forward pass.
  struct Site {
    const HcWeights* hc;
    const std::vector<float>* norm;  // the norm behind it
    bool leads_on;                   // its mhc_post is followed by the next site's mhc_pre
  };
  // A result that waits for its stage, which may use it if its input is `input`, bit for bit.
  struct Waiting {
    const void* stage = nullptr;  // the stage's weights; null = nothing waits
    std::vector<T> input;
    void wait_for(const void* s, const T* x, std::int64_t n) {
      stage = s;
      input.assign(x, x + n);
    }
    bool holds_for(const void* s, const T* x, std::int64_t n) const {
      return stage == s && static_cast<std::int64_t>(input.size()) == n &&
             std::memcmp(input.data(), x, static_cast<std::size_t>(n) * sizeof(T)) == 0;
    }
  };

  std::size_t site_of(const HcWeights& w) const;
  HyperConnection hyper_connection(std::int64_t rows) const;
  ops::MhcPreParams pre_params(const Site& site, HyperConnection& hc, Rows* normed_or_null, const T* streams);
  void keep_normed(const std::vector<float>& weight, const Rows& x, Rows normed);
  void* workspace(std::size_t bytes);
  const void* aligned(const WeightView& w, ops::DType type);

  // Rows of n channels through op rms_norm; out may be x.
  void norm_rows(T* out, const T* x, const float* weight_or_null, std::int64_t rows, std::int64_t n);
  void rotate(Rows& x, std::int64_t heads, std::int64_t head_dim, int b, ops::RopeDirection direction);
  // The first n of every `stride` channels through op act_quant and back; out may be x.
  template <class TOut>
  void round_trip(TOut* out, const T* x, std::int64_t rows, std::int64_t n, std::int64_t stride,
                  ops::QuantFormat format, int block);

  std::vector<Site> sites_;
  bool fused_;
  std::vector<std::int64_t> positions_;  // [T]
  std::size_t last_site_ = 0;            // in sites_, of the last mhc_pre
  struct : Waiting {
    HyperConnection hc;
  } waiting_pre_;
  struct : Waiting {
    Rows rows;
  } waiting_norm_;
  std::vector<std::byte> workspace_;
  std::map<const void*, std::vector<std::byte>>
      aligned_;  // copies of matrices, by where they lie in the file
};

extern template class OpBackend<float>;
extern template class OpBackend<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
