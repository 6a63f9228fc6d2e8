// OpBackend: the mixture-of-experts half of a block.
#include <dsv4/ops/moe_experts.hpp>
#include <dsv4/ops/moe_fused.hpp>
#include <dsv4/ops/moe_route.hpp>

#include "reference/op_backend/op_backend.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {

template <class T>
Tensor<T> copy(const Tensor<T>& x) {
  Tensor<T> y(x.dim(0), x.dim(1), x.dim(2));
  std::copy_n(x.data(), x.size(), y.data());
  return y;
}

}  // namespace

template <class T>
Route OpBackend<T>::moe_gate(const FfnWeights& w, const Rows& x, int b, const Batch& batch) {
  const ModelConfig& c = this->config();
  Route route{Tensor<std::int32_t>(x.rows(), c.active_experts), Tensor<float>(x.rows(), c.active_experts)};
  std::vector<std::int32_t> error{0};
  OpCall call;
  ops::MoeGateParams p{
      .idx = call.out(route.idx),
      .weights = call.out(route.weights),
      .x = call.in(x),
      .gate = {.data = weights_.matrix(w.gate, "gate.weight"),
               .format = weights_.type_of(w.gate, "gate.weight") == ops::DType::kF32
                             ? ops::WeightFormat::kF32
                             : ops::WeightFormat::kBf16},
      .tokens = x.rows(),
      .hidden = c.hidden,
      .experts = c.experts,
      .k = c.active_experts,
      .route_scale = c.route_scale,
      .dtype = kType,
  };
  if (c.hashed(b)) {
    p.error = call.in_out(error);
    p.table = weights_.table(w.tid2eid);
    p.token_ids = call.in(batch.tokens);
    p.vocab = static_cast<std::int64_t>(w.tid2eid.size()) / c.active_experts;
  } else {
    p.bias = weights_.vector(w.bias);
  }
  p.workspace_bytes = ops::moe_gate_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  call.run(ops::moe_gate(p, OpCall::kStream), "moe_gate");
  if (error[0] != 0)
    throw std::runtime_error(fmt::format(
        "op moe_gate: block {} routes by token: a token id is not one of the table's {}, or its row names an "
        "expert that is not one of {}",
        b, p.vocab, c.experts));
  return route;
}

template <class T>
typename OpBackend<T>::Plan OpBackend<T>::moe_dispatch(const Route& route) {
  const std::int32_t experts = this->config().experts;
  const std::int64_t tokens = route.idx.rows();
  const auto k = static_cast<std::int32_t>(route.idx.cols());
  const auto pairs = static_cast<std::size_t>(route.idx.size()), count = static_cast<std::size_t>(experts);
  Plan plan;
  plan.counts.resize(count);
  plan.offsets.resize(count + 1);
  plan.pair_of.resize(pairs);
  plan.row_of.resize(pairs);
  plan.tile_rows = ops::moe_tile_rows(tokens, k, experts);
  plan.tile_offsets.resize(count + 1);
  plan.tile_expert.resize(static_cast<std::size_t>(ops::moe_max_tiles(tokens, k, experts, plan.tile_rows)));
  OpCall call;
  call.run(ops::moe_dispatch({.plan = {.counts = call.out(plan.counts),
                                       .offsets = call.out(plan.offsets),
                                       .pair_of = call.in_out(plan.pair_of),  // as far as there are rows
                                       .row_of = call.out(plan.row_of),
                                       .tile_offsets = call.out(plan.tile_offsets),
                                       .tile_expert = call.out(plan.tile_expert)},
                              .idx = call.in(route.idx),
                              .tokens = tokens,
                              .k = k,
                              .experts = experts,
                              .tile_rows = plan.tile_rows},
                             OpCall::kStream),
           "moe_dispatch");
  return plan;
}

// Every token a row of the first expert, as for a shared one.
template <class T>
ops::MoeExpertsParams OpBackend<T>::experts_params(OpCall& call, std::span<const ExpertWeights> experts,
                                                   const Rows& x, Rows& y, float limit) {
  return {.y = call.out(y),
          .input = {.x = call.in(x)},
          .weights = weights_.experts(experts),
          .tokens = x.rows(),
          .hidden = this->config().hidden,
          .inner = this->config().expert_inner,
          .k = 1,
          .experts = 1,
          .tile_rows = ops::moe_tile_rows(x.rows(), 1, 1),
          .limit = limit,
          .dtype = kType};
}

