// Every struct of dsv4.h against the C++ struct that it mirrors, and every enumerator against its own.
#pragma once

#include <dsv4/dsv4.h>
#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/ops/attn_compress.hpp>
#include <dsv4/ops/attn_index.hpp>
#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/cache.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/hadamard.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/mhc.hpp>
#include <dsv4/ops/moe_experts.hpp>
#include <dsv4/ops/moe_fused.hpp>
#include <dsv4/ops/moe_route.hpp>
#include <dsv4/ops/nan_guard.hpp>
#include <dsv4/ops/quantised.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>

#include "kernels/c_api/mirror.hpp"

namespace dsv4::kernels::c_api {

using namespace dsv4::ops;  // NOLINT(google-build-using-namespace): all of it is named below

DSV4_MIRROR(dsv4_rope_table, RopeTable, freq, cos, sin, max_position, table_stride);
DSV4_MIRROR(dsv4_rope_params, RopeParams, out, x, positions, table, tokens, heads, head_dim, rope_dim,
            direction, position_type, dtype, out_stride, out_head_stride, x_stride, x_head_stride);
DSV4_MIRROR(dsv4_fp8_output, Fp8Output, codes, scales, codes_stride, scales_stride, scale_type, scale_layout);
DSV4_MIRROR(dsv4_cache_pool, CachePool, data, scales, format, dtype, slots, stride, scales_stride, page_rows);
DSV4_MIRROR(dsv4_page_table, PageTable, pages, sequence_of, stride, sequences, page_rows, ring);
DSV4_MIRROR(dsv4_visible_entries, VisibleEntries, counts, positions, position_type, ratio);
DSV4_MIRROR(dsv4_embed_params, EmbedParams, out, table, ids, tokens, hidden, vocab, first_row, rows, streams,
            dtype, table_dtype, wide_ids, out_stride, table_stride);
DSV4_MIRROR(dsv4_rms_norm_params, RmsNormParams, out, quantised, x, weight, rows, n, eps, dtype, out_stride,
            x_stride);
DSV4_MIRROR(dsv4_act_quant_params, ActQuantParams, codes, scales, x, rows, n, block, format, scale_type,
            scale_layout, dtype, codes_stride, scales_stride, x_stride);
DSV4_MIRROR(dsv4_hadamard_params, HadamardParams, out, x, rows, n, dtype, out_stride, x_stride);
DSV4_MIRROR(dsv4_mhc_post_part, MhcPostParams, out, y, streams, post, comb, tokens, hidden, stream_count,
            dtype, y_f32, out_stride, y_stride, streams_stride, post_stride, comb_stride);
DSV4_MIRROR(dsv4_mhc_post_params, MhcPostParams, out, y, streams, post, comb, tokens, hidden, stream_count,
            dtype, y_f32, out_stride, y_stride, streams_stride, post_stride, comb_stride);
DSV4_MIRROR(dsv4_mhc_pre_part, MhcPreParams, x, normed, quantised, post, comb, pre, mixes, streams, fn, scale,
            base, norm_weight, workspace, workspace_bytes, tokens, hidden, stream_count, sinkhorn_iterations,
            mix_eps, hc_eps, norm_eps, dtype, x_stride, normed_stride, post_stride, comb_stride, pre_stride,
            mixes_stride, streams_stride);
DSV4_MIRROR(dsv4_mhc_pre_params, MhcPreParams, x, normed, quantised, post, comb, pre, mixes, streams, fn,
            scale, base, norm_weight, workspace, workspace_bytes, tokens, hidden, stream_count,
            sinkhorn_iterations, mix_eps, hc_eps, norm_eps, dtype, x_stride, normed_stride, post_stride,
            comb_stride, pre_stride, mixes_stride, streams_stride);
DSV4_MIRROR(dsv4_mhc_post_pre_params, MhcPostPreParams, post, pre);
DSV4_MIRROR(dsv4_mhc_head_params, MhcHeadParams, x, normed, pre, mixes, streams, fn, scale, base, norm_weight,
            workspace, workspace_bytes, tokens, hidden, stream_count, mix_eps, hc_eps, norm_eps, dtype,
            x_stride, normed_stride, pre_stride, mixes_stride, streams_stride);
DSV4_MIRROR(dsv4_linear_weight, LinearWeight, data, scales, format, stride, scales_stride, scales_row);
DSV4_MIRROR(dsv4_linear_input, LinearInput, x, codes, scales, norm_weight, norm_eps, x_stride, codes_stride,
            scales_stride, scale_type, scale_layout);
DSV4_MIRROR(dsv4_linear_part, LinearPart, y, weight, n, x_column, y_stride, y_type, quantise);
DSV4_MIRROR(dsv4_linear_bf16_params, LinearBf16Params, y, input, weight, tokens, n, k, y_stride, dtype,
            y_type, workspace, workspace_bytes);
DSV4_MIRROR(dsv4_linear_fp8_params, LinearFp8Params, y, input, weight, tokens, n, k, y_stride, dtype, y_type,
            quantise, workspace, workspace_bytes);
DSV4_MIRROR(dsv4_linear_multi_params, LinearMultiParams, parts, count, input, tokens, k, dtype, workspace,
            workspace_bytes);
DSV4_MIRROR(dsv4_attn_q_proj_part, AttnQProjParams, out, q, positions, rope, tokens, heads, head_dim,
            rope_dim, eps, position_type, dtype, out_stride, out_head_stride, q_stride, q_head_stride);
DSV4_MIRROR(dsv4_attn_q_proj_params, AttnQProjParams, out, q, positions, rope, tokens, heads, head_dim,
            rope_dim, eps, position_type, dtype, out_stride, out_head_stride, q_stride, q_head_stride);
DSV4_MIRROR(dsv4_attn_kv_proj_part, AttnKvProjParams, window, slots, out, kv, norm, positions, rope, tokens,
            head_dim, rope_dim, eps, position_type, slot_type, dtype, out_stride, kv_stride);
DSV4_MIRROR(dsv4_attn_kv_proj_params, AttnKvProjParams, window, slots, out, kv, norm, positions, rope, tokens,
            head_dim, rope_dim, eps, position_type, slot_type, dtype, out_stride, kv_stride);
DSV4_MIRROR(dsv4_attn_index_prep_part, AttnIndexPrepParams, codes, scales, weights_out, q, weights, positions,
            rope, tokens, heads, dim, rope_dim, format, position_type, dtype, q_stride, weights_stride);
DSV4_MIRROR(dsv4_attn_index_prep_params, AttnIndexPrepParams, codes, scales, weights_out, q, weights,
            positions, rope, tokens, heads, dim, rope_dim, format, position_type, dtype, q_stride,
            weights_stride);
DSV4_MIRROR(dsv4_attn_qk_prep_params, AttnQkPrepParams, q, kv, index);
DSV4_MIRROR(dsv4_compressor, CompressorParams, kv, gate, ape, norm, state, entries, entry_slots, kv_stride,
            gate_stride, state_stride, slot_type, dim);
DSV4_MIRROR(dsv4_attn_compress_params, AttnCompressParams, main, index, first_token, start, state_of, rope,
            tokens, sequences, states, ratio, max_rollback, rope_dim, eps, start_type, dtype);
DSV4_MIRROR(dsv4_index_queries, IndexQueries, q, scales, weights, keys, table, visible, tokens, max_entries,
            heads, dim, format, dtype);
DSV4_MIRROR(dsv4_attn_index_scores_params, AttnIndexScoresParams, scores, queries, scores_stride);
DSV4_MIRROR(dsv4_select_output, SelectOutput, idx, table, idx_stride, slots, k, as_slots);
DSV4_MIRROR(dsv4_attn_select_params, AttnSelectParams, output, scores, visible, tokens, max_entries,
            scores_stride, workspace, workspace_bytes);
DSV4_MIRROR(dsv4_attn_index_select_params, AttnIndexSelectParams, output, queries, workspace,
            workspace_bytes);
DSV4_MIRROR(dsv4_attend_selection, AttendSelection, pool, kind, idx, counts, table, visible, idx_stride,
            max_count, window, idx_type);
DSV4_MIRROR(dsv4_attn_attend_params, AttnAttendParams, o, quantised, lse, q, sink, window, entries, positions,
            rope, tokens, heads, head_dim, rope_dim, scale, empty_lse, position_type, dtype, rotate_back,
            o_stride, o_head_stride, q_stride, q_head_stride, lse_stride, workspace, workspace_bytes);
DSV4_MIRROR(dsv4_attn_out_proj_params, AttnOutProjParams, y, o, wo_a, wo_b, positions, rope, tokens, hidden,
            heads, head_dim, rope_dim, groups, rank, y_f32, rotate_back, position_type, dtype, o_stride,
            y_stride, workspace, workspace_bytes);
DSV4_MIRROR(dsv4_moe_gate_params, MoeGateParams, idx, weights, scores, error, x, gate, bias, table, token_ids,
            tokens, hidden, vocab, experts, k, route_scale, score, wide_table, wide_ids, dtype, x_stride,
            workspace, workspace_bytes);
DSV4_MIRROR(dsv4_moe_plan, MoePlan, counts, offsets, pair_of, row_of, tile_offsets, tile_expert);
DSV4_MIRROR(dsv4_moe_dispatch_params, MoeDispatchParams, plan, idx, tokens, k, first_expert, experts,
            tile_rows);
DSV4_MIRROR(dsv4_moe_combine_params, MoeCombineParams, out, y, shared, row_of, tokens, rows, hidden, k, dtype,
            out_f32, out_stride, y_stride, shared_stride);
DSV4_MIRROR(dsv4_expert_matrix, ExpertMatrix, data, scales, format, expert_stride, scales_expert_stride);
DSV4_MIRROR(dsv4_expert_weights, ExpertWeights, w1, w3, w2);
DSV4_MIRROR(dsv4_moe_experts_params, MoeExpertsParams, y, input, weights, routing, plan, tokens, hidden,
            inner, k, experts, tile_rows, limit, dtype, y_stride, workspace, workspace_bytes);
DSV4_MIRROR(dsv4_moe_peers, MoePeers, rank, ranks, state, workspace);
DSV4_MIRROR(dsv4_moe_fused_params, MoeFusedParams, out, idx, routing, input, weights, shared, tokens, hidden,
            inner, k, first_expert, experts, limit, shared_limit, dtype, out_f32, out_stride, blocks, peers,
            state, state_bytes, workspace, workspace_bytes);
DSV4_MIRROR(dsv4_lm_head_params, LmHeadParams, logits, x, head, rows, tokens, x_rows, vocab, hidden, dtype,
            head_dtype, logits_stride, x_stride, head_stride);
DSV4_MIRROR(dsv4_nan_guard_record, NanGuardRecord, op, tensor, row, column, nearest, arrived);

static_assert(DSV4_MAX_LINEAR_PARTS == kMaxLinearParts);

template <class E>
constexpr bool same(int c, E cpp) {
  return c == static_cast<int>(cpp);
}
static_assert(same(DSV4_OK, Code::kOk));
static_assert(same(DSV4_INVALID_ARGUMENT, Code::kInvalidArgument));
static_assert(same(DSV4_UNSUPPORTED, Code::kUnsupported));
static_assert(same(DSV4_WORKSPACE_TOO_SMALL, Code::kWorkspaceTooSmall));
static_assert(same(DSV4_CUDA_ERROR, Code::kCuda));
static_assert(same(DSV4_DTYPE_BF16, DType::kBf16));
static_assert(same(DSV4_DTYPE_F32, DType::kF32));
static_assert(same(DSV4_SCALE_UE8M0, ScaleType::kUe8m0));
static_assert(same(DSV4_SCALE_F32, ScaleType::kF32));
static_assert(same(DSV4_SCALES_ROW_MAJOR, ScaleLayout::kRowMajor));
static_assert(same(DSV4_SCALES_COLUMN_MAJOR, ScaleLayout::kColumnMajor));
static_assert(same(DSV4_QUANT_E4M3, QuantFormat::kE4m3));
static_assert(same(DSV4_QUANT_E2M1, QuantFormat::kE2m1));
static_assert(same(DSV4_WEIGHT_BF16, WeightFormat::kBf16));
static_assert(same(DSV4_WEIGHT_FP8, WeightFormat::kFp8));
static_assert(same(DSV4_WEIGHT_F32, WeightFormat::kF32));
static_assert(same(DSV4_WEIGHT_FP4, WeightFormat::kFp4));
static_assert(same(DSV4_CACHE_ROWS, CacheFormat::kRows));
static_assert(same(DSV4_CACHE_KV584, CacheFormat::kKv584));
static_assert(same(DSV4_CACHE_INDEX_FP4, CacheFormat::kIndexFp4));
static_assert(same(DSV4_CACHE_INDEX_FP8, CacheFormat::kIndexFp8));
static_assert(same(DSV4_SLOT_INT32, SlotType::kInt32));
static_assert(same(DSV4_SLOT_INT64, SlotType::kInt64));
static_assert(same(DSV4_POSITION_INT32, PositionType::kInt32));
static_assert(same(DSV4_POSITION_INT64, PositionType::kInt64));
static_assert(same(DSV4_ROPE_FORWARD, RopeDirection::kForward));
static_assert(same(DSV4_ROPE_INVERSE, RopeDirection::kInverse));
static_assert(same(DSV4_SELECTION_NONE, SelectionKind::kNone));
static_assert(same(DSV4_SELECTION_LIST, SelectionKind::kList));
static_assert(same(DSV4_SELECTION_WINDOW, SelectionKind::kWindow));
static_assert(same(DSV4_SELECTION_ENTRIES, SelectionKind::kEntries));
static_assert(same(DSV4_GATE_SQRT_SOFTPLUS, GateScore::kSqrtSoftplus));
static_assert(same(DSV4_GATE_SIGMOID, GateScore::kSigmoid));
static_assert(same(DSV4_GATE_SOFTMAX, GateScore::kSoftmax));

}  // namespace dsv4::kernels::c_api
