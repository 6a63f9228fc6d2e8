// The stages of the forward pass on the CPU, composed from the L1 primitives with SerialCoop and spread over
// threads.
#pragma once

#include <dsv4/core/rope.hpp>
#include <dsv4/core/types.hpp>
#include <dsv4/linear/dot.hpp>

#include "reference/batch.hpp"
#include "reference/model.hpp"
#include "reference/parallel.hpp"
#include "reference/tap.hpp"
#include "reference/tensor.hpp"

#include <array>
#include <cstdint>
#include <vector>

namespace dsv4::reference {

/// Backend of `forward` for activations of type T: float runs the exact mode (nothing quantised), bf16 the
/// deploy mode (the rounding chain of spec section 2). Results do not depend on the number of threads, bit
/// for bit. The stages' arguments and results are described where forward.hpp calls them. One pass at a time.
template <class T>
class CpuBackend {
 public:
  static constexpr bool kDeploy = std::is_same_v<T, bf16>;
  using Rows = Tensor<T>;
  using Streams = Tensor<T>;  // [T, S, D]

  struct HyperConnection {
    Tensor<float> mixes, pre, post, comb;  // [T, 24] [T, 4] [T, 4] [T, 4, 4]
    Rows x;                                // [T, D]
  };
  struct Plan {
    std::vector<std::int32_t> counts, offsets;  // [E] [E + 1]
    std::vector<std::int32_t> pair_of, row_of;  // [T * active]
  };

  /// threads 0 = one for each hardware thread.
  explicit CpuBackend(const ModelConfig& config, int threads = 0);

  const ModelConfig& config() const { return config_; }
  int threads() const { return pool_.threads(); }

  void begin(const Batch& batch);
  Streams embed(const WeightView& table, const std::vector<std::int32_t>& ids);
  Rows rms_norm(const std::vector<float>& weight, const Rows& x);

  HyperConnection mhc_pre(const HcWeights& w, const Streams& s);
  void mhc_post(Streams& s, const Rows& y, const Tensor<float>& post, const Tensor<float>& comb);
  Rows mhc_head(const HcHeadWeights& w, const Streams& s);

  Rows attn_q_lora(const AttentionWeights& w, const Rows& x);
  Rows attn_q_proj(const AttentionWeights& w, const Rows& qr, int b);
  Rows attn_kv_proj(const AttentionWeights& w, const Rows& x, int b);
  void attn_compress(const AttentionWeights& w, const Rows& x, int b, Batch& batch);
  Selected attn_select_window(const Batch& batch);
  void attn_select_all(Selected& selected, const Batch& batch);
  Rows attn_index_query(const AttentionWeights& w, const Rows& qr, int b);
  Rows attn_index_weights(const AttentionWeights& w, const Rows& x);
  Tensor<float> attn_index_scores(const Rows& q, const Rows& weights, int b, const Batch& batch);
  void attn_select_top_k(Selected& selected, const Tensor<float>& scores, const Batch& batch);
  Rows attn_attend(const AttentionWeights& w, const Rows& q, const Rows& kv, const Selected& selected, int b,
                   const Batch& batch);
  void attn_append(const Rows& kv, int b, Batch& batch);
  Rows attn_out_proj(const AttentionWeights& w, Rows& o, int b);

  Route moe_gate(const FfnWeights& w, const Rows& x, int b, const Batch& batch);
  Plan moe_dispatch(const Route& route);
  Rows moe_expert(const FfnWeights& w, const Rows& x, const Plan& plan, const Route& route);
  Rows moe_shared(const FfnWeights& w, const Rows& x);
  Rows moe_combine(const Rows& y, const Plan& plan, const Rows& shared);

  Streams mtp_input(const MtpWeights& w, const WeightView& table, const std::vector<std::int32_t>& next_ids,
                    const Streams& s);
  Tensor<float> lm_head(const WeightView& head, const Rows& x, const Batch& batch);

 protected:
  // Activations of a linear as f32 rows: quantised to FP8 and back where the weights ask for it, else as they
  // are.
  struct Operand {
    Tensor<float> storage;
    linear::RowsF32 rows;
    std::int64_t count;
  };
  Operand operand(const T* x, std::int64_t rows, std::int64_t cols, bool quantise);
  Operand operand(const Rows& x, bool quantise);

  // y[t * stride + n] = round( x[t] . w[n] ) for all rows of both.
  template <class TOut>
  void linear_into(TOut* y, std::int64_t stride, const WeightView& w, const Operand& x);
  // The same into rows of their own, with the activation quantisation that w asks for.
  Rows linear(const WeightView& w, const Rows& x);
  // [T, heads, head_dim]: queries before their norm, rotation or transform.
  Rows project_heads(const WeightView& w, const Rows& qr, int heads, int head_dim);
  // Heads, rotated back, through Wo_a by groups and Wo_b.
  Rows project_output(const AttentionWeights& w, const Rows& o);

  // Row of the last token of every sequence that got a token, in batch order.
  static std::vector<std::int32_t> last_rows(const Batch& batch);

  // Frequencies of both RoPE kinds: 0 = ratio 0 (no YaRN), 1 = ratio 4 and 128.
  const std::array<float, kRopeDim / 2>& frequencies(int b) const {
    return freq_[config_.kind(b) == LayerKind::kSwa ? 0 : 1];
  }

 private:
  // A run of consecutive rows that one expert computes.
  struct ExpertRun {
    const ExpertWeights* w;
    std::int64_t first, count;
  };
  // y = W2 swiglu(W1 x, W3 x) row by row, each run with its expert; weight [rows] multiplies before W2.
  void run_experts(const std::vector<ExpertRun>& runs, const Rows& x, const float* weight, float limit,
                   Rows& y);

  // Projects, adds to the compressor's state and appends the entries that these tokens complete.
  void compress(const CompressorWeights& w, const Operand& x, int b, bool index, Batch& batch);
  const math::SinCos* angles(int b, std::int64_t row) const;

  ModelConfig config_;
  ThreadPool pool_;
  // Frequencies and the batch's angles of both RoPE kinds, as `frequencies` numbers them.
  std::array<std::array<float, kRopeDim / 2>, 2> freq_{};
  std::array<Tensor<math::SinCos>, 2> angles_;
};

extern template class CpuBackend<float>;
extern template class CpuBackend<bf16>;

}  // namespace dsv4::reference