template <class T>
void OpBackend<T>::run_experts(OpCall& call, ops::MoeExpertsParams p) {
  p.workspace_bytes = ops::moe_experts_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  call.run(ops::moe_experts(p, OpCall::kStream), "moe_experts");
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::routed(const FfnWeights& w, const Rows& x, const Plan& plan,
                                                 const Route& route) {
  Rows y(plan.offsets.back(), this->config().hidden);
  OpCall call;
  const auto read = [&call](const std::vector<std::int32_t>& v) {
    return const_cast<std::int32_t*>(call.in(v));
  };
  ops::MoeExpertsParams p = experts_params(call, w.experts, x, y, this->config().swiglu_limit);
  p.routing = call.in(route.weights);
  p.plan = {.counts = read(plan.counts),
            .offsets = read(plan.offsets),
            .pair_of = read(plan.pair_of),
            .row_of = read(plan.row_of),
            .tile_offsets = read(plan.tile_offsets),
            .tile_expert = read(plan.tile_expert)};
  p.k = static_cast<std::int32_t>(route.idx.cols());
  p.experts = this->config().experts;
  p.tile_rows = plan.tile_rows;
  run_experts(call, p);
  return y;
}

// The whole half in one launch, into ffn_; false where moe_fused does not take these formats, or the chain is
// better for so many tokens.
template <class T>
bool OpBackend<T>::fuse(const FfnWeights& w, const Rows& x, const Route& route) {
  if (x.rows() > ops::kMoeFusedGoodTokens) return false;
  const ModelConfig& c = this->config();
  Rows out(x.rows(), c.hidden);
  OpCall call;
  ops::MoeFusedParams p{.out = call.out(out),
                        .idx = call.in(route.idx),
                        .routing = call.in(route.weights),
                        .input = {.x = call.in(x)},
                        .weights = weights_.experts(w.experts),
                        .shared = weights_.experts({&w.shared, 1}),
                        .tokens = x.rows(),
                        .hidden = c.hidden,
                        .inner = c.expert_inner,
                        .k = c.active_experts,
                        .experts = c.experts,
                        .limit = c.swiglu_limit,
                        .shared_limit = c.shared_swiglu_limit,
                        .dtype = kType};
  p.state_bytes = ops::moe_fused_state_bytes(p);
  fused_state_.resize(std::max(fused_state_.size(), p.state_bytes), 0);
  p.state = call.in_out(fused_state_);
  p.workspace_bytes = ops::moe_fused_workspace_bytes(p);
  p.workspace = call.workspace(p.workspace_bytes);
  const Status status = ops::moe_fused(p, OpCall::kStream);
  if (status.code == Code::kUnsupported) return false;
  call.run(status, "moe_fused");
  ffn_ = {&w, copy(x), std::move(out), {copy(route.idx), copy(route.weights)}};
  return true;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::moe_expert(const FfnWeights& w, const Rows& x, const Plan& plan,
                                                     const Route& route) {
  ffn_ = {};
  if (fused_ && fuse(w, x, route)) return Rows(0, this->config().hidden);
  return routed(w, x, plan, route);
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::moe_shared(const FfnWeights& w, const Rows& x) {
  Rows y(x.rows(), this->config().hidden);
  OpCall call;
  run_experts(call, experts_params(call, {&w.shared, 1}, x, y, this->config().shared_swiglu_limit));
  if (ffn_.w == &w) kept_ffn_.keep(batch_, y, std::move(ffn_));
  return y;
}

template <class T>
typename OpBackend<T>::Rows OpBackend<T>::moe_combine(const Rows& y, const Plan& plan, const Rows& shared) {
  if (FusedFfn* kept = kept_ffn_.find(batch_, shared)) {
    kept_ffn_.drop();
    return std::move(kept->out);
  }
  if (FusedFfn* kept = kept_ffn_.of(batch_)) {  // a tap replaced the shared expert's rows
    kept_ffn_.drop();
    return moe_combine(routed(*kept->w, kept->x, plan, kept->route), plan, shared);
  }
  Rows out(shared.rows(), this->config().hidden);
  OpCall call;
  call.run(ops::moe_combine({.out = call.out(out),
                             .y = call.in(y),
                             .shared = call.in(shared),
                             .row_of = call.in(plan.row_of),
                             .tokens = out.rows(),
                             .rows = y.rows(),
                             .hidden = out.cols(),
                             .k = this->config().active_experts,
                             .dtype = kType},
                            OpCall::kStream),
           "moe_combine");
  return out;
}

template class OpBackend<float>;
template class OpBackend<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
