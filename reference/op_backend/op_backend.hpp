// The stages of the forward pass on the library's ops. The CPU backend that it derives from gives it its
// configuration and angles, and the lists of what every token sees.
#pragma once

#include <dsv4/ops/attn_index.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/ops/moe_experts.hpp>

#include "reference/cpu_backend.hpp"
#include "reference/op_backend/caches.hpp"
#include "reference/op_backend/device_weights.hpp"
#include "reference/op_backend/kept.hpp"
#include "reference/op_backend/op_call.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dsv4::reference::inline DSV4_FLAVOUR {

/// Backend of `forward` for activations of type T, as CpuBackend: float for the exact mode, bf16 for the
/// deploy mode. Tensors and states live in host memory; every op is called on copies of what it reads, and
/// what it wrote is copied back, so that the same code runs on the SIMT machine and, compiled for the other
/// flavour, on a GPU (which for the exact mode needs DSV4_KERNELS_F32). Slow, and meant to be. An op that
/// fails throws std::runtime_error with the op's words, the machine's report among them.
template <class T>
class OpBackend : public CpuBackend<T> {
 public:
  using Base = CpuBackend<T>;
  using Base::kDeploy;
  using typename Base::HyperConnection;
  using typename Base::Rows;
  using typename Base::Streams;

  /// The CPU backend's, and the tiles of its rows.
  struct Plan : Base::Plan {
    std::vector<std::int32_t> tile_offsets, tile_expert;  // [E + 1] [moe_max_tiles]
    std::int32_t tile_rows = 0;
  };

  /// fused = every fused op in place of its chain: mhc_pre with the layer's norm, mhc_post with the next
  /// mhc_pre, linear_multi for projections of one input, attn_qk_prep, attn_index_select, moe_fused (where it
  /// has the formats, up to as many tokens as it is good for). Their results wait for the stage that asks for them, and are
  /// used if its input is still theirs, bit for bit. Throws InputError where this flavour's kernels cannot
  /// run.
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
  void attn_compress(const AttentionWeights& w, const Rows& x, int b, Batch& batch);
  Rows attn_index_query(const AttentionWeights& w, const Rows& qr, int b);
  Rows attn_index_weights(const AttentionWeights& w, const Rows& x);
  Tensor<float> attn_index_scores(const Rows& q, const Rows& weights, int b, const Batch& batch);
  void attn_select_top_k(Selected& selected, const Tensor<float>& scores, const Batch& batch);
  Rows attn_attend(const AttentionWeights& w, const Rows& q, const Rows& kv, const Selected& selected, int b,
                   const Batch& batch);
  void attn_append(const Rows& kv, int b, Batch& batch);
  Rows attn_out_proj(const AttentionWeights& w, Rows& o, int b);

  /// Throws std::runtime_error if a token id has no row in the routing table, or its row an expert that does
  /// not exist.
  Route moe_gate(const FfnWeights& w, const Rows& x, int b, const Batch& batch);
  Plan moe_dispatch(const Route& route);
  /// fused: no rows, where one launch gives moe_combine's.
  Rows moe_expert(const FfnWeights& w, const Rows& x, const Plan& plan, const Route& route);
  Rows moe_shared(const FfnWeights& w, const Rows& x);
  Rows moe_combine(const Rows& y, const Plan& plan, const Rows& shared);

  Streams mtp_input(const MtpWeights& w, const WeightView& table, const std::vector<std::int32_t>& next_ids,
                    const Streams& s);
  Tensor<float> lm_head(const WeightView& head, const Rows& x, const Batch& batch);

 private:
  // One mHC site, in the order of the forward pass.
  struct Site {
    const HcWeights* hc;
    const std::vector<float>* norm;  // the norm behind it
    bool leads_on;                   // its mhc_post is followed by the next site's mhc_pre
  };
  // What a compressor takes in: a = Wkv_c x and b = Wgate x.
  struct Compressed {
    Tensor<float> kv, gate;  // [T, width]
  };
  // All projections of a layer's input; of those that the layer lacks, no rows.
  struct Projections {
    Rows q_a, kv, head_weights;
    Compressed main, index;
  };
  // Indexer queries.
  struct IndexQuery {
    Rows raw;                          // [T, Hi, 128] before attn_index_prep
    Rows head_weights;                 // [T, Hi] that weights_out was made of
    std::vector<std::uint8_t> codes;   // deploy: [T, Hi, 64]
    std::vector<std::uint8_t> scales;  // deploy: [T, Hi, 4]
    Rows q;                            // [T, Hi, 128]: exact as it is, deploy decoded
    Tensor<float> weights_out;         // [T, Hi]
  };
  // An FFN that moe_fused computed, and what it computed it from.
  struct FusedFfn {
    const FfnWeights* w = nullptr;
    Rows x, out;  // [T, D]
    Route route;
  };

  static constexpr ops::DType kType = kDeploy ? ops::DType::kBf16 : ops::DType::kF32;
  static constexpr ops::CacheFormat kIndexFormat =
      kDeploy ? ops::CacheFormat::kIndexFp4 : ops::CacheFormat::kRows;
  static constexpr RowFormat kKvFormat = kDeploy ? RowFormat::kKv584 : RowFormat::kF32;
  static constexpr RowFormat kKeyFormat = kDeploy ? RowFormat::kIndexFp4 : RowFormat::kF32;

  // op_backend.cpp
  std::size_t site_of(const HcWeights& w) const;
  HyperConnection hyper_connection(std::int64_t rows) const;
  ops::MhcPreParams pre_params(OpCall& call, const Site& site, HyperConnection& hc, Rows* normed_or_null,
                               const T* streams);
  // y[t] = round( W x[t] ) for `rows` rows of x, quantised on the way in where W asks for it.
  template <class TOut>
  void product(TOut* y, const WeightView& w, const T* x, std::int64_t rows);
  Rows product(const WeightView& w, const Rows& x);
  ops::RopeTable rope_table(OpCall& call, int b) const;

  // op_attention.cpp
  template <class TOut>
  ops::LinearPart part(OpCall& call, const WeightView& w, Tensor<TOut>& y);
  void run_multi(OpCall& call, ops::LinearMultiParams p);
  Projections project(const AttentionWeights& w, const Rows& x);
  Rows prepare(const AttentionWeights& w, const Rows& qr, int b);
  ops::AttnQProjParams q_params(OpCall& call, Rows& q, int b) const;
  ops::AttnKvProjParams kv_params(OpCall& call, const AttentionWeights& w, const Rows& kv, Rows& out, int b);
  void open_window();
  PagedRows entries_of(int b, bool index) const;

  // op_compress.cpp
  void compress(const AttentionWeights& w, const Compressed& main, const Compressed& index,
                const std::vector<Segment>& segments, std::int32_t max_rollback, int b, bool store);
  void rebuild(const AttentionWeights& w, const Segment& segment, int b);

  // op_index.cpp
  IndexQuery index_query(Rows raw, Rows head_weights) const;
  ops::AttnIndexPrepParams index_params(OpCall& call, IndexQuery& query, int b) const;
  void decode(IndexQuery& query) const;
  void finish(IndexQuery& query, int b) const;
  ops::IndexQueries queries(OpCall& call, const PagedRows& keys, std::int64_t most) const;
  ops::VisibleEntries visible(OpCall& call) const;

  // op_moe.cpp
  ops::MoeExpertsParams experts_params(OpCall& call, std::span<const ExpertWeights> experts, const Rows& x,
                                       Rows& y, float limit);
  void run_experts(OpCall& call, ops::MoeExpertsParams p);
  Rows routed(const FfnWeights& w, const Rows& x, const Plan& plan, const Route& route);
  bool fuse(const FfnWeights& w, const Rows& x, const Route& route);

  DeviceWeights<T> weights_;
  std::vector<Site> sites_;
  bool fused_;
  const Batch* batch_ = nullptr;  // of the pass that runs
  std::size_t last_site_ = 0;     // in sites_, of the last mhc_pre

  // What fused ops computed ahead, and the input that it is good for.
  Kept<HyperConnection> kept_pre_;           // streams
  Kept<Rows> kept_norm_;                     // what is normed
  Kept<Projections> kept_input_;             // a layer's input
  Kept<Rows> kept_latent_;                   // Wq_a x, normed; kept: not normed
  Kept<Rows> kept_kv_;                       // a layer's input
  Kept<IndexQuery> kept_query_;              // Wq_a x, normed
  Kept<Tensor<std::int32_t>> kept_entries_;  // scores
  Kept<FusedFfn> kept_ffn_;                  // the shared expert's rows

  std::vector<std::uint8_t> fused_state_;  // moe_fused's counters, from call to call

  // Of the block that runs.
  FusedFfn ffn_;
  IndexQuery index_;
  PagedRows window_;                 // the new key-value rows, and from attn_attend on those that they see
  Rows window_rows_;                 // the new rows as attn_kv_proj gave them
  std::vector<std::int32_t> slots_;  // [T] of the new rows in window_
};

extern template class OpBackend<float>;
extern template class OpBackend<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
